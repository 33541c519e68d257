"""The compose suite: gates on parallel recurrences against their parents, by sequence length."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from longrnn.bench import phased, share, skip
from longrnn.bench.contender import Contender
from longrnn.bench.measure import Budget, compare
from longrnn.bench.results import Row, rows
from longrnn.bench.share import BASELINE, Forward, Share, ShareCase
from longrnn.nn import LinearSurrogate, create_model

_LENGTHS = (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18)
_PIECES = 8  # contenders are first timed on one piece in so many of the sequence
_SETTLED = 2048  # steps on which a skip layer's gate is set
_SHARE = 0.2  # of the steps, that skip layers use; phased units are open for the default, 0.05
_TOLERANCE = 1e-3
_CELLS = {"LinearSurrogate(LSTMCell)": nn.LSTMCell, "LinearSurrogate(GRUCell)": nn.GRUCell}


def cases(device: str) -> list[Share]:
    """What the suite measures on a device: one sequence of events with 16 features."""
    return [
        Share("compose", _SHARE, B=1, T=T, m=16, n=256, training=training, group="sweep")
        for T in _LENGTHS
        for training in (True, False)
    ]


def contenders(device: str) -> list[Contender]:
    """Who runs in the suite: the compositions, what they are made of, cells, and PyTorch's LSTM."""
    made = [
        _contender("phased-gilr-lstm", _run_timed, _step_by_step),
        _contender("phased-lstm", _run_timed, phased.blend),
        _contender("skip-gilr-lstm", _run, _step_by_step),
        _contender("skip-lstm", _run, skip.blend),
        _contender("gilr-lstm", _run, _step_by_step),
        *(_contender(name, _run, _step_by_step) for name in _CELLS),
        share.baseline(),
    ]
    return [replace(contender, probe=True) for contender in made]


def measure(
    line: Share, runners: list[Contender], budget: Budget, device: str, limits: dict[str, float]
) -> Iterator[list[Row]]:
    """Measure one length, forward or a training step.

    Args:
        line: The case.
        runners: The contenders that are present.
        budget: How long it may take.
        device: "cpu" or "cuda".
        limits: Of the machine; not used, since the contenders' work differs.

    Yields:
        The rows. `us_per_step` is the time of one event.
    """
    case = ShareCase.draw(line, device)
    steps = max(1, line.T // _PIECES)
    short = replace(case, x=case.x[:steps], times=case.times[:steps], y=case.y[:steps])
    outcomes = compare(
        runners, case, _TOLERANCE, budget, device=device, shortened=(short, line.T // steps)
    )
    made = rows(
        {
            "suite": line.suite,
            "group": line.group,
            "case": str(line),
            "B": line.B,
            "T": line.T,
            "m": line.m,
            "D": line.n,
            "dtype": "float32",
            "pass": "training" if line.training else "forward",
        },
        outcomes,
        baseline=BASELINE,
        per_call={"steps_per_s": line.B * line.T},
    )
    for row in made:
        if row["status"] == "timed":
            row["us_per_step"] = 1e3 * row["median_ms"] / line.T
            if row["contender"].startswith("skip"):
                row["share"] = _share_of(row["contender"], case)
    yield made


def _contender(name: str, forward: Forward, reference: Forward) -> Contender:
    return share.contender(name, lambda case: _build(name, case), forward, reference=reference)


def _build(name: str, case: ShareCase) -> Any:
    torch.manual_seed(0)
    m, n = case.line.m, case.line.n
    if name in _CELLS:
        return LinearSurrogate(_CELLS[name](m, n))
    layer: Any = create_model(name, m, n)
    if name.startswith("skip"):
        skip.settle(layer, case.x[:_SETTLED].float().cpu(), case.line.share)
    return layer


def _share_of(name: str, case: ShareCase) -> float:
    """The share of steps that a skip layer uses."""
    layer = _build(name, case).to(case.x.device).eval()
    with torch.no_grad():
        return float(layer(case.x)[2].mean())


def _run(module: nn.Module, case: ShareCase) -> Tensor:
    output: Tensor = module(case.x)[0]
    return output


def _run_timed(module: nn.Module, case: ShareCase) -> Tensor:
    output: Tensor = module(case.x, times=case.times)[0]
    return output


def _step_by_step(module: nn.Module, case: ShareCase) -> Tensor:
    """One step a call, the state passed on."""
    timed = hasattr(module, "period_init")
    state: Any = None
    outputs = []
    for t in range(case.x.shape[0]):
        settings = {"times": case.times[t : t + 1]} if timed else {}
        output, state, *_ = module(case.x[t : t + 1], state, **settings)
        outputs.append(output)
    return torch.cat(outputs)
