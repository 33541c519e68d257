"""Recurrent networks for long and event-based sequences."""

from longrnn.nn import (
    GILR,
    GILRLSTM,
    QRNN,
    SRU,
    MinGRU,
    MinLSTM,
    PhasedGRU,
    PhasedLSTM,
    PhasedLSTMCell,
    SkipGRU,
    SkipGRUCell,
    SkipLSTM,
    SkipLSTMCell,
    StronglyTypedGRU,
    StronglyTypedLSTM,
    StronglyTypedRNN,
    create_model,
    models,
)
from longrnn.ops import binarize, budget_loss, linear_recurrence, time_gate

__version__ = "0.1.0"
__all__ = [
    "GILR",
    "GILRLSTM",
    "QRNN",
    "SRU",
    "MinGRU",
    "MinLSTM",
    "PhasedGRU",
    "PhasedLSTM",
    "PhasedLSTMCell",
    "SkipGRU",
    "SkipGRUCell",
    "SkipLSTM",
    "SkipLSTMCell",
    "StronglyTypedGRU",
    "StronglyTypedLSTM",
    "StronglyTypedRNN",
    "binarize",
    "budget_loss",
    "create_model",
    "linear_recurrence",
    "models",
    "time_gate",
]
