"""Contenders of the recurrence suite: h_t = a_t h_{t-1} + x_t, ours and other people's."""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from longrnn.bench import scans_gpu, scans_jax
from longrnn.bench.contender import Contender, Run, Unsupported
from longrnn.bench.scan_case import Scan, ScanCase, torch_scan
from longrnn.ops import linear_recurrence


def _plain_adds(case: ScanCase) -> Run:
    """The bytes that the recurrence must move, moved by plain allocating additions.

    Forward: read two, write one. Backward: read three (decays, states, their gradient), write
    two; that is an addition of two tensors and an addition of a number to the third.
    """
    a, x, y = case.a, case.x, case.y

    def forward() -> tuple[Tensor, ...]:
        return (torch.add(a, x),)

    def training() -> tuple[Tensor, ...]:
        h = torch.add(a, x)
        return h, torch.add(a, y), torch.add(h, 1.0)

    return Run(training if case.training else forward, None)


def _ours(algorithm: str, dim: int = 1) -> Callable[[ScanCase], Scan]:
    return lambda case: lambda a, x: linear_recurrence(a, x, dim=dim, algorithm=algorithm)


def _loop(case: ScanCase) -> Scan:
    def scan(a: Tensor, x: Tensor) -> Tensor:
        states = list(x.unbind(1))
        for t, a_t in enumerate(a.unbind(1)):
            if t > 0:
                states[t] = torch.addcmul(states[t], a_t, states[t - 1])
        return torch.stack(states, 1)

    return scan


def _combine(p: tuple[Tensor, Tensor], q: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return p[0] * q[0], torch.addcmul(q[1], q[0], p[1])


def _associative_scan(mode: str, *, compiled: bool) -> Callable[[ScanCase], Scan]:
    def load(case: ScanCase) -> Scan:
        from torch._higher_order_ops.associative_scan import associative_scan

        def scan(a: Tensor, x: Tensor) -> Tensor:
            return associative_scan(_combine, (a, x), dim=1, combine_mode=mode)[1]

        if not compiled:
            return scan
        torch._dynamo.reset()  # past a few shapes of one function, dynamo would run it uncompiled
        return torch.compile(scan, dynamic=False)

    return load


def _mambapy(case: ScanCase) -> Scan:
    from mambapy.pscan import pscan

    return pscan


def _assoc_scan(case: ScanCase) -> Scan:
    from assoc_scan import AssocScan

    return AssocScan()


def _philtorch(case: ScanCase) -> Scan:
    from philtorch.lpv.recur import linear_recurrence as scan

    start = case.x.new_zeros(case.x.shape[0] * case.x.shape[2])
    return lambda a, x: scan(a, start, x)


def _torchlpc(case: ScanCase) -> Scan:
    import torchlpc
    from torchlpc.recurrence import Recurrence

    if not torchlpc.EXTENSION_LOADED:
        raise Unsupported("its compiled kernel is missing: build the 0.7.2 source distribution")
    start = case.x.new_zeros(case.x.shape[0] * case.x.shape[2])
    return lambda a, x: Recurrence.apply(a, x, start)


def _accelerated_scan(kernel: str) -> Callable[[ScanCase], Scan]:
    def load(case: ScanCase) -> Scan:
        T = case.x.shape[1]
        power = T & (T - 1) == 0
        if kernel == "ref" and not power:
            raise Unsupported("T must be a power of two")
        if kernel == "warp" and not (power and 32 <= T <= 65536):
            raise Unsupported("T must be a power of two from 32 to 65536")
        return importlib.import_module(f"accelerated_scan.{kernel}").scan

    return load


BASELINE = "torch.add"
OURS = "longrnn"

_EVERYWHERE = [
    Contender(BASELINE, _plain_adds, kind="baseline", layout="any"),
    torch_scan(OURS, _ours("auto"), kind="ours", package="longrnn"),
    torch_scan("longrnn serial", _ours("serial"), kind="ours", package="longrnn", probe=True),
    torch_scan("longrnn parallel", _ours("parallel"), kind="ours", package="longrnn"),
    torch_scan("longrnn, time last", _ours("auto", 2), "(B, D, T)", kind="ours", package="longrnn"),
    torch_scan("loop over unbind", _loop, probe=True),
    torch_scan(
        "mambapy.pscan", _mambapy, "(B, T, 1, D)", module="mambapy.pscan", package="mambapy"
    ),
    torch_scan("assoc-scan", _assoc_scan, module="assoc_scan", package="assoc-scan"),
]


def contenders(device: str) -> list[Contender]:
    """All contenders for a device, present or not."""
    if device == "cuda":
        return [
            *_EVERYWHERE,
            torch_scan(
                "torch associative_scan, compiled",
                _associative_scan("pointwise", compiled=True),
            ),
            *(
                torch_scan(
                    f"accelerated_scan.{kernel}",
                    _accelerated_scan(kernel),
                    "(B, D, T)",
                    module="accelerated_scan",
                    package="accelerated-scan",
                )
                for kernel in ("scalar", "warp")
            ),
            *scans_gpu.CONTENDERS,
        ]
    return [
        *_EVERYWHERE,
        torch_scan("torch associative_scan", _associative_scan("generic", compiled=False)),
        torch_scan("torch associative_scan, compiled", _associative_scan("generic", compiled=True)),
        *scans_jax.CONTENDERS,
        torch_scan(
            "philtorch", _philtorch, "(B·D, T)", module="philtorch", package="philtorch==0.6.0"
        ),
        torch_scan("torchlpc", _torchlpc, "(B·D, T)", module="torchlpc", package="torchlpc==0.7.2"),
        torch_scan(
            "accelerated_scan.ref",
            _accelerated_scan("ref"),
            "(B, D, T)",
            module="accelerated_scan",
            package="accelerated-scan",
        ),
    ]
