"""One case of the mux suite: sequences of many lengths for a layer, and the ways to batch them."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from longrnn.batching import (
    LengthBucketBatchSampler,
    MuxUnroll,
    bucket_indices,
    pack_end_to_end,
    pad_to_bucket,
    run_padded,
)
from longrnn.bench.contender import Run, Unsupported, relative_error
from longrnn.bench.layer_case import exact_copy
from longrnn.bench.layer_contenders import build, is_parallel

LOOP = "loop over nn.LSTMCell"
_CHECKED = 24  # sequences, each run by itself in float64
_CHECKED_STEPS = 60


@dataclass(frozen=True)
class MuxCase:
    """Sequences for one layer.

    Attributes:
        layer: A layer of `longrnn.models()`, or `LOOP`.
        sequences: Each (T, m).
        batch_size: Sequences in a batch.
        buckets: For the ways that have some.
        sizes: Input size, hidden size and number of layers.
        training: Whether the parameters' gradients are asked for.
        device: Where.
        stats: What `MuxUnroll.stats` says after all the sequences, once it has run.
    """

    layer: str
    sequences: tuple[Tensor, ...]
    batch_size: int
    buckets: tuple[int, ...]
    sizes: tuple[int, int, int]
    training: bool
    device: str = "cpu"
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def lengths(self) -> Tensor:
        """Steps of each sequence."""
        return torch.tensor([len(sequence) for sequence in self.sequences])

    @property
    def ideal(self) -> float:
        """The speed-up over padding to the last bucket, if time were steps: T_max / E[bucket]."""
        run = torch.tensor(self.buckets)[bucket_indices(self.lengths, self.buckets)]
        return self.buckets[-1] / run.double().mean().item()

    def module(self) -> nn.Module:
        """The layer, in the case's mode."""
        if self.layer == LOOP:
            torch.manual_seed(0)
            made: nn.Module = LoopOverCell(*self.sizes[:2]).to(self.device)
        else:
            made = build(self.layer, self.sizes, self.device)
        return made.train(self.training)

    def shorter(self, factor: int) -> "MuxCase":
        """The same with sequences of a part of their lengths."""
        cut = tuple(s[: -(-len(s) // factor)] for s in self.sequences)
        return replace(self, sequences=cut, buckets=tuple(-(-b // factor) for b in self.buckets))


class LoopOverCell(nn.Module):
    """What a graph of unrolled steps is in eager PyTorch: a loop, cut off at the longest."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.cell = nn.LSTMCell(input_size, hidden_size)

    def forward(
        self, input: Tensor, state: Any = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Run (T, B, m); output past a sequence's end is zero."""
        outputs = []
        for x in input.unbind(0):
            state = self.cell(x, state)
            outputs.append(state[0])
        output = torch.stack(outputs)
        return output if lengths is None else _without_padding(output, lengths), state


class Work(NamedTuple):
    """One batch.

    Attributes:
        run: Takes the module and returns its outputs, zeros where there is padding.
        steps: Steps of its tensor, padding included.
    """

    run: Callable[[nn.Module], Tensor]
    steps: int


Way = Callable[[MuxCase], Iterator[Work]]


def pad(case: MuxCase) -> Iterator[Work]:
    """Batches as they come, padded to the last bucket, and the padding run like any step."""
    return _padded(case, _as_they_come(case), [case.buckets[-1]], _run_plain)


def stepwise(case: MuxCase) -> Iterator[Work]:
    """As `pad`, one step a call: the loop that graphs are to spare a GPU."""
    if case.layer == LOOP or is_parallel(case.layer):
        raise Unsupported("it is no layer of one step after another")
    return _padded(case, _as_they_come(case), [case.buckets[-1]], _run_stepwise)


def told(case: MuxCase) -> Iterator[Work]:
    """As `pad`, but the layer is told the lengths."""
    return _padded(case, _as_they_come(case), [case.buckets[-1]], _run_with_lengths)


def longest(case: MuxCase) -> Iterator[Work]:
    """Batches as they come, padded to the longest of each, and the padding run."""
    return _padded(case, _as_they_come(case), None, _run_plain)


def buckets(case: MuxCase) -> Iterator[Work]:
    """Batches of one bucket each, padded to it."""
    batches = LengthBucketBatchSampler(case.lengths, case.batch_size, case.buckets)
    return _padded(case, batches, list(case.buckets), _run_with_lengths)


def packed(case: MuxCase) -> Iterator[Work]:
    """Batches as they come, end to end."""
    if case.layer == LOOP or isinstance(case.module(), nn.RNNBase):
        raise Unsupported("it takes no sequences that lie end to end")
    for members in _as_they_come(case):
        values, ends = pack_end_to_end([case.sequences[i] for i in members])
        run = functools.partial(_run_end_to_end, values.to(case.device), ends)
        yield Work(run, len(values))


def pack_padded(case: MuxCase) -> Iterator[Work]:
    """Batches as they come, each a `PackedSequence`."""
    if case.layer == LOOP:
        raise Unsupported("it takes none")
    for members in _as_they_come(case):
        sequences = [case.sequences[i].to(case.device) for i in members]
        together = pack_sequence(sequences, enforce_sorted=False)
        yield Work(functools.partial(_run_packed, together), len(together.data))


def ready(case: MuxCase, way: Way, multiplexed: bool = False) -> Run:
    """Ready all batches of a case, and the module; what is timed is all of them, one by one."""
    module = case.module()
    work = list(way(case))
    wrapped = module
    compiled = False
    if multiplexed:  # graphs are recorded, or the trial is held, before the clock runs
        wrapped = MuxUnroll(module, case.buckets)
        for batch in work:
            _step(wrapped, batch, case)
        case.stats.update(wrapped.stats())
        compiled = "compiled:" in case.stats["way"]

    def call() -> None:
        for batch in work:
            _step(wrapped, batch, case)

    return Run(call, lambda: _error(case, way, multiplexed, compiled))


def ready_largest(case: MuxCase, way: Way, multiplexed: bool) -> Run:
    """Ready the batch of the most steps alone, to measure its memory."""
    module = case.module()
    if multiplexed:
        module = MuxUnroll(module, case.buckets, compile=False)
    work = list(way(case))  # all are held: a call that found the room of others would seem small
    return Run(lambda: _step(module, max(work, key=lambda batch: batch.steps), case), None)


def steps_run(case: MuxCase, way: Way) -> int:
    """Steps that a way hands to the layer, padding included."""
    return sum(work.steps for work in way(case))


def _step(module: nn.Module, work: Work, case: MuxCase) -> None:
    """A forward, or a training step without the optimizer's."""
    if not case.training:
        with torch.no_grad():
            work.run(module)
        return
    module.zero_grad(set_to_none=True)
    work.run(module).sum().backward()


def _as_they_come(case: MuxCase) -> Iterator[list[int]]:
    indices = iter(range(len(case.sequences)))
    while members := list(itertools.islice(indices, case.batch_size)):
        yield members


def _padded(
    case: MuxCase,
    batches: Iterable[list[int]],
    widths: list[int] | None,
    run: Callable[..., Tensor],
) -> Iterator[Work]:
    for members in batches:
        values, lengths = pad_to_bucket([case.sequences[i] for i in members], widths)
        steps = values.shape[0] * values.shape[1]
        yield Work(functools.partial(run, values.to(case.device), lengths), steps)


def _run_plain(x: Tensor, lengths: Tensor, module: nn.Module) -> Tensor:
    return _without_padding(module(x)[0], lengths)


def _run_stepwise(x: Tensor, lengths: Tensor, module: nn.Module) -> Tensor:
    state, outputs = None, []
    for x_t in x.split(1):
        output, state, *_ = module(x_t, state)
        outputs.append(output)
    return _without_padding(torch.cat(outputs), lengths)


def _without_padding(output: Tensor, lengths: Tensor) -> Tensor:
    steps = torch.arange(len(output), device=output.device).unsqueeze(1)
    return output.where((steps < lengths.to(output.device)).unsqueeze(-1), 0.0)


def _run_with_lengths(x: Tensor, lengths: Tensor, module: nn.Module) -> Tensor:
    if isinstance(module, nn.RNNBase):
        return run_padded(module, x, None, lengths.to(x.device))[0]
    return module(x, lengths=lengths)[0]


def _run_end_to_end(x: Tensor, cu_seqlens: Tensor, module: nn.Module) -> Tensor:
    return module(x, cu_seqlens=cu_seqlens)[0]


def _run_packed(x: PackedSequence, module: nn.Module) -> Tensor:
    return module(x)[0].data


def _error(case: MuxCase, way: Way, multiplexed: bool, compiled: bool) -> float:
    """How far a way's outputs and gradients are from those of each sequence by itself."""
    some = tuple(s[:_CHECKED_STEPS] for s in case.sequences[:_CHECKED])
    most = max(len(s) for s in some)
    small = replace(case, sequences=some, buckets=(-(-most // 2), most), training=True)
    module = small.module()
    exact_module = exact_copy(module)
    for sequence in some:
        exact_module(sequence.double().unsqueeze(1).to(case.device))[0].sum().backward()
    wrapped = MuxUnroll(module, small.buckets, compile=compiled) if multiplexed else module
    for work in way(small):
        work.run(wrapped).sum().backward()
    return relative_error(_gradients(module), _gradients(exact_module))


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
