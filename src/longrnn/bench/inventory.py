"""What is installed and what runs: the facts of `longrnn info`."""

import importlib.metadata
import platform

import torch

import longrnn
from longrnn import _native
from longrnn.bench import machine

_PACKAGES = ("accelerate", "safetensors", "tensorboard", "onnx", "onnxruntime")
_HUGE_PAGES = {
    "always": "always: large tensors lie in huge pages",
    "madvise": "madvise: longrnn asks for huge pages under its own results",
    "never": "never: large fresh tensors cost a page fault every 4 kB; set it to madvise",
}


def inventory() -> dict[str, str]:
    """One line a fact, by name."""
    facts = {
        "longrnn": longrnn.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": machine.cpu_model(),
        "cores": f"{machine.cores()} that this process may use",
        "threads": f"{torch.get_num_threads()} (torch.set_num_threads changes it)",
        "huge pages": _HUGE_PAGES.get(machine.huge_pages(), "this system has no such setting"),
        "CPU kernels": _cpu_kernels(),
        "GPU": _gpu(),
        "GPU kernels": _gpu_kernels(),
    }
    for package in _PACKAGES:
        facts[package] = _version(package) or f"absent (pip install {package})"
    return facts


def _cpu_kernels() -> str:
    path = _native.library_path()
    if path is None:
        return (
            "plain PyTorch: the compiled ones were not built; "
            "install a C++ compiler and reinstall longrnn"
        )
    return f"{machine.kernels()}, {path} (processor: {torch.backends.cpu.get_cpu_capability()})"


def _gpu() -> str:
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        return "none that torch sees" if built else "none: this torch was built for the CPU alone"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names)


def _gpu_kernels() -> str:
    triton = _version("triton")
    if not triton:
        return "none: triton is not installed; it comes with torch's CUDA builds"
    if not torch.cuda.is_available():
        return f"triton {triton}, not used: torch sees no GPU"
    return f"triton {triton}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
