"""Finds and loads the compiled CPU library, the best that this processor runs."""

import ctypes
import functools
import importlib
import pathlib
import warnings

import torch

_ISAS = {"AVX512": ["avx512", "avx2", "baseline"], "AVX2": ["avx2", "baseline"]}
_HUGE = 1 << 22  # bytes from which a fresh tensor is worth the advice


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
    openmp = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    native.longrnn_use_openmp.argtypes = [ctypes.c_void_p]
    native.longrnn_use_openmp(ctypes.cast(openmp, ctypes.c_void_p) if openmp else None)
    native.longrnn_advise_huge_pages.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
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
def function(name: str, signature: str) -> "ctypes._NamedFuncPointer":
    """A function of the library.

    Args:
        name: Its name, without the prefix.
        signature: One letter an argument: "p" pointer, "n" 64-bit size, "i" int.
    """
    found = getattr(library(), f"longrnn_{name}")
    types = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "i": ctypes.c_int}
    found.argtypes = [types[letter] for letter in signature]
    found.restype = None
    return found


def advise(fresh: torch.Tensor) -> torch.Tensor:
    """Ask for huge pages under a fresh large tensor: page faults cost more than arithmetic."""
    if fresh.nbytes >= _HUGE:
        native = library()
        assert native is not None
        native.longrnn_advise_huge_pages(fresh.data_ptr(), fresh.nbytes)
    return fresh
