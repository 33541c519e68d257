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
    ("shape", "dtype", "kernels"),
    [
        ((2, 65536, 4), torch.float32, 2),
        ((64, 1, 8), torch.bfloat16, 6),  # split: maps, states before chunks, states; and back
        ((16, 3, 33), torch.complex128, 2),
    ],
    ids=str,
)
def test_block_kernels_compile(shape, dtype, kernels, compiled):
    from longrnn.ops.block_linear_recurrence import gpu

    x, h0 = torch.empty(shape, dtype=dtype), torch.empty(shape[1:], dtype=dtype)
    a = torch.empty(*shape, shape[-1], dtype=dtype)
    gpu.forward(a, x, h0, 0, False)
    gpu.backward(x, a, x, h0, 0, False, True)
    assert len(compiled) == kernels
    assert all(len(kernel.asm["cubin"]) > 0 for kernel in compiled)


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(
    ("cell", "dtype", "ragged"),
    [
        ("surrogate", torch.float32, False),
        ("gilr-elu", torch.bfloat16, True),
        ("lstm", torch.float32, False),
        ("lstm-candidate", torch.float32, False),
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
    for openness in (None, y):
        inputs = (z, x, openness, h0, lengths, ends)
        out, states, _ = gpu.forward(*inputs, cell, 0, ragged, True)
        gpu.backward(y, h0, *inputs, out, states, cell, 0, ragged)
    assert_sound(compiled, True)


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(
    ("cell", "algorithm", "B", "dtype"),
    [
        ("gru", "parallel", 1, torch.float32),
        ("lstm", "parallel", 8, torch.bfloat16),
        ("lstm", "serial", 8, torch.float64),
    ],
    ids=str,
)
def test_diagonal_kernels_compile(cell, algorithm, B, dtype, compiled):
    from longrnn.ops.diagonal_recurrence import gpu
    from longrnn.ops.diagonal_recurrence.cells import CELLS

    T, n, ragged = 4096, 256, B == 1
    gates = torch.empty(*((T,) if ragged else (B, T)), 3 * n, dtype=dtype)
    carry = torch.promote_types(dtype, torch.float32)
    weight = torch.empty(CELLS[cell].weights, n, dtype=carry)
    state = torch.empty(CELLS[cell].states, B, n, dtype=dtype)
    layout = (None, torch.tensor([0, T])) if ragged else (torch.full((B,), T), None)
    options = (cell, int(not ragged), ragged)
    output, last, cells = gpu.forward(gates, weight, state, *layout, *options, True, algorithm)
    gpu.backward(output, last, gates, weight, state, *layout, output, cells, *options, algorithm)
    assert len(compiled) == 2
    for kernel in compiled:
        assert len(kernel.asm["cubin"]) > 0
        assert kernel.metadata.shared <= 227 * 1024


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_time_gate_kernels_compile(dtype, compiled):
    from longrnn.ops.time_gate import gpu

    times, clock = torch.empty(100, 32, dtype=torch.float64), torch.empty(3, 110, dtype=dtype)
    gpu.backward(gpu.forward(times, *clock, 0.001), times, *clock, 0.001)
    assert len(compiled) == 2
    assert_sound(compiled, False)


def assert_fits(kernels, dtype):
    """Each has machine code, multiplies on tensor cores and fits in a multiprocessor's memory."""
    product = "f64.f64.f64.f64" if dtype == torch.float64 else "f32.tf32.tf32.f32"
    for kernel in kernels:
        assert len(kernel.asm["cubin"]) > 0
        assert f".row.col.{product}" in kernel.asm["ptx"]
        assert kernel.metadata.shared <= 227 * 1024


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(
    ("cell", "n", "layers", "dtype"),
    [
        ("lstm", 110, 1, torch.float32),
        ("gru-reset-before", 24, 2, torch.bfloat16),
        ("gru", 64, 1, torch.float64),
    ],
    ids=str,
)
def test_skip_kernels_compile(cell, n, layers, dtype, compiled):
    from longrnn.ops.skip_recurrence import gpu

    T, B, m, gates = 100, 32, 3, 4 if cell == "lstm" else 3
    carry = torch.promote_types(dtype, torch.float32)
    weights = []
    for k in range(layers):
        shapes = (gates * n, n if k else m), (gates * n, n), (4 * n,)
        weights += [torch.empty(s, dtype=dtype) for s in shapes]
    x, state = torch.empty(T, B, m, dtype=dtype), torch.empty(layers, B, n, dtype=dtype)
    cells, scalar = state if cell == "lstm" else None, torch.empty(B, 1, dtype=carry)
    gate = torch.empty(1, n, dtype=carry), torch.empty(1, dtype=carry)
    lengths, masks = torch.full((B,), T), torch.empty(layers - 1, T, B, n, dtype=dtype)
    layout = (masks if layers > 1 else None, lengths, None)
    for keep in (False, True):
        results = gpu.forward(
            x, weights, *gate, state, cells, scalar, scalar, *layout, cell, 0, keep
        )
    grads = [*results[:3], None if cells is None else results[3], *results[4:6]]
    gpu.backward(grads, x, weights, gate[0], state, *layout, results[6:], cell, 0, True)
    assert len(compiled) == 3
    assert_fits(compiled, dtype)


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_skip_gate_kernels_compile(dtype, compiled):
    from longrnn.ops.skip_gate import gpu

    T, B, m = 100, 32, 41
    carry = torch.promote_types(dtype, torch.float32)
    x, scalar = torch.empty(T, B, m, dtype=dtype), torch.empty(B, 1, dtype=carry)
    gate = torch.empty(1, m, dtype=carry), torch.empty(1, dtype=carry)
    ragged = torch.full((B,), T), None
    for keep in (False, True):
        *results, kept = gpu.forward(x, *gate, scalar, scalar, *ragged, 0, keep)
    gpu.backward(results, x, *ragged, kept, 0)
    assert len(compiled) == 4
    for kernel in compiled:
        assert len(kernel.asm["cubin"]) > 0


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(
    ("cell", "n", "ragged", "dtype"),
    [
        ("lstm", 110, False, torch.float32),
        ("gru", 300, True, torch.float16),
    ],
    ids=str,
)
def test_phased_kernels_compile(cell, n, ragged, dtype, compiled):
    from longrnn.ops.phased_recurrence import gpu

    T, B, m, gates = 100, 32, 41, 4 if cell == "lstm" else 3
    carry = torch.promote_types(dtype, torch.float32)
    lead = (T,) if ragged else (B, T)
    x, times = torch.empty(*lead, m, dtype=dtype), torch.empty(lead, dtype=torch.float64)
    shapes = (gates * n, m), (gates * n, n), (4 * n,)
    weights = [torch.empty(s, dtype=dtype) for s in shapes]
    peephole = torch.empty(3, n, dtype=carry) if cell == "lstm" else None
    clock = [torch.empty(n, dtype=carry) for _ in range(3)]
    state = torch.empty(B, n, dtype=dtype)
    cells, ends = state if cell == "lstm" else None, torch.arange(B + 1) if ragged else None
    tensors = (x, times, *weights, peephole, *clock, state, cells, None, ends)
    for keep in (False, True):
        options = (cell, 0.001 if keep else 0.0, int(not ragged), ragged)
        results = gpu.forward(*tensors, *options, keep)
    grads = [*results[:2], None if cells is None else results[2]]
    gpu.backward(grads, *tensors, results[3:], *options, [True] * 11)
    assert len(compiled) == 3
    assert_fits(compiled, dtype)


def test_importing_the_package_does_not_import_triton():
    code = "import sys, longrnn; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
