"""The skip suite: SkipLSTM against the share of steps that update, beside nn.LSTM."""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from longrnn.bench import share
from longrnn.bench.contender import Contender
from longrnn.bench.measure import Budget
from longrnn.bench.results import Row
from longrnn.bench.share import Share, ShareCase
from longrnn.nn import SkipLSTM
from longrnn.nn.skip_stack import SkippingStack
from longrnn.ops.candidates import merge_biases
from longrnn.ops.skip_recurrence.plain import skip_recurrence_plain

_DIGITS: dict[str, Any] = {"T": 784, "m": 1, "n": 110}  # as in the paper's sequential MNIST
_RECORDING: dict[str, Any] = {"T": 8192, "m": 1, "n": 110}  # one long stream, as of a sensor
_SETTLE = 24  # bisections of the gate's bias


def cases(device: str) -> list[Share]:
    """What the suite measures on a device."""
    forward = [
        Share("skip", update, B, **_DIGITS)
        for B in (1, 32, 256)
        for update in (1.0, 0.5, 0.2, 0.1, 0.05)
    ]
    long = [Share("skip", update, 1, **_RECORDING) for update in (0.5, 0.2, 0.1, 0.05)]
    training = [
        Share("skip", update, B, **_DIGITS, training=True)
        for B in (32, 256)
        for update in (1.0, 0.5)
    ]
    return forward + long + training


def contenders(device: str) -> list[Contender]:
    """Who runs in the suite: our layer, skipping and not, PyTorch's, and the original's way."""

    def run(module: nn.Module, case: ShareCase) -> Tensor:
        return module(case.x)[0]

    return [
        share.contender("skip-lstm", _layer, run, reference=blend),
        share.contender("skip-lstm, dense", _layer, run, dense=True, reference=blend),
        share.contender("blend each step", _layer, blend, kind="peer"),
        share.baseline(),
    ]


def measure(
    line: Share, runners: list[Contender], budget: Budget, device: str, limits: dict[str, float]
) -> Iterator[list[Row]]:
    """Measure one share of updates; see `share.measure`."""

    def share_of(case: ShareCase) -> float:
        with torch.no_grad():
            return _layer(case).to(device).eval()(case.x)[2].mean().item()

    return share.measure(line, runners, budget, device, limits, share_of)


def _layer(case: ShareCase) -> SkipLSTM:
    """A layer whose gate, different in each sequence, updates about the wanted share of steps."""
    layer = SkipLSTM(case.line.m, case.line.n)
    layer.load_state_dict(_settled(case.line))
    return layer


@functools.cache
def _settled(line: Share) -> dict[str, Tensor]:
    torch.manual_seed(0)
    layer = SkipLSTM(line.m, line.n)
    settle(layer, ShareCase.draw(line, "cpu").x, line.share)
    return layer.state_dict()


@torch.no_grad()
def settle(layer: SkippingStack, x: Tensor, share: float) -> None:
    """Set the bias of a layer's gate so that it updates at about a share of the steps of `x`."""
    low, high = -12.0, 8.0
    layer.eval()
    for _ in range(_SETTLE):
        layer.bias_u.fill_((low + high) / 2)
        if layer(x)[2].mean() < share:
            low = layer.bias_u.item()
        else:
            high = layer.bias_u.item()
    layer.bias_u.fill_(high)


def blend(layer: Any, case: ShareCase) -> Tensor:
    """Evaluate every step and blend, as the original does."""
    bias = merge_biases("lstm", layer.bias_ih_l0, layer.bias_hh_l0, layer.weight_hh_l0)
    weights = [layer.weight_ih_l0, layer.weight_hh_l0, bias]
    hidden, cells = (start.expand(1, case.x.shape[1], -1) for start in (layer.h_0, layer.c_0))
    p = case.x.new_ones(case.x.shape[1], 1)
    start = (layer.weight_u, layer.bias_u, hidden, cells, p, torch.zeros_like(p))
    return skip_recurrence_plain(case.x, weights, *start, None, None, None, "lstm", 0)[0]
