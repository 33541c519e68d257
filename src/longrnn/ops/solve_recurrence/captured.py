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
    """Call a function twice; return the tensors it uses that need a gradient or are `widened`.

    Args:
        function: Called with `given`; returns tensors, singly or in a tuple. Those that it was not
            given are `widened` to it.
        given: Tensors that are not to be found.

    Returns:
        The tensors, and what the function returned.

    Raises:
        ValueError: If the result depends on a tensor that could not be found and replaced, so that
            it would miss its gradient.
    """
    with torch.enable_grad():
        # Nodes of the graph are numbered as they are made: a lower number was there before.
        node: Any = torch.ones((), requires_grad=True).exp().grad_fn
        first = node._sequence_nr()
        with _Listening(given, first) as listening:
            function(*given)
        found = listening.found
        fresh = [widened(t.detach()).requires_grad_(t.requires_grad) for t in found]
        with Replaced(found, fresh):
            results = function(*given)
    _check_followed(results, [*given, *fresh], first)
    return found, results


def widened(x: Tensor) -> Tensor:
    """In float32 if it has 16 bits; a copy if it is one of inference mode, that no graph takes."""
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return x.clone() if x.is_inference() else x


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
        return tensor.dtype in (torch.float16, torch.bfloat16) or tensor.is_inference()


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _check_followed(results: Any, known: Sequence[Tensor], first: int) -> None:
    """Walk from the results to where their graph leaves the call; it may end in `known` alone."""
    leaves = {id(t) for t in known}
    seen, left = set(), [t.grad_fn for t in _tensors(results)]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if id(leaf) not in leaves if leaf is not None else node._sequence_nr() < first:
            shape = "" if leaf is None else f" of shape {tuple(leaf.shape)}"
            raise ValueError(
                "cell must use tensors that need a gradient by PyTorch's functions, got one"
                f"{shape} in scripted code or an autograd.Function: give it among the inputs"
            )
        left += [next_node for next_node, _ in node.next_functions]
