"""Where training runs: accelerate decides device, precision and processes, once per fit."""

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
from fitorch.distributed.rendezvous import meeting_point
from fitorch.internals.accelerate import forget_settings
from fitorch.nets.memory_format import in_channels_last, lay_out
from fitorch.nets.precision import Net, in_precision

if TYPE_CHECKING:
    from accelerate import Accelerator


_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

_settings: tuple[str | None, bool] | None = None  # of the last Accelerator that was made here


class Placement:
    """A device and a precision, chosen by accelerate.

    Where accelerate's wrappers add nothing (one process, no gradient scaler) they stay out of the
    training loop.

    Args:
        mixed_precision: "no", "fp16" or "bf16"; None for what accelerate is configured to.
        cpu: Stay on the CPU even where there is an accelerator.
        channels_last: Keep images, and weights of convolutions, in channels-last memory.
        fsdp: Whether to spread nets over the processes; see `KerasModel`.
        deepspeed: Whether DeepSpeed spreads what training needs over them; see `KerasModel`.

    Attributes:
        processes: Those that were launched together; where torchrun or accelerate launched several,
            they meet here.
        sharding: How nets are spread over them; None where each has the whole net.
        zero: How DeepSpeed spreads gradients and the optimizer's state; None where it does not.

    Raises:
        ValueError: The precision is unknown, or can't be had with a sharded net or DeepSpeed; or
            DeepSpeed's configuration can't be followed.
        RankError: Several processes were launched, but this is the only one.
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
        self.scaler: Any = self.accelerator.scaler
        if self.dtype is torch.float16 and self.scaler is None:  # accelerate has none for CPUs
            self.scaler = torch.amp.GradScaler(self.device.type)
        self.processes = Processes()
        plugin = fsdp_plugin(fsdp, self.accelerator) if self.processes.is_distributed else None
        self.sharding: Sharding | None = None
        if plugin is not None:
            self.sharding = Sharding(plugin, self.accelerator, self.processes)
        self.zero: Zero | None = None
        spreads = self.processes.is_distributed and self.sharding is None
        spreading = deepspeed_plugin(deepspeed) if spreads else None
        if spreading is not None:
            self.zero = Zero(spreading, self.accelerator.mixed_precision, self.processes)

    def __str__(self) -> str:
        name = "cpu" if self.device.type == "cpu" else str(self.device)
        if self.device.type == "cuda":
            name = f"{name} ({torch.cuda.get_device_name(self.device)})"
        name = name if self.dtype is None else f"{name} in {self.accelerator.mixed_precision}"
        if not self.processes.is_distributed:
            return name
        if self.zero is not None:
            return f"{name}, {self.zero}"
        spread = "sharded over " if self.sharding is not None else ""
        return f"{name}, {spread}{self.processes.world_size} processes"

    def cast(self, net: Net) -> Net:
        """Return `net` run in the chosen precision and memory layout, its outputs in float32."""
        call = in_precision(net, self.device, self.dtype)
        return in_channels_last(call) if self.channels_last else call

    def place(self, net: nn.Module) -> Moved:
        """Move the net to the device, its parameters staying the objects they are; or spread it.

        Returns:
            What became of each parameter, where the net was spread over processes.

        Raises:
            ValueError: The net is spread over several devices, or has no weights (meta device).
        """
        devices = {tensor.device for tensor in (*net.parameters(), *net.buffers())}
        if len(devices) > 1:
            listed = ", ".join(sorted(str(device) for device in devices))
            message = f"the net lies on several devices ({listed}); move it to one: net.to('cpu')"
            raise ValueError(message)
        if devices == {torch.device("meta")}:
            message = "the net lies on the meta device, without weights; build it on 'cpu'"
            raise ValueError(message)
        if self.channels_last:
            lay_out(net)
        if self.sharding is not None:
            return self.sharding.spread(net)
        if self.zero is not None:
            self.zero.check_net(net)
        net.to(self.device)
        return {}


def _accelerator(mixed_precision: str | None, cpu: bool) -> Accelerator:
    """Make an Accelerator, also where an earlier one was made with other settings.

    Where there are only CPUs, accelerate must be told, or processes of torchrun train each alone.
    """
    check_launch()
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    xpu = getattr(torch, "xpu", None)
    found = torch.cuda.is_available() or (xpu is not None and xpu.is_available())
    cpu = cpu or (several and not found)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's, in notebooks
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

    global _settings  # accelerate keeps its settings for the whole process; so must we
    if _settings != (mixed_precision, cpu):
        forget_settings()
    _settings = (mixed_precision, cpu)
    with unconfigured():
        if not several:
            return Accelerator(mixed_precision=mixed_precision, cpu=cpu)
        meeting: list[Any] = [InitProcessGroupKwargs(timeout=TIMEOUT, init_method=meeting_point())]
        accelerator = Accelerator(mixed_precision=mixed_precision, cpu=cpu, kwargs_handlers=meeting)
    leave_at_exit()
    return accelerator
