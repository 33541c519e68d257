"""A cell over many steps at once, and its Jacobian at each."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from longrnn.ops.block_linear_recurrence.op import block_linear_recurrence
from longrnn.ops.block_linear_recurrence.reference import block_linear_recurrence_reference
from longrnn.ops.linear_recurrence.op import linear_recurrence
from longrnn.ops.solve_recurrence.captured import Replaced, widened

_PROBED_ROWS = 16  # at least so many show a Jacobian's structure

Cell = Callable[[Any, Any], Any]


def members(value: Any) -> list[Tensor]:
    """The tensors of a state, or of an input."""
    return [value] if isinstance(value, Tensor) else list(value)


def like(template: Any, tensors: Sequence[Tensor]) -> Any:
    """`tensors` in the form of `template`: a tensor, a tuple or a NamedTuple."""
    if isinstance(template, Tensor):
        return tensors[0]
    return type(template)(*tensors) if hasattr(template, "_fields") else tuple(tensors)


class Steps:
    """The steps of a cell, with states packed as (..., M, n): M blocks of n numbers.

    The Jacobian is taken block by block, (..., M, n, n). "diagonal" is n = 1, "dense" is M = 1;
    "block" is the last dimension of a state that is one tensor, and the same element of each
    tensor of one that is several.

    Args:
        cell: `cell(input, state) -> state`, on rows.
        inputs: Of that form are the cell's inputs; (T, B, ...) each.
        state: Of that form are its states; (B, ...) each.
        jacobian: "diagonal", "block" or "dense".
        captured: Tensors that the cell uses besides.
    """

    def __init__(
        self, cell: Cell, inputs: Any, state: Any, jacobian: str, captured: Sequence[Tensor]
    ):
        self.cell = cell
        self.inputs_form, self.state_form = inputs, state
        self.captured = list(captured)
        self.inputs = len(members(inputs))
        self.shapes = [m.shape[1:] for m in members(state)]
        self.stacked = jacobian == "block" and not isinstance(state, Tensor)
        size = sum(shape.numel() for shape in self.shapes)
        self.n = {"diagonal": 1, "dense": size}.get(jacobian, 0)
        if jacobian == "block":
            self.n = len(self.shapes) if self.stacked else [1, *self.shapes[0]][-1]
        self.blocks = size // max(1, self.n)
        self.exact = self.blocks == 1 or self._has_structure()

    def dense(self) -> "Steps":
        """The same steps, with the whole Jacobian."""
        return Steps(self.cell, self.inputs_form, self.state_form, "dense", self.captured)

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors of a state, with any dimensions in front, as one."""
        lead = tensors[0].shape[: tensors[0].ndim - len(self.shapes[0])]
        flat = [t.reshape(*lead, s.numel()) for t, s in zip(tensors, self.shapes, strict=True)]
        packed = torch.stack(flat, -1) if self.stacked else torch.cat(flat, -1)
        return packed.reshape(*lead, self.blocks, self.n)

    def unpack(self, packed: Tensor) -> list[Tensor]:
        """Undo `pack`."""
        lead = packed.shape[:-2]
        if self.stacked:
            flat: Sequence[Tensor] = packed.unbind(-1)
        else:
            sizes = [shape.numel() for shape in self.shapes]
            flat = packed.reshape(*lead, self.blocks * self.n).split(sizes, -1)
        return [t.reshape(*lead, *s) for t, s in zip(flat, self.shapes, strict=True)]

    def call(self, input: Any, state: Any, captured: Sequence[Tensor] | None = None) -> Any:
        """The cell, in no less than float32.

        `captured`, if given, takes the place of the tensors that the cell uses.
        """
        others = [widened(t) for t in (self.captured if captured is None else captured)]
        replaced = [t is not other for t, other in zip(self.captured, others, strict=True)]
        mode = Replaced(self.captured, others) if any(replaced) else nullcontext()
        with mode:
            return self.cell(input, state)

    def evaluate(
        self, inputs: Sequence[Tensor], before: Tensor, captured: Sequence[Tensor] | None = None
    ) -> Tensor:
        """The states one step after `before`, each from the one that stands there."""
        rows = [x.flatten(0, 1) for x in inputs]
        states = self.unpack(before.flatten(0, 1))
        after = self.call(like(self.inputs_form, rows), like(self.state_form, states), captured)
        return self.pack(members(after)).unflatten(0, before.shape[:2])

    def with_graph(self, inputs: Sequence[Tensor], before: Tensor) -> tuple[Tensor, Tensor]:
        """The states one step after, and those before, between which there is a graph."""
        before = before.detach().requires_grad_()
        with torch.enable_grad():
            return self.evaluate([x.detach() for x in inputs], before), before

    def jacobian(
        self, after: Tensor, before: Tensor, exact: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        """The Jacobian of each step in blocks, (T, B, M, n, n), and |J| |before|, of all of it.

        Rows of all blocks are one product where it is known to have no more, else one each.
        """
        exact = self.exact if exact is None else exact
        jacobian, flow = before.new_empty(*before.shape, self.n), torch.empty_like(before)
        states = before.detach()
        cotangent = torch.zeros_like(before, requires_grad=False)
        for i in range(self.n):
            for block in [slice(None)] if exact else range(self.blocks):
                cotangent[..., block, i] = 1
                row = pull(after, before, cotangent)
                jacobian[..., block, i, :] = row[..., block, :]
                flow[..., block, i] = (row * states).abs_().sum(-1 if exact else (-2, -1))
                cotangent[..., block, i] = 0
        return jacobian, flow

    def _has_structure(self) -> bool:
        """Whether the Jacobian has no more than its blocks, at random states.

        With J in blocks, the product with any cotangent is that of the blocks.
        """
        B = members(self.state_form)[0].shape[0]
        inputs = [x[: -(-_PROBED_ROWS // B)] for x in members(self.inputs_form)]
        generator = torch.Generator().manual_seed(0)  # leaves the caller's alone
        shape = (2, len(inputs[0]), B, self.blocks, self.n)
        before, cotangent = torch.randn(shape, generator=generator).to(members(self.state_form)[0])
        after, before = self.with_graph(inputs, before)
        jacobian, _ = self.jacobian(after, before, exact=True)
        expected = (jacobian * cotangent.unsqueeze(-1)).sum(-2)
        error = (pull(after, before, cotangent) - expected).abs().max()
        size = (jacobian.abs() * cotangent.abs().unsqueeze(-1)).max()
        return bool(error <= 64 * torch.finfo(before.dtype).eps * size)


def pull(after: Tensor, before: Tensor, cotangent: Tensor, *, create_graph: bool = False) -> Tensor:
    """The transposed Jacobian times a cotangent; the graph stays."""
    if not after.requires_grad:  # whatever the state before
        return torch.zeros_like(before)
    (found,) = torch.autograd.grad(
        after,
        before,
        cotangent,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return found


def solve_linear(
    jacobian: Tensor, right: Tensor, *, transposed: bool = False, one_by_one: bool = False
) -> Tensor:
    r"""Solve $d_t = J_t d_{t-1} + r_t$, or $\lambda_t = J_{t+1}^T \lambda_{t+1} + r_t$.

    By products of J, which may overflow where the solution does not, or one step at a time.
    """
    if transposed:
        nothing_after = torch.zeros_like(jacobian[:1])
        jacobian = torch.cat([jacobian[1:].transpose(-1, -2), nothing_after])
    if one_by_one:
        return block_linear_recurrence_reference(jacobian, right, reverse=transposed)
    if right.shape[-1] == 1:
        decays, impulses = jacobian[..., 0, 0], right[..., 0]
        return linear_recurrence(decays, impulses, reverse=transposed).unsqueeze(-1)
    return block_linear_recurrence(jacobian, right, reverse=transposed)
