"""Calls of fixed shapes: kept a few at a time, recorded once and replayed on memory of their own.

A recorder knows how to record: `graphs.CudaRecorder` makes CUDA graphs. All that surrounds it is
here and knows no device, so that tests run it with a recorder that calls again, not replays.
"""

import contextlib
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

Call = Callable[..., Any]
_log = logging.getLogger(__name__)
_SLOT = object()  # stands for a tensor among the leaves of a result


class Recorder(Protocol):
    """Turns work into something that can be done again on the same memory."""

    def warm_up(self, run: Callable[[], object]) -> None:
        """Do the work as often as it takes before it can be recorded."""

    def record(self, run: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        """Record the work; return what it makes, and what makes it anew in the same place."""

    def memory_bytes(self) -> int:
        """Memory that all recordings hold together."""


class Kept(OrderedDict[Hashable, Any]):
    """What was made for each key, the latest used `most()` of them.

    Args:
        most: Tells how many are kept.
    """

    def __init__(self, most: Callable[[], int]):
        super().__init__()
        self.most, self.evicted = most, 0

    def get_or_make(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept for `key`, or else what `make` makes."""
        if key not in self:
            self[key] = make()
            while len(self) > self.most():  # after making: a pool that runs empty cannot be reused
                self.popitem(last=False)
                self.evicted += 1
        self.move_to_end(key)
        return self[key]


def key_of(args: tuple[Any, ...]) -> Hashable:
    """What two calls must share to be served by one recording."""
    leaves, structure = tree_flatten(args)
    kinds = [
        (leaf.shape, leaf.dtype, leaf.device, leaf.requires_grad)
        if isinstance(leaf, Tensor)
        else leaf
        for leaf in leaves
    ]
    devices = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)}
    casts = [
        (device, torch.get_autocast_dtype(device))
        for device in sorted(devices)
        if torch.is_autocast_enabled(device)
    ]
    modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *casts)
    return str(structure), *kinds, *modes


@contextlib.contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Leave the module's buffers, and the random state of its device, as they were."""
    kept = [buffer.clone() for buffer in module.buffers()]
    devices = {t.device.index for t in module.parameters() if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        yield
    with torch.no_grad():
        for buffer, value in zip(module.buffers(), kept, strict=True):
            buffer.copy_(value)


def first_line(error: Exception) -> str:
    """What went wrong, in a line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]


class Recorded:
    """One call, recorded with its backward, if there is one.

    Args:
        call: Takes tensors and trees of them, and returns such a tree.
        args: What it is recorded with; later ones must have the same `key_of`.
        parameters: The tensors that `call` reads besides its arguments and that may want gradients.
        recorder: How to record.
    """

    def __init__(
        self, call: Call, args: tuple[Any, ...], parameters: list[Tensor], recorder: Recorder
    ):
        self._call, self._args = call, tree_map(_copied, args)
        leaves = tree_flatten(self._args)[0]
        self._inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._sources = [t for t in (*self._inputs, *parameters) if t.requires_grad]
        self._outputs: list[Tensor] = []
        self._live: list[Tensor] = []  # the outputs that lead back to the sources
        self._grad_outputs: list[Tensor] = []
        recorder.warm_up(self._there_and_back)
        self._results, self._replay = recorder.record(self._forward)
        self.differentiable = [output.requires_grad for output in self._outputs]
        if self._live:
            self._grads, self._replay_backward = recorder.record(self._backward)
        self._outputs = self._live = []  # with them goes what the backward needed

    def _forward(self) -> list[Tensor]:
        leaves, self._structure = tree_flatten(self._call(*self._args))
        self._outputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._constants = [_SLOT if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._live = [o for o in self._outputs if o.requires_grad]
        return [o.detach() for o in self._outputs]

    def _backward(self) -> list[Tensor]:
        grads = torch.autograd.grad(
            self._live, self._sources, self._grad_outputs, allow_unused=True
        )
        self._used = [grad is not None for grad in grads]
        return [grad for grad in grads if grad is not None]

    def _there_and_back(self) -> None:
        self._forward()
        if self._live:
            self._grad_outputs = [torch.zeros_like(output) for output in self._live]
            self._backward()

    def replay(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs for other inputs: copies, since the next batch writes in their place."""
        with torch.no_grad():
            for static, given in zip(self._inputs, inputs, strict=True):
                static.copy_(given)
        self._replay()
        return [output.clone() for output in self._results]

    def replay_backward(self, grads: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of the inputs and parameters that want one, for gradients of all outputs."""
        both = zip(grads, self.differentiable, strict=True)
        wanted = [grad for grad, differs in both if differs]
        for static, given in zip(self._grad_outputs, wanted, strict=True):
            static.copy_(given)
        self._replay_backward()
        # Copies: autograd may keep what it is given as a parameter's .grad.
        found = iter([grad.clone() for grad in self._grads])
        return [next(found) if used else None for used in self._used]

    def restore(self, outputs: Iterable[Tensor]) -> Any:
        """The tree that `call` returns, with these tensors in it."""
        found = iter(outputs)
        leaves = [next(found) if leaf is _SLOT else leaf for leaf in self._constants]
        return tree_unflatten(leaves, self._structure)


def _copied(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    copy = torch.empty_like(value, memory_format=torch.contiguous_format).copy_(value.detach())
    return copy.requires_grad_(value.requires_grad)


class _Ticket:
    """Held by the autograd graph of a batch whose backward has not run."""


class RecordedCalls:
    """A module's calls, each kind recorded once, in one memory.

    One batch at a time may be under way there: what its forward leaves is needed until its backward
    has run. A call in between goes without recordings, and so does one of a kind that cannot be
    recorded. A batch whose output nobody holds any more is not waited for. Moved weights make all
    recordings void.

    Args:
        module: What is called; its parameters and its mode are looked at.
        call: Calls it, with tensors and trees of them.
        most: Tells how many recordings are kept.
        make_recorder: Makes what records, each with a memory of its own.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Call,
        most: Callable[[], int],
        make_recorder: Callable[[], Recorder],
    ):
        self._module, self._call, self._make_recorder = module, call, make_recorder
        self._kept = Kept(most)
        self._recorder = make_recorder()
        self._addresses: list[int] = []
        self._ticket: weakref.ref[_Ticket] | None = None
        self._not_recorded = 0
        self._way = "graphs"

    def wants_static(
        self, args: Callable[[], tuple[Any, ...]], static_args: Callable[[], tuple[Any, ...]]
    ) -> bool:
        """Whether calls must have the shape of their bucket: always."""
        return True

    def run(self, args: tuple[Any, ...]) -> Any:
        """Do `call(*args)`, by a recording if that can be."""
        parameters: list[Tensor] = list(self._module.parameters())
        addresses = [parameter.data_ptr() for parameter in parameters]
        if addresses != self._addresses:
            self._addresses = addresses
            self._kept.clear()
            self._recorder = self._make_recorder()
        recorded = None
        if self._ticket is None or self._ticket() is None:
            wanted = tuple(p.requires_grad for p in parameters)
            key = (self._module.training, wanted, key_of(args))
            recorded = self._kept.get_or_make(key, lambda: self._record(args, parameters))
        if recorded is None:
            self._not_recorded += 1
            return self._call(*args)
        inputs = [leaf for leaf in tree_flatten(args)[0] if isinstance(leaf, Tensor)]
        if any(recorded.differentiable):
            outputs = _Replay.apply(self, recorded, len(inputs), *inputs, *parameters)
        else:
            outputs = recorded.replay(inputs)
        return recorded.restore(outputs)

    def report(self) -> dict[str, Any]:
        """What `MuxUnroll.stats` says of the way calls run."""
        return {
            "way": self._way,
            "graphs": len(self._kept),
            "evicted": self._kept.evicted,
            "not_recorded": self._not_recorded,
            "memory_bytes": self._recorder.memory_bytes(),
        }

    def begin(self) -> _Ticket:
        """Note that a batch is under way for as long as its ticket is held."""
        ticket = _Ticket()
        self._ticket = weakref.ref(ticket)
        return ticket

    def end(self, ticket: _Ticket) -> None:
        """Note that a batch is done.

        Raises:
            RuntimeError: If it was done before, or another batch has been there since.
        """
        if self._ticket is None or self._ticket() is not ticket:
            raise RuntimeError(
                "backward must run once for each forward of a MuxUnroll on a GPU, before its "
                "graphs run another batch; got a second one, or one that comes too late"
            )
        self._ticket = None

    def _record(self, args: tuple[Any, ...], parameters: list[Tensor]) -> Recorded | None:
        try:
            with untouched(self._module):
                return Recorded(self._call, args, parameters, self._recorder)
        except torch.OutOfMemoryError:  # which says nothing about the call
            raise
        except RuntimeError as error:  # the call waits for the device, or needs its own streams
            self._way = f"graphs; some calls cannot be recorded: {first_line(error)}"
            _log.warning("MuxUnroll: %s", self._way)
            return None


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, calls: RecordedCalls, recorded: Recorded, count: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        outputs = recorded.replay(tensors[:count])
        both = zip(outputs, recorded.differentiable, strict=True)
        ctx.mark_non_differentiable(*(output for output, differs in both if not differs))
        ctx.calls, ctx.recorded, ctx.ticket = calls, recorded, calls.begin()
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        ctx.calls.end(ctx.ticket)
        found = iter(ctx.recorded.replay_backward(grads))
        return None, None, None, *(next(found) if n else None for n in ctx.needs_input_grad[3:])
