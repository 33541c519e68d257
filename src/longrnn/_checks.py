"""Input checks: the only place where errors of shape, dtype, device and size are worded."""

import itertools

import torch
from torch import Tensor

_FLOATING = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_COMPLEX = {torch.complex64, torch.complex128}


def check_floating(name: str, x: Tensor, *, complex_too: bool = False) -> None:
    """Raise unless `x` is a tensor of floating (or, where legal, complex) numbers."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if x.dtype not in _FLOATING and not (complex_too and x.dtype in _COMPLEX):
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
    if shape == expected:  # at once, where no length is free
        return
    same = len(shape) == len(expected) and all(
        e is None or e == n for e, n in zip(expected, shape, strict=True)
    )
    if not same:
        wanted = ", ".join(
            d if e is None or d == str(e) else f"{d}={e}"
            for d, e in zip(dims.split(), expected, strict=True)
        )
        raise ValueError(f"{name} must have shape ({wanted}), got {tuple(shape)}")


def check_broadcast(name: str, x: Tensor, shape: torch.Size | tuple[int, ...]) -> None:
    """Raise unless `x` broadcasts to `shape`."""
    if x.shape == shape:
        return
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


def check_fits(name: str, x: Tensor, owner: str, weight: Tensor) -> None:
    """Raise unless `x` has the device of the owner's weight, and its dtype or autocast."""
    check_same_device(name, x, owner, weight)
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"{name} must have {owner}'s dtype ({weight.dtype}), got {x.dtype}: convert one of "
            "them, or use torch.autocast"
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
    if ends == sorted(ends):  # one quick pass where it ascends
        return
    for before, after in itertools.pairwise(ends):
        if after < before:
            raise ValueError(f"cu_seqlens must ascend, got {after} after {before}")


def check_lengths_values(lengths: Tensor, T: int) -> None:
    """Raise unless every length lies in [0, T]."""
    values = lengths.tolist()
    if values and (min(values) < 0 or max(values) > T):
        raise ValueError(f"lengths must lie in [0, T={T}], got {_short(values)}")


def check_probability(name: str, value: float) -> None:
    """Raise unless `value` is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability in [0, 1], got {value!r}")


def is_known(x: Tensor) -> bool:
    """Whether looking at values is free: not on another device, nor compiled or traced."""
    return (
        x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
    )


def check_lengths(name: str, lengths: Tensor, B: int | None, T: int) -> None:
    """Raise unless `lengths` is (B,) integers (B None: one, of any rank) in [0, T].

    Values are looked at where they are known.
    """
    if B is None and isinstance(lengths, Tensor) and lengths.ndim == 0:
        lengths = lengths.unsqueeze(0)
    check_integers(name, lengths, "B", 1 if B is None else B)
    if is_known(lengths):
        check_lengths_values(lengths, T)


def check_cu_seqlens_shape(name: str, cu_seqlens: Tensor) -> None:
    """Raise unless `cu_seqlens` is (N+1,) integers, N at least 1."""
    check_integers(name, cu_seqlens, "N+1", None)
    if cu_seqlens.shape[0] < 2:
        raise ValueError(
            f"{name} must hold at least two entries, 0 and T, got {cu_seqlens.shape[0]}"
        )


def check_cu_seqlens(name: str, cu_seqlens: Tensor, T: int) -> None:
    """Raise unless `cu_seqlens` is (N+1,) integers that ascend from 0 to T.

    Values are looked at where they are known.
    """
    check_cu_seqlens_shape(name, cu_seqlens)
    if is_known(cu_seqlens):
        check_cu_seqlens_values(cu_seqlens, T)


def check_members(name: str, value: object, members: tuple[str, ...] | int) -> None:
    """Raise unless `value` is a tuple with as many entries as `members` names or counts."""
    count = members if isinstance(members, int) else len(members)
    if not isinstance(value, (tuple, list)) or len(value) != count:
        wanted = f"{count} tensors" if isinstance(members, int) else f"({', '.join(members)})"
        came = type(value).__name__
        if isinstance(value, (tuple, list)):
            came += f" of {len(value)}"
        raise ValueError(f"{name} must be a tuple of {wanted}, got {came}")


def check_state(name: str, state: Tensor, dims: str, expected: tuple[int, ...], x: Tensor) -> None:
    """Raise unless `state` is a floating tensor of shape `expected` on the device of `x`."""
    if not isinstance(state, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(state).__name__}")
    if state.shape != expected:
        check_shape(name, state, dims, expected)
    check_floating(name, state)
    check_same_device(name, state, "input", x)


def check_counter(
    name: str, state: Tensor, dims: str, expected: tuple[int, ...], x: Tensor
) -> None:
    """Raise unless `state` holds whole numbers in the shape `expected` on the device of `x`."""
    if not isinstance(state, Tensor) or state.dtype not in (torch.int32, torch.int64):
        came = state.dtype if isinstance(state, Tensor) else type(state).__name__
        raise ValueError(f"{name} must be a tensor of dtype int32 or int64, got {came}")
    check_shape(name, state, dims, expected)
    check_same_device(name, state, "input", x)


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
