"""Two gloo processes through torchrun, against one process in this one."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

from longrnn.train import train_models

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


def torchrun(folder, program, *options):
    (folder / "program.py").write_text(program)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launch, "program.py", *options],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_text(folder, *options):
    (folder / "text").write_bytes(TEXT)
    return torchrun(folder, PROGRAM, "train", "text", *OPTIONS, *options)


def weights(run):
    path = max((run / "checkpoints").glob("step-????????")) / "model.safetensors"
    return safetensors.torch.load_file(path)


def assert_like(run, other):
    theirs = weights(other)
    for name, value in weights(run).items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    read_text(folder)
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
    assert_like(folder / "two", tmp_path / "run")


# Trains as each case says that is given to it, by chirps of which a kind has four.
UNEVEN = """
import json, sys
from pathlib import Path
from longrnn.tasks import spoken_digits
from longrnn.train import train_models

spoken_digits._MADE = (4, 2)
for name, given in json.loads(sys.argv[1]).items():
    train_models(output=Path(name), **given)
"""


def uneven_cases(folder):
    """Runs whose processes have unequal shares: of a batch's sequences, or of what is asked."""
    short = {"device": "cpu", "hidden_size": 8, "models": ["sru"], "epochs": 1, "lr": 0.1}
    chirps = {"task": "spoken-digits", "batch_size": 6, "task_options": {"frame": 64}}
    cases = {
        batching: short | chirps | {"batching": batching, "schedule": "none"}
        for batching in ("pad", "mux", "packed")
    }
    events = {"data": str(folder / "data"), "length": 100}
    forecast = {"task": "events-forecast", "batch_size": 4, "task_options": events}
    return cases | {"forecast": short | forecast}


def write_recordings(folder):
    """Recordings of 90 to 200 events: the shorter, the fewer of them are to be forecast."""
    rng = np.random.default_rng(0)
    for split, digit in itertools.product(("Train", "Test"), range(4)):
        events = 90 + 110 * digit // 3
        times, pixels = 100 * np.arange(events), rng.integers(34, size=(events, 2))
        rows = np.column_stack([times, pixels, rng.integers(2, size=events)])
        path = folder / "data" / split / str(digit) / "0.csv"
        path.parent.mkdir(parents=True)
        np.savetxt(path, rows, fmt="%d", delimiter=",")


def test_two_processes_of_unequal_shares_do_the_work_of_one(tmp_path, monkeypatch):
    write_recordings(tmp_path)
    cases = uneven_cases(tmp_path)
    torchrun(tmp_path, UNEVEN, json.dumps(cases))
    monkeypatch.setattr("longrnn.tasks.spoken_digits._MADE", (4, 2))
    for name, given in cases.items():
        train_models(output=tmp_path / f"{name}-alone", **given)
        assert_like(tmp_path / name, tmp_path / f"{name}-alone")


def test_two_processes_resume_to_the_same_bits(tmp_path, folder):
    shutil.copytree(folder / "two", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000012")
    assert "resumed at step 10" in read_text(tmp_path, "--resume")
    resumed = weights(tmp_path / "two")
    for name, value in weights(folder / "two").items():
        assert torch.equal(resumed[name], value), name


def test_another_number_of_processes_is_refused(tiny, folder, monkeypatch):
    options = {"data": "text", "length": 9}
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"must be resumed with 2 process\(es\), got 1"):
        tiny(**ALONE, task_options=options, output=folder / "two", resume=True)
