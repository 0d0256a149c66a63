"""Training that DeepSpeed spreads over the processes (ZeRO): whether, how, and with what settings.

Each process has the whole net; of gradients and of the optimizer's state it has a part.
accelerate's plugin says how, DeepSpeed's engine does it.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from fitorch.distributed.dtensor import refuse_lazy
from fitorch.errors import RankError

if TYPE_CHECKING:
    from fitorch.distributed.processes import Processes


ENVIRONMENT = "ACCELERATE_USE_DEEPSPEED"  # what accelerate launch sets where it is configured so

# DeepSpeed gives an optimizer one long vector, in which it can't see single weights; Adagrad it
# makes anew, all groups in one.
_NEED_WHOLE_WEIGHTS = ("Adafactor", "Adagrad", "LAMB", "LARS", "Lamb", "Muon", "SparseAdam")

_AUTO = "auto"


class Zero:
    """How DeepSpeed spreads training over processes.

    Args:
        plugin: accelerate's `DeepSpeedPlugin`.
        precision: accelerate's mixed precision: "no", "fp16" or "bf16".
        processes: Those that train together.

    Attributes:
        stage: 1, where the optimizer's state is spread, or 2, where gradients are too.

    Raises:
        ImportError: DeepSpeed is not installed.
        RankError: The plugin asks for ZeRO-3.
        ValueError: It asks for what fitorch decides, or for a precision that can't be had.
    """

    def __init__(self, plugin: Any, precision: str, processes: Processes) -> None:
        self._settings: Mapping[str, Any] = plugin.deepspeed_config
        self.processes = processes
        self.stage: int = self._settings["zero_optimization"]["stage"]
        if self.stage > 2:
            message = (
                f"DeepSpeed's ZeRO-{self.stage} is asked for, which spreads the weights too: "
                "fitorch does so with FSDP2; pass KerasModel(..., fsdp=True), or choose FSDP with "
                "version 2 in accelerate config. Of DeepSpeed it runs zero_stage 1 and 2"
            )
            raise RankError(message)
        self._check_settings(precision)
        _import()

    def __str__(self) -> str:
        return f"DeepSpeed's ZeRO-{self.stage} over {self.processes.world_size} processes"

    def _check_settings(self, precision: str) -> None:
        """Refuse settings that say otherwise than a fit does, rather than to overrule them.

        Raises:
            ValueError: It names the setting.
        """
        settings = self._settings
        for section in ("optimizer", "scheduler"):
            if section in settings:
                message = (
                    f"DeepSpeed's configuration has a section {section!r}; leave it out: "
                    f"KerasModel's own {'lr_' * (section == 'scheduler')}{section} is the one"
                )
                raise ValueError(message)
        for name in ("train_batch_size", "train_micro_batch_size_per_gpu"):
            if self._setting(name) is not None:
                message = (
                    f"DeepSpeed's configuration says {name}: {settings[name]}; write 'auto' "
                    "there, and pass fit(batch_size=...), which is that of each process"
                )
                raise ValueError(message)
        for name in ("fp16", "bf16"):
            if settings.get(name, {}).get("enabled", False) is True and precision != name:
                message = (
                    f"DeepSpeed's configuration has {name} enabled, but mixed_precision is "
                    f"{precision!r}; pass fit(mixed_precision={name!r}), or write 'auto' there"
                )
                raise ValueError(message)
        if precision == "fp16":
            message = "mixed_precision is 'fp16', which fitorch can't do with DeepSpeed; use 'bf16'"
            raise ValueError(message)

    def check_net(self, net: nn.Module) -> None:
        """Refuse nets that DeepSpeed can't spread.

        Raises:
            ValueError: There are lazy layers, weights that are not float32, or numbers without a
                dimension.
        """
        named: list[tuple[str, Any]] = [*net.named_parameters()]
        refuse_lazy(net, "DeepSpeed")
        others = {name: p.dtype for name, p in named if p.requires_grad}
        odd = [f"{name} ({dtype})" for name, dtype in others.items() if dtype != torch.float32]
        if odd:
            message = (
                f"{', '.join(odd[:5])}: with DeepSpeed, weights must be float32, in which it "
                "updates them; use net.float(), and mixed_precision='bf16' for speed"
            )
            raise ValueError(message)
        bare = [name for name, parameter in named if not parameter.dim()]
        if bare:
            message = (
                f"{', '.join(bare[:5])} are single numbers without a dimension, which DeepSpeed "
                "can't send; give them the shape (1,), or pass deepspeed=False"
            )
            raise ValueError(message)

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Refuse optimizers that need to know which numbers are a weight.

        Raises:
            ValueError: It is one of them.
        """
        kind = type(optimizer).__name__
        if kind in _NEED_WHOLE_WEIGHTS:
            message = (
                f"{kind} can't be used with DeepSpeed, which gives an optimizer a part of all "
                "weights as one vector; use AdamW or SGD, or fsdp=True"
            )
            raise ValueError(message)

    def clipping(self, norm: float | None, value: float | None, window: int) -> float | None:
        """Return the largest norm of gradients: what a fit says, or else the configuration.

        Args:
            norm: `clip_grad_norm` of the fit.
            value: `clip_grad_value` of the fit.
            window: `gradient_accumulation_steps` of the fit.

        Raises:
            ValueError: A fit asks for what DeepSpeed can't do, or is configured otherwise.
        """
        if value is not None:
            message = (
                f"clip_grad_value={value} can't be used with DeepSpeed, which "
                "clips by the norm; use clip_grad_norm"
            )
            raise ValueError(message)
        steps, clip = (
            self._setting("gradient_accumulation_steps"),
            self._setting("gradient_clipping"),
        )
        if steps != 1:  # as accelerate fills it in
            _refuse_contradiction(
                "gradient_accumulation_steps", steps, "gradient_accumulation_steps", window
            )
        if norm is None:
            return clip or None
        _refuse_contradiction("gradient_clipping", clip, "clip_grad_norm", norm)
        return norm

    def _setting(self, name: str) -> Any:
        """Return a setting, None where it is left to the fit."""
        value = self._settings.get(name, _AUTO)
        return None if value == _AUTO else value

    def engine(self, module: nn.Module, optimizer: Optimizer, clip: float | None) -> Any:
        """Return a DeepSpeedEngine, which spreads `optimizer` over the processes from now on.

        Args:
            module: What is trained; it gets the main process' weights.
            optimizer: Of the module's parameters; DeepSpeed puts its own in their place.
            clip: Largest norm of the gradients, or None.
        """
        deepspeed = _import()
        config = _without_auto(self._settings) | {
            "train_batch_size": self.processes.world_size,
            "train_micro_batch_size_per_gpu": 1,  # it only counts them
            "gradient_accumulation_steps": 1,  # it is settings where a window ends
            "gradient_clipping": clip or 0.0,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
        for precision in ("fp16", "bf16"):  # weights stay float32; autocast does the rest
            config.pop(precision, None)
        engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=config, dist_init_required=False
        )
        return engine


def _refuse_contradiction(name: str, settings: Any, argument: str, given: float) -> None:
    """Refuse an argument of a fit that the configuration contradicts.

    Raises:
        ValueError: It tells both.
    """
    if settings is not None and settings != given:
        message = (
            f"DeepSpeed's configuration says {name}: {settings}, but the fit {argument}={given}; "
            f"pass fit({argument}={settings}), or write 'auto' there"
        )
        raise ValueError(message)


def deepspeed_plugin(deepspeed: Any) -> Any:
    """Return the plugin that an argument, or accelerate's configuration, asks for; or None.

    Where nothing is to be spread (ZeRO-0), there is none either.
    """
    if deepspeed is False or (deepspeed is None and not _configured()):
        return None
    from accelerate.utils import DeepSpeedPlugin

    plugin: Any = deepspeed
    if deepspeed is None:
        plugin = DeepSpeedPlugin()
    elif deepspeed is True:
        plugin = DeepSpeedPlugin(zero_stage=2)
    elif isinstance(deepspeed, (Mapping, str, Path)):
        settings = deepcopy(dict(deepspeed)) if isinstance(deepspeed, Mapping) else str(deepspeed)
        plugin = DeepSpeedPlugin(hf_ds_config=settings)
    return plugin if plugin.deepspeed_config["zero_optimization"]["stage"] else None


def check_deepspeed(deepspeed: Any, fsdp: Any) -> None:
    """Refuse what says nothing about DeepSpeed, and two ways at once.

    Raises:
        TypeError: It tells what was expected.
        ValueError: FSDP is asked for too.
    """
    settings = deepspeed in (None, True, False) or isinstance(deepspeed, (Mapping, str, Path))
    if not settings and not hasattr(deepspeed, "deepspeed_config"):
        message = (
            f"deepspeed is {deepspeed!r}; expected True, False, DeepSpeed's configuration or its "
            "file, an accelerate.DeepSpeedPlugin, or None for what accelerate is configured to"
        )
        raise TypeError(message)
    if fsdp and deepspeed:
        message = "fsdp and deepspeed are two ways to spread one net; choose one"
        raise ValueError(message)


@contextmanager
def unconfigured() -> Iterator[None]:
    """Keep accelerate from preparing DeepSpeed its own way, which `Accelerator()` does at once."""
    settings = os.environ.pop(ENVIRONMENT, None)
    try:
        yield
    finally:
        if settings is not None:
            os.environ[ENVIRONMENT] = settings


def _configured() -> bool:
    return os.environ.get(ENVIRONMENT, "false").lower() in ("true", "1")


def _import() -> Any:
    """Return DeepSpeed, which otherwise tells its whole configuration.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import deepspeed
    except ImportError as error:
        message = (
            "DeepSpeed is asked for, but not installed: pip install deepspeed; or use FSDP2, which "
            "torch has: KerasModel(..., fsdp=True)"
        )
        raise ImportError(message) from error
    if deepspeed.utils.logger.level == logging.INFO:
        deepspeed.utils.logger.setLevel(logging.WARNING)
    # It calls torch's collectives by names that torch has given others.
    warnings.filterwarnings("ignore", ".*(all_gather_into|reduce_scatter)_tensor", FutureWarning)
    return deepspeed


def _without_auto(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of settings without those that are left to others, which have defaults."""
    return {
        name: _without_auto(value) if isinstance(value, Mapping) else deepcopy(value)
        for name, value in settings.items()
        if value != _AUTO
    }
