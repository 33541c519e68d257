"""What is learned: layers, called like `torch.nn.LSTM`; one layer a file, named as its class."""

from longrnn.nn.gilr import GILR
from longrnn.nn.gilr_lstm import GILRLSTM
from longrnn.nn.registry import create_model, models
from longrnn.nn.sru import SRU

__all__ = ["GILR", "GILRLSTM", "SRU", "create_model", "models"]
