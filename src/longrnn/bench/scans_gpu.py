"""Contenders of the recurrence suite that run on a GPU only."""

import importlib

import torch
from torch import Tensor

from longrnn.bench.contender import Contender, Run, Unsupported
from longrnn.bench.scan_case import ScanCase, torch_run


def _hgrn(name: str) -> Contender:
    """Flash-linear-attention's HGRN op, which takes the logarithm of the decays."""

    def prepare(case: ScanCase) -> Run:
        scan = getattr(importlib.import_module("fla.ops.hgrn"), name)
        log_a, x = case.a.log(), case.x.clone()
        if case.training:
            log_a, x = log_a.requires_grad_(), x.requires_grad_()

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (scan(x, log_a)[0],)

        def training() -> tuple[Tensor, ...]:
            h = scan(x, log_a)[0]
            return (h, *torch.autograd.grad(h, (log_a, x), case.y))

        call = training if case.training else forward

        def check() -> float:
            made = list(call())
            if case.training:
                made[1] = made[1] / case.a
            return case.error(made)

        return Run(call, check)

    return Contender(f"fla {name}", prepare, module="fla", package="fla-core")


def _pararnn(case: ScanCase) -> Run:
    if case.training:
        raise Unsupported("its Triton scan has no gradient")

    scan_diag = importlib.import_module("pararnn.solvers.scan").scan_diag

    def call() -> Tensor:
        return scan_diag(case.a, case.x, backend="triton")

    return Run(call, lambda: case.error([call()]))


def _mingru(case: ScanCase) -> Run:
    scan = importlib.import_module("mingru").linear_scan
    return torch_run(case, lambda a, x: scan(a, x)[1])


CONTENDERS = [
    _hgrn("chunk_hgrn"),
    _hgrn("fused_recurrent_hgrn"),
    Contender("pararnn scan_diag", _pararnn, module="pararnn", package="pararnn-torch"),
    Contender("mingru.linear_scan", _mingru, module="mingru", package="mingru-scans"),
]
