"""torchkeras' names that fitorch has not: each told with what to use instead."""

from __future__ import annotations

import sys
from typing import Any

_CALLBACKS = "from fitorch.callbacks import EpochCheckpoint, VisDisplay, WandbCallback, ..."

_DISPLAY = "fit shows progress and, in a notebook, a live plot itself: fit(verbose=..., plot=...)"

_BESIDE = "it is no part of training; torchkeras can be installed beside fitorch"

MOVED = {
    "EpochRunner": "write the class and set KerasModel.EpochRunner beside StepRunner",
    "HugModel": "KerasModel(net) takes a Hugging Face model and its batches as they are",
    "LightModel": "KerasModel trains by itself, without Lightning",
    "StepRunner": "write the class and set KerasModel.StepRunner; see docs/from_torchkeras.md",
    "VisDisplay": "from fitorch.callbacks import VisDisplay",
    "VisMetric": _DISPLAY,
    "VisProgress": _DISPLAY,
    "chat": _BESIDE,
    "colorful": "print(...)",
    "delete_object": "del, and torch.cuda.empty_cache()",
    "eda": _BESIDE,
    "email": _BESIDE,
    "hugmodel": "KerasModel(net) takes a Hugging Face model and its batches as they are",
    "kerascallbacks": _CALLBACKS,
    "kerasmodel": "from fitorch import KerasModel",
    "lightmodel": "KerasModel trains by itself, without Lightning",
    "pbar": _DISPLAY,
    "plots": "from fitorch import plot_metric",
    "printlog": "print(...)",
    "soup": "fitorch.callbacks.SWA and EMA average weights",
    "stacker": _BESIDE,
    "tabular": _BESIDE,
    "tools": "fitorch.VLog shows a loop of your own",
    "utils": "from fitorch import seed_everything, summary",
    "vision": _BESIDE,
}


def look_up(name: str) -> Any:
    """Refuse a name that the package has not.

    Raises:
        ImportError: It is one of torchkeras', and the message has ours; `from fitorch import name`
            would put a message of its own in place of an AttributeError's.
        AttributeError: It is nobody's.
    """
    if name in MOVED:
        raise ImportError(_told(name), name=f"fitorch.{name}")
    message = f"module 'fitorch' has no attribute {name!r}"
    raise AttributeError(message)


class MovedModules:
    """Refuses `import fitorch.kerascallbacks` as `look_up` does; asked where all others failed."""

    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> None:
        """Find nothing.

        Raises:
            ModuleNotFoundError: The module is one of torchkeras'.
        """
        package, _, name = fullname.partition(".")
        if package == "fitorch" and name in MOVED:
            raise ModuleNotFoundError(_told(name), name=fullname)


def _told(name: str) -> str:
    return f"fitorch has no {name!r}, which torchkeras has; instead: {MOVED[name]}"


sys.meta_path.append(MovedModules)
