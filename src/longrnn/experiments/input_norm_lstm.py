"""What the Phased LSTM's authors ran as their BN-LSTM: an LSTM with normalised input."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from longrnn.batching.torch_rnn import run_weights


class InputNormLSTM(nn.LSTM):
    """`nn.LSTM` on features that are normalised over all steps of all sequences in the batch.

    This is the baseline that their program calls BN-LSTM. In it the zeros of padding are averaged
    too; here, with `lengths` or in a `PackedSequence`, they are not. A network with normalisation
    inside the recurrence is `batch_norm_lstm.BatchNormLSTM`.

    Reference:
        Neil, Pfeiffer and Liu, 2016, https://arxiv.org/abs/1610.09513; its authors' program.

    Example:
        >>> import torch
        >>> output, (h, c) = InputNormLSTM(3, 8, batch_first=True)(torch.randn(4, 20, 3))
        >>> output.shape
        torch.Size([4, 20, 8])
    """

    weight_ih_l0: Tensor

    def __init__(self, input_size: int, hidden_size: int, *arguments: Any, **options: Any):
        super().__init__(input_size, hidden_size, *arguments, **options)
        self.norm = nn.BatchNorm1d(input_size, device=self.weight_ih_l0.device)

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | None = None,
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Normalise, then run the LSTM."""
        if lengths is not None and isinstance(input, Tensor):
            lengths = lengths.to(input.device)
            steps = torch.arange(input.shape[self.batch_first], device=input.device)
            valid = steps < lengths.unsqueeze(1)  # (B, T)
            valid = valid if self.batch_first else valid.T
            normal = torch.zeros_like(input)
            normal[valid] = self.norm(input[valid])
            return run_weights(self, normal, state, lengths)
        if isinstance(input, PackedSequence):
            return super().forward(input._replace(data=self.norm(input.data)), state)
        return super().forward(self.norm(input.flatten(0, -2)).view_as(input), state)
