"""What is learned: layers, called like `torch.nn.LSTM`; one layer a file, named as its class."""

from longrnn.nn.gilr import GILR
from longrnn.nn.gilr_lstm import GILRLSTM
from longrnn.nn.linear_surrogate import LinearSurrogate
from longrnn.nn.min_gru import MinGRU
from longrnn.nn.min_lstm import MinLSTM
from longrnn.nn.parallel_gru import ParallelGRU
from longrnn.nn.parallel_lstm import ParallelLSTM
from longrnn.nn.phased_cell import PhasedLSTMCell
from longrnn.nn.phased_gilr_lstm import PhasedGILRLSTM
from longrnn.nn.phased_gru import PhasedGRU
from longrnn.nn.phased_lstm import PhasedLSTM
from longrnn.nn.qrnn import QRNN
from longrnn.nn.registry import create_model, models
from longrnn.nn.skip_cells import SkipGRUCell, SkipLSTMCell
from longrnn.nn.skip_gilr_lstm import SkipGILRLSTM
from longrnn.nn.skip_gru import SkipGRU
from longrnn.nn.skip_lstm import SkipLSTM
from longrnn.nn.sru import SRU
from longrnn.nn.strongly_typed import StronglyTypedGRU, StronglyTypedLSTM, StronglyTypedRNN

__all__ = [
    "GILR",
    "GILRLSTM",
    "QRNN",
    "SRU",
    "LinearSurrogate",
    "MinGRU",
    "MinLSTM",
    "ParallelGRU",
    "ParallelLSTM",
    "PhasedGILRLSTM",
    "PhasedGRU",
    "PhasedLSTM",
    "PhasedLSTMCell",
    "SkipGILRLSTM",
    "SkipGRU",
    "SkipGRUCell",
    "SkipLSTM",
    "SkipLSTMCell",
    "StronglyTypedGRU",
    "StronglyTypedLSTM",
    "StronglyTypedRNN",
    "create_model",
    "models",
]
