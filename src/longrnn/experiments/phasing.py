"""What the three experiments of the Phased LSTM share."""

from collections.abc import Callable

from torch import nn

from longrnn.experiments.batch_norm_lstm import BatchNormLSTM
from longrnn.experiments.input_norm_lstm import InputNormLSTM

PUBLISHED_BY = (
    "Neil, Pfeiffer and Liu, Phased LSTM: Accelerating Recurrent Network Training for Long or "
    "Event-based Sequences, NIPS 2016, https://arxiv.org/abs/1610.09513"
)
BASELINES: dict[str, Callable[..., nn.Module]] = {
    "input-norm-lstm": InputNormLSTM,
    "batch-norm-lstm": BatchNormLSTM,
}
