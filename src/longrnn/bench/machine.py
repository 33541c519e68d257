"""Describe the machine, and measure what it can do at best."""

import datetime
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from longrnn import _native

_ELEMENTS = 1 << 24  # 64 MB of float32: past every cache
_SIDE = 1024


def describe(device: str = "cpu") -> dict[str, Any]:
    """Say where a measurement was made: flat, for a JSON line.

    Args:
        device: "cpu" or "cuda".
    """
    return {
        "date": datetime.date.today().isoformat(),
        "device": device,
        "cpu": cpu_model(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "huge_pages": huge_pages(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else "",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernels": kernels(),
    }


def cpu_model() -> str:
    """The processor's name, and its family and model where the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or platform.machine()
    if "cpu family" in facts:
        name += f" (family {facts['cpu family']}, model {facts.get('model', '?')})"
    return name


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def huge_pages() -> str:
    """The system's setting of transparent huge pages: "always", "madvise", "never" or "none"."""
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "none"
    return text.partition("[")[2].partition("]")[0] or "none"


def kernels() -> str:
    """Which CPU kernels of ours are in use: an instruction set, or "plain PyTorch"."""
    path = _native.library_path()
    return "plain PyTorch" if path is None else path.stem.rpartition("_")[2]


def bandwidth(device: str = "cpu") -> float:
    """Bytes a second that an addition into memory that is already there reads and writes."""
    elements = _ELEMENTS if device == "cpu" else 16 * _ELEMENTS
    a = torch.ones(elements, device=device)
    b, out = torch.ones_like(a), torch.ones_like(a)
    return 3 * a.nbytes / _fastest(lambda: torch.add(a, b, out=out), device)


def multiply_adds(device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Multiply-adds a second in a large matrix product."""
    side = _SIDE if device == "cpu" else 8 * _SIDE
    a = torch.ones(side, side, device=device, dtype=dtype)
    out = torch.ones_like(a)
    return side**3 / _fastest(lambda: torch.mm(a, a, out=out), device)


def _fastest(call: Callable[[], Any], device: str) -> float:
    best = float("inf")
    for _ in range(10):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best
