"""What the Phased LSTM's authors ran as their BN-LSTM: an LSTM with normalised input."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


class InputNormLSTM(nn.LSTM):
    """`nn.LSTM` on features that are normalised over all steps of all sequences in the batch.

    This is the baseline that their program calls BN-LSTM. In it the zeros of padding are averaged
    too; a `PackedSequence` has none. A network with normalisation inside the recurrence is
    `batch_norm_lstm.BatchNormLSTM`.

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
        self, input: Tensor | PackedSequence, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Normalise, then run the LSTM."""
        if isinstance(input, PackedSequence):
            return super().forward(input._replace(data=self.norm(input.data)), state)
        return super().forward(self.norm(input.flatten(0, -2)).view_as(input), state)
