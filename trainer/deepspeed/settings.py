"""DeepSpeed's ZeRO: its configuration, checks of it, and the creation of its engine.

Each process holds the whole net, and a part of the gradients and of the optimizer state. The
settings come from accelerate's plugin.
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
from fitorch.optim.several import Optimizers, name_of

if TYPE_CHECKING:
    from accelerate import DeepSpeedPlugin

    from fitorch.distributed.processes import Processes


ENVIRONMENT = "ACCELERATE_USE_DEEPSPEED"  # set by accelerate launch if DeepSpeed is configured

# DeepSpeed passes an optimizer one flat vector, in which single weights cannot be settings apart.
# It creates Adagrad again, with all parameter groups merged into one.
_NEED_WHOLE_WEIGHTS = ("Adafactor", "Adagrad", "LAMB", "LARS", "Lamb", "Muon", "SparseAdam")

_AUTO = "auto"


class Zero:
    """The settings of DeepSpeed, with their checks; it creates the engine.

    Args:
        plugin: accelerate's `DeepSpeedPlugin`.
        precision: accelerate's mixed precision: "no", "fp16" or "bf16".
        processes: The processes that train together.

    Attributes:
        stage: 1 if the optimizer state is partitioned, 2 if the gradients are as well.

    Raises:
        ImportError: DeepSpeed is not installed.
        RankError: The plugin requests ZeRO-3.
        ValueError: The plugin contains settings of the fit, or an unsupported precision.
    """

    def __init__(self, plugin: DeepSpeedPlugin, precision: str, processes: Processes) -> None:
        self._settings: Mapping[str, Any] = plugin.deepspeed_config
        self.processes = processes
        self.stage: int = self._settings["zero_optimization"]["stage"]
        if self.stage > 2:
            message = (
                f"DeepSpeed's ZeRO-{self.stage} is requested, but fitorch supports zero_stage 1 "
                "and 2; to shard weights too, pass KerasModel(..., fsdp=True), or choose FSDP with "
                "version 2 in accelerate config"
            )
            raise RankError(message)
        self._check_settings(precision)
        _import()

    def __str__(self) -> str:
        return f"DeepSpeed's ZeRO-{self.stage} over {self.processes.world_size} processes"

    def _check_settings(self, precision: str) -> None:
        """Raise an error for settings that a fit would override.

        Raises:
            ValueError: There is such a setting; the message contains its name.
        """
        # The fit has its own values for these settings.
        settings = self._settings
        for section in ("optimizer", "scheduler"):
            if section in settings:
                message = (
                    f"DeepSpeed's configuration has a section {section!r}; remove it, and pass "
                    f"KerasModel({'lr_' * (section == 'scheduler')}{section}=...)"
                )
                raise ValueError(message)
        for name in ("train_batch_size", "train_micro_batch_size_per_gpu"):
            if self._setting(name) is not None:
                message = (
                    f"DeepSpeed's configuration has {name}: {settings[name]}; write 'auto' there, "
                    "and pass fit(batch_size=...), the batch size of each process"
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
            message = (
                "mixed_precision is 'fp16', which fitorch does not support with DeepSpeed; use "
                "'bf16'"
            )
            raise ValueError(message)

    def check_net(self, net: nn.Module) -> None:
        """Check that DeepSpeed can train a net.

        Raises:
            ValueError: The net has lazy layers, weights that are not float32, or parameters without
                a dimension.
        """
        named: list[tuple[str, Any]] = [*net.named_parameters()]
        refuse_lazy(net, "DeepSpeed")
        dtypes = {name: p.dtype for name, p in named if p.requires_grad}
        wrong = [f"{name} ({dtype})" for name, dtype in dtypes.items() if dtype != torch.float32]
        if wrong:
            message = (
                f"{', '.join(wrong[:5])}: DeepSpeed needs float32 weights; use net.float(), and "
                "mixed_precision='bf16' for speed"
            )
            raise ValueError(message)
        scalars = [name for name, parameter in named if not parameter.dim()]
        if scalars:
            message = (
                f"{', '.join(scalars[:5])} are scalars without a dimension, which DeepSpeed cannot "
                "send; change their shape to (1,), or pass deepspeed=False"
            )
            raise ValueError(message)

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Raise an error for optimizers that need whole weights.

        Raises:
            ValueError: The optimizer is one of them.
        """
        name = name_of(optimizer)
        if isinstance(optimizer, Optimizers):
            message = f"DeepSpeed takes one optimizer, not {name}; use one of them, or fsdp=True"
            raise ValueError(message)  # noqa: TRY004 - it is an optimizer, but of no use here
        if name in _NEED_WHOLE_WEIGHTS:
            message = (
                f"{name} does not work with DeepSpeed, which passes an optimizer parts of weights "
                "in one vector; use AdamW or SGD, or fsdp=True"
            )
            raise ValueError(message)

    def clipping(self, norm: float | None, value: float | None, window: int) -> float | None:
        """Return the largest norm of gradients, from the fit or from the configuration.

        Args:
            norm: `clip_grad_norm` of the fit.
            value: `clip_grad_value` of the fit.
            window: `gradient_accumulation_steps` of the fit.

        Raises:
            ValueError: DeepSpeed does not support the arguments, or its configuration differs.
        """
        if value is not None:
            message = (
                f"clip_grad_value={value} does not work with DeepSpeed, which clips only by the "
                "norm; use clip_grad_norm"
            )
            raise ValueError(message)
        steps, clip = (
            self._setting("gradient_accumulation_steps"),
            self._setting("gradient_clipping"),
        )
        if steps != 1:  # accelerate's default, which is not the user's choice
            _refuse_contradiction(
                "gradient_accumulation_steps", steps, "gradient_accumulation_steps", window
            )
        if norm is None:
            return clip or None
        # Equal values in both places are accepted.
        _refuse_contradiction("gradient_clipping", clip, "clip_grad_norm", norm)
        return norm

    def _setting(self, name: str) -> Any:
        """Return a setting, None if it is "auto" or missing."""
        value = self._settings.get(name, _AUTO)
        return None if value == _AUTO else value

    def engine(self, module: nn.Module, optimizer: Optimizer, clip: float | None) -> Any:
        """Return a new DeepSpeedEngine, which partitions the state of `optimizer`.

        Args:
            module: The module to train; DeepSpeed broadcasts its weights from rank 0.
            optimizer: The optimizer, whose parameters DeepSpeed replaces by flat vectors.
            clip: The largest norm of the gradients, or None.
        """
        deepspeed = _import()
        # The user's settings come first, so that those of the fit replace them.
        config = _without_auto(self._settings) | {
            "train_batch_size": self.processes.world_size,
            "train_micro_batch_size_per_gpu": 1,  # DeepSpeed uses it only for counting
            "gradient_accumulation_steps": 1,  # ZeroSync sets the boundaries of windows
            "gradient_clipping": clip or 0.0,
            "zero_allow_untested_optimizer": True,
            # Otherwise DeepSpeed accepts only its own Adam if it offloads state to the CPU.
            "zero_force_ds_cpu_optimizer": False,
        }
        for precision in ("fp16", "bf16"):  # weights stay float32; autocast does the rest
            config.pop(precision, None)
        engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=config, dist_init_required=False
        )
        return engine


def _refuse_contradiction(name: str, setting: object, argument: str, value: float) -> None:
    """Raise an error if the configuration and an argument of a fit differ.

    Raises:
        ValueError: They differ; the message contains both values.
    """
    if setting is not None and setting != value:
        message = (
            f"DeepSpeed's configuration has {name}: {setting}, but the fit has {argument}={value}; "
            f"pass fit({argument}={setting}), or write 'auto' in the configuration"
        )
        raise ValueError(message)


def deepspeed_plugin(deepspeed: Any) -> DeepSpeedPlugin | None:
    """Return the plugin if an argument or accelerate's configuration requests DeepSpeed.

    It is None for ZeRO-0 too, which partitions nothing.
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


def check_deepspeed(deepspeed: object, fsdp: object) -> None:
    """Check the type of the argument `deepspeed`, and that only one of it and `fsdp` is set.

    Raises:
        TypeError: It is neither a flag, nor a configuration, nor a plugin, nor None.
        ValueError: FSDP is requested too.
    """
    is_known = deepspeed in (None, True, False) or isinstance(deepspeed, (Mapping, str, Path))
    if not is_known and not hasattr(deepspeed, "deepspeed_config"):
        message = (
            f"deepspeed is {deepspeed!r}; expected True, False, DeepSpeed's configuration or its "
            "file, an accelerate.DeepSpeedPlugin, or None for accelerate's configuration"
        )
        raise TypeError(message)
    if fsdp and deepspeed:
        message = "fsdp and deepspeed cannot be used together; pass one of them"
        raise ValueError(message)


@contextmanager
def unconfigured() -> Iterator[None]:
    """Hide accelerate's DeepSpeed configuration, so that `Accelerator()` does not set it up."""
    # `Accelerator()` reads this variable when it is created.
    value = os.environ.pop(ENVIRONMENT, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[ENVIRONMENT] = value


def _configured() -> bool:
    return os.environ.get(ENVIRONMENT, "false").lower() in ("true", "1")


def _import() -> Any:
    """Import DeepSpeed, without its log of the whole configuration.

    Raises:
        ImportError: DeepSpeed is not installed.
    """
    try:
        import deepspeed
    except ImportError as error:
        message = (
            "DeepSpeed is requested, but not installed; run pip install deepspeed, or pass "
            "KerasModel(..., fsdp=True)"
        )
        raise ImportError(message) from error
    # A level that the user has set stays.
    if deepspeed.utils.logger.level == logging.INFO:
        deepspeed.utils.logger.setLevel(logging.WARNING)
    # DeepSpeed calls collectives by names that torch has deprecated.
    warnings.filterwarnings("ignore", ".*(all_gather_into|reduce_scatter)_tensor", FutureWarning)
    return deepspeed


def _without_auto(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the settings without those that are "auto"."""
    return {
        name: _without_auto(value) if isinstance(value, Mapping) else deepcopy(value)
        for name, value in settings.items()
        if value != _AUTO
    }
