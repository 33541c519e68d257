"""Peak memory of one call of a layer, measured where nothing else ran: in a fresh process."""

import contextlib
import gc
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from longrnn.bench.contender import Contender
from longrnn.bench.layer_case import LayerCase


def peak(contender: str, case: LayerCase, device: str) -> float | None:
    """Megabytes by which one call grows the memory in use, beyond weights and inputs.

    On a CPU the process's resident set, on a GPU what torch has allocated there.

    Returns:
        None where the fresh process failed.
    """
    T, B, _ = case.x.shape
    dtype = str(case.x.dtype).removeprefix("torch.")
    task = [contender, B, T, case.sizes, case.training, device, dtype]
    return growth_elsewhere(__name__, task)


def growth_elsewhere(module: str, task: list) -> float | None:
    """What a module's `growth(task)` says in a fresh process; None where that failed."""
    program = f"import json, sys, torch; from {module} import growth\n"
    program += "threads, task = json.loads(sys.argv[1])\n"
    program += "torch.set_num_threads(threads); print(growth(task))"
    given = json.dumps([torch.get_num_threads(), task])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, given], capture_output=True, text=True
    )
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def growth(task: list) -> float:
    """Do the task of `peak` in this process; see there."""
    from longrnn.bench import layer_contenders

    name, B, T, sizes, training, device, dtype = task
    contender = next(c for c in layer_contenders.contenders() if c.name == name)
    case = LayerCase.draw(B, T, tuple(sizes), training, device, getattr(torch, dtype))
    short = replace(case, x=case.x[:2], y=case.y[:2])
    return growth_of_call(contender, case, short, device)


def growth_of_call(contender: Contender, case: Any, short: Any, device: str) -> float:
    """Megabytes by which one call on a case grows the memory in use.

    What a first call loads is not the case's: it is made on a short one.
    """
    contender.prepare(short).call()
    run = contender.prepare(case)
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run.call()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    _forget_peak()
    before = _peak_resident()
    made = run.call()
    after = _peak_resident()
    del made
    return (after - before) / 1e6


def _forget_peak() -> None:
    """Let the peak begin at what is held now, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_resident() -> int:
    """Bytes that this process has held at most."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started us
        line = next(v for v in status.read_text().splitlines() if v.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    scale = 1 if sys.platform == "darwin" else 1024
    return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
