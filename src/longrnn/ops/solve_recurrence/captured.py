"""Tensors that a function uses without being given them: weights of a module, or of a closure.

A gradient needs them by name. JAX calls this closure conversion; PyTorch has no such thing, but
every call of its functions can be listened to, and their arguments replaced.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def find_captured(
    function: Callable[..., Any], given: Sequence[Tensor]
) -> tuple[list[Tensor], Any]:
    """Call a function; return the tensors it used that need a gradient or are of 16 bits.

    Args:
        function: Called with `given`; returns tensors, singly or in a tuple. Those of 16 bits that
            it was not given are of 32 to it.
        given: Tensors that are not to be found.

    Returns:
        The tensors, and what the function returned.

    Raises:
        ValueError: If the result depends on a tensor that could not be found, so that it would
            miss its gradient.
    """
    with torch.enable_grad():
        # Nodes of the graph are numbered as they are made: a lower number was there before.
        node: Any = torch.ones((), requires_grad=True).exp().grad_fn
        with _Listening(given, node._sequence_nr()) as listening:
            results = function(*given)
    _check_all_found(results, [*given, *listening.found], node._sequence_nr())
    return listening.found, results


def widened(x: Tensor) -> Tensor:
    """In float32 if it has 16 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Replaced(TorchFunctionMode):
    """While entered, functions of torch get other tensors in the place of some."""

    def __init__(self, tensors: Sequence[Tensor], others: Sequence[Tensor]):
        super().__init__()
        self.kept = list(tensors)  # an id is theirs as long as they live
        self.others = {id(t): other for t, other in zip(tensors, others, strict=True)}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call `func` with the others."""
        return func(*self._replace(args), **self._replace(kwargs or {}))

    def _replace(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.others.get(id(value), value)
        if type(value) is dict:
            return {key: self._replace(v) for key, v in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._replace(v) for v in value)
        return value


class _Listening(Replaced):
    """Collects arguments of torch's functions that were there before."""

    def __init__(self, given: Sequence[Tensor], first: int):
        super().__init__(given, given)
        self.first = first
        self.found: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, and look at what it is called with."""
        for tensor in _tensors((args, kwargs)):
            if id(tensor) not in self.others:
                if self._matters(tensor):
                    self.found.append(tensor)
                self._know(tensor, widened(tensor))
        result = super().__torch_function__(func, types, args, kwargs)
        for tensor in _tensors(result):
            self._know(tensor, tensor)
        return result

    def _know(self, tensor: Tensor, other: Tensor) -> None:
        self.kept.append(tensor)
        self.others.setdefault(id(tensor), other)

    def _matters(self, tensor: Tensor) -> bool:
        if tensor.requires_grad:
            return tensor.grad_fn is None or tensor.grad_fn._sequence_nr() < self.first
        return tensor.dtype in (torch.float16, torch.bfloat16)


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _check_all_found(results: Any, known: Sequence[Tensor], first: int) -> None:
    """Walk from the results to where their graph leaves the call; each exit must be known."""
    leaves = {id(t) for t in known if t.grad_fn is None}
    nodes = {t.grad_fn for t in known if t.grad_fn is not None}
    seen, left = set(), [t.grad_fn for t in _tensors(results) if t.requires_grad]
    while left:
        node = left.pop()
        if node is None or node in nodes or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if (leaf is not None and id(leaf) not in leaves) or (
            leaf is None and node._sequence_nr() < first
        ):
            shape = "" if leaf is None else f" of shape {tuple(leaf.shape)}"
            raise ValueError(
                f"cell must use tensors that need a gradient{shape} through functions that "
                "PyTorch can follow, got one that is compiled or scripted: pass the plain module"
            )
        left += [next_node for next_node, _ in node.next_functions]
