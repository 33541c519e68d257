import json
from pathlib import Path

import numpy as np
import pytest

TINY = "--device cpu --batch-size 2 --hidden-size 8 --steps 2 --output run"
TASKS = {
    "nmnist": "--data-dir data --length 40",
    "events-forecast": "--data-dir data --length 40",
    "async-frequency": "--sampling standard",
    "two-waves": "",
}


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """A folder of recordings as text, and epochs of four waves."""
    rng = np.random.default_rng(0)
    for split, count in (("Train", 4), ("Test", 2)):
        for digit in range(count):
            folder = tmp_path / "data" / split / str(digit)
            folder.mkdir(parents=True)
            rows = rng.integers([1, 34, 34, 2], size=(100, 4)) + [[t, 0, 0, 0] for t in range(100)]
            np.savetxt(
                folder / "0.csv", rows, fmt="%d", delimiter=",", header="t,x,y,p", comments=""
            )
    for task in ("async_frequency", "two_waves"):
        drawn = __import__(f"longrnn.tasks.{task}", fromlist=["Drawn"]).Drawn

        def few(draw, samples, *rest, drawn=drawn):
            return drawn(draw, 4, *rest)

        monkeypatch.setattr(f"longrnn.tasks.{task}.Drawn", few)


@pytest.mark.parametrize("model", ["gilr-lstm", "lstm"])
@pytest.mark.parametrize("task", TASKS)
def test_events_and_waves_are_trained_on(longrnn, task, model):
    status, out, err = longrnn(f"train {task} {TASKS[task]} --model {model} {TINY}")
    assert (status, err) == (0, "")
    summary = json.loads(Path("run/summary.json").read_text())
    assert (summary["task"], summary["model"], summary["steps"]) == (task, model, 2)
    assert 0 <= summary["test_score"] <= 1
    partial = "data-dir" in TASKS[task]
    assert ("note: 4 of N-MNIST's 60,000 training recordings" in out) == partial
    assert (summary["note"] is not None) == partial
    assert Path("run/curve.png").stat().st_size > 0


@pytest.mark.parametrize("task", ["nmnist", "events-forecast", "two-waves"])
def test_sequences_end_to_end_are_trained_on_as_padded_ones(longrnn, task):
    scores = []
    for batching in ("pad", "packed"):
        line = f"train {task} {TASKS[task]} --model sru {TINY}-{batching} --batching {batching}"
        assert longrnn(line)[0] == 0
        scores.append(json.loads(Path(f"run-{batching}/summary.json").read_text())["test_loss"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_a_stopped_run_on_events_goes_on_to_the_same_weights(longrnn):
    line = f"train events-forecast --data-dir data --length 40 --model sru {TINY} --schedule none"
    assert longrnn(line.replace("--steps 2", "--steps 7"))[0] == 0
    whole = Path("run/checkpoints/step-00000007/model.safetensors").read_bytes()
    Path("run").rename("whole")
    assert longrnn(line.replace("--steps 2", "--steps 3"))[0] == 0
    assert longrnn(line.replace("--steps 2", "--steps 7") + " --resume")[0] == 0
    assert Path("run/checkpoints/step-00000007/model.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nmnist --data-dir nowhere", "data must be a folder with Train/<digit>/<name>.bin and"),
        ("nmnist --data-dir data --length 0", "length must be an integer of at least 1, got 0"),
        ("async-frequency --sampling rare", "sampling must be one of standard, high-resolution,"),
        ("two-waves --length 3", "task two-waves takes no options, got length=3"),
    ],
)
def test_bad_input_is_one_line(longrnn, line, message):
    status, out, err = longrnn(f"train {line}")
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_damaged_recording_is_one_line(longrnn):
    Path("data/Train/2/0.csv").write_text("1,2,3\n")
    status, _, err = longrnn(f"train nmnist --data-dir data --model sru {TINY}")
    assert status == 2
    assert "data/Train/2/0.csv, line 1, must be four numbers t,x,y,p, got '1,2,3'" in err
    assert err.count("\n") == 1
