"""The test room: fixed seeds, and every fresh tensor full of NaN until somebody writes it."""

import pytest
import torch


@pytest.fixture(autouse=True)
def strict_room():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch.empty is NaN
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
