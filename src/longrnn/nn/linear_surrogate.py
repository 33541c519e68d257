"""Any cell made trainable in parallel, by a linear surrogate of its state."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from longrnn import _checks
from longrnn.nn.convolution import recent_inputs
from longrnn.nn.stack import RecurrentStack
from longrnn.nn.surrogate_cells import one_state, steps_of
from longrnn.ops.gated_recurrence.op import gated_recurrence
from longrnn.ops.linear import linear

SURROGATES = ("gilr", "previous-input", "convolution")


class SurrogateState(NamedTuple):
    """State of a `LinearSurrogate` whose cell carries something: each member is (1, B, n)."""

    surrogate: Tensor
    carry: Tensor


class InputsState(NamedTuple):
    """State of a `LinearSurrogate` made from the last inputs."""

    inputs: tuple[Tensor, ...]  # one (kernel_size - 1, B, m)


class CarryInputsState(NamedTuple):
    """State of a `LinearSurrogate` made from the last inputs, whose cell carries (1, B, n)."""

    carry: Tensor
    inputs: tuple[Tensor, ...]  # one (kernel_size - 1, B, m)


class LinearSurrogate(RecurrentStack):
    r"""A layer of any one-step cell that trains in parallel over time.

    A cell $h_t = f(x_t, h_{t-1})$ forbids all steps at once, since a step waits for the one
    before. Its place is taken by a surrogate $s$ of the state, linear in its own past, so that

    $$
    h_t = f(x_t, s_{t-1}), \qquad
    s_t = \begin{cases}
    g_t \odot s_{t-1} + (1 - g_t) \odot \tanh(W_s x_t + b_s), \quad
    g_t = \sigma(W_g x_t + b_g) & \text{gilr} \\
    x_t, \text{ or } W_s x_t \text{ where } m \ne n & \text{previous-input} \\
    W_s [x_t, x_{t-1}, \dots, x_{t-k+2}] & \text{convolution}
    \end{cases}
    $$

    and the cell is called once, on all steps as rows of one batch. What a cell carries linearly
    stays its own: of an LSTM the gates see $s_{t-1}$ and $c_t = f_t \odot c_{t-1} + i_t \odot
    z_t$ is solved as the linear recurrence that it is; of a GRU likewise $h_t = z_t \odot h_{t-1} +
    (1 - z_t) \odot n_t$.

    The cell is `nn.LSTMCell`, `nn.GRUCell`, `nn.RNNCell`, or any function or module, of which a
    row of the result depends on that row of the arguments alone:

    - `h = cell(input, h)`: the surrogate stands wherever the cell reads h;
    - `h, c = cell(input, (h, c))`: the surrogate stands for h, and c is carried. The next c must be
      affine in c, unit by unit: a c + b, where a and b depend on the input and on h. The layer
      finds them by forward differentiation. Whether this holds is tried when the layer is built,
      for c from 1 to 1000 (not on the meta device), and not again: a cell that clips c further out
      is taken for one that does not. Such a cell is called twice on all steps.

    Args:
        cell: The cell. It keeps its weights, and becomes a part of the layer.
        input_size: Features of the input, m; None: the cell's own.
        hidden_size: Features of the state and of the output, n; None: the cell's own.
        surrogate: "gilr", "previous-input" or "convolution".
        kernel_size: With "convolution", the number k of inputs, this step's included, that a step
            sees, as in `QRNN`; at least 2, and 2 if None.
        batch_first: Whether input and output are (B, T, ...) instead of (T, B, ...).

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: with "gilr", `(surrogate, carry)`, or the surrogate alone where the cell carries
          nothing, each (1, B, n), or (1, n) where the input is (T, m); else `(carry, inputs)` or
          `(inputs,)`; inputs is a tuple of one tensor (k - 1, B, m), oldest first
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, n) laid out as the input, and the state after the last step

    Raises:
        ValueError: If the cell is not as above, or a size, option, shape, dtype or device is not.

    Reference:
        Martin and Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length",
        ICLR 2018, https://arxiv.org/abs/1709.04057, section 3.

    Example:
        >>> import torch
        >>> layer = LinearSurrogate(nn.LSTMCell(8, 16))
        >>> output, state = layer(torch.randn(100, 4, 8))
        >>> output.shape, state.surrogate.shape, state.carry.shape
        (torch.Size([100, 4, 16]), torch.Size([1, 4, 16]), torch.Size([1, 4, 16]))
        >>> def leaky(x, h):
        ...     return torch.tanh(x + 0.9 * h)
        >>> output, _ = LinearSurrogate(leaky, 8, 8, "previous-input")(torch.ones(100, 4, 8))
        >>> output[0, 0, 0].item(), output[1, 0, 0].item()
        (0.7615941762924194, 0.95623743534088...)
    """

    def __init__(
        self,
        cell: Callable[..., Any],
        input_size: int | None = None,
        hidden_size: int | None = None,
        surrogate: str = "gilr",
        *,
        kernel_size: int | None = None,
        batch_first: bool = False,
    ):
        if isinstance(cell, type) or not callable(cell):
            came = f"the class {cell.__name__}" if isinstance(cell, type) else type(cell).__name__
            raise ValueError(f"cell must be a cell, such as nn.LSTMCell(8, 16), got {came}")
        m = _size_of(cell, "input_size", input_size)
        n = _size_of(cell, "hidden_size", hidden_size)
        _checks.check_choice("surrogate", surrogate, SURROGATES)
        if kernel_size is not None and surrogate != "convolution":
            raise ValueError(
                f'kernel_size must be None unless surrogate is "convolution", got {kernel_size}'
            )
        if kernel_size is not None and (not isinstance(kernel_size, int) or kernel_size < 2):
            raise ValueError(
                f"kernel_size must be an integer of at least 2, this step's input and the one "
                f"before, got {kernel_size!r}"
            )
        self.surrogate = surrogate
        self.kernel_size = kernel_size or 2
        self.keeps_inputs = surrogate != "gilr"
        self._steps = steps_of(cell, m, n)
        if self._steps is one_state:
            self.state_type = InputsState if self.keeps_inputs else None
        else:
            self.state_type = CarryInputsState if self.keeps_inputs else SurrogateState
        like = next(cell.parameters(), None) if isinstance(cell, nn.Module) else None
        super().__init__(
            m,
            n,
            batch_first=batch_first,
            device=None if like is None else like.device,
            dtype=None if like is None else like.dtype,
        )
        self.cell = cell

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        n = self.hidden_size
        if self.surrogate == "gilr":
            return {"weight_is": (2 * n, width), "bias_is": (2 * n,)}
        if self.surrogate == "previous-input" and width == n:
            return {}
        return {"weight_is": (n, (self.kernel_size - 1) * width)}

    def reset_parameters(self) -> None:
        """Draw the surrogate's weights as `GILRLSTM` does, and have the cell draw its own."""
        super().reset_parameters()
        # While the stack is built, it has no cell yet: one that is handed over keeps its weights.
        reset = getattr(getattr(self, "cell", None), "reset_parameters", None)
        if reset is not None:
            reset()

    def extra_repr(self) -> str:
        """Show the sizes and the surrogate; the cell shows itself."""
        shown = [super().extra_repr(), f"surrogate={self.surrogate!r}"]
        if self.surrogate == "convolution":
            shown.append(f"kernel_size={self.kernel_size}")
        return ", ".join(shown)

    def _check_fits(self, x: Tensor) -> None:
        weight = next(self.parameters(), None)  # a function and an identity have none
        if weight is not None:
            _checks.check_fits("input", x, "the layer", weight)

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.surrogate == "gilr":
            past, *carry = state
            gates = linear(x, *weights)
            seen, last = gated_recurrence(gates, past, "surrogate", **layout)
        else:
            *carry, past = state
            inputs, last = recent_inputs(x, past, layout)
            seen = inputs[..., self.input_size :]
            if weights:
                seen = linear(seen, weights[0])
        output, carried = self._steps(self.cell, x, seen.to(x.dtype), tuple(carry), layout)
        return output, (*carried, last) if self.keeps_inputs else (last, *carried)


def _size_of(cell: Any, name: str, given: int | None) -> int:
    """A size of the cell: its own, which the one that is given must not contradict."""
    own = getattr(cell, name, None)
    size = own if given is None else given
    if size is None:
        raise ValueError(f"{name} must be given, since the cell has no {name} of its own")
    _checks.check_positive(**{name: size})
    if own is not None and size != own:
        raise ValueError(f"{name} must be the cell's own, {own}, or None, got {size}")
    return size
