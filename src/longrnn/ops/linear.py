"""The products with what goes into a layer: of long sequences the largest tensors that it makes."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from longrnn import _native
from longrnn.ops.linear_recurrence.transforms import is_followed


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *more: Tensor) -> Tensor:
    """`torch.nn.functional.linear`, of one input or of several whose products are added.

    On a CPU, large results lie in memory that earlier ones have left mapped: PyTorch takes fresh
    memory for each, of which page faults make a third of the time that the product takes.

    Args:
        x: The input.
        weight: One row a feature of the result.
        bias: One a row of the weight, or None.
        *more: A second input of x's dtype and its weight.

    Shape:
        - x: (..., m)
        - weight: (k, m), bias: (k,)
        - more: (..., n) and (k, n)
        - returns: (..., k)
    """
    if not is_followed(x) and _is_large(x, weight) and is_plain(x, weight, bias, *more):
        result: Tensor = SumOfProducts.apply(None, bias, x, weight, *more)
        return result
    if not more:
        return functional.linear(x, weight, bias)
    if torch.compiler.is_compiling() or x.numel() >= weight.numel():
        return functional.linear(*concatenated(x, weight, *more), bias)
    seen, weight_seen = more  # of a few steps: less work than copying the weights
    return functional.linear(x, weight, bias) + functional.linear(seen, weight_seen)


def concatenated(x: Tensor, weight: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
    """One input and one weight whose product is the sum of two."""
    return (torch.cat([x, more[0]], -1), torch.cat([weight, more[1]], 1)) if more else (x, weight)


def _is_large(x: Tensor, weight: Tensor) -> bool:
    """Whether the result is worth memory of our own."""
    return x.numel() * weight.shape[0] * x.itemsize >= _native.LARGE * x.shape[-1]


def is_plain(x: Tensor, *others: Tensor | None) -> bool:
    """Whether these are CPU tensors of one dtype that a kernel may read."""
    return (
        x.is_cpu
        and x.is_floating_point()
        and all(
            t.dtype == x.dtype and type(t) in (Tensor, nn.Parameter)
            for t in others
            if t is not None
        )
        and not torch.is_autocast_enabled("cpu")
        and _native.available()
    )


class SumOfProducts(torch.autograd.Function):
    """A bias, and the products of pairs of an input and a weight.

    `choose` is given the gradient and returns the rows to which the way back may be confined, or
    None for all of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        choose: Callable[[Tensor], Tensor | None] | None,
        bias: Tensor | None,
        *pairs: Tensor,
    ) -> Tensor:
        """The bias and every pair's product, added."""
        ctx.choose = choose
        ctx.save_for_backward(*pairs)
        x, weight, *more = pairs
        out = _native.empty((*x.shape[:-1], weight.shape[0]), x)
        if bias is None:
            torch.mm(rows_of(x), weight.t(), out=rows_of(out))
        else:
            torch.addmm(bias, rows_of(x), weight.t(), out=rows_of(out))
        if more:
            rows_of(out).addmm_(rows_of(more[0]), more[1].t())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that are wanted, of the chosen rows."""
        _, wanted, *wanted_of_pairs = ctx.needs_input_grad
        rows = ctx.choose(grad) if ctx.choose else None
        g = _pick(grad, rows)
        grads: list[Tensor | None] = [g.sum(0) if wanted else None]
        pairs = ctx.saved_tensors
        for k in range(0, len(pairs), 2):
            x, weight = pairs[k : k + 2]
            grads.append(_place(_product(g, weight), rows, x) if wanted_of_pairs[k] else None)
            grads.append(g.t() @ _pick(x, rows) if wanted_of_pairs[k + 1] else None)
        return None, *grads


def _product(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient of an input."""
    if torch.is_grad_enabled() or is_batched(grad):
        return grad @ weight
    return torch.mm(grad, weight, out=_native.empty((grad.shape[0], weight.shape[1]), grad))


def _pick(x: Tensor, rows: Tensor | None) -> Tensor:
    x = rows_of(x)
    if rows is None:
        return x
    return torch.index_select(x, 0, rows, out=_native.empty((rows.numel(), x.shape[-1]), x))


def _place(picked: Tensor, rows: Tensor | None, like: Tensor) -> Tensor:
    """What was picked where it came from, and zeros elsewhere."""
    if rows is None:
        return picked.view(like.shape)
    out = _native.empty(like.shape, like).zero_()
    rows_of(out).index_copy_(0, rows, picked)
    return out


def is_batched(grad: Tensor) -> bool:
    """Whether a gradient is many at once (`is_grads_batched`), which no kernel can look into."""
    return torch._C._functorch.is_legacy_batchedtensor(grad)


def rows_of(x: Tensor) -> Tensor:
    """All leading dimensions as one."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
