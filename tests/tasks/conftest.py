import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def nmnist_folder():
    """Real recordings in N-MNIST's layout, which this project does not contain."""
    beside = REPOSITORY.parent / "shared" / "data" / "nmnist-small"
    folder = Path(os.environ.get("LONGRNN_NMNIST", beside))
    if not folder.is_dir():
        pytest.skip("LONGRNN_NMNIST does not name a folder in N-MNIST's layout")
    return folder
