"""Contenders of the block suite, with inputs (T, B, n, n) and (T, B, n)."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from longrnn.bench.contender import Contender, Run, Unsupported
from longrnn.bench.scan_case import Scan, ScanCase, torch_scan
from longrnn.ops import block_linear_recurrence

BASELINE = "loop over matmul"
OURS = "longrnn"
_TIME_FIRST = "(T, B, n, n)"


def _ours(case: ScanCase) -> Scan:
    return block_linear_recurrence


def _loop(case: ScanCase) -> Scan:
    def scan(a: Tensor, x: Tensor) -> Tensor:
        states = list(x.unsqueeze(-1).unbind(0))
        for t, a_t in enumerate(a.unbind(0)):
            if t > 0:
                states[t] = torch.baddbmm(states[t], a_t, states[t - 1])
        return torch.stack(states).squeeze(-1)

    return scan


def _combine(p: tuple[Tensor, Tensor], q: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return q[0] @ p[0], (q[0] @ p[1].unsqueeze(-1)).squeeze(-1) + q[1]


def _associative_scan(case: ScanCase) -> Scan:
    from torch._higher_order_ops.associative_scan import associative_scan

    return lambda a, x: associative_scan(_combine, (a, x), dim=0, combine_mode="generic")[1]


# What pararnn's scans are called for one n, and how (T, B, ...) becomes what they take, and back.
_Layout = tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
_CHANNELS_LAST: _Layout = (
    "scan_block{n}",
    lambda v: v.movedim(1, -1).contiguous().unsqueeze(0),
    lambda v: v.squeeze(0).movedim(-1, 1),
)
_BATCH_FIRST: _Layout = (
    "scan_dense",
    lambda v: v.transpose(0, 1).contiguous(),
    lambda v: v.transpose(0, 1),
)


def _pararnn(layout: _Layout, backend: str) -> Callable[[ScanCase], Run]:
    """Its scans have no gradient of their own: it is made of its scan in reverse."""
    name, into, back = layout

    def prepare(case: ScanCase) -> Run:
        n = case.x.shape[-1]
        scans = importlib.import_module("pararnn.solvers.scan")
        scan: Any = getattr(scans, name.format(n=n), None)
        if scan is None:
            raise Unsupported("n must be 2 or 4")
        reverse: Any = getattr(scans, "reverse_" + name.format(n=n))
        a, x, y = (into(v) for v in (case.a, case.x, case.y))
        row = -1 if layout is _BATCH_FIRST else -2

        def call() -> tuple[Tensor, ...]:
            with torch.no_grad():
                h = scan(a, x, backend=backend)
                if not case.training:
                    return (h,)
                s = reverse(a, y, backend=backend)
                before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
                return h, s.unsqueeze(row) * before.unsqueeze(row - 1), s

        return Run(call, lambda: case.error(back(v) for v in call()))

    return prepare


def contenders(device: str) -> list[Contender]:
    """All contenders for a device, present or not."""
    backend = "triton" if device == "cuda" else "eager"
    return [
        torch_scan(OURS, _ours, _TIME_FIRST, kind="ours", package="longrnn"),
        torch_scan(BASELINE, _loop, _TIME_FIRST, probe=True),
        torch_scan("torch associative_scan", _associative_scan, _TIME_FIRST),
        *(
            Contender(
                f"pararnn {label}",
                _pararnn(layout, backend),
                module="pararnn",
                package="pararnn-torch",
                layout=shape,
            )
            for label, layout, shape in (
                ("scan_block", _CHANNELS_LAST, "(1, T, n, n, B)"),
                ("scan_dense", _BATCH_FIRST, "(B, T, n, n)"),
            )
        ),
    ]
