"""What the skip and phased suites share: time against the share of the work that is done."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from longrnn.bench.contender import Contender, Run, relative_error
from longrnn.bench.measure import Budget, compare
from longrnn.bench.results import Row, rows

BASELINE = "nn.LSTM"
_CHECKED = 48  # steps that are compared with the plain form in float64
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Share:
    """One line of a programme: a layer of which a share of the steps, or of the units, is done."""

    suite: str
    share: float
    B: int
    T: int
    m: int
    n: int
    training: bool = False
    group: str = "share"

    def __str__(self) -> str:
        return f"B {self.B}, T {self.T}, {self.m} to {self.n}, share {self.share:g}"


@dataclass(frozen=True)
class ShareCase:
    """A line of the programme with its tensors.

    Attributes:
        line: The line.
        x: Input, (T, B, m).
        times: Time stamps, (T, B), ascending and of their own in each sequence.
        y: Gradient of the output, (T, B, n).
    """

    line: Share
    x: Tensor
    times: Tensor
    y: Tensor

    @classmethod
    def draw(cls, line: Share, device: str) -> "ShareCase":
        """Draw a case. Sequences differ in their level, so that their gates differ."""
        generator = torch.Generator().manual_seed(0)
        shape = (line.T, line.B)
        x = torch.randn(*shape, line.m, generator=generator)
        x = x + torch.randn(1, line.B, line.m, generator=generator)
        times = (2 * torch.rand(shape, generator=generator, dtype=torch.float64)).cumsum(0)
        y = torch.randn(*shape, line.n, generator=generator)
        return cls(line, x.to(device), times.to(device), y.to(device))


Forward = Callable[[nn.Module, ShareCase], Tensor]


def contender(
    name: str,
    build: Callable[[ShareCase], nn.Module],
    forward: Forward,
    *,
    kind: str = "ours",
    dense: bool = False,
    reference: Callable[[nn.Module, ShareCase], Tensor] | None = None,
) -> Contender:
    """A module that does a case.

    Args:
        name: What tables call it.
        build: Makes the module.
        forward: Runs it and returns its output.
        kind: As `Contender.kind`.
        dense: Whether it runs forward with gradients on, which makes every step and unit count.
        reference: The same in plain PyTorch, for a float64 module and the beginning of a case.
    """

    def prepare(case: ShareCase) -> Run:
        module = build(case).to(case.x.device).train(case.line.training)

        def call() -> Any:
            if not case.line.training:
                with torch.set_grad_enabled(dense):
                    return forward(module, case)
            module.zero_grad(set_to_none=True)
            forward(module, case).backward(case.y)
            return None

        def check() -> float:
            assert reference is not None
            short = ShareCase(
                case.line,
                case.x[:_CHECKED].double(),
                case.times[:_CHECKED],
                case.y[:_CHECKED].double(),
            )
            exact = build(case).to(case.x.device).double().train(case.line.training)
            with torch.set_grad_enabled(dense):
                ours = forward(exact, short)
            with torch.no_grad():
                return relative_error({"output": ours}, {"output": reference(exact, short)})

        return Run(call, check if reference else None)

    return Contender(name, prepare, kind=kind, package="longrnn" if kind == "ours" else "torch")


def baseline(cell: type[nn.Module] = nn.LSTM) -> Contender:
    """PyTorch's own layer on the same input."""

    def build(case: ShareCase) -> nn.Module:
        torch.manual_seed(0)
        return cell(case.line.m, case.line.n)

    name = f"nn.{cell.__name__}"
    return contender(name, build, lambda module, case: module(case.x)[0], kind="peer")


def measure(
    line: Share,
    runners: list[Contender],
    budget: Budget,
    device: str,
    limits: dict[str, float],
    share_of: Callable[[ShareCase], float],
) -> Iterator[list[Row]]:
    """Measure one line of a programme.

    Args:
        line: The line.
        runners: The contenders that are present.
        budget: How long it may take.
        device: "cpu" or "cuda".
        limits: The machine's "multiply_adds" a second.
        share_of: The share of the work that is in fact done.

    Yields:
        The rows. The limit is the multiply-adds of that share, thrice in training.
    """
    case = ShareCase.draw(line, device)
    share = share_of(case)
    macs = share * line.T * line.B * 4 * line.n * (line.n + line.m) * (3 if line.training else 1)
    facts = {
        "suite": line.suite,
        "group": line.group,
        "case": str(line),
        "share": share,
        "B": line.B,
        "T": line.T,
        "m": line.m,
        "D": line.n,
        "dtype": "float32",
        "pass": "training" if line.training else "forward",
        "multiply_adds": macs,
        "limit_ms": 1e3 * macs / limits["multiply_adds"],
    }
    outcomes = compare(runners, case, _TOLERANCE, budget, device=device)
    yield rows(facts, outcomes, baseline=BASELINE, per_call={"steps_per_s": line.T * line.B})
