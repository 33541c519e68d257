"""Checkpoints: folders of safetensors and JSON, whole or absent, and never a pickle.

    checkpoints/step-00000400/model.safetensors      the network's parameters
                              optimizer.safetensors  the optimizer's tensors
                              rank-0.safetensors     random state and carried state, one a process
                              state.json             numbers: step, epoch, learning rates, ...
                              manifest.json          SHA-256 of each of the above

A checkpoint is written into a folder of another name and renamed when all of it is on the disk.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from longrnn.train import files

KEPT = 2
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8,})")
_PICKLES = (b"\x80", b"PK\x03\x04")  # a pickle; a zip, which is what torch.save writes


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    files.write(path, safetensors.torch.save(contiguous))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors that `write_tensors` wrote.

    Raises:
        ValueError: If it is no safetensors file.
    """
    try:
        return safetensors.torch.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file, got: {error}") from error


def begin(partial: Path) -> None:
    """Make an empty folder `step-XXXXXXXX.partial` to write a checkpoint into, until `commit`."""
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)


def commit(partial: Path) -> None:
    """Seal a folder that holds a whole checkpoint, give it its name, and drop the oldest."""
    digests = {path.name: _digest(path) for path in sorted(partial.iterdir())}
    files.write(partial / MANIFEST, files.to_json(digests))
    os.replace(partial, partial.with_suffix(""))
    for old in _newest_first(partial.parent)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole, or None if there is none at all.

    A damaged one is passed over with a warning and put aside as `*.damaged`.

    Raises:
        ValueError: If checkpoints exist but none is whole, or one holds a pickle.
    """
    candidates = _newest_first(folder)
    for path in candidates:
        fault = _fault(path)
        if fault is None:
            return path
        warn(f"warning: {path} is damaged ({fault}): going back to the one before")
        os.replace(path, path.with_suffix(".damaged"))
    if candidates:
        raise ValueError(f"{folder} must hold a whole checkpoint, got {len(candidates)} damaged")
    return None


def read_state(path: Path) -> dict[str, Any]:
    """The numbers of a checkpoint."""
    return files.read_json(path / "state.json")


def _newest_first(folder: Path) -> list[Path]:
    named = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(named, key=lambda path: int(path.name[5:]), reverse=True)


def _fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    for file in path.iterdir():
        if _begins_as_pickle(file) or file.suffix not in (".safetensors", ".json"):
            raise ValueError(
                f"{file} must be safetensors or JSON, got something that could run code when "
                "loaded: refused, nothing was read from it"
            )
    try:
        digests = files.read_json(path / MANIFEST)
        for name, digest in digests.items():
            if _digest(path / name) != digest:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return None


def _begins_as_pickle(file: Path) -> bool:
    with open(file, "rb") as content:
        start = content.read(9)
    # A safetensors file begins with its header's length in 8 bytes, which may look like a pickle.
    is_header = file.suffix == ".safetensors" and start[8:] == b"{"
    return start.startswith(_PICKLES) and not is_header


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
