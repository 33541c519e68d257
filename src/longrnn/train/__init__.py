"""Training any layer on any task: `longrnn train`, as functions."""

from longrnn.train.compare import compare, train_models
from longrnn.train.run import train
from longrnn.train.settings import Settings, create_settings

__all__ = ["Settings", "compare", "create_settings", "train", "train_models"]
