"""Device, precision and processes of a fit, chosen once by accelerate."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn

from fitorch.deepspeed.settings import Zero, deepspeed_plugin, unconfigured
from fitorch.devices.accelerators import (
    HOST,
    accelerator_type,
    accelerators,
    default_device,
    described,
    is_host,
    make_current,
    with_index,
)
from fitorch.devices.capabilities import group_backend
from fitorch.devices.modules import move_module
from fitorch.distributed.failures import TIMEOUT
from fitorch.distributed.fsdp import Moved, Sharding, fsdp_plugin
from fitorch.distributed.processes import Processes, check_launch, leave_at_exit
from fitorch.distributed.rendezvous import init_method
from fitorch.internals.accelerate import forget_settings
from fitorch.nets.memory_format import in_channels_last, lay_out
from fitorch.nets.precision import Net, in_precision

if TYPE_CHECKING:
    from accelerate import Accelerator

    from fitorch.data.sources import Source


_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

_DEVICE = "ACCELERATE_TORCH_DEVICE"  # the variable that names a device for accelerate

_USE_CPU = "ACCELERATE_USE_CPU"

_settings: tuple[str | None, torch.device | None] | None = None  # of the last Accelerator


class Placement:
    """The device, the precision and the processes, chosen by accelerate.

    The training loop does not use accelerate's wrappers: they would add nothing to it.

    Args:
        mixed_precision: "no", "fp16" or "bf16"; None for accelerate's configuration.
        device: The device; None lets accelerate choose. With several processes, only its type
            counts: the launcher numbers the processes, and each has a device of its own.
        data_on_device: Keep data in memory on the device if there is room.
        channels_last: Keep images, and weights of convolutions, in channels-last memory.
        fsdp: Whether to shard nets over the processes; see `KerasModel`.
        deepspeed: Whether DeepSpeed shards gradients and optimizer state; see `KerasModel`.

    Attributes:
        processes: The processes that train together. If torchrun or accelerate launched several,
            they connect when a `Placement` is created.
        sharding: Shards nets over the processes; None if each process holds the whole net.
        mixed_precision: "no", "fp16" or "bf16".
        zero: DeepSpeed's ZeRO, which shards gradients and optimizer state; None if it is not used.

    Raises:
        ValueError: The precision is unknown or does not work with a sharded net or DeepSpeed, or
            DeepSpeed's configuration contradicts the fit.
        RankError: Several processes were requested, but this is the only one.
    """

    def __init__(
        self,
        mixed_precision: str | None = None,
        device: torch.device | None = None,
        *,
        channels_last: bool = False,
        data_on_device: bool = True,
        fsdp: Any = None,
        deepspeed: Any = None,
    ) -> None:
        self.channels_last, self.data_on_device = channels_last, data_on_device
        self.accelerator, self.mixed_precision = _accelerator(mixed_precision, device)
        self.device: torch.device = with_index(self.accelerator.device)
        self.dtype = _DTYPES.get(self.mixed_precision)
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
            self.zero = Zero(zero_plugin, self.mixed_precision, self.processes)

    def __str__(self) -> str:
        name = described(self.device)
        name = name if self.dtype is None else f"{name} in {self.mixed_precision}"
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

    def send(self, source: Source) -> Source:
        """Let a source yield its batches on the device; return the source."""
        return source.to(self.device, resident=self.data_on_device)

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
        move_module(net, self.device)
        return {}


def device_for(device: torch.device | None) -> torch.device:
    """Return the device that a fit will use: the chosen one, or what accelerate would choose."""
    named = os.environ.get(_DEVICE)
    if device is None and named is not None:
        device = torch.device(named)
    return default_device() if device is None else with_index(device)


def _accelerator(
    mixed_precision: str | None, device: torch.device | None
) -> tuple[Accelerator, str]:
    """Create an Accelerator, even if an earlier one was created with other settings.

    Returns:
        The Accelerator, and the precision, which it refuses on devices that it does not know.
    """
    check_launch()
    if device is None and os.environ.get(_USE_CPU, "false").lower() in ("true", "1"):
        device = HOST  # by accelerate launch --cpu, or its configuration
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        device = _device_of_process(device)
        make_current(device)
        _join_group(device)
    global _settings  # accelerate keeps its settings for the whole process
    if _settings != (mixed_precision, device):
        forget_settings()
    _settings = (mixed_precision, device)
    try:
        made = _created(mixed_precision, device)
        precision: str = made.mixed_precision  # gone with the settings
    except ValueError:
        # It refuses fp16 on devices that it does not know.
        if mixed_precision != "fp16" or device is None or is_host(device):
            raise
        forget_settings()
        made, precision = _created("no", device), "fp16"
    wanted = default_device() if device is None and _DEVICE not in os.environ else device
    if wanted is not None and wanted.type != made.device.type:
        # accelerate does not know the accelerators of all packages that add some to torch.
        forget_settings()
        return _created("no", wanted, known=False), precision
    return made, precision


def _created(
    mixed_precision: str | None, device: torch.device | None, *, known: bool = True
) -> Accelerator:
    """Create an Accelerator.

    Args:
        mixed_precision: See `Placement`.
        device: The device, or None.
        known: Whether accelerate knows devices of this type.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's, in notebooks
        from accelerate import Accelerator
    is_distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    # Without cpu=True, accelerate does not connect processes on CPUs, nor on devices that it does
    # not know, and each would train alone.
    cpu = device is not None and (is_host(device) or (is_distributed and not known))
    # Processes on devices that it knows get theirs by their number.
    named = device is not None and not is_host(device) and not (is_distributed and known)
    with unconfigured(), _variable(_DEVICE, str(device) if named else None):
        return Accelerator(mixed_precision=mixed_precision, cpu=cpu)


def _device_of_process(device: torch.device | None) -> torch.device:
    """Return the device of this process, which is one of several."""
    kind = accelerator_type() if device is None else device.type
    if kind is None or kind == HOST.type:
        return HOST
    number = int(os.environ.get("LOCAL_RANK", "0")) % len(accelerators())
    return torch.device(kind, number)


def _join_group(device: torch.device) -> None:
    """Connect the processes, with a backend for the device and one for messages of the host."""
    if distributed.is_initialized():
        return
    distributed.init_process_group(
        group_backend(device), init_method=init_method(), timeout=TIMEOUT
    )
    leave_at_exit()


@contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    """Set a variable of the environment, unless the value is None, until the block ends."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before
        elif value is not None:
            del os.environ[name]
