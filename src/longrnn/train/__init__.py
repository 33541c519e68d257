"""Training any layer on any task: `longrnn train`, as functions."""

from longrnn.train.compare import compare, train_models
from longrnn.train.load import load_network
from longrnn.train.run import train
from longrnn.train.settings import Settings, create_settings

__all__ = ["Settings", "compare", "create_settings", "load_network", "train", "train_models"]
