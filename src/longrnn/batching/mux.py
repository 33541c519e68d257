"""Runs each batch on the smallest bucket that holds it: multiplexer unrolling."""

import bisect
import collections
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from longrnn import _checks
from longrnn.batching.compiled import CompiledCalls
from longrnn.batching.graphs import CudaRecorder
from longrnn.batching.plan import check_buckets
from longrnn.batching.recorded import RecordedCalls
from longrnn.batching.torch_rnn import run_padded

_GROWTH = 1.25  # a new bucket is so much longer than the last


class MuxUnroll(nn.Module):
    """A recurrent module that pays for a batch's bucket and not for its padding.

    Called like the module, it returns what the module would: outputs of the input's length, zero
    past each sequence's end, and final states. Which bucket ran changes neither them nor the
    gradients, but by rounding. The weights are the module's own.

    On a GPU every bucket and batch size is recorded once as a CUDA graph and replayed from then on,
    all of them in one pool of memory. On a CPU a batch is cut off at its longest sequence and runs
    as it is, or is compiled for each bucket, whichever a short trial at the first batch finds
    faster; `stats` says which.

    `nn.LSTM`, `nn.GRU` and `nn.RNN`, which know no lengths, are run as if over a `PackedSequence`;
    those with hooks or a `forward` of their own are given one, if that takes no `lengths`.

    Gradients of gradients are had where calls run as they are, which `compile=False` makes certain
    on a CPU: graphs have none, nor have compiled calls, and autograd says so.

    Args:
        module: Called as `module(input, state, lengths=..., **per_step)`, it returns
            `(output, state)` or `(output, state, more of the output's layout, ...)`. Time is the
            first dimension of its input and output, or the second if it has `batch_first` set.
        buckets: Ascending; see `plan_buckets`.
        max_graphs: How many graphs, or compiled calls, are kept; the least recently used goes
            first. None: four a bucket.
        overflow: What becomes of a batch longer than the last bucket: "error", or "grow", a new
            bucket: the last and a quarter, and a quarter of that, as often as it takes.
        compile: On a CPU, whether to compile; None leaves it to the trial.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> from longrnn import SRU
        >>> mux = MuxUnroll(SRU(8, 16), [10, 20, 40], compile=False)
        >>> output, state = mux(torch.randn(40, 3, 8), lengths=torch.tensor([7, 18, 12]))
        >>> output.shape, mux.stats()["hits"]
        (torch.Size([40, 3, 16]), {10: 0, 20: 1, 40: 0})
    """

    def __init__(
        self,
        module: nn.Module,
        buckets: Sequence[int],
        *,
        max_graphs: int | None = None,
        overflow: str = "error",
        compile: bool | None = None,
    ):
        super().__init__()
        _checks.check_choice("overflow", overflow, ("error", "grow"))
        self.module = module
        self.buckets = check_buckets(buckets)
        if max_graphs is not None:
            _checks.check_positive(max_graphs=max_graphs)
        self.overflow, self._max_graphs, self._compile = overflow, max_graphs, compile
        self._last = self.buckets[-1]  # of those given
        self._hits = collections.Counter[int]()
        self._run_steps = self._valid_steps = 0
        self._engines: dict[str, RecordedCalls | CompiledCalls] = {}

    @property
    def max_graphs(self) -> int:
        """How many graphs, or compiled calls, are kept: as given, or four a bucket."""
        return self._max_graphs or 4 * len(self.buckets)

    @property
    def batch_first(self) -> bool:
        """Whether batch comes before time, as the module has it."""
        return bool(getattr(self.module, "batch_first", False))

    def forward(
        self, input: Tensor, state: Any = None, *, lengths: Tensor | None = None, **per_step: Any
    ) -> tuple[Any, ...]:
        """Run the module on the bucket of the longest sequence.

        Args:
            input: (T, B, ...), or (B, T, ...) if the module is batch-first.
            state: The module's, or None.
            lengths: (B,), valid steps of each sequence; T if None. On the CPU, even with input on
                a GPU: to choose a bucket, their values are needed.
            **per_step: What the module takes besides: tensors in the layout of `input`, or (T,).

        Returns:
            What the module returns.

        Raises:
            ValueError: If a sequence is longer than the last bucket and `overflow` is "error", an
                argument has another shape, or the module returns anything else than above.
        """
        time = self._check(input, lengths, per_step)
        T, B = input.shape[time], input.shape[1 - time]
        on_cpu = torch.full((B,), T) if lengths is None else lengths.cpu()
        known = on_cpu.tolist()
        longest = max(known, default=0)
        bucket = self._bucket(longest)

        def fitted(steps: int, lengths: Tensor | None) -> tuple[Any, ...]:
            return (
                _fit(input, steps, time),
                state,
                None if lengths is None else lengths.to(input.device, torch.int64),
                {name: _fit(x, steps, time) for name, x in per_step.items()},
            )

        steps = min(max(longest, 1), T)
        cut = functools.partial(fitted, steps, lengths)
        padded = functools.partial(fitted, bucket, on_cpu)
        calls = self._calls(input.device.type)
        if calls.wants_static(cut, padded):
            steps = bucket
            results = calls.run(padded())
        else:
            results = call_module(self.module, *cut())
        _check_results(results, steps, time)
        output, last, *more = results
        self._hits[bucket] += 1
        self._run_steps += B * steps
        self._valid_steps += sum(known)
        return _fit(output, T, time), last, *(_fit(y, T, time) for y in more)

    def stats(self) -> dict[str, Any]:
        """What has been run, and how.

        Returns:
            `hits`, the batches of each bucket; `valid_steps`, and `padded_steps` that were run
            besides; `way`, how calls run and why; `graphs` (on a CPU, compiled calls) that are
            kept, `evicted` so far, and `not_recorded`, batches that ran without one because they
            came between another's forward and backward, or could not be recorded; `memory_bytes`
            that CUDA graphs hold.
        """
        reports = [calls.report() for calls in self._engines.values()]
        counts = dict.fromkeys(("graphs", "evicted", "not_recorded", "memory_bytes"), 0)
        report = reports[-1] if reports else {"way": "not yet run", **counts}
        return {
            "hits": {bucket: self._hits[bucket] for bucket in self.buckets},
            "valid_steps": self._valid_steps,
            "padded_steps": self._run_steps - self._valid_steps,
            **report,
        }

    def extra_repr(self) -> str:
        """Show the settings in `print(model)`."""
        return (
            f"buckets={self.buckets}, max_graphs={self.max_graphs}, overflow={self.overflow!r}, "
            f"compile={self._compile}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: not graphs, which belong to these very tensors."""
        return self.__dict__ | {"_engines": {}}

    def _calls(self, device: str) -> RecordedCalls | CompiledCalls:
        """How the module is called on a device."""
        if device not in self._engines:
            call = functools.partial(call_module, self.module)

            def most() -> int:  # which may grow
                return self.max_graphs

            if device == "cuda":
                self._engines[device] = RecordedCalls(self.module, call, most, CudaRecorder)
            else:
                # PyTorch's own layers are one kernel, which compilers would take to pieces.
                compile = False if isinstance(self.module, nn.RNNBase) else self._compile
                self._engines[device] = CompiledCalls(self.module, call, most, compile)
        return self._engines[device]

    def _check(self, input: Tensor, lengths: Tensor | None, per_step: dict[str, Tensor]) -> int:
        """Check the arguments; return which dimension of the input is time."""
        if isinstance(input, PackedSequence) or "cu_seqlens" in per_step:
            raise ValueError(
                "input must be padded: without padding there is nothing to choose a bucket for; "
                "call the module itself"
            )
        time = 1 if self.batch_first else 0
        features = hasattr(self.module, "input_size") and input.is_floating_point()
        if input.ndim < 2 + features:
            layout = ("B, T, " if time else "T, B, ") + ("m" if features else "...")
            raise ValueError(f"input must have shape ({layout}), got {tuple(input.shape)}")
        T, B = input.shape[time], input.shape[1 - time]
        if lengths is not None:
            _checks.check_lengths("lengths", lengths, B, T)
        both = tuple(input.shape[:2])
        for name, x in per_step.items():
            if isinstance(x, Tensor) and x.shape[:2] not in ((T,), both):
                raise ValueError(
                    f"{name} must have shape ({T},), or begin with input's {both}, "
                    f"got {tuple(x.shape)}"
                )
        return time

    def _bucket(self, longest: int) -> int:
        """The smallest bucket for a length; a new one where none is long enough and it may."""
        if longest <= self._last:
            return self.buckets[bisect.bisect_left(self.buckets, longest)]
        if self.overflow == "error":
            raise ValueError(
                f"input must have sequences of at most {self._last} steps, the last bucket, "
                f'got {longest}; overflow="grow" makes new buckets'
            )
        bucket = self._last
        while bucket < longest:
            bucket = math.ceil(_GROWTH * bucket)
        if bucket not in self.buckets:
            bisect.insort(self.buckets, bucket)
        return bucket


def call_module(
    module: nn.Module,
    input: Tensor,
    state: Any,
    lengths: Tensor | None,
    per_step: dict[str, Tensor],
) -> tuple[Any, ...]:
    """Call a module, which may be one of PyTorch's, that know no lengths."""
    if lengths is None:
        return module(input, state, **per_step)
    if isinstance(module, nn.RNNBase) and not _takes_lengths(type(module).forward):
        return run_padded(module, input, state, lengths, **per_step)
    return module(input, state, lengths=lengths, **per_step)


@functools.cache
def _takes_lengths(forward: Callable[..., Any]) -> bool:
    return "lengths" in inspect.signature(forward).parameters


def _check_results(results: Any, steps: int, time: int) -> None:
    """Raise unless a module has returned an output, a state and more of the output's layout."""
    if not isinstance(results, (tuple, list)) or len(results) < 2:
        raise ValueError(
            f"module must return (output, state) or more, got {type(results).__name__}"
        )
    for y in (results[0], *results[2:]):
        if not isinstance(y, Tensor) or y.shape[time : time + 1] != (steps,):
            came = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"module must return tensors of {steps} steps beside the state, got {came}"
            )


def _fit(x: Any, steps: int, time: int) -> Any:
    """The first `steps` steps, with zeros after the last one there is; all of what is no tensor."""
    if not isinstance(x, Tensor):
        return x
    time = min(time, x.ndim - 1)  # time stamps may come once for all
    short = steps - x.shape[time]
    if short <= 0:
        return x.narrow(time, 0, steps) if short else x
    return F.pad(x, [0, 0] * (x.ndim - 1 - time) + [0, short])
