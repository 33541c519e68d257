"""Contenders of the layers suite: longrnn's layers, PyTorch's, and other people's."""

import functools
import importlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longrnn.bench.contender import Contender, Run, Unsupported
from longrnn.bench.layer_case import LayerCase, module_run
from longrnn.nn import create_model, models
from longrnn.nn.stack import RecurrentStack
from longrnn.nn.torch_stack import TorchStack

PRODUCTS = ": products alone"
_TORCH = ("lstm", "gru")


def contenders() -> list[Contender]:
    """All contenders, present or not: parallel layers, PyTorch's, peers, and matrix products."""
    ours = [name for name in models() if is_parallel(name)]
    return [
        *(layer(name) for name in (*ours, *_TORCH)),
        *_PEERS,
        *(products(name) for name in ours),
    ]


@functools.cache
def is_parallel(name: str) -> bool:
    """Whether a layer computes its matrix products for all steps at once."""
    layer = build(name, (1, 1, 1), "meta")
    return isinstance(layer, RecurrentStack) and not isinstance(layer, TorchStack)


def build(
    name: str,
    sizes: tuple[int, int, int],
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """A layer of `longrnn.models()`; `sizes` are input size, hidden size and number of layers."""
    torch.manual_seed(0)
    return create_model(name, *sizes, device=device, dtype=dtype)


def layer(name: str) -> Contender:
    """A layer of `longrnn.models()`."""

    def prepare(case: LayerCase) -> Run:
        module = build(name, case.sizes, case.x.device, case.x.dtype)
        return module_run(module, case, lambda m, x: m(x)[0], stepwise=True)

    torchs = name in _TORCH
    return Contender(
        f"nn.{name.upper()}" if torchs else name,
        prepare,
        kind="peer" if torchs else "ours",
        package="torch" if torchs else "longrnn",
        layout="(T, B, m)",
    )


def products(name: str) -> Contender:
    """The matrix products of a layer and nothing else, with their gradients in training."""

    def prepare(case: LayerCase) -> Run:
        rows = case.x.shape[0] * case.x.shape[1]
        inputs, weights, grads, wanted = [], [], [], []
        for shape, input_grad in weight_shapes(name, case.sizes):
            weight = case.x.new_ones(shape).requires_grad_()
            x = case.x.new_ones(rows, shape[1]).requires_grad_(input_grad)
            inputs.append(x)
            weights.append(weight)
            grads.append(case.x.new_ones(rows, shape[0]))
            wanted += [weight, x] if input_grad else [weight]

        def forward() -> list[Tensor]:
            with torch.no_grad():
                return list(map(F.linear, inputs, weights))

        def training() -> tuple[Tensor, ...]:
            return torch.autograd.grad(list(map(F.linear, inputs, weights)), wanted, grads)

        return Run(training if case.training else forward, None)

    return Contender(name + PRODUCTS, prepare, kind="products", layout="(T * B, m)")


def weight_shapes(name: str, sizes: tuple[int, int, int]) -> list[tuple[torch.Size, bool]]:
    """Shapes of a layer's matrices, and whether the gradient of what each multiplies is needed."""
    found = []
    for parameter_name, parameter in build(name, sizes, "meta").named_parameters():
        if parameter.ndim == 2 and parameter.shape[0] >= sizes[1]:  # diagonals and gates are less
            kind, _, number = parameter_name.rpartition("_l")
            of_data = number == "0" and not kind.endswith("_sh")  # the first layer's input
            found.append((parameter.shape, not of_data))
    return found


def multiply_adds(name: str, sizes: tuple[int, int, int], positions: int, training: bool) -> int:
    """Multiply-adds in a layer's matrix products over `positions` steps of the batch together."""
    total = 0
    for shape, input_grad in weight_shapes(name, sizes):
        passes = 2 + input_grad if training else 1
        total += passes * shape.numel() * positions
    return total


def _sru(case: LayerCase) -> Run:
    sru = importlib.import_module("sru")
    m, n, num_layers = case.sizes
    return module_run(sru.SRU(m, n, num_layers).to(case.x), case, lambda module, x: module(x)[0])


def _batch_first(module: nn.Module, case: LayerCase) -> Run:
    """A module that wants (B, T, m): the transposition is a view, its copy part of the work."""
    return module_run(
        module.to(case.x), case, lambda module, x: module(x.transpose(0, 1)).transpose(0, 1)
    )


def _pararnn(solver: str) -> Callable[[LayerCase], Run]:
    def prepare(case: LayerCase) -> Run:
        pararnn = importlib.import_module("pararnn")
        m, n, num_layers = case.sizes
        cell = pararnn.ParaGRU(m, n)
        return _batch_first(pararnn.ParaRNN(cell, num_layers=num_layers, solver=solver), case)

    return prepare


def _mingru_scans(cell: str) -> Callable[[LayerCase], Run]:
    def prepare(case: LayerCase) -> Run:
        mingru = importlib.import_module("mingru")
        m, n, num_layers = case.sizes
        build = getattr(mingru, cell)
        stack = [build(n if k else m, n) for k in range(num_layers)]
        return _batch_first(_Stack(stack), case)

    return prepare


def _mingru_pytorch(case: LayerCase) -> Run:
    min_gru = importlib.import_module("minGRU_pytorch").minGRU
    m, n, num_layers = case.sizes
    if m != n:
        raise Unsupported("its input and hidden sizes are one")
    return _batch_first(_Stack([min_gru(n) for _ in range(num_layers)]), case)


class _Stack(nn.ModuleList):
    """Modules of one output, one after another; where one returns a state too, it is dropped."""

    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            made = module(x)
            x = made[0] if isinstance(made, tuple) else made
        return x


def _peer(name: str, prepare: Callable[[LayerCase], Run], module: str, package: str) -> Contender:
    layout = "(T, B, m)" if module == "sru" else "(B, T, m)"
    return Contender(name, prepare, module=module, package=package, layout=layout, probe=True)


_PEERS = [
    _peer("sru.SRU", _sru, "sru", "sru"),
    _peer("pararnn ParaGRU, Newton", _pararnn("newton"), "pararnn", "pararnn-torch"),
    _peer("pararnn ParaGRU, serial", _pararnn("sequential"), "pararnn", "pararnn-torch"),
    _peer("mingru.MinGRU", _mingru_scans("MinGRU"), "mingru", "mingru-scans"),
    _peer("mingru.SignedMinGRU", _mingru_scans("SignedMinGRU"), "mingru", "mingru-scans"),
    _peer("minGRU_pytorch.minGRU", _mingru_pytorch, "minGRU_pytorch", "minGRU-pytorch"),
]
