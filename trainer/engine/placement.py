"""Device, precision and processes of a fit, chosen once by accelerate."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fitorch.deepspeed.settings import Zero, deepspeed_plugin, unconfigured
from fitorch.distributed.failures import TIMEOUT
from fitorch.distributed.fsdp import Moved, Sharding, fsdp_plugin
from fitorch.distributed.processes import Processes, check_launch, leave_at_exit
from fitorch.distributed.rendezvous import init_method
from fitorch.internals.accelerate import forget_settings
from fitorch.nets.memory_format import in_channels_last, lay_out
from fitorch.nets.precision import Net, in_precision

if TYPE_CHECKING:
    from accelerate import Accelerator


_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

_settings: tuple[str | None, bool] | None = None  # of the last Accelerator created here


class Placement:
    """The device, the precision and the processes, chosen by accelerate.

    The training loop does not use accelerate's wrappers: they would add nothing to it.

    Args:
        mixed_precision: "no", "fp16" or "bf16"; None for accelerate's configuration.
        cpu: Use the CPU even if there is an accelerator.
        channels_last: Keep images, and weights of convolutions, in channels-last memory.
        fsdp: Whether to shard nets over the processes; see `KerasModel`.
        deepspeed: Whether DeepSpeed shards gradients and optimizer state; see `KerasModel`.

    Attributes:
        processes: The processes that train together. If torchrun or accelerate launched several,
            they connect when a `Placement` is created.
        sharding: Shards nets over the processes; None if each process holds the whole net.
        zero: DeepSpeed's ZeRO, which shards gradients and optimizer state; None if it is not used.

    Raises:
        ValueError: The precision is unknown or does not work with a sharded net or DeepSpeed, or
            DeepSpeed's configuration contradicts the fit.
        RankError: Several processes were requested, but this is the only one.
    """

    def __init__(
        self,
        mixed_precision: str | None = None,
        cpu: bool = False,
        *,
        channels_last: bool = False,
        fsdp: Any = None,
        deepspeed: Any = None,
    ) -> None:
        self.channels_last = channels_last
        self.accelerator = _accelerator(mixed_precision, cpu)
        self.device: torch.device = self.accelerator.device
        self.dtype = _DTYPES.get(self.accelerator.mixed_precision)
        self.scaler: torch.amp.GradScaler | None = self.accelerator.scaler
        if self.dtype is torch.float16 and self.scaler is None:  # accelerate makes none for CPUs
            self.scaler = torch.amp.GradScaler(self.device.type)
        self.processes = Processes()
        plugin = fsdp_plugin(fsdp, self.accelerator) if self.processes.is_distributed else None
        self.sharding: Sharding | None = None
        if plugin is not None:
            self.sharding = Sharding(plugin, self.accelerator, self.processes)
        self.zero: Zero | None = None
        # FSDP shards the optimizer's state as well, so DeepSpeed has nothing left to shard.
        may_use_zero = self.processes.is_distributed and self.sharding is None
        zero_plugin = deepspeed_plugin(deepspeed) if may_use_zero else None
        if zero_plugin is not None:
            self.zero = Zero(zero_plugin, self.accelerator.mixed_precision, self.processes)

    def __str__(self) -> str:
        name = "cpu" if self.device.type == "cpu" else str(self.device)
        if self.device.type == "cuda":
            name = f"{name} ({torch.cuda.get_device_name(self.device)})"
        name = name if self.dtype is None else f"{name} in {self.accelerator.mixed_precision}"
        if not self.processes.is_distributed:
            return name
        if self.zero is not None:
            return f"{name}, {self.zero}"
        sharded = "sharded over " if self.sharding is not None else ""
        return f"{name}, {sharded}{self.processes.world_size} processes"

    def cast(self, net: Net) -> Net:
        """Return a call of `net` in the chosen precision and memory layout; it returns float32."""
        call = in_precision(net, self.device, self.dtype)
        return in_channels_last(call) if self.channels_last else call

    def place(self, net: nn.Module) -> Moved:
        """Move the net to the device in place, or shard it over the processes.

        Returns:
            The new parameter for each old one if the net was sharded now, else an empty dict: the
            parameters are the same objects.

        Raises:
            ValueError: The net lies on several devices, or has no weights (meta device).
        """
        devices = {tensor.device for tensor in (*net.parameters(), *net.buffers())}
        if len(devices) > 1:
            listed = ", ".join(sorted(str(device) for device in devices))
            message = f"the net lies on several devices ({listed}); move it to one: net.to('cpu')"
            raise ValueError(message)
        if devices == {torch.device("meta")}:
            message = "the net lies on the meta device, without weights; build it on 'cpu'"
            raise ValueError(message)
        # This happens before the optimizer creates its state, which takes the memory layout of the
        # weights.
        if self.channels_last:
            lay_out(net)
        if self.sharding is not None:
            return self.sharding.shard(net)
        if self.zero is not None:
            self.zero.check_net(net)
        net.to(self.device)
        return {}


def _accelerator(mixed_precision: str | None, cpu: bool) -> Accelerator:
    """Create an Accelerator, even if an earlier one was created with other settings."""
    check_launch()
    is_distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    xpu = getattr(torch, "xpu", None)
    has_device = torch.cuda.is_available() or (xpu is not None and xpu.is_available())
    # Without cpu=True on a machine without accelerators, accelerate would not connect the
    # processes of torchrun, and each would train alone.
    cpu = cpu or (is_distributed and not has_device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's, in notebooks
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

    global _settings  # accelerate keeps its settings for the whole process
    if _settings != (mixed_precision, cpu):
        forget_settings()
    _settings = (mixed_precision, cpu)
    with unconfigured():
        if not is_distributed:
            return Accelerator(mixed_precision=mixed_precision, cpu=cpu)
        group_options = InitProcessGroupKwargs(timeout=TIMEOUT, init_method=init_method())
        accelerator = Accelerator(
            mixed_precision=mixed_precision, cpu=cpu, kwargs_handlers=[group_options]
        )
    leave_at_exit()
    return accelerator
