"""torchkeras names that fitorch does not provide, with their replacements."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

_CALLBACKS = "from fitorch.callbacks import EpochCheckpoint, VisDisplay, WandbCallback, ..."

_DISPLAY = "fit shows progress and, in a notebook, a live plot itself: fit(verbose=..., plot=...)"

_NOT_TRAINING = "it is not part of training; install torchkeras too"

REPLACEMENTS = {
    "EpochRunner": "write the class and set KerasModel.EpochRunner beside StepRunner",
    "HugModel": "KerasModel(net) takes a Hugging Face model and its batches as they are",
    "LightModel": "KerasModel trains by itself, without Lightning",
    "StepRunner": "write the class and set KerasModel.StepRunner; see docs/from_torchkeras.md",
    "VisDisplay": "from fitorch.callbacks import VisDisplay",
    "VisMetric": _DISPLAY,
    "VisProgress": _DISPLAY,
    "chat": _NOT_TRAINING,
    "colorful": "print(...)",
    "delete_object": "del, and torch.cuda.empty_cache()",
    "eda": _NOT_TRAINING,
    "email": _NOT_TRAINING,
    "hugmodel": "KerasModel(net) takes a Hugging Face model and its batches as they are",
    "kerascallbacks": _CALLBACKS,
    "kerasmodel": "from fitorch import KerasModel",
    "lightmodel": "KerasModel trains by itself, without Lightning",
    "pbar": _DISPLAY,
    "plots": "from fitorch import plot_metric",
    "printlog": "print(...)",
    "soup": "fitorch.callbacks.SWA and EMA average weights",
    "stacker": _NOT_TRAINING,
    "tabular": _NOT_TRAINING,
    "tools": "fitorch.VLog shows a loop of your own",
    "utils": "from fitorch import seed_everything, summary",
    "vision": _NOT_TRAINING,
}


def look_up(name: str) -> NoReturn:
    """Raise an error for a name that fitorch does not have.

    Raises:
        ImportError: torchkeras has the name, and the message names the replacement. An
            AttributeError would lose its message in `from fitorch import name`.
        AttributeError: torchkeras does not have the name either.
    """
    if name in REPLACEMENTS:
        raise ImportError(_message(name), name=f"fitorch.{name}")
    message = f"module 'fitorch' has no attribute {name!r}"
    raise AttributeError(message)


class TorchkerasModules:
    """Raises the error of `look_up` for `import fitorch.kerascallbacks`; the last finder."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        """Return None: this finder finds no modules.

        Raises:
            ModuleNotFoundError: torchkeras has a module of that name.
        """
        package, _, name = fullname.partition(".")
        if package == "fitorch" and name in REPLACEMENTS:
            raise ModuleNotFoundError(_message(name), name=fullname)


def _message(name: str) -> str:
    return f"fitorch does not have torchkeras' {name!r}; instead: {REPLACEMENTS[name]}"


sys.meta_path.append(TorchkerasModules)
