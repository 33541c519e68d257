"""Peak memory of one call of a layer, measured where nothing else ran: in a fresh process."""

import contextlib
import gc
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from longrnn.bench.layer_case import LayerCase


def peak(contender: str, case: LayerCase, device: str) -> float | None:
    """Megabytes by which one call grows the memory in use, beyond weights and inputs.

    On a CPU the process's resident set, on a GPU what torch has allocated there.

    Returns:
        None where the fresh process failed.
    """
    T, B, _ = case.x.shape
    dtype = str(case.x.dtype).removeprefix("torch.")
    task = [contender, B, T, case.sizes, case.training, device, dtype, torch.get_num_threads()]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__, json.dumps(task)],
        capture_output=True,
        text=True,
    )
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def growth(task: list) -> float:
    """Do the task of `peak` in this process; see there."""
    from longrnn.bench import layer_contenders

    name, B, T, sizes, training, device, dtype, threads = task
    torch.set_num_threads(threads)
    contender = next(c for c in layer_contenders.contenders() if c.name == name)
    case = LayerCase.draw(B, T, tuple(sizes), training, device, getattr(torch, dtype))
    # What a first call loads is not the sequence's.
    contender.prepare(replace(case, x=case.x[:2], y=case.y[:2])).call()
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


if __name__ == "__main__":
    print(growth(json.loads(sys.argv[1])))
