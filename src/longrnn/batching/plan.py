"""Where to put the boundaries of buckets, so that as few steps as possible are padding.

A sequence runs in the smallest bucket that holds it. With distinct lengths a_1 < ... < a_L and C_j
sequences of at most a_j steps, a bucket from above a_i to a_j runs a_j (C_j - C_i) steps, and a
plan is a path from 0 to L over such buckets.

The fewest steps are a convex function of the number of buckets. So the search is not over numbers:
where each bucket costs a price besides its steps, one pass finds the cheapest path of any number of
buckets (`_cheapest`), and the price that is tried is the slope of the chord over what is left.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from longrnn import _checks


class _Plan(NamedTuple):
    """The steps that a path runs, and its corners, from 0 to L."""

    steps: int
    corners: list[int]

    @property
    def buckets(self) -> int:
        return len(self.corners) - 1


def plan_buckets(
    lengths: Sequence[int] | Tensor,
    num_buckets: int | None = None,
    *,
    max_waste: float | None = None,
) -> list[int]:
    """Choose the buckets that run the fewest steps: the optimum itself, not an approximation.

    A million lengths up to 100,000 take a second or two, whatever the number of buckets.

    Args:
        lengths: Steps of each sequence.
        num_buckets: How many buckets there may be. Fewer come back if there are fewer lengths.
        max_waste: Instead of a number: the share of the steps run that may be padding, in [0, 1).
            The fewest buckets that keep to it come back; at 0 every length is one.

    Returns:
        The buckets, ascending; the last is the longest length.

    Raises:
        ValueError: If `lengths` is empty or holds a negative number, or not exactly one of
            `num_buckets` and `max_waste` is given, or it is out of range.

    Example:
        >>> plan_buckets(range(1, 101), 6)
        [17, 34, 51, 68, 84, 100]
        >>> plan_buckets([3, 3, 4, 9, 10], max_waste=0.1)
        [4, 10]
    """
    found = check_sequence_lengths(lengths)
    if (num_buckets is None) == (max_waste is None):
        raise ValueError(
            "either num_buckets or max_waste must be given, "
            f"got num_buckets={num_buckets!r} and max_waste={max_waste!r}"
        )
    values, counts = found.clamp(min=1).unique(return_counts=True)  # an empty sequence runs a step
    ends, held = values.tolist(), [0, *counts.cumsum(0).tolist()]
    few = _Plan(ends[-1] * held[-1], [0, len(ends)])
    many = _Plan(int((values * counts).sum()), list(range(len(ends) + 1)))
    if max_waste is None:
        _checks.check_positive(num_buckets=num_buckets)  # type: ignore[arg-type]
        number, budget = min(num_buckets, len(ends)), 0  # type: ignore[type-var]
    else:
        _checks.check_probability("max_waste", max_waste)
        if max_waste == 1:
            raise ValueError("max_waste must be below 1, got 1")
        number, total = None, int(found.sum())
        budget = max(math.ceil(total / (1 - max_waste)), many.steps)
        # A step too many, unless the waste of these steps rounds to what was asked for.
        if budget > many.steps and (budget - total) / budget > max_waste:
            budget -= 1
    corners = _between(few, many, ends, held, number, budget)
    return [ends[corner - 1] for corner in corners[1:]]


def bucket_indices(lengths: Tensor, buckets: Sequence[int]) -> Tensor:
    """Which bucket each sequence runs in: the smallest that holds it.

    Args:
        lengths: Steps of each sequence, integers of any shape.
        buckets: As `plan_buckets` returns them.

    Returns:
        Indices into `buckets`; their number where a sequence is longer than the last.
    """
    return torch.bucketize(lengths, torch.tensor(buckets, device=lengths.device))


def check_sequence_lengths(lengths: Sequence[int] | Tensor) -> Tensor:
    """Raise unless `lengths` are one or more integers of at least 0; as an int64 tensor."""
    found = _integers("lengths", lengths)
    if int(found.min()) < 0:
        raise ValueError(f"lengths must be at least 0, got {int(found.min())}")
    return found.to(torch.int64)


def check_buckets(buckets: Sequence[int]) -> list[int]:
    """Raise unless `buckets` are one or more ascending positive integers; as a list."""
    found: list[int] = _integers("buckets", buckets).tolist()
    if found[0] < 1 or any(b <= a for a, b in itertools.pairwise(found)):
        raise ValueError(f"buckets must be positive and ascending, got {found}")
    return found


def _integers(name: str, values: Sequence[int] | Tensor) -> Tensor:
    """Raise unless `values` are one or more integers; as a tensor on the CPU."""
    try:
        found = torch.as_tensor(values if isinstance(values, Tensor) else list(values)).cpu()
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be integers, got {values!r}") from None
    if found.numel() == 0:
        raise ValueError(f"{name} must hold at least one integer, got none")
    _checks.check_integers(name, found, "N", None)
    return found


def _between(
    few: _Plan,
    many: _Plan,
    ends: list[int],
    held: list[int],
    number: int | None,
    budget: int,
) -> list[int]:
    """The best path of `number` buckets, or the one of fewest that runs at most `budget` steps.

    `few` and `many` are the best of their numbers, and the path is neither before nor after them.
    """

    def enough(plan: _Plan) -> bool:
        return plan.steps <= budget if number is None else plan.buckets >= number

    if enough(few):
        return few.corners
    while many.buckets > few.buckets + 1 and many.buckets != number:
        weight, price = many.buckets - few.buckets, few.steps - many.steps
        plan = _cheapest(ends, held, weight, price)
        saved = weight * (few.steps - plan.steps) - price * (plan.buckets - few.buckets)
        if saved == 0:  # the numbers between lie on the chord
            if number is None:
                number = few.buckets - (budget - few.steps) * weight // price  # rounded up
            return _spliced(few.corners, many.corners, number)
        few, many = (few, plan) if enough(plan) else (plan, many)
    return many.corners


def _cheapest(ends: list[int], held: list[int], weight: int, price: int) -> _Plan:
    """The path that minimises weight * steps + price * buckets.

    The best cost up to j is the least over i < j of `cost[i] + weight a_j (C_j - C_i) + price`: in
    weight a_j, a line of slope -C_i. Both ascend, so that the lines that are lowest somewhere to
    the right wait in a queue.
    """
    cost, came_from = [0], [0]
    queue, head = [0], 0
    for j, end in enumerate(ends, 1):
        x = weight * end
        while head + 1 < len(queue):
            now, following = queue[head], queue[head + 1]
            if cost[following] - cost[now] > (held[following] - held[now]) * x:
                break
            head += 1
        i = queue[head]
        came_from.append(i)
        cost.append(cost[i] + x * (held[j] - held[i]) + price)
        while len(queue) - head >= 2:
            a, b = queue[-2], queue[-1]
            if (cost[j] - cost[b]) * (held[b] - held[a]) > (cost[b] - cost[a]) * (
                held[j] - held[b]
            ):
                break
            queue.pop()
        queue.append(j)
    corners = [len(ends)]
    while corners[-1]:
        corners.append(came_from[corners[-1]])
    corners.reverse()
    return _Plan((cost[-1] - price * (len(corners) - 1)) // weight, corners)


def _spliced(few: list[int], many: list[int], number: int) -> list[int]:
    """A path of `number` buckets from two that are cheapest at one price: it is cheapest, too.

    Where a bucket of `many` lies inside one of `few`, the paths may change over: the two buckets
    that this makes cost no more than the two that it takes (steps of buckets are Monge).
    """
    more = number - (len(few) - 1)
    i = next(i for i in range(len(few) - 1) if many[i + 1 + more] < few[i + 1] or i + 2 == len(few))
    return many[: i + more + 1] + few[i + 1 :]
