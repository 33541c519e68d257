import hashlib
import json
import os
import pickle
import shutil

import pytest
import torch

from longrnn.train import checkpoint, files, train_models


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    train_models(
        "adding", ["gru"], folder, steps=20, save_every=5, device="cpu", hidden_size=8, batch_size=4
    )
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A finished run of 20 steps with checkpoints at 15 and 20."""
    return shutil.copytree(finished, tmp_path / "run")


def newest(run):
    return max((run / "checkpoints").glob("step-????????"))


def seal(path):
    """Write a manifest that agrees with a tampered checkpoint."""
    others = [file for file in path.iterdir() if file.name != "manifest.json"]
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in others}
    (path / "manifest.json").write_text(json.dumps(digests))


def test_the_newest_two_are_kept(run):
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["step-00000015", "step-00000020"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FILES = ["model.safetensors", "optimizer.safetensors", "rank-0.safetensors", "state.json"]


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("harm", [truncate, flip_a_bit, os.unlink])
def test_a_damaged_checkpoint_is_passed_over(run, name, harm):
    warnings = []
    harm(newest(run) / name)
    found = checkpoint.newest(run / "checkpoints", warnings.append)
    assert found.name == "step-00000015"
    assert len(warnings) == 1
    assert "step-00000020 is damaged" in warnings[0]
    assert (run / "checkpoints" / "step-00000020.damaged").is_dir()


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(run, tiny, capsys):
    truncate(newest(run) / "model.safetensors")
    assert tiny(steps=20, save_every=5, resume=True)["steps"] == 20
    told = capsys.readouterr().out
    assert "step-00000020 is damaged" in told
    assert "resumed at step 15" in told
    assert checkpoint.newest(run / "checkpoints", pytest.fail) == newest(run)


def test_no_whole_checkpoint_is_an_error(run, tiny):
    for path in (run / "checkpoints").iterdir():
        truncate(path / "state.json")
    with pytest.raises(ValueError, match="must hold a whole checkpoint, got 2 damaged"):
        tiny(steps=20, save_every=5, resume=True)


def test_a_sealed_checkpoint_of_another_network_is_an_error(run, tiny):
    tensors = {"readout.bias": torch.zeros(3)}
    checkpoint.write_tensors(newest(run) / "model.safetensors", tensors)
    seal(newest(run))
    with pytest.raises(ValueError, match="step-00000020 does not fit this run"):
        tiny(steps=20, save_every=5, resume=True)


class Attack:
    """What a malicious pickle holds: loading it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("name", [*FILES, "random_states_0.pkl", "optimizer.bin", "model.pt"])
@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch.save"])
def test_a_checkpoint_that_would_run_code_is_refused(run, tiny, tmp_path, name, sealed, write):
    with open(newest(run) / name, "wb") as file:
        write(Attack(tmp_path / "owned"), file)
    if sealed:
        seal(newest(run))
    with pytest.raises(ValueError, match=f"{name} must be safetensors or JSON.*refused"):
        tiny(steps=20, save_every=5, resume=True)
    assert not (tmp_path / "owned").exists()
    torch_load = write is torch.save
    with open(newest(run) / name, "rb") as file:
        torch.load(file, weights_only=False) if torch_load else pickle.load(file)
    assert (tmp_path / "owned").exists(), "the attack is a real one"


def test_a_header_whose_length_looks_like_a_pickle_is_none(run):
    path = newest(run) / "rank-0.safetensors"
    for length in range(600):
        checkpoint.write_tensors(path, {"x" * length: torch.zeros(1)})
        if path.read_bytes().startswith(b"\x80"):
            break
    assert path.read_bytes().startswith(b"\x80")
    seal(newest(run))
    assert checkpoint.newest(run / "checkpoints", pytest.fail) == newest(run)


def no_space(path, content, mode="wb"):
    path.write_bytes(content[: len(content) // 2])
    raise OSError(28, f"{path} cannot be written: No space left on device")


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_full_disk_leaves_the_checkpoints_before(run, tiny, monkeypatch, name):
    write = files.write

    def filling(path, content, mode="wb"):
        (no_space if path.name == name else write)(path, content, mode)

    before = {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(files, "write", filling)
        with pytest.raises(OSError, match=f"{name} cannot be written: No space left"):
            tiny(steps=30, save_every=5, resume=True)
    assert {p: p.stat().st_mtime_ns for p in (run / "checkpoints").rglob("*")} == before
    assert tiny(steps=30, save_every=5, resume=True)["steps"] == 30


def test_a_full_device_is_told_with_the_file(run, tiny):
    metrics = run / "metrics.jsonl"
    metrics.unlink()
    os.symlink("/dev/full", metrics)
    with pytest.raises(OSError, match=r"metrics.jsonl cannot be written: No space left on device"):
        files.write(metrics, b"line", "ab")


def test_an_atomic_write_keeps_the_old_file_on_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    files.write_atomically(path, b"old")
    monkeypatch.setattr(files, "write", no_space)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, b"a new one")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_a_write_that_was_cut_off(run, tiny):
    partial = run / "checkpoints" / "step-00000025.partial"
    shutil.copytree(newest(run), partial)
    truncate(partial / "model.safetensors")
    assert checkpoint.newest(run / "checkpoints", pytest.fail) == newest(run)
    tiny(steps=25, save_every=5, resume=True)
    assert not partial.exists()
    assert newest(run).name == "step-00000025"
