"""The environment: notebook or not, versions, devices, precisions, compilers."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec

import torch

from .devices.accelerators import HOST, accelerator_type, accelerators, described, module_of
from .devices.memory import total_memory
from .version import version_of

_PACKAGES = ("torch", "accelerate", "torchmetrics", "numpy", "pandas", "safetensors")

_COMPILERS = ("g++", "clang++", "c++", "cl")

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def in_notebook() -> bool:
    """Return whether this is the kernel of a notebook.

    The shell of Jupyter and VS Code has that name; those of Colab and others are derived from it.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return any(base.__name__ == "ZMQInteractiveShell" for base in type(shell).__mro__)


def versions() -> dict[str, str]:
    """Return the versions of packages that results depend on, by name."""
    return {
        "fitorch": version_of("fitorch") or "from its source",
        "python": platform.python_version(),
        **{name: version_of(name) or "not installed" for name in _PACKAGES},
        "torch": torch.__version__,  # with the build, "+cu128"
        "platform": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }


def hardware() -> dict[str, str]:
    """Return devices with their precisions, threads, and the compilers of torch.compile."""
    facts = {str(device): _described(device) for device in devices()}
    facts["threads"] = f"{torch.get_num_threads()} of {os.cpu_count()} CPUs"
    if os.environ.get("OMP_NUM_THREADS"):
        facts["threads"] += f", OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
    facts["torch.compile"] = _compilers()
    return facts


def devices() -> list[torch.device]:
    """Return the devices that can train nets, preferred ones first."""
    return [*accelerators(), HOST]


def runs_in(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether a layer runs on a device in a precision, by running one."""
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype):
            layer = torch.nn.Linear(8, 8, device=device)
            return bool(layer(torch.ones(2, 8, device=device)).dtype == dtype)
    except (RuntimeError, TypeError, ValueError):  # the error depends on the device
        return False


def _described(device: torch.device) -> str:
    precisions = [name for name, dtype in _PRECISIONS.items() if runs_in(device, dtype)]
    facts = ["mixed_precision: " + (", ".join(f'"{name}"' for name in precisions) or "none")]
    memory = total_memory(device)
    if memory is not None:
        facts.insert(0, f"{memory / 2**30:.0f} GiB")
    name = described(device).removeprefix(str(device)).strip(" ()")
    if name:
        facts.insert(0, name)
    in_hardware = getattr(module_of(device), "is_bf16_supported", None)
    if in_hardware is not None and "bf16" in precisions and not _emulates_none(in_hardware):
        facts.append("bf16 is slow on it")
    return ", ".join(facts)


def _emulates_none(ask: Callable[..., bool]) -> bool:
    """Return whether a device computes in bf16 itself; older GPUs of NVIDIA do it in software."""
    try:
        return ask(including_emulation=False)
    except TypeError:  # other backends emulate nothing
        return True


def _compilers() -> str:
    """Return the compilers that torch.compile uses."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else _COMPILERS
    compiler = next(filter(None, map(shutil.which, names)), None)
    facts = [f"on CPUs with {compiler}" if compiler else "not on CPUs: no C++ compiler (g++)"]
    if accelerator_type() is not None:
        triton = find_spec("triton") is not None
        facts.append("on GPUs with triton" if triton else "not on GPUs: triton is not installed")
    return ", ".join(facts)
