"""Any layer on any task: embedding if inputs are symbols, recurrent layer, linear read-out."""

from typing import Any

import torch
from torch import Tensor, nn

from longrnn.nn import create_model
from longrnn.tasks import Task


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
        options: The layer's own options.

    Shape:
        input (B, T, m) or symbols (B, T); output (B, T, output_size) if the task wants an answer
        at every step, else (B, output_size).
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
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        symbols = task.vocabulary
        self.embedding = nn.Embedding(symbols, hidden_size) if symbols else nn.Identity()
        width = hidden_size if symbols else task.input_size
        given = {"batch_first": True, "dropout": dropout} | (options or {})
        if forget_bias is not None and model != "lstm":
            given["forget_bias"] = forget_bias
        try:
            self.recurrent = create_model(model, width, hidden_size, num_layers, **given)
        except TypeError as error:
            raise ValueError(f"layer_option must be one that {model} has, got: {error}") from error
        if forget_bias is not None and isinstance(self.recurrent, nn.LSTM):
            _set_forget_bias(self.recurrent, forget_bias)
        self.readout = nn.Linear(hidden_size, task.output_size)
        self.pooling = "every" if task.every_step else pooling

    def forward(self, input: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Answer for a batch of sequences that go on from `state`."""
        output, state = self.recurrent(self.embedding(input), state)  # (B, T, n)
        if self.pooling == "last":
            output = output[:, -1]  # (B, n)
        elif self.pooling == "mean":
            output = output.mean(1)
        return self.readout(output), state


@torch.no_grad()
def _set_forget_bias(lstm: nn.LSTM, value: float) -> None:
    n = lstm.hidden_size
    for layer in range(lstm.num_layers):
        getattr(lstm, f"bias_ih_l{layer}")[n : 2 * n] = value
        getattr(lstm, f"bias_hh_l{layer}")[n : 2 * n] = 0
