"""A net that is spread over the processes, each of which keeps a part of every weight (FSDP2).

accelerate's plugin says how; `torch.distributed.fsdp.fully_shard` does it, in place.
"""

from __future__ import annotations

import inspect
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from fitorch.errors import RankError
from fitorch.internals.torch import BatchNorm

from .dtensor import distribute_like, is_split, refuse_lazy

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .processes import Processes


ENVIRONMENT = "ACCELERATE_USE_FSDP"  # what accelerate launch sets where it is configured so

Moved = dict[nn.Parameter, nn.Parameter]  # what became of each parameter


class Sharding:
    """How nets are spread over processes.

    Args:
        plugin: accelerate's `FullyShardedDataParallelPlugin`; True for one that gives each block
            that comes several times, as the layers of a transformer, messages of its own.
        accelerator: What placed this process.
        processes: Those that share the nets.

    Raises:
        RankError: The plugin asks for FSDP1, or torch is too old.
        ValueError: fp16 is asked for.
    """

    def __init__(self, plugin: Any, accelerator: Accelerator, processes: Processes) -> None:
        self._plugin = plugin
        self._accelerator = accelerator
        self._processes = processes
        version = 2 if plugin is True else plugin.fsdp_version
        if version != 2:
            message = (
                f"FSDP {version} is asked for, but fitorch shards nets with FSDP2; set "
                "fsdp_version: 2 in accelerate's configuration (FSDP_VERSION=2), or pass "
                "FullyShardedDataParallelPlugin(fsdp_version=2)"
            )
            raise RankError(message)
        if not can_shard():
            message = (
                f"torch {torch.__version__} can't shard a net so that it can be stored; 2.13 can"
            )
            raise RankError(message)
        if accelerator.mixed_precision == "fp16":
            message = "mixed_precision is 'fp16', which a sharded net can't have; use 'bf16'"
            raise ValueError(message)

    def spread(self, net: nn.Module) -> Moved:
        """Spread a net, unless it is; every process begins with the main one's weights.

        Returns:
            What became of each parameter.

        Raises:
            RankError: The nets of the processes differ.
            ValueError: The net has lazy layers.
        """
        if is_sharded(net):
            return {}
        self._check(net)
        plugin = self._made(net)
        before = dict(net.named_parameters(remove_duplicate=False))
        if not plugin.cpu_ram_efficient_loading:
            self._agree(net)
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        self._accelerator.state.fsdp_plugin = plugin
        fsdp2_prepare_model(self._accelerator, net)
        for buffer in net.buffers():
            buffer.data = buffer.data.to(self._accelerator.device)
        after = dict(net.named_parameters(remove_duplicate=False))
        return {before[name]: parameter for name, parameter in after.items()}

    def _check(self, net: nn.Module) -> None:
        named: list[tuple[str, Any]] = [*net.named_parameters()]
        refuse_lazy(net, "a sharded net")
        forms = {name: (tuple(p.shape), p.dtype) for name, p in named}
        self._processes.require_equal({"weights of the net": len(forms), **forms})

    def _agree(self, net: nn.Module) -> None:
        """Give parameters and buffers the main process' values, one after the other."""
        device = self._accelerator.device
        with torch.no_grad():
            for tensor in (*net.parameters(), *net.buffers()):
                placed = tensor.data.to(device)
                torch.distributed.broadcast(placed, 0)
                tensor.data.copy_(placed)

    def _made(self, net: nn.Module) -> Any:
        """Return the plugin, made for this net where none was given."""
        from accelerate.utils import FullyShardedDataParallelPlugin

        plugin = self._plugin
        if plugin is True:
            blocks = _blocks(net)
            policy = "transformer_based_wrap" if blocks else "no_wrap"
            plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2, auto_wrap_policy=policy, transformer_cls_names_to_wrap=blocks
            )
        precision = self._accelerator.mixed_precision
        if any(isinstance(module, BatchNorm) for module in net.modules()):
            plugin.mixed_precision_policy = None  # autocast alone: its statistics stay in float32
        elif precision != "no" and plugin.mixed_precision_policy is None:
            plugin.set_mixed_precision(precision)
        return plugin


def fsdp_plugin(fsdp: Any, accelerator: Accelerator) -> Any:
    """Return what asks for a sharded net: an argument, or accelerate's configuration; or None."""
    if fsdp is not None:
        return fsdp or None
    if os.environ.get(ENVIRONMENT, "false").lower() not in ("true", "1"):
        return None
    found = getattr(accelerator.state, "fsdp_plugin", None)  # which it has on GPUs alone
    if found is None:
        from accelerate.utils import FullyShardedDataParallelPlugin

        found = FullyShardedDataParallelPlugin()
    return found


def check_fsdp(fsdp: Any) -> None:
    """Refuse what says nothing about sharding.

    Raises:
        TypeError: It tells what was expected.
    """
    if fsdp in (None, True, False) or hasattr(fsdp, "fsdp_version"):
        return
    message = (
        f"fsdp is {fsdp!r}; expected True, False, an accelerate.FullyShardedDataParallelPlugin, or "
        "None for what accelerate is configured to"
    )
    raise TypeError(message)


def is_sharded(net: nn.Module) -> bool:
    """Say whether a net is spread over processes."""
    return any(map(is_split, net.parameters()))


def can_shard() -> bool:
    """Say whether torch has what it takes: FSDP2, and safetensors of many processes."""
    from torch.distributed import checkpoint, fsdp

    writer = getattr(checkpoint, "HuggingFaceStorageWriter", None)
    stores = writer is not None and "save_distributed" in inspect.signature(writer).parameters
    return stores and hasattr(fsdp, "fully_shard")


def mesh_of(net: nn.Module) -> Any:
    """Return the processes that a net is spread over, torch's DeviceMesh; None where it is not."""
    split: Any = next(filter(is_split, net.parameters()), None)
    return None if split is None else split.device_mesh


def let_go(net: nn.Module) -> None:
    """Have a net keep its own part alone, as it does not after a forward without a backward."""
    for module in net.modules():
        reshard = getattr(module, "reshard", None)
        if reshard is not None and hasattr(module, "set_requires_gradient_sync"):
            reshard()


def follow(optimizer: Optimizer | None, moved: Moved) -> None:
    """Have an optimizer train what became of its parameters, its state split as they are."""
    if optimizer is None or not moved:
        return
    for group in optimizer.param_groups:
        group["params"] = [moved.get(parameter, parameter) for parameter in group["params"]]
    for before, now in moved.items():
        if before in optimizer.state:
            state = optimizer.state.pop(before)
            split = {name: _split(value, now) for name, value in state.items()}
            optimizer.state[now] = split


def _split(value: Any, parameter: nn.Parameter) -> Any:
    same = isinstance(value, torch.Tensor) and value.shape == parameter.shape
    return distribute_like(value, parameter) if same else value


def _blocks(net: nn.Module) -> list[str]:
    """Return the classes of the blocks of a net: what comes several times, in a list of modules."""
    named = getattr(net, "_no_split_modules", None)  # Hugging Face's nets say so themselves
    if named:
        return list(named)
    kinds: Counter[str] = Counter()
    for module in net.modules():
        for block in module if isinstance(module, (nn.ModuleList, nn.Sequential)) else ():
            if any(any(True for _ in part.parameters()) for part in block.children()):
                kinds[type(block).__name__] += 1
    return [kind for kind, count in kinds.items() if count > 1]
