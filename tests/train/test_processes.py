"""Two gloo processes through torchrun, against one process in this one."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import torch

# Notes which pieces of the training text each process reads, then is the command line.
PROGRAM = """
import os
from longrnn.cli import main
from longrnn.tasks.text import Rows

read = Rows.__getitem__

def noted(self, index):
    if len(self.text) > 1000:
        with open(f"seen-{os.environ['RANK']}", "a") as file:
            file.write(f"{index} ")
    return read(self, index)

Rows.__getitem__ = noted
main()
"""
TEXT = bytes(range(256)) * 8
ALONE = {"task": "text", "steps": 12, "batch_size": 8}
OPTIONS = [
    *("--model=gru", "--steps=12", "--batch-size=8", "--hidden-size=8", "--save-every=5"),
    *("--device=cpu", "--data=text", "--length=9", "--output=two"),
]
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="torch was built without gloo"
)


def torchrun(folder, *options):
    (folder / "program.py").write_text(PROGRAM)
    (folder / "text").write_bytes(TEXT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launch, "program.py", "train", "text", *OPTIONS, *options],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def weights(run):
    path = run / "checkpoints" / "step-00000012" / "model.safetensors"
    return safetensors.torch.load_file(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torchrun(folder)
    return folder


def test_each_process_reads_its_own_rows(folder):
    seen = [set((folder / f"seen-{r}").read_text().split()) for r in (0, 1)]
    rows = [{int(index) % 8 for index in indices} for indices in seen]
    assert rows == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def test_two_processes_do_the_work_of_one(tiny, tmp_path, folder):
    alone = tiny(**ALONE, task_options={"data": str(folder / "text"), "length": 9})
    summary = json.loads((folder / "two" / "summary.json").read_text())
    assert summary["processes"] == 2
    assert summary["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-4)
    two = weights(folder / "two")
    for name, value in weights(tmp_path / "run").items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)


def test_two_processes_resume_to_the_same_bits(tmp_path, folder):
    shutil.copytree(folder / "two", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000012")
    assert "resumed at step 10" in torchrun(tmp_path, "--resume")
    resumed = weights(tmp_path / "two")
    for name, value in weights(folder / "two").items():
        assert torch.equal(resumed[name], value), name


def test_another_number_of_processes_is_refused(tiny, folder, monkeypatch):
    options = {"data": "text", "length": 9}
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"must be resumed with 2 process\(es\), got 1"):
        tiny(**ALONE, task_options=options, output=folder / "two", resume=True)
