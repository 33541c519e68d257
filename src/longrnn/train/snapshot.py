"""A trainer to a checkpoint and back, to the bit."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from longrnn.train import checkpoint, files
from longrnn.train.trainer import Trainer

COUNTERS = ("step", "epoch", "batch", "solved", "seconds")


def save(trainer: Trainer, folder: Path) -> None:
    """Write a checkpoint of `trainer` under `folder`; every process takes part."""
    accelerator = trainer.accelerator
    path = folder / f"step-{trainer.step:08d}.partial"
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            checkpoint.begin(path)
    try:
        _write(trainer, path)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
        raise
    trainer.saved = trainer.step


def _write(trainer: Trainer, path: Path) -> None:
    accelerator = trainer.accelerator
    rank = path / f"rank-{accelerator.process_index}.safetensors"
    checkpoint.write_tensors(rank, _own_tensors(trainer))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _write_shared(trainer, path)
        checkpoint.commit(path)
    accelerator.wait_for_everyone()


def restore(trainer: Trainer, path: Path) -> None:
    """Put `trainer` where it stood when the checkpoint at `path` was written.

    Raises:
        ValueError: If the checkpoint is of another network, or of another number of processes.
    """
    state = checkpoint.read_state(path)
    processes = trainer.accelerator.num_processes
    if state["processes"] != processes:
        raise ValueError(
            f"{path} must be resumed with {state['processes']} process(es), got {processes}"
        )
    try:
        _restore_shared(trainer, path, state)
        _restore_own(trainer, path)
    except (KeyError, IndexError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} does not fit this run: {reason}") from error


def _write_shared(trainer: Trainer, path: Path) -> None:
    checkpoint.write_tensors(path / "model.safetensors", trainer.network.state_dict())
    optimizer = trainer.optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value
        for index, slots in optimizer["state"].items()
        for name, value in slots.items()
    }
    checkpoint.write_tensors(path / "optimizer.safetensors", tensors)
    scaler = trainer.accelerator.scaler
    state = {name: getattr(trainer, name) for name in COUNTERS} | {
        "processes": trainer.accelerator.num_processes,
        "param_groups": optimizer["param_groups"],
        "scheduler": trainer.scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    files.write(path / "state.json", files.to_json(state))


def _restore_shared(trainer: Trainer, path: Path, state: dict[str, Any]) -> None:
    trainer.network.load_state_dict(checkpoint.read_tensors(path / "model.safetensors"))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in checkpoint.read_tensors(path / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = value
    trainer.optimizer.load_state_dict({"state": slots, "param_groups": state["param_groups"]})
    trainer.scheduler.load_state_dict(state["scheduler"])
    if trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    for name in COUNTERS:
        setattr(trainer, name, state[name])
    trainer.saved = trainer.step


def _own_tensors(trainer: Trainer) -> dict[str, Tensor]:
    """What differs between processes: random state, and the state carried between batches."""
    leaves, _ = tree_flatten(trainer.carried)
    tensors = {f"carried.{i}": leaf for i, leaf in enumerate(leaves) if leaf is not None}
    tensors["random"] = torch.get_rng_state()
    if trainer.accelerator.device.type == "cuda":
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    return tensors


def _restore_own(trainer: Trainer, path: Path) -> None:
    rank, device = trainer.accelerator.process_index, trainer.accelerator.device
    tensors = checkpoint.read_tensors(path / f"rank-{rank}.safetensors")
    count = sum(name.startswith("carried.") for name in tensors)
    if count:
        input, _ = next(iter(trainer.train_loader))
        with torch.no_grad():
            like = trainer.network(input[:, :1]).state
        leaves = [tensors[f"carried.{i}"].to(device) for i in range(count)]
        trainer.carried = tree_unflatten(leaves, tree_flatten(like)[1])
    torch.set_rng_state(tensors["random"])
    if "random_cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random_cuda"])
