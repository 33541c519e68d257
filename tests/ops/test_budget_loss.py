import math

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from longrnn import budget_loss

GATES = torch.tensor([[1.0, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 1]])[..., None]
COUNTS = [3, 6, 2]
LENGTHS = torch.tensor([4, 0, 5])
COUNTS_WITHIN = [3, 0, 1]


def given(**options):
    """The loss of GATES, in each layout that a layer returns."""
    batch_first = budget_loss(GATES, 0.25, batch_first=True, **options)
    torch.testing.assert_close(budget_loss(GATES.transpose(0, 1), 0.25, **options), batch_first)
    return batch_first


def test_the_cost_multiplies_the_sum_over_time_and_the_mean_over_sequences():
    assert given().shape == ()
    assert given().item() == pytest.approx(0.25 * sum(COUNTS) / 3)


def test_a_target_charges_the_distance_of_each_sequence():
    assert given(target=4).item() == pytest.approx(0.25 * (1 + 2 + 2) / 3)
    assert given(target=2.5).item() == pytest.approx(0.25 * (0.5 + 3.5 + 0.5) / 3)


def test_padding_is_not_charged():
    assert given(lengths=LENGTHS).item() == pytest.approx(0.25 * sum(COUNTS_WITHIN) / 3)
    expected = 0.25 * sum(abs(n - 2) for n in COUNTS_WITHIN) / 3
    assert given(lengths=LENGTHS, target=2).item() == pytest.approx(expected)


def test_padding_may_hold_anything():
    updates = GATES.clone().requires_grad_()
    filled = updates.where(torch.arange(6)[:, None] < LENGTHS[:, None, None], math.nan)
    loss = budget_loss(filled, 0.25, lengths=LENGTHS, batch_first=True)
    loss.backward()
    assert loss.item() == pytest.approx(0.25 * sum(COUNTS_WITHIN) / 3)
    assert updates.grad.isfinite().all()


@pytest.mark.parametrize("batch_first", [False, True])
def test_packed_updates_are_charged_within_their_lengths(batch_first):
    lengths = torch.tensor([4, 6, 5])
    gates = GATES if batch_first else GATES.transpose(0, 1)
    packed = pack_padded_sequence(gates, lengths, batch_first, enforce_sorted=False)
    for options in ({}, {"target": 2}):
        expected = budget_loss(gates, 0.25, lengths=lengths, batch_first=batch_first, **options)
        loss = budget_loss(packed, 0.25, batch_first=batch_first, **options)
        torch.testing.assert_close(loss, expected)


def test_one_sequence_needs_no_batch_dimension():
    assert budget_loss(GATES[0], 0.5).item() == 1.5
    assert budget_loss(GATES[0], 0.5, lengths=torch.tensor([2])).item() == 0.5


def test_every_update_within_a_sequence_has_the_same_gradient():
    updates = GATES.clone().double().requires_grad_()
    budget_loss(updates, 0.6, lengths=LENGTHS, batch_first=True).backward()
    within = torch.arange(6) < LENGTHS[:, None]
    torch.testing.assert_close(updates.grad[..., 0], 0.6 / 3 * within.double())


def test_too_many_updates_are_pushed_down_and_too_few_up():
    updates = GATES.clone().requires_grad_()
    budget_loss(updates, 0.6, target=2.5, batch_first=True).backward()
    signs = torch.tensor([1.0, 1.0, -1.0])
    torch.testing.assert_close(updates.grad[..., 0], 0.2 * signs[:, None].expand(3, 6))


def test_nothing_costs_nothing():
    assert given(target=0).item() == pytest.approx(given().item())
    assert budget_loss(GATES, 0) == 0
    assert budget_loss(torch.zeros(0, 3, 1), 1.0) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cost_per_sample": -1.0}, "cost_per_sample must be a number of at least 0, got -1.0"),
        ({"cost_per_sample": math.nan}, "cost_per_sample must be a number of at least 0, got nan"),
        ({"cost_per_sample": True}, "cost_per_sample must be a number of at least 0, got True"),
        ({"target": -2}, "target must be a number of at least 0, got -2"),
        ({"target": math.inf}, "target must be a number of at least 0, got inf"),
        ({"updates": torch.ones(6, 3)}, r"updates must have shape \(T, gate=1\), got \(6, 3\)"),
        ({"updates": torch.ones(6, 3, 2)}, r"updates must have shape \(T, B, gate=1\)"),
        ({"updates": torch.ones(6, 3, 1).long()}, "updates must have a floating dtype"),
        ({"lengths": torch.tensor([3, 3])}, r"lengths must have shape \(B=3\), got \(2,\)"),
        ({"lengths": torch.tensor([3, 3, 7])}, r"lengths must lie in \[0, T=6\], got \[3, 3, 7\]"),
        (
            {"updates": pack_padded_sequence(GATES, [6, 6, 6], True), "lengths": LENGTHS},
            "lengths must be None where updates are packed",
        ),
    ],
)
def test_what_cannot_be_charged_is_named(arguments, message):
    given = {"updates": GATES.transpose(0, 1), "cost_per_sample": 1.0} | arguments
    with pytest.raises(ValueError, match=message):
        budget_loss(**given)
