import pytest
import torch

from longrnn.train import train_models

TINY = {"device": "cpu", "hidden_size": 8, "batch_size": 4}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(tmp_path):
    """Train a tiny model and return its summary."""

    def run(task="adding", model="gru", output=None, resume=False, **given):
        folder = tmp_path / "run" if output is None else output
        return train_models(task, [model], folder, resume, **(TINY | given))[0]

    return run
