"""The IDX files that MNIST and its relatives come in."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

UNSIGNED_BYTE = 8


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped or not.

    A file is two zero bytes, the type, the number of dimensions, one big-endian 32-bit length a
    dimension, and the values.

    Args:
        path: The file.
        dimensions: How many dimensions it must have.

    Raises:
        ValueError: If it is not such a file, or not all of it is there.
    """
    content = _read(path)
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    start = 4 + 4 * dimensions
    if content[:4] != magic or len(content) < start:
        raise ValueError(
            f"{path} must be an IDX file of unsigned bytes with {dimensions} dimension(s), "
            f"beginning {magic.hex()}; it begins {content[:4].hex() or 'nowhere: it is empty'}"
        )
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], dtype=">u4"))
    expected = start + math.prod(shape)
    if len(content) != expected:
        raise ValueError(
            f"{path} must hold {expected} bytes for shape {shape}, got {len(content)}: "
            "it is truncated or damaged"
        )
    return np.frombuffer(content[start:], dtype=np.uint8).reshape(shape)


def find_idx(folder: Path, split: str, kind: str) -> Path:
    """Find e.g. `train-images-idx3-ubyte`, with or without `.gz`, or with a dot for a dash."""
    names = [f"{split}-{kind}-ubyte", f"{split}-{kind.replace('-', '.')}-ubyte"]
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise ValueError(f"data must be a folder with {names[0]} or {names[0]}.gz, got {folder}")


def _read(path: Path) -> bytes:
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path} must be a whole gzip file, got one that breaks off: {error}"
        ) from error
