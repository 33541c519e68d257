"""Recurrent networks for long and event-based sequences."""

from longrnn.nn import (
    GILR,
    GILRLSTM,
    QRNN,
    SRU,
    MinGRU,
    MinLSTM,
    StronglyTypedGRU,
    StronglyTypedLSTM,
    StronglyTypedRNN,
    create_model,
    models,
)
from longrnn.ops import linear_recurrence

__version__ = "0.1.0"
__all__ = [
    "GILR",
    "GILRLSTM",
    "QRNN",
    "SRU",
    "MinGRU",
    "MinLSTM",
    "StronglyTypedGRU",
    "StronglyTypedLSTM",
    "StronglyTypedRNN",
    "create_model",
    "linear_recurrence",
    "models",
]
