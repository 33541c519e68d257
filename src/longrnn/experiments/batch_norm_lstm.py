"""An LSTM with batch normalisation inside the recurrence, as a baseline."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from longrnn import _checks


class StepNorm(nn.Module):
    """Batch normalisation with statistics of its own for each time step.

    In training a step is normalised by the mean and variance of the sequences that still run,
    or by the running ones if only one does; in evaluation by the running ones. Steps from the
    last that has any share its statistics.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, features: int, steps: int, shifted: bool):
        super().__init__()
        self.gain = nn.Parameter(torch.full((features,), 0.1))
        self.shift = nn.Parameter(torch.zeros(features)) if shifted else None
        self.register_buffer("mean", torch.zeros(steps, features))
        self.register_buffer("variance", torch.ones(steps, features))

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Normalise (B, features) of one step."""
        row = min(step, len(self.mean) - 1)
        batch = self.training and len(x) > 1
        mean, variance = self.mean[row], self.variance[row]
        return F.batch_norm(x, mean, variance, self.gain, self.shift, training=batch)


class BatchNormLSTM(nn.LSTM):
    r"""An LSTM whose two products and whose cell are normalised at every step.

    $$
    \begin{aligned}
    (i, f, g, o) &= \mathrm{BN}_x(W_x x_t) + \mathrm{BN}_h(W_h h_{t-1}) + b \\
    c_t &= \sigma(f) \odot c_{t-1} + \sigma(i) \odot \tanh(g), \qquad
    h_t = \sigma(o) \odot \tanh(\mathrm{BN}_c(c_t))
    \end{aligned}
    $$

    Gains begin at 0.1. The three normalisations have statistics for each of the first `steps`
    steps. Parameters besides are those of `nn.LSTM`; the weights begin orthogonal.

    Args:
        input_size: Features of the input.
        hidden_size: Units.
        num_layers: 1.
        batch_first: Whether input and output are (B, T, ...) instead of (T, B, ...).
        steps: Steps with statistics of their own; later ones share the last.
        **options: Others of `nn.LSTM`; there is no `bidirectional`.

    Raises:
        ValueError: If `num_layers` is not 1, `bidirectional` is true, or `steps` not positive.

    Reference:
        Cooijmans et al., "Recurrent Batch Normalization", ICLR 2017,
        https://arxiv.org/abs/1603.09025.

    Example:
        >>> output, (h, c) = BatchNormLSTM(3, 8, batch_first=True)(torch.randn(4, 20, 3))
        >>> output.shape, h.shape
        (torch.Size([4, 20, 8]), torch.Size([1, 4, 8]))
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        batch_first: bool = False,
        *,
        steps: int = 100,
        **options: Any,
    ):
        if num_layers != 1:
            raise ValueError(f"num_layers must be 1, got {num_layers}")
        if options.get("bidirectional"):
            raise ValueError("bidirectional must be False, got True")
        _checks.check_positive(steps=steps)
        super().__init__(input_size, hidden_size, batch_first=batch_first, **options)
        nn.init.orthogonal_(self.weight_ih_l0)
        nn.init.orthogonal_(self.weight_hh_l0)
        n, device = hidden_size, self.weight_ih_l0.device
        self.norm_x = StepNorm(4 * n, steps, shifted=False).to(device)
        self.norm_h = StepNorm(4 * n, steps, shifted=False).to(device)
        self.norm_c = StepNorm(n, steps, shifted=True).to(device)

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | None = None,
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Run the layer over sequences, packed or padded; without `lengths` padded nowhere."""
        if isinstance(input, PackedSequence):
            return self._run(input, state)
        B, T = input.shape[:2] if self.batch_first else (input.shape[1], input.shape[0])
        lengths = torch.full((B,), T) if lengths is None else lengths.cpu()
        packed = pack_padded_sequence(input, lengths, self.batch_first, enforce_sorted=False)
        output, state = self._run(packed, state)
        return pad_packed_sequence(output, self.batch_first, total_length=T)[0], state

    def _run(
        self, packed: PackedSequence, state: tuple[Tensor, Tensor] | None
    ) -> tuple[PackedSequence, tuple[Tensor, Tensor]]:
        """Step over sequences that are sorted by length, so that those that end are the last."""
        sizes = packed.batch_sizes.tolist()
        if state is None:
            h = c = packed.data.new_zeros(sizes[0], self.hidden_size)
        else:
            h, c = (self.permute_hidden(state, packed.sorted_indices)[k][0] for k in range(2))
        products = packed.data @ self.weight_ih_l0.T
        bias = self.bias_ih_l0 + self.bias_hh_l0 if self.bias else 0.0
        outputs, ended = [], []
        for step, x in enumerate(products.split(sizes)):
            ended.append((h[len(x) :], c[len(x) :]))
            h, c = h[: len(x)], c[: len(x)]
            from_state = self.norm_h(h @ self.weight_hh_l0.T, step)
            i, f, g, o = (self.norm_x(x, step) + from_state + bias).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * self.norm_c(c, step).tanh()
            outputs.append(h)
        ended.append((h, c))
        ended.reverse()
        last_h, last_c = (torch.cat([pair[k] for pair in ended]).unsqueeze(0) for k in range(2))
        output = packed._replace(data=torch.cat(outputs))
        return output, self.permute_hidden((last_h, last_c), packed.unsorted_indices)
