"""Time contenders against each other, after checking that what is timed is right."""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from longrnn.bench.contender import Contender, Run, Unsupported

_REST = 0.004  # seconds after which the spinning threads of the contender before have gone to sleep
_SAMPLE = 0.002  # seconds that a sample lasts at least: short calls are timed by the dozen
# Up to so many seconds a call is made once before it is timed. Without, what is timed is whether
# the pages that it frees and takes again have gone to another contender, or out of the machine.
_LONG = 4.0
_REPEATS = 50
_ROUNDS = 3  # every contender within the cap is timed at least so often


@dataclass(frozen=True)
class Budget:
    """How long a case may take: in all, and for one call of one contender (seconds).

    `on_step` is called with what is done next, in words.
    """

    seconds: float = 20.0
    cap: float = 5.0
    on_step: Callable[[str], object] = lambda words: None


@dataclass
class Outcome:
    """What became of one contender on one case.

    Attributes:
        status: "timed", "wrong", "over the cap", "unsupported", "out of memory" or "failed".
        error: Largest error of any result, relative to the largest exact value of that result.
        note: Why it was not timed.
        times: Seconds a call.
    """

    contender: Contender
    status: str = "timed"
    error: float | None = None
    note: str = ""
    times: list[float] = field(default_factory=list)
    run: Run | None = None

    @property
    def median(self) -> float:
        """The median time of a call, in seconds."""
        return statistics.median(self.times)


def compare(
    contenders: list[Contender],
    case: object,
    tolerance: float,
    budget: Budget,
    *,
    device: str = "cpu",
    shortened: tuple[object, int] | None = None,
) -> list[Outcome]:
    """Check every contender on a case, and time those that are right, round after round.

    Args:
        contenders: What to compare; all must be importable.
        case: Handed to each contender's `prepare`.
        tolerance: Largest error that is called right.
        budget: How long this may take.
        device: "cpu" or "cuda".
        shortened: A pair (case, factor): a case that takes `factor` times less time, on which
            contenders that ask for it are timed first.

    Returns:
        One outcome a contender, in the order given.
    """
    outcomes = [Outcome(contender) for contender in contenders]
    for outcome in outcomes:
        budget.on_step(f"checks {outcome.contender.name}")
        with _reported(outcome, device):
            if outcome.contender.probe and shortened is not None:
                short, factor = shortened
                call = outcome.contender.prepare(short).call
                seconds = factor * _seconds(call, device)
                if seconds > budget.cap:  # perhaps only because it was the first call of all
                    seconds = factor * _seconds(call, device)
                if seconds > budget.cap:
                    outcome.status = "over the cap"
                    outcome.note = f"about {seconds:.0f} s a call"
                    continue
            outcome.run = outcome.contender.prepare(case)
            if outcome.run.check is not None:
                outcome.error = outcome.run.check()
                if not outcome.error <= tolerance:  # NaN is wrong, too
                    outcome.status = "wrong"
                    outcome.note = f"off by {outcome.error:.1e}, {tolerance:.0e} allowed: not timed"
    _time([o for o in outcomes if o.status == "timed"], budget, device)
    for outcome in outcomes:
        outcome.run = None  # a case's tensors are not kept
    return outcomes


def _time(outcomes: list[Outcome], budget: Budget, device: str) -> None:
    """Fill in `times`: one sample of each contender, then the next of each, and so on."""
    about = {}  # seconds a call, by name
    for outcome in outcomes:
        budget.on_step(f"tries {outcome.contender.name}")
        with _reported(outcome, device):
            assert outcome.run is not None
            seconds = about[outcome.contender.name] = _seconds(outcome.run.call, device)
            if seconds > budget.cap:
                outcome.status, outcome.note = "over the cap", f"about {seconds:.0f} s a call"
    racing = [o for o in outcomes if o.status == "timed"]
    share = budget.seconds / max(1, len(racing))
    spent = dict.fromkeys(about, 0.0)
    with _quiet():
        while racing:
            for outcome in racing:
                name = outcome.contender.name
                budget.on_step(f"times {name}, sample {len(outcome.times) + 1}")
                count = max(1, min(1000, round(_SAMPLE / max(about[name], 1e-7))))
                assert outcome.run is not None
                start = time.perf_counter()
                with _reported(outcome, device):
                    time.sleep(_REST)
                    if about[name] < _LONG:
                        outcome.run.call()
                    outcome.times.append(_seconds(outcome.run.call, device, count))
                spent[name] += time.perf_counter() - start
            racing = [
                o
                for o in racing
                if o.status == "timed"
                and len(o.times) < _REPEATS
                and (len(o.times) < _ROUNDS or spent[o.contender.name] < share)
            ]


def _seconds(call: Callable[[], object], device: str, count: int = 1) -> float:
    """Seconds that one of `count` calls takes."""
    if device == "cuda":
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin.record()
        for _ in range(count):
            call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3 / count
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


@contextlib.contextmanager
def _reported(outcome: Outcome, device: str) -> Iterator[None]:
    """Turn what a contender raises into its outcome: one bad peer does not end a suite."""
    try:
        yield
    except Unsupported as reason:
        outcome.status, outcome.note = "unsupported", str(reason)
    except (torch.OutOfMemoryError, MemoryError):
        outcome.status, outcome.run = "out of memory", None
        if device == "cuda":
            torch.cuda.empty_cache()
    except Exception as reason:
        first = next(iter(str(reason).strip().splitlines()), "")[:160]
        outcome.status, outcome.note = "failed", f"{type(reason).__name__}: {first}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection inside a measurement."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
