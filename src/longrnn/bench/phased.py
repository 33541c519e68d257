"""The phased suite: PhasedLSTM against the share of units that are open, beside nn.LSTM."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from longrnn.bench import share
from longrnn.bench.contender import Contender
from longrnn.bench.measure import Budget
from longrnn.bench.results import Row
from longrnn.bench.share import Share, ShareCase
from longrnn.nn import PhasedLSTM
from longrnn.ops.candidates import merge_biases
from longrnn.ops.phased_recurrence.plain import phased_recurrence_plain
from longrnn.ops.time_gate.op import time_gate

_DIGITS: dict[str, Any] = {"T": 784, "m": 1, "n": 110}


def cases(device: str) -> list[Share]:
    """What the suite measures on a device: events of 16 features, each sequence by its clock."""
    forward = [
        Share("phased", ratio, B, T=256, m=16, n=n)
        for n in (512, 1024)
        for B in (1, 32)
        for ratio in (0.05, 0.1, 0.2, 0.4, 0.8)
    ]
    return forward + [Share("phased", 0.05, B, **_DIGITS, training=True) for B in (64, 256)]


def contenders(device: str) -> list[Contender]:
    """Who runs in the suite: our layer, sparse and not, PyTorch's, and other codes' way."""

    def run(module: nn.Module, case: ShareCase) -> Tensor:
        return module(case.x, times=case.times)[0]

    return [
        share.contender("phased-lstm", _layer, run, reference=blend),
        share.contender("phased-lstm, dense", _layer, run, dense=True, reference=blend),
        share.contender("blend each step", _layer, blend, kind="peer"),
        share.baseline(),
    ]


def measure(
    line: Share, runners: list[Contender], budget: Budget, device: str, limits: dict[str, float]
) -> Iterator[list[Row]]:
    """Measure one share of open units; see `share.measure`."""

    def share_of(case: ShareCase) -> float:
        if line.training:
            return 1.0  # the leak reaches every unit
        with torch.no_grad():
            return (
                (time_gate(case.times, *_clock(_layer(case).to(device)), 0.0) > 0)
                .double()
                .mean()
                .item()
            )

    return share.measure(line, runners, budget, device, limits, share_of)


def _layer(case: ShareCase) -> PhasedLSTM:
    torch.manual_seed(0)
    return PhasedLSTM(case.line.m, case.line.n, on_ratio=case.line.share)


def _clock(layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    return layer.log_period_l0.exp(), layer.shift_l0, layer.on_ratio_l0


def blend(layer: Any, case: ShareCase) -> Tensor:
    """Evaluate every unit at every step and blend."""
    bias = merge_biases("lstm", layer.bias_ih_l0, layer.bias_hh_l0, layer.weight_hh_l0)
    weights = (layer.weight_ih_l0, layer.weight_hh_l0, bias, layer.weight_peephole_l0)
    zeros = case.x.new_zeros(case.x.shape[1], case.line.n)
    leak = layer.leak if layer.training else 0.0
    arguments = (*weights, *_clock(layer), zeros, zeros, None, None, "lstm", leak, 0, False)
    return phased_recurrence_plain(case.x, case.times, *arguments)[0]
