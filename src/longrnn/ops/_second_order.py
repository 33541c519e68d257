"""Derivatives that can be differentiated again, taken through an op's plain form."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def differentiate_plain(
    plain: Callable[..., Sequence[Tensor | None]],
    inputs: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients of `plain(*inputs)` by each of its inputs; with a graph if gradients are on.

    Args:
        plain: The op, composed of PyTorch's own.
        inputs: What it is called with.
        grads: The gradient of each of its results, or None.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Fresh aliases, so that a gradient can be asked for each of them whatever their history.
        aliases = [
            t if t is None else t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
            for t in inputs
        ]
        results = plain(*aliases)
        pairs: list[Any] = [
            (y, g)
            for y, g in zip(results, grads, strict=True)
            if y is not None and g is not None and y.requires_grad
        ]
        found = iter(
            torch.autograd.grad(
                [y for y, _ in pairs],
                [t for t in aliases if t is not None],
                [g for _, g in pairs],
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        )
    return [None if t is None else next(found) for t in inputs]
