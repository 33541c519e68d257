"""Input checks: the only place where errors of shape, dtype, device and size are worded."""

import torch
from torch import Tensor


def check_floating(name: str, x: Tensor, *, complex_too: bool = False) -> None:
    """Raise unless `x` is a tensor of floating (or, where legal, complex) numbers."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if not (x.is_floating_point() or (complex_too and x.is_complex())):
        kind = "a floating or complex" if complex_too else "a floating"
        raise ValueError(f"{name} must have {kind} dtype, got {x.dtype}")


def check_shape(name: str, x: Tensor, dims: str, expected: tuple[int | None, ...]) -> None:
    """Raise unless `x` has shape `expected`; None matches any length.

    Args:
        name: The argument's name as the caller typed it.
        x: The tensor to check.
        dims: One letter a dimension, e.g. `"T B D"`, shown in the message.
        expected: One length a dimension.

    Raises:
        ValueError: On a wrong number of dimensions or a wrong length.
    """
    shape = x.shape
    same = len(shape) == len(expected) and all(
        e is None or e == n for e, n in zip(expected, shape, strict=True)
    )
    if not same:
        wanted = ", ".join(
            d if e is None else f"{d}={e}" for d, e in zip(dims.split(), expected, strict=True)
        )
        raise ValueError(f"{name} must have shape ({wanted}), got {tuple(shape)}")


def check_broadcast(name: str, x: Tensor, shape: torch.Size | tuple[int, ...]) -> None:
    """Raise unless `x` broadcasts to `shape`."""
    same = len(x.shape) <= len(shape) and all(
        n == 1 or n == m
        for n, m in zip(reversed(x.shape), reversed(shape), strict=False)  # trailing dims
    )
    if not same:
        raise ValueError(f"{name} must broadcast to {tuple(shape)}, got {tuple(x.shape)}")


def check_same_device(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless `x` is on the device of `other`."""
    if x.device != other.device:
        raise ValueError(
            f"{name} must be on {other_name}'s device ({other.device}), got {x.device}"
        )


def check_integers(name: str, x: Tensor, dims: str, length: int | None) -> None:
    """Raise unless `x` is a one-dimensional integer tensor of `length` elements (None: any)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be an integer tensor, got {type(x).__name__}")
    if x.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name} must have dtype int32 or int64, got {x.dtype}")
    check_shape(name, x, dims, (length,))


def check_cu_seqlens_values(cu_seqlens: Tensor, T: int) -> None:
    """Raise unless `cu_seqlens` starts at 0, ends at T and never descends."""
    ends = cu_seqlens.tolist()
    if len(ends) < 2 or ends[0] != 0 or ends[-1] != T:
        raise ValueError(f"cu_seqlens must run from 0 to T={T}, got {_short(ends)}")
    for before, after in zip(ends, ends[1:], strict=False):
        if after < before:
            raise ValueError(f"cu_seqlens must ascend, got {after} after {before}")


def check_lengths_values(lengths: Tensor, T: int) -> None:
    """Raise unless every length lies in [0, T]."""
    values = lengths.tolist()
    if values and (min(values) < 0 or max(values) > T):
        raise ValueError(f"lengths must lie in [0, T={T}], got {_short(values)}")


def check_positive(**sizes: int) -> None:
    """Raise unless every named size is an integer of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}")


def check_choice(name: str, value: str, choices: tuple[str, ...] | list[str]) -> None:
    """Raise unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def _short(values: list[int]) -> str:
    return (
        str(values)
        if len(values) <= 8
        else f"[{', '.join(map(str, values[:6]))}, ..., {values[-1]}]"
    )
