"""Finds and loads the compiled CPU library, the best that this processor runs."""

import ctypes
import functools
import importlib
import math
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.utils.dlpack

_ISAS = {"AVX512": ["avx512", "avx2", "baseline"], "AVX2": ["avx2", "baseline"]}
LARGE = 1 << 22  # bytes from which a fresh tensor is worth a detour


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded library; None, with one warning, where there is none."""
    path = library_path()
    if path is None:
        warnings.warn(
            "longrnn runs in plain PyTorch, several times slower, because its CPU kernels were "
            "not built. Install a C++ compiler (GCC 12 or Clang 15) and reinstall longrnn.",
            stacklevel=2,
        )
        return None
    native = ctypes.CDLL(str(path))
    # The OpenMP that torch runs, so that both share one set of threads.
    here = ctypes.CDLL(None)
    openmp = [getattr(here, name, None) for name in ("GOMP_parallel", "omp_get_num_threads")]
    native.longrnn_use_openmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    pointers = [ctypes.cast(f, ctypes.c_void_p) for f in openmp if f is not None]
    if len(pointers) == len(openmp):
        native.longrnn_use_openmp(*pointers)
    return native


def library_path() -> pathlib.Path | None:
    """Where the library for this processor lies; None where none was built."""
    wanted = _ISAS.get(torch.backends.cpu.get_cpu_capability(), ["baseline"])
    folders = [pathlib.Path(p) for p in importlib.import_module("longrnn").__path__]
    for isa in wanted:
        for folder in folders:
            for path in folder.glob(f"liblongrnn_{isa}.*"):
                return path
    return None


def available() -> bool:
    """Whether the compiled kernels can be used."""
    return library() is not None


@functools.cache
def function(name: str, signature: str, result: Any = None) -> "ctypes._NamedFuncPointer":
    """A function of the library.

    Args:
        name: Its name, without the prefix.
        signature: One letter an argument: "p" pointer, "n" 64-bit size, "i" int, "d" double.
        result: The ctypes type of what it returns.
    """
    found = getattr(library(), f"longrnn_{name}")
    types = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "i": ctypes.c_int, "d": ctypes.c_double}
    found.argtypes = [types[letter] for letter in signature]
    found.restype = result
    return found


def empty(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """A fresh contiguous CPU tensor with the dtype of `like`.

    A large one lies on huge pages that earlier results may have left mapped: page faults cost more
    than the arithmetic.
    """
    fresh_bytes = math.prod(shape) * like.itemsize
    if fresh_bytes >= LARGE and not torch.are_deterministic_algorithms_enabled():
        pointer = function("allocate", "niipi", ctypes.c_void_p)(
            fresh_bytes,
            _DLPACK[like.dtype],
            8 * like.itemsize,
            (ctypes.c_int64 * len(shape))(*shape),
            len(shape),
        )
        if pointer:
            return torch.utils.dlpack.from_dlpack(_new_capsule(pointer, b"dltensor", None))
    return like.new_empty(shape)


# DLPack's code of each kind of number
_DLPACK = {
    torch.float16: 2,
    torch.float32: 2,
    torch.float64: 2,
    torch.bfloat16: 4,
    torch.complex64: 5,
    torch.complex128: 5,
}
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
