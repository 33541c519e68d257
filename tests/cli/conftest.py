import pytest
import torch

from longrnn.cli.app import run


@pytest.fixture
def longrnn(capsys, monkeypatch, tmp_path):
    """Run the command line in an empty folder: status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def call(line):
        status = run(line.split())
        return status, *capsys.readouterr()

    yield call
    torch.set_num_threads(threads)
