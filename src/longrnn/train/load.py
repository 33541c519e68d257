"""A trained network, from its run folder."""

from collections.abc import Callable
from pathlib import Path

from longrnn.tasks import Task, create_task
from longrnn.train import checkpoint, files
from longrnn.train.network import Network
from longrnn.train.settings import Settings


def create_network(task: Task, settings: Settings) -> Network:
    """The network that these settings ask for, with fresh weights."""
    return Network(
        task,
        settings.model,
        settings.hidden_size,
        settings.num_layers,
        settings.dropout,
        settings.pooling,
        settings.forget_bias,
        settings.random_skip,
        settings.layer_options,
    )


def load_network(folder: Path, warn: Callable[[str], None] = print) -> tuple[Network, Task]:
    """Load the newest whole checkpoint of a run.

    Args:
        folder: The run folder.
        warn: Told of a checkpoint that is damaged.

    Returns:
        The network in evaluation mode, and its task.

    Raises:
        ValueError: If there is no run, or no checkpoint of it is whole.
    """
    if not (folder / "config.json").exists():
        raise ValueError(f"folder must hold a run, got {folder} without config.json")
    settings = Settings(**files.read_json(folder / "config.json"))
    path = checkpoint.newest(folder / "checkpoints", warn)
    if path is None:
        raise ValueError(f"folder must hold a checkpoint, got {folder} without one")
    task = create_task(settings.task, settings.batch_size, settings.seed, **settings.task_options)
    network = create_network(task, settings)
    network.load_state_dict(checkpoint.read_tensors(path / "model.safetensors"))
    return network.eval(), task
