import itertools
import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrnn.batching import bucket_indices, plan_buckets

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=30)


def steps_run(lengths, buckets):
    """Steps, padding included, by looking for each sequence's bucket."""
    return sum(min(b for b in buckets if b >= n) for n in lengths)


def fewest_steps(lengths):
    """For each number of buckets the fewest steps: the textbook recursion."""
    ends = sorted({max(1, n) for n in lengths})
    held = [sum(n <= end for n in lengths) if end else 0 for end in (0, *ends)]
    best = [[0] + [float("inf")] * len(ends)]
    for _ in ends:
        best.append(
            [float("inf")]
            + [
                min(best[-1][i] + ends[j - 1] * (held[j] - held[i]) for i in range(j))
                for j in range(1, len(ends) + 1)
            ]
        )
    return [row[-1] for row in best]


@given(LENGTHS)
@settings(deadline=None)
def test_no_plan_of_as_many_buckets_runs_fewer_steps(lengths):
    fewest = fewest_steps(lengths)
    for number in range(1, len(fewest) + 2):
        buckets = plan_buckets(lengths, number)
        used = min(number, len(fewest) - 1)
        assert len(buckets) == used
        assert buckets == sorted(set(buckets))
        assert steps_run(lengths, buckets) == fewest[used]


@given(LENGTHS, st.floats(0, 0.99))
@settings(deadline=None)
def test_a_cap_on_waste_is_kept_with_the_fewest_buckets(lengths, max_waste):
    fewest = fewest_steps(lengths)
    number = next(
        k
        for k, steps in enumerate(fewest)
        if k and (steps == fewest[-1] or (steps - sum(lengths)) / steps <= max_waste)
    )
    buckets = plan_buckets(lengths, max_waste=max_waste)
    assert len(buckets) == number
    assert steps_run(lengths, buckets) == fewest[number]


def test_a_waste_of_exactly_the_cap_is_kept_and_none_above():
    for short, long in itertools.combinations(range(1, 60), 2):
        waste = (long - short) / (2 * long)
        assert plan_buckets([short, long], max_waste=waste) == [long]
        assert plan_buckets([short, long], max_waste=math.nextafter(waste, 0)) == [short, long]


def test_the_originals_lengths_run_58_34_steps_on_average_where_its_own_buckets_run_59_81():
    lengths = range(1, 101)
    assert steps_run(lengths, plan_buckets(lengths, 6)) == 5834
    assert steps_run(lengths, [1, 21, 41, 61, 81, 100]) == 5981


@pytest.mark.parametrize("given", [{"num_buckets": 6}, {"num_buckets": 500}, {"max_waste": 0.01}])
def test_a_million_lengths_take_seconds(given):
    lengths = torch.randint(1, 100_001, (1_000_000,))
    start = time.perf_counter()
    buckets = plan_buckets(lengths, **given)
    assert time.perf_counter() - start < 10  # one on an idle machine
    run = torch.tensor(buckets)[bucket_indices(lengths, buckets)].sum().item()
    waste = 1 - lengths.sum().item() / run
    # Uniform lengths in K equal buckets waste 1 / (K + 1).
    expected = given.get("max_waste", 1 / (len(buckets) + 1))
    assert waste == pytest.approx(expected, rel=0.02)


def test_a_sequence_belongs_to_the_smallest_bucket_that_holds_it():
    lengths = torch.tensor([[0, 5], [6, 11]])
    assert bucket_indices(lengths, [5, 10]).tolist() == [[0, 0], [1, 2]]


@pytest.mark.parametrize(
    ("lengths", "given", "message"),
    [
        ([], {"num_buckets": 1}, "lengths must hold at least one integer, got none"),
        (5, {"num_buckets": 1}, "lengths must be integers, got 5"),
        ([3, -1], {"num_buckets": 1}, "lengths must be at least 0, got -1"),
        ([3.5], {"num_buckets": 1}, "lengths must have dtype int32 or int64"),
        ([3], {}, "either num_buckets or max_waste must be given"),
        ([3], {"num_buckets": 1, "max_waste": 0.1}, "either num_buckets or max_waste"),
        ([3], {"num_buckets": 0}, "num_buckets must be a positive integer, got 0"),
        ([3], {"max_waste": 1}, "max_waste must be below 1"),
        ([3], {"max_waste": -0.1}, "max_waste must be a probability"),
    ],
)
def test_what_cannot_be_planned_is_named(lengths, given, message):
    with pytest.raises(ValueError, match=message):
        plan_buckets(lengths, **given)
