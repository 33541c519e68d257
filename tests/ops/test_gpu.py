"""The GPU kernels: run in Triton's interpreter, compiled for a GPU that need not be there.

`gpu_checks.py` holds what they must compute. It runs in a process of its own: Triton reads
TRITON_INTERPRET when a kernel is defined, and every other test needs it unset.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")

CHECKS = pathlib.Path(__file__).with_name("gpu_checks.py")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.mark.parametrize(
    "interpret", ["1", pytest.param("0", marks=GPU)], ids=["interpreter", "gpu"]
)
def test_kernels_compute_what_they_should(interpret):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    environment = os.environ | {"TRITON_INTERPRET": interpret}
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        command, env=environment, cwd=CHECKS.parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


class _Hopper:
    """As much of a driver as the compiler asks for."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def compiled(monkeypatch):
    """Kernels that the code under test would have launched, compiled for sm_90."""
    from triton import knobs
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    if os.environ.get("TRITON_INTERPRET") == "1" or "nvidia" not in triton.backends.backends:
        pytest.skip("Triton's compiler for NVIDIA GPUs is not usable here")
    kernels = []

    def launch(self, grid):
        return lambda *a, **k: kernels.append(self.run(*a, grid=grid, warmup=True, **k))

    with tempfile.TemporaryDirectory() as cache:
        monkeypatch.setattr(knobs.cache, "dir", cache)
        monkeypatch.setattr(JITFunction, "__getitem__", launch)
        monkeypatch.setattr(driver, "_active", _Hopper())
        yield kernels


def assert_sound(kernels, chained):
    """Each has machine code; the chained ones wait by volatile loads and publish by atomics."""
    for kernel in kernels:
        assert len(kernel.asm["cubin"]) > 0
        if kernel.metadata.name != "_mark_kernel" and chained:
            ptx = kernel.asm["ptx"]
            assert "atom.global.gpu.relaxed.exch.b64" in ptx
            assert "ld.volatile.global.b64" in ptx


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(
    ("shape", "dim", "dtype", "ragged"),
    [
        ((4096, 2048), 0, torch.float32, False),
        ((4096, 2048), 0, torch.bfloat16, True),
        ((65536, 1, 4), 0, torch.float16, False),
        ((64, 65536), 1, torch.float32, True),
        ((4096, 96), 0, torch.float64, True),
        ((4096, 96), 0, torch.complex64, True),
        ((64, 4096), 1, torch.complex128, False),
    ],
    ids=str,
)
def test_linear_kernels_compile(shape, dim, dtype, ragged, compiled):
    from longrnn.ops.linear_recurrence import gpu

    x, T = torch.empty(shape, dtype=dtype), shape[dim]
    ends = torch.tensor([0, T]) if ragged else None
    state = list(shape)
    state[dim : dim + 1] = [1] if ragged else []
    h0 = torch.empty(state, dtype=dtype)
    for algorithm in ("serial", "parallel"):
        compiled.clear()
        gpu.forward(x, x, h0, ends, dim, ragged, algorithm)
        gpu.backward(x, x, x, h0, ends, dim, ragged, algorithm, True)
        assert len(compiled) == (4 if ragged else 2)
        assert_sound(compiled, algorithm == "parallel")


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(
    ("cell", "dtype", "ragged"),
    [
        ("surrogate", torch.float32, False),
        ("gilr-elu", torch.bfloat16, True),
        ("lstm", torch.float32, False),
        ("sru-tanh", torch.float16, True),
        ("min-lstm", torch.float64, False),
        ("strongly-typed-gru", torch.float32, True),
    ],
    ids=str,
)
def test_gated_kernels_compile(cell, dtype, ragged, compiled):
    from longrnn.ops.gated_recurrence import gpu
    from longrnn.ops.gated_recurrence.cells import CELLS

    T, B, n = 4096, 1 if ragged else 8, 64
    lead = (T,) if ragged else (T, B)
    z = torch.empty(*lead, CELLS[cell].gates * n, dtype=dtype)
    y, h0 = torch.empty(*lead, n, dtype=dtype), torch.empty(B, n, dtype=dtype)
    x = y if CELLS[cell].highway else None
    ends = torch.tensor([0, T]) if ragged else None
    lengths = None if ragged else torch.full((B,), T)
    out, states, _ = gpu.forward(z, x, h0, lengths, ends, cell, 0, ragged, True)
    gpu.backward(y, h0, z, x, h0, lengths, ends, out, states, cell, 0, ragged)
    assert_sound(compiled, True)


def test_importing_the_package_does_not_import_triton():
    code = "import sys, longrnn; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
