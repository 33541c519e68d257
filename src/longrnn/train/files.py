"""Files that are either there, whole, or not there."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any


def write(path: Path, content: bytes, mode: str = "wb") -> None:
    """Write a file and see it safely on the disk; mode "ab" appends.

    Raises:
        OSError: If it cannot be written; the message names it.
    """
    try:
        with open(path, mode) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be written: {error.strerror}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path` and rename, so that a crash or a full disk leaves what was there."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial, content)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def to_json(value: Any) -> bytes:
    """Readable JSON, one key a line."""
    return (json.dumps(value, indent=2) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: If it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file, got one that is damaged: {error}") from error
