"""What `solve_recurrence` asks of its arguments, and of the cell; told before any work."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longrnn import _checks
from longrnn.ops.linear_recurrence.transforms import transforms_active
from longrnn.ops.solve_recurrence.captured import find_captured
from longrnn.ops.solve_recurrence.steps import Cell, Steps, like, members

JACOBIANS = ("diagonal", "block", "dense")
ON_FAILURE = ("raise", "sequential")


class Options(NamedTuple):
    """Those of `solve_recurrence`, and what they mean there."""

    jacobian: str
    tol: float | None
    max_iterations: int
    trust: float
    chunk_size: int | None
    on_failure: str


def look_at(cell: Cell, inputs: Any, state: Any) -> tuple[list[Tensor], bool]:
    """Call the cell once; return what it uses besides, and whether anything can have a gradient.

    Raises:
        ValueError: If what it returns does not fit the state, or depends on the company of a row.
    """
    xs, before = members(inputs), members(state)
    # Copies, so that a cell that writes into its arguments leaves the caller's alone.
    given = [x[0].detach().clone().requires_grad_(x.requires_grad) for x in xs]
    given += [s.detach().clone().requires_grad_(s.requires_grad) for s in before]

    def call(*tensors: Tensor) -> Any:
        return cell(like(inputs, tensors[: len(xs)]), like(state, tensors[len(xs) :]))

    captured, after = find_captured(call, given)
    if not isinstance(after, (Tensor, tuple, list)) or len(members(after)) != len(before):
        raise ValueError(
            f"cell must return a state like initial_state, {_describe(before)}, got "
            f"{type(after).__name__}"
        )
    for s, t in zip(before, members(after), strict=True):
        if not isinstance(t, Tensor) or t.shape != s.shape or t.dtype != s.dtype:
            raise ValueError(
                f"cell must return a state like initial_state, {_describe(before)}, got "
                f"{_describe(members(after))}"
            )
    _check_rows(Steps(cell, inputs, state, "dense", captured), members(after))
    return captured, any(t.requires_grad for t in members(after))


def _check_rows(steps: Steps, alone: Sequence[Tensor]) -> None:
    """Raise unless rows come out the same beside others, in another place and once more.

    They are the first step, and one from the state after it: dice that are thrown for numbers of a
    state do not show where these are 0.
    """
    xs, before = members(steps.inputs_form), members(steps.state_form)
    first = [*(x[0] for x in xs), *before]
    other = [*(x[-1] for x in xs), *alone]

    def call(above: Sequence[Tensor], below: Sequence[Tensor]) -> list[Tensor]:
        rows = [torch.cat(pair) for pair in zip(above, below, strict=True)]
        inputs, states = rows[: len(xs)], rows[len(xs) :]
        after = steps.call(like(steps.inputs_form, inputs), like(steps.state_form, states))
        return members(after)

    with torch.no_grad():
        after, swapped = call(first, other), call(other, first)
    for s, t, u in zip(alone, after, swapped, strict=True):
        (t_first, t_other), (u_other, u_first) = t.chunk(2), u.chunk(2)
        off = torch.stack([t_first - s, u_first - s, u_other - t_other]).abs().max()
        if off > torch.finfo(s.dtype).eps ** 0.5 * torch.cat([s, t_other]).abs().max():
            raise ValueError(
                "cell must treat rows independently of one another and without chance, got "
                f"results {off:.1e} apart for the same rows in other company"
            )


def _describe(tensors: Sequence[Any]) -> str:
    return ", ".join(
        f"{tuple(t.shape)} {t.dtype}" if isinstance(t, Tensor) else type(t).__name__
        for t in tensors
    )


def check_arguments(inputs: Any, initial_state: Any, options: Options) -> None:
    """Raise unless all are as `solve_recurrence` says."""
    if transforms_active():
        raise NotImplementedError(
            "solve_recurrence does not run under torch.func transforms: give it the whole batch"
        )
    xs = _checked_members("inputs", inputs)
    state = _checked_members("initial_state", initial_state)
    for name, s in state.items():
        _checks.check_floating(name, s)
        if s.ndim == 0:
            raise ValueError(f"{name} must have a batch dimension, got shape ()")
    first = next(iter(state.values()))
    for name, s in state.items():
        _checks.check_same_device(name, s, "initial_state", first)
        if s.dtype != first.dtype or s.shape[0] != first.shape[0]:
            raise ValueError(
                f"{name} must have dtype {first.dtype} and B={first.shape[0]}, got {_describe([s])}"
            )
    T = next(iter(xs.values())).shape[:1]
    for name, x in xs.items():
        _checks.check_same_device(name, x, "initial_state", first)
        if x.ndim < 2 or x.shape[:2] != (*T, first.shape[0]):
            raise ValueError(
                f"{name} must have shape (T, B={first.shape[0]}, ...), T the same for all, got "
                f"{tuple(x.shape)}"
            )
    for name, t in {**xs, **state}.items():
        _check_finite(name, t)
    _check_options(options, list(state.values()))


def _check_options(options: Options, state: Sequence[Tensor]) -> None:
    _checks.check_choice("jacobian", options.jacobian, JACOBIANS)
    if options.jacobian == "block" and len({s.shape for s in state}) != 1:
        raise ValueError(
            'initial_state must hold tensors of one shape for jacobian="block", got '
            f"{_describe(state)}"
        )
    if options.tol is not None and not 0 < options.tol < 1:
        raise ValueError(f"tol must lie in (0, 1), got {options.tol!r}")
    _checks.check_positive(max_iterations=options.max_iterations)
    if not options.trust >= 0:
        raise ValueError(f"trust must be at least 0, got {options.trust!r}")
    if options.chunk_size is not None:
        _checks.check_positive(chunk_size=options.chunk_size)
    _checks.check_choice("on_failure", options.on_failure, ON_FAILURE)


def _checked_members(name: str, value: Any) -> dict[str, Tensor]:
    """The tensors of a state or an input, with their names in errors."""
    if isinstance(value, Tensor):
        return {name: value}
    if not isinstance(value, tuple) or not value:
        raise ValueError(f"{name} must be a tensor or a tuple of tensors, got {value!r:.80}")
    names = [f"{name}.{f}" for f in getattr(value, "_fields", ())]
    names = names or [f"{name}[{i}]" for i in range(len(value))]
    for each, t in zip(names, value, strict=True):
        if not isinstance(t, Tensor):
            raise ValueError(f"{each} must be a tensor, got {type(t).__name__}")
    return dict(zip(names, value, strict=True))


def _check_finite(name: str, x: Tensor) -> None:
    if x.is_floating_point() and not (fine := x.isfinite()).all():
        place = (~fine).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite, got {x[tuple(place)].item()} at {place}")


def checked_guess(guess: Any, state: Sequence[Tensor], T: int) -> list[Tensor]:
    """The tensors of a guess, if they are what the result will be."""
    guesses = _checked_members("guess", guess)
    if len(guesses) != len(state):
        raise ValueError(f"guess must hold {len(state)} tensors, got {len(guesses)}")
    for (name, g), s in zip(guesses.items(), state, strict=True):
        _checks.check_floating(name, g)
        _checks.check_same_device(name, g, "initial_state", s)
        if g.shape != (T, *s.shape):
            raise ValueError(f"{name} must have shape {(T, *s.shape)}, got {tuple(g.shape)}")
        _check_finite(name, g)
    return [g.detach() for g in guesses.values()]
