"""Where the code runs: notebook or not, versions, devices, precisions, a compiler."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.util import find_spec

import torch

from .version import version_of


def in_notebook() -> bool:
    """Say whether this is a notebook's kernel, where an interrupt should end a cell tidily.

    Jupyter's and VS Code's shell has that name; Colab's and others' are derived from it.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)


_PACKAGES = ("torch", "accelerate", "torchmetrics", "numpy", "pandas", "safetensors")

_COMPILERS = ("g++", "clang++", "c++", "cl")

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def versions() -> dict[str, str]:
    """Return the versions that results depend on, by name."""
    return {
        "fitorch": version_of("fitorch") or "from its source",
        "python": platform.python_version(),
        **{name: version_of(name) or "not installed" for name in _PACKAGES},
        "torch": torch.__version__,  # with the build, "+cu128"
        "platform": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }


def hardware() -> dict[str, str]:
    """Return devices with the precisions that they run, threads, and whether torch can compile."""
    told = {str(device): _described(device) for device in devices()}
    told["threads"] = f"{torch.get_num_threads()} of {os.cpu_count()} CPUs"
    if os.environ.get("OMP_NUM_THREADS"):
        told["threads"] += f", OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
    told["torch.compile"] = _compiling()
    return told


def devices() -> list[torch.device]:
    """Return the devices that nets can be trained on, those that are preferred first."""
    found = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    xpu = getattr(torch, "xpu", None)
    if xpu is not None and xpu.is_available():
        found += [torch.device("xpu", number) for number in range(xpu.device_count())]
    return [*found, torch.device("cpu")]


def runs_in(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether a layer runs on a device in a precision, by running one."""
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype):
            layer = torch.nn.Linear(8, 8, device=device)
            return bool(layer(torch.ones(2, 8, device=device)).dtype == dtype)
    except (RuntimeError, TypeError, ValueError):  # how torch refuses depends on the device
        return False


def _described(device: torch.device) -> str:
    precisions = [name for name, dtype in _PRECISIONS.items() if runs_in(device, dtype)]
    told = ["mixed_precision: " + (", ".join(f'"{name}"' for name in precisions) or "none")]
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        told = [facts.name, f"{facts.total_memory / 2**30:.0f} GiB", *told]
        if facts.major < 8 and "bf16" in precisions:
            told.append("bf16 is slow on it")
    return ", ".join(told)


def _compiling() -> str:
    """Say what torch.compile would compile with."""
    given = os.environ.get("CXX")
    found = next(filter(None, map(shutil.which, [given] if given else _COMPILERS)), None)
    told = [f"on CPUs with {found}" if found else "not on CPUs: there is no C++ compiler (g++)"]
    if torch.cuda.is_available():
        triton = find_spec("triton") is not None
        told.append("on GPUs with triton" if triton else "not on GPUs: triton is not installed")
    return ", ".join(told)
