"""Any layer on any task: embedding if inputs are symbols, recurrent layer, linear read-out."""

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from longrnn.batching import MuxUnroll
from longrnn.batching.mux import call_module
from longrnn.nn import create_model
from longrnn.nn.clocked_stack import ClockedStack
from longrnn.tasks import Sequences, Task
from longrnn.train import pooling as pools
from longrnn.train.random_skip import spread, thin


class Answer(NamedTuple):
    """What a network says to a batch."""

    output: Tensor
    """(B, T, output_size) if the task wants an answer at every step, else (B, output_size)."""
    state: Any
    """What the layer carries on."""
    updates: Tensor | None = None
    """(B, T, 1): 1 where the state was updated, 0 where it was copied; None: always updated."""


class Network(nn.Module):
    """A recurrent layer with what a task needs around it.

    Args:
        task: Says what goes in and what comes out.
        model: The layer's name, one of `longrnn.models()`.
        hidden_size: Width of the layer, and of the embedding of symbols.
        num_layers: Layers stacked.
        dropout: Between layers.
        pooling: What the answer for a whole sequence is read from: "last", the last output, or
            "mean", the mean of all outputs.
        forget_bias: Initial bias of the forget gates; the greater, the longer the memory that
            training starts from. `nn.LSTM`, which has no such option, is given the same.
        random_skip: Probability with which a step is left out and the state copied, in training
            and in evaluation.
        options: The layer's own options.

    Shape:
        input (B, T, m) or symbols (B, T), or `Sequences` with lengths, time stamps or ends. A
        layer that takes no time stamps is given the time since the step before, or with
        `task.absolute_times` the time itself, in units of `task.time_scale`, as one more feature.
    """

    def __init__(
        self,
        task: Task,
        model: str,
        hidden_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
        pooling: str = "last",
        forget_bias: float | None = None,
        random_skip: float = 0.0,
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.embedding, width = _embedding(task, hidden_size)
        given = {"batch_first": True, "dropout": dropout} | (options or {})
        if forget_bias is not None and model != "lstm":
            given["forget_bias"] = forget_bias

        self._takes = _arguments(model, given)
        self._appends_times = task.timed and "times" not in self._takes
        self._time_feature = _absolute_times if task.absolute_times else _time_differences
        width += self._appends_times
        self.recurrent = create_model(model, width, hidden_size, num_layers, **given)
        if forget_bias is not None and isinstance(self.recurrent, nn.LSTM):
            _set_forget_bias(self.recurrent, forget_bias)
        self.readout = nn.Linear(hidden_size, task.output_size)
        self.model, self.time_scale, self.random_skip = model, task.time_scale, random_skip
        self.pooling = "every" if task.every_step else pooling
        self._unrolled: tuple[MuxUnroll, ...] = ()

    def multiplex(self, buckets: list[int]) -> None:
        """From now on run the layer on the smallest of these buckets that holds a batch."""
        # As it is and not compiled, so that a resumed run has the bits of one that never stopped.
        mux = MuxUnroll(self.recurrent, buckets, overflow="grow", compile=False)
        self._unrolled = (mux,)  # in a tuple, where its parameters are not counted again

    def forward(self, input: Tensor | Sequences, state: Any = None) -> Answer:
        """Answer for a batch of sequences that go on from `state`."""
        sequences = input if isinstance(input, Sequences) else Sequences(input)
        output, state, updates = self._maybe_thinned(sequences, state)
        if self.pooling != "every":
            output = pools.POOLS[self.pooling](output, sequences)  # (B, n)
        return Answer(self.readout(output), state, updates)

    def _maybe_thinned(self, sequences: Sequences, state: Any) -> tuple[Tensor, Any, Tensor | None]:
        if not self.random_skip:
            return self._run(sequences, state)
        kept, keep = thin(sequences, self.random_skip)
        output, state, _ = self._run(kept, state)
        updates = keep.unsqueeze(-1).to(output.dtype)
        return spread(output, keep, sequences.lengths), state, updates

    def _run(self, sequences: Sequences, state: Any) -> tuple[Tensor, Any, Tensor | None]:
        """Outputs of the layer (B, T, n), its state, and its updates if it chooses them."""
        values, lengths, times, ends = sequences
        x = self.embedding(values)
        if self._appends_times:
            feature = self._time_feature(sequences) / self.time_scale
            x = torch.cat([x, feature.unsqueeze(-1).to(x.dtype)], -1)
            times = None
        given = {k: v for k, v in (("times", times), ("cu_seqlens", ends)) if v is not None}
        for name in given:
            if name not in self._takes:
                raise ValueError(f"{name} must be for a layer that takes it, got {self.model}")
        if self._unrolled:
            output, state, *updates = self._unrolled[0](x, state, lengths=lengths, **given)
        else:
            lengths = None if lengths is None else lengths.to(x.device)
            output, state, *updates = call_module(self.recurrent, x, state, lengths, given)
        return output, state, updates[0] if updates else None


def _arguments(model: str, options: dict[str, Any]) -> set[str]:
    """What can be given to a layer of this name and these options when it is called."""
    try:
        layer = create_model(model, 1, 1, device="meta", **options | {"dropout": 0.0})
    except TypeError as error:
        raise ValueError(f"layer_option must be one that {model} has, got: {error}") from error
    names = set(inspect.signature(layer.forward).parameters)
    if isinstance(layer, ClockedStack) and layer.clock is None:
        names.remove("times")
    return names


def _embedding(task: Task, hidden_size: int) -> tuple[nn.Module, int]:
    """What makes features of a step's values, and how many."""
    if task.vocabulary is None:
        return nn.Identity(), task.input_size
    width = task.embedding_size or hidden_size
    return nn.Embedding(task.vocabulary, width), width


def _absolute_times(sequences: Sequences) -> Tensor:
    """Time stamps."""
    if sequences.times is None:
        raise ValueError("times must be given for a task with time stamps, got none")
    return sequences.times


def _time_differences(sequences: Sequences) -> Tensor:
    """Time since the step before; 0 at a sequence's first step."""
    times = _absolute_times(sequences)
    since = times.diff(dim=-1, prepend=times[..., :1])
    if sequences.cu_seqlens is not None:
        starts = sequences.cu_seqlens[:-1]
        since[starts[starts < len(since)]] = 0  # an empty sequence may start at the very end
    return since


@torch.no_grad()
def _set_forget_bias(lstm: nn.LSTM, value: float) -> None:
    n = lstm.hidden_size
    for layer in range(lstm.num_layers):
        getattr(lstm, f"bias_ih_l{layer}")[n : 2 * n] = value
        getattr(lstm, f"bias_hh_l{layer}")[n : 2 * n] = 0
