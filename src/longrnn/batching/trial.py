"""Whether a call is worth compiling on this machine: a short measurement."""

import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from longrnn.batching.recorded import Call, first_line, untouched

MOST_OPERATIONS = 300
"""Of a call that is compiled: a loop over time is unrolled, and compilers take long over it."""
_GAIN = 1.1  # how much faster the compiled call must be, as each bucket is compiled for seconds
_ROUNDS = 5


class Verdict(NamedTuple):
    """Whether compiled is faster, and the sentence that says why."""

    compiled: bool
    why: str


def compile_call(call: Call) -> Call:
    """Compile a call, for the shapes that it is first given."""

    def own(*args: Any) -> Any:
        return call(*args)

    own.__code__ = own.__code__.replace()  # torch counts, and caps, what it compiles of one code
    return torch.compile(own, dynamic=False, fullgraph=True)


def compare(
    call: Call,
    args: tuple[Any, ...],
    compiled_call: Call,
    compiled_args: tuple[Any, ...],
    module: nn.Module,
) -> Verdict:
    """Time a call as it is and compiled, each as it would be done, and with its backward if any.

    The module's buffers and gradients and the random state stay as they are.

    Args:
        call: The call as it is.
        args: Its arguments, a batch cut off at the longest sequence.
        compiled_call: The same, compiled when it is first done.
        compiled_args: Its arguments, that batch padded to its bucket.
        module: What is called.
    """
    ways = ((call, tree_map(_leaf, args)), (compiled_call, tree_map(_leaf, compiled_args)))
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with untouched(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a compiler's, about what it will not fuse
        count = operations(call, compiled_args)
        if count > MOST_OPERATIONS:
            return Verdict(False, f"sliced: {count:,} operations a call, too many to compile")
        try:
            for way, given in ways:
                _run(way, given, parameters)
        except Exception as error:  # whatever a compiler, or the lack of one, may raise
            return Verdict(False, f"sliced: it cannot be compiled: {first_line(error)}")
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(_ROUNDS):
            for (way, given), taken in zip(ways, times, strict=True):
                start = time.perf_counter()
                _run(way, given, parameters)
                taken.append(time.perf_counter() - start)
    plain, compiled = (1e3 * min(taken) for taken in times)
    faster = plain > _GAIN * compiled
    name = "compiled" if faster else "sliced"
    return Verdict(faster, f"{name}: {plain:.2f} ms a call as it is, {compiled:.2f} ms compiled")


def operations(call: Call, args: tuple[Any, ...]) -> int:
    """How many operations a call is made of."""
    counter = _Counter()
    with torch.no_grad(), counter:
        call(*args)
    return counter.count


class _Counter(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _leaf(value: Any) -> Any:
    return (
        value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
    )


def _run(call: Call, args: tuple[Any, ...], parameters: Sequence[Tensor]) -> None:
    outputs = [leaf for leaf in tree_flatten(call(*args))[0] if isinstance(leaf, Tensor)]
    live = [output for output in outputs if output.requires_grad]
    if live:
        given = [x for x in tree_flatten(args)[0] if isinstance(x, Tensor) and x.requires_grad]
        torch.autograd.grad(
            [output.sum() for output in live], [*given, *parameters], allow_unused=True
        )
