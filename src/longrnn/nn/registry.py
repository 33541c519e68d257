"""The layers by the names that programs use. A new layer is one line in `_LAYERS`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from longrnn import _checks
from longrnn.nn.gilr import GILR
from longrnn.nn.gilr_lstm import GILRLSTM
from longrnn.nn.min_gru import MinGRU
from longrnn.nn.min_lstm import MinLSTM
from longrnn.nn.parallel_gru import ParallelGRU
from longrnn.nn.parallel_lstm import ParallelLSTM
from longrnn.nn.phased_gilr_lstm import PhasedGILRLSTM
from longrnn.nn.phased_gru import PhasedGRU
from longrnn.nn.phased_lstm import PhasedLSTM
from longrnn.nn.qrnn import QRNN
from longrnn.nn.skip_gilr_lstm import SkipGILRLSTM
from longrnn.nn.skip_gru import SkipGRU
from longrnn.nn.skip_lstm import SkipLSTM
from longrnn.nn.sru import SRU
from longrnn.nn.strongly_typed import StronglyTypedGRU, StronglyTypedLSTM, StronglyTypedRNN

_LAYERS: dict[str, Callable[..., nn.Module]] = {
    "gilr": GILR,
    "gilr-lstm": GILRLSTM,
    "sru": SRU,
    "qrnn": QRNN,
    "strongly-typed-rnn": StronglyTypedRNN,
    "strongly-typed-gru": StronglyTypedGRU,
    "strongly-typed-lstm": StronglyTypedLSTM,
    "min-gru": MinGRU,
    "min-lstm": MinLSTM,
    "parallel-gru": ParallelGRU,
    "parallel-lstm": ParallelLSTM,
    "skip-lstm": SkipLSTM,
    "skip-gru": SkipGRU,
    "skip-gilr-lstm": SkipGILRLSTM,
    "phased-lstm": PhasedLSTM,
    "phased-gru": PhasedGRU,
    "phased-gilr-lstm": PhasedGILRLSTM,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}


def models() -> list[str]:
    """List the names that `create_model` knows.

    Example:
        >>> "gilr-lstm" in models()
        True
    """
    return list(_LAYERS)


@contextmanager
def also_known(layers: dict[str, Callable[..., nn.Module]]) -> Iterator[None]:
    """Know more layers by name, in this context only.

    Example:
        >>> with also_known({"plain": nn.LSTM}):
        ...     create_model("plain", 8, 16)
        LSTM(8, 16)
    """
    before = dict(_LAYERS)
    _LAYERS.update(layers)
    try:
        yield
    finally:
        _LAYERS.clear()
        _LAYERS.update(before)


def create_model(
    name: str,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    bias: bool = True,
    batch_first: bool = False,
    dropout: float = 0.0,
    bidirectional: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> nn.Module:
    """Build a layer by name.

    Args:
        name: One of `models()`; "lstm" and "gru" are PyTorch's own.
        input_size: Features of the input.
        hidden_size: Features of the output.
        num_layers: Layers in the stack.
        bias: Whether the gates have biases.
        batch_first: Whether input and output are (B, T, ...) instead of (T, B, ...).
        dropout: Probability with which each layer's output but the last's is zeroed in training.
        bidirectional: Whether a second set of layers runs from the last step to the first.
        device: Where the parameters are.
        dtype: Of the parameters.
        **options: The layer's own; see its documentation.

    Returns:
        The layer, to be called like `torch.nn.LSTM`.

    Raises:
        ValueError: If the name or a setting is not a legal one.
        TypeError: If the layer has no such option.

    Example:
        >>> create_model("gilr", 8, 16, activation="elu")
        GILR(8, 16, activation='elu')
    """
    _checks.check_choice("name", name, models())
    return _LAYERS[name](
        input_size,
        hidden_size,
        num_layers,
        bias=bias,
        batch_first=batch_first,
        dropout=dropout,
        bidirectional=bidirectional,
        device=device,
        dtype=dtype,
        **options,
    )
