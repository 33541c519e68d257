"""What the dispatcher runs for an op: its GPU kernels, or the plain form in the kernel's place."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def register_gpu(op: str) -> None:
    """Run `forward` and `backward` of the op's module `gpu` on CUDA, for it and its gradient.

    The module is imported at the first call: it imports Triton, which is absent on CPU machines.
    """

    def kernel(name: str) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            module = importlib.import_module(f"longrnn.ops.{op}.gpu")
            return getattr(module, name)(*arguments)

        return run

    torch.library.impl(f"longrnn::{op}", "CUDA", kernel("forward"))
    torch.library.impl(f"longrnn::{op}_backward", "CUDA", kernel("backward"))


def fill(fresh: tuple[Tensor, ...], values: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Results of an op that are its own memory, from the plain form's; what it lacks is empty."""
    for tensor, value in zip(fresh, values, strict=False):
        if value is not None and tensor.numel():
            tensor.copy_(value)
    return fresh
