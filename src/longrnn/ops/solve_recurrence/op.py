r"""A non-linear recurrence $s_t = f(x_t, s_{t-1})$, evaluated at all steps at once.

Start reading here. `solve_recurrence` is the public function. It calls the cell once, to see
what it returns and uses (`checks.py`, `captured.py`), then solves one chunk of time after another
(`newton.py`): the cell and its Jacobian at all steps of the chunk are one call (`steps.py`), the
rest is a linear recurrence. Gradients do not pass through the iterations: they are those of the
equation itself (`gradient.py`).
"""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longrnn.ops.solve_recurrence.captured import widened
from longrnn.ops.solve_recurrence.checks import Options, check_arguments, checked_guess, look_at
from longrnn.ops.solve_recurrence.gradient import Solved
from longrnn.ops.solve_recurrence.newton import Solution, newton
from longrnn.ops.solve_recurrence.reference import solve_recurrence_reference
from longrnn.ops.solve_recurrence.steps import Cell, Steps, like, members


class Report(NamedTuple):
    """How a recurrence was solved, chunk by chunk.

    Attributes:
        iterations: Linear recurrences solved until each sequence had converged, (chunks, B).
        residuals: The largest |s_t - f(x_t, s_{t-1})| of each sequence, each number over what it
            is made of, |s_t| + |J_t| |s_{t-1}|, (chunks, B); 0 where steps ran in sequence.
        sequential: Whether steps ran in sequence after all, (chunks,).
    """

    iterations: Tensor
    residuals: Tensor
    sequential: Tensor


def solve_recurrence(
    cell: Cell,
    inputs: Any,
    initial_state: Any,
    *,
    jacobian: str = "diagonal",
    tol: float | None = None,
    max_iterations: int = 100,
    trust: float = 0.1,
    chunk_size: int | None = None,
    guess: Any = None,
    on_failure: str = "raise",
) -> tuple[Any, Report]:
    r"""Solve $s_t = f(x_t, s_{t-1})$ for every step of a sequence at once, by Newton's method.

    All steps are unknowns of one system of equations. Each iteration makes it linear at the states
    so far, with $J_t$ the Jacobian of the cell by the state, and solves that in parallel over time
    by `linear_recurrence` or `block_linear_recurrence`:

    $$
    s^{k+1}_t = J_t s^{k+1}_{t-1} + f(x_t, s^k_{t-1}) - J_t s^k_{t-1}
    $$

    After k iterations the first k states are exact, whatever stands in the place of $J$, so that T
    iterations always do. A cell that forgets takes a handful; one that is chaotic takes about T,
    and then a loop is faster. The result is judged by the equation: a sequence is solved where
    $|s_t - f(x_t, s_{t-1})| \le$ `tol` $(|s_t| + |J_t| |s_{t-1}|)$ at every step and for every
    number of the state: what changes of each number by `tol` of itself could have made of it.

    Args:
        cell: f: `cell(input, state)` returns the next state, as `nn.GRUCell` and `nn.LSTMCell`
            do. It is called with the steps of all sequences as the rows of one batch, and must
            treat rows independently of one another and without chance.
        inputs: x of every step: a tensor, or a tuple of them, that the cell gets one row of.
        initial_state: s before the first step: a tensor, or a tuple or NamedTuple of them.
        jacobian: What is solved with. "dense": the whole Jacobian, n x n; the fewest iterations,
            n² numbers a step. "diagonal": its diagonal, exact for a cell that is elementwise in
            its state and a quasi-Newton method for others. "block": small blocks, of the last
            dimension of a state that is one tensor, or of the same element of each tensor of one
            that is several, such as (h, c) of one unit.
        tol: Largest relative residual; 16 times the rounding unit of the dtype if None.
        max_iterations: Linear recurrences that a chunk may take.
        trust: Residual, over the largest number until then, above which a step's Jacobian is not
            trusted to expand: it is scaled to a norm of at most 1. `math.inf` is Newton's method
            as it is, which may take several times as many iterations where states are unstable
            for a while.
        chunk_size: Steps solved at once; all if None. Memory, in the gradient too, is that of one
            chunk and the states. A chunk starts from the last state of the one before.
        guess: States to start from, in the form of the result, such as those of the last call.
        on_failure: What becomes of a chunk that has not converged: "raise" an error, or run it
            in a "sequential" loop.

    Shape:
        - inputs: (T, B, ...) each; T = 0 is legal
        - initial_state: (B, ...) each
        - guess: (T, B, ...) each
        - returns: states (T, B, ...) in the form of `initial_state`, and a `Report`

    Returns:
        Every state $s_1 \ldots s_T$, and how many iterations each sequence and chunk took. With
        inputs and states of 16 bits the cell runs in float32, parameters and all, and states are
        rounded once. Autocast is off inside.

    Raises:
        ValueError: If a shape, dtype, device, option or value is not as above, or `cell` returns
            what does not fit the state, or treats rows differently in company.
        RuntimeError: If a chunk has not converged, or a state is infinite or nan; it names the
            step, the sequence and the residual. In backward, if the cell has changed since.

    Note:
        Gradients are exact whatever `jacobian` and the iterations were, to inputs, initial state
        and every tensor that the cell uses, a module's parameters or a closure's, and of any
        order: one linear recurrence backwards with the true Jacobian, transposed. For a cell
        without the structure asked for that is the dense one, of one chunk at a time.

        The true diagonal (or blocks) of a cell that is not elementwise costs as many backward
        passes of the cell as its state has numbers, as the dense Jacobian does.

        The number of iterations depends on values: no torch.export, and torch.compile breaks its
        graph here. Batches of any number of dimensions are flattened by the caller.

    Reference:
        Lim et al., "Parallelizing non-linear sequential models over the sequence length", ICLR
        2024, https://arxiv.org/abs/2309.12252, section 3; Gonzalez et al., "Towards Scalable and
        Stable Parallelization of Nonlinear RNNs", NeurIPS 2024, https://arxiv.org/abs/2407.19115:
        proposition 1 (T iterations), quasi-DEER (the diagonal), ELK (why a trust region; theirs is
        a Kalman filter); Danieli et al., "ParaRNN", 2025, https://arxiv.org/abs/2510.21450: blocks.

    Example:
        >>> cell = torch.nn.GRUCell(3, 4).double()
        >>> x, h = torch.randn(50, 2, 3).double(), torch.zeros(2, 4).double()
        >>> states, report = solve_recurrence(cell, x, h, jacobian="dense")
        >>> for t in range(50):
        ...     h = cell(x[t], h)
        >>> torch.allclose(states[-1], h, atol=1e-12), bool((report.iterations < 20).all())
        (True, True)
    """
    run: Any = _run
    if torch.compiler.is_compiling():  # there is no graph of what depends on values
        run = torch.compiler.disable(_run)
    options = Options(jacobian, tol, max_iterations, trust, chunk_size, on_failure)
    check_arguments(inputs, initial_state, options)
    with torch.autocast(members(initial_state)[0].device.type, enabled=False):
        return run(cell, inputs, initial_state, guess, options)


def _run(
    cell: Cell, inputs: Any, initial_state: Any, guess: Any, options: Options
) -> tuple[Any, Report]:
    gradients = torch.is_grad_enabled()
    # In inference mode too Jacobians come from a graph.
    with torch.inference_mode(False), torch.set_grad_enabled(gradients):
        return _solve_chunks(cell, inputs, initial_state, guess, options)


def _solve_chunks(
    cell: Cell, inputs: Any, initial_state: Any, guess: Any, options: Options
) -> tuple[Any, Report]:
    xs, state = members(inputs), members(initial_state)
    (T, B), dtype = xs[0].shape[:2], state[0].dtype
    if guess is not None:
        guess = checked_guess(guess, state, T)
    if T * sum(s.numel() for s in state) == 0:
        nothing = state[0].new_empty(0, B)
        found = [s.unsqueeze(0).expand(T, *s.shape) for s in state]
        return like(initial_state, found), Report(nothing.long(), nothing, torch.zeros(0).bool())
    xs, state = [widened(x) for x in xs], [widened(s) for s in state]
    inputs, state_form = like(inputs, xs), like(initial_state, state)
    captured, differentiable = look_at(cell, inputs, state_form)
    steps = Steps(cell, inputs, state_form, options.jacobian, captured)
    exact = None
    if differentiable and torch.is_grad_enabled():
        exact = steps if steps.exact else steps.dense()
    size = options.chunk_size or T
    solved: list[_Chunk] = []
    guesses: Iterable[Any] = repeat(None) if guess is None else _split(guess, size)
    for begin, piece, first in zip(range(0, T, size), _split(xs, size), guesses, strict=False):
        solved.append(_solve(steps, exact, piece, state, first, begin, options))
        state = [s[-1] for s in solved[-1].states]
    states = [torch.cat(s).to(dtype) for s in zip(*(c.states for c in solved), strict=True)]
    report = Report(
        torch.stack([c.iterations for c in solved]),
        torch.stack([c.residuals for c in solved]),
        torch.tensor([c.sequential for c in solved]),
    )
    return like(initial_state, states), report


class _Chunk(NamedTuple):
    states: list[Tensor]
    iterations: Tensor
    residuals: Tensor
    sequential: bool


def _solve(
    steps: Steps,
    exact: Steps | None,
    piece: Sequence[Tensor],
    state: Sequence[Tensor],
    guess: Sequence[Tensor] | None,
    begin: int,
    options: Options,
) -> _Chunk:
    """Solve the chunk that begins at a step; with a graph if `exact` is there to differentiate."""
    eps = torch.finfo(state[0].dtype).eps
    tol = 16 * eps if options.tol is None else options.tol
    initial = steps.pack([s.detach() for s in state])
    if guess is None:
        first = initial.expand(len(piece[0]), *initial.shape)
    else:
        first = steps.pack([g.to(initial) for g in guess])
    solution = newton(steps, piece, initial, first, tol, options.max_iterations, options.trust)
    late = solution.iterations > 2 * len(first)  # to set each step once, and to find it right
    if (late & solution.residuals.isfinite().all(0)).any():
        raise ValueError(
            "cell must return the same for the same rows, without chance, got results that "
            f"{int(solution.iterations.max())} iterations did not settle over {len(first)} steps"
        )
    sequential = bool((solution.right < len(first)).any())
    residuals = solution.residuals.amax(0)
    if sequential:
        if options.on_failure == "raise":
            raise RuntimeError(_complaint(solution, begin, tol, options.max_iterations))
        looped = solve_recurrence_reference(
            steps.call, like(steps.inputs_form, piece), like(steps.state_form, state)
        )
        found, residuals = members(looped), torch.zeros_like(residuals)
        _check_finite_states(found, begin)
    else:
        found = steps.unpack(solution.states)
        if exact is not None:
            states = [exact.pack(found)]
            solved = Solved.apply(exact, tol, states, exact.pack(state), *piece, *exact.captured)
            found = exact.unpack(solved)
    return _Chunk(found, solution.iterations, residuals, sequential)


def _split(tensors: Sequence[Tensor], size: int) -> list[tuple[Tensor, ...]]:
    return list(zip(*(t.split(size) for t in tensors), strict=True))


def _complaint(solution: Solution, begin: int, tol: float, max_iterations: int) -> str:
    """What to say of a chunk that was not solved."""
    residuals, left = solution.residuals, solution.right < len(solution.residuals)
    wrong = torch.where(left, solution.right, 0)  # each sequence's first wrong step
    impossible = left & ~residuals.gather(0, wrong.unsqueeze(0))[0].isfinite()
    if impossible.any():
        b = int(impossible.int().argmax())
        return _not_finite(begin + int(wrong[b]), b)
    worst, step = residuals.nan_to_num(torch.inf).max(0)
    b = int(torch.where(left, worst, -1).argmax())
    return (
        f"solve_recurrence did not converge in max_iterations={max_iterations} on steps {begin} to "
        f"{begin + len(residuals) - 1}: {int(left.sum())} of {len(left)} sequences are left, and "
        f"sequence {b} has a residual of {worst[b]:.1e} at step {begin + int(step[b])} "
        f"(tol={tol:.1e}). Shorter chunks (chunk_size), more iterations or "
        'jacobian="dense" may help; on_failure="sequential" runs such a chunk in a loop'
    )


def _not_finite(step: int, sequence: int) -> str:
    return f"cell returned an infinite or nan state at step {step} of sequence {sequence}"


def _check_finite_states(states: Sequence[Tensor], begin: int) -> None:
    for s in states:
        if not (fine := s.isfinite()).all():
            step, sequence = (~fine).nonzero()[0].tolist()[:2]
            raise RuntimeError(_not_finite(begin + step, sequence))
