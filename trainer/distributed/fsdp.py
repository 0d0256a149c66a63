"""Shard a net over the processes, each of which keeps a part of every weight (FSDP2).

accelerate's plugin holds the options; `torch.distributed.fsdp.fully_shard` shards in place.
"""

from __future__ import annotations

import inspect
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from fitorch.errors import RankError
from fitorch.internals.torch import BatchNorm

from .dtensor import distribute_like, is_split, refuse_lazy

if TYPE_CHECKING:
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from torch.distributed.device_mesh import DeviceMesh

    from .processes import Processes

    Plugin: TypeAlias = FullyShardedDataParallelPlugin | Literal[True]


ENVIRONMENT = "ACCELERATE_USE_FSDP"  # set by accelerate launch if FSDP is configured

Moved = dict[nn.Parameter, nn.Parameter]  # the old parameters, with the new ones


class Sharding:
    """Shards nets over processes.

    Args:
        plugin: accelerate's `FullyShardedDataParallelPlugin`; True for one that wraps each repeated
            block, as the layers of a transformer, separately.
        accelerator: The accelerator of this process.
        processes: The processes that share the nets.

    Raises:
        RankError: The plugin requests FSDP1, or torch is too old.
        ValueError: The precision is fp16.
    """

    def __init__(self, plugin: Plugin, accelerator: Accelerator, processes: Processes) -> None:
        self._plugin: Plugin = plugin
        self._accelerator = accelerator
        self._processes = processes
        version = 2 if plugin is True else plugin.fsdp_version
        if version != 2:
            message = (
                f"FSDP {version} is requested, but fitorch shards nets with FSDP2; set "
                "fsdp_version: 2 in accelerate's configuration (FSDP_VERSION=2), or pass "
                "FullyShardedDataParallelPlugin(fsdp_version=2)"
            )
            raise RankError(message)
        if not can_shard():
            message = (
                f"torch {torch.__version__} cannot save sharded nets; install torch 2.13 or later"
            )
            raise RankError(message)
        if accelerator.mixed_precision == "fp16":
            message = "mixed_precision is 'fp16', which sharded nets do not support; use 'bf16'"
            raise ValueError(message)

    def shard(self, net: nn.Module) -> Moved:
        """Shard a net that is not sharded yet; all processes start with the weights of rank 0.

        Returns:
            The new parameter for each old one.

        Raises:
            RankError: The nets of the processes differ.
            ValueError: The net has lazy layers.
        """
        if is_sharded(net):
            return {}
        self._check(net)
        plugin = self._plugin_for(net)
        # Duplicates are included: tied weights have several names, which must all be found
        # afterwards.
        before = dict(net.named_parameters(remove_duplicate=False))
        if not plugin.cpu_ram_efficient_loading:  # which broadcasts the weights itself
            self._broadcast_weights(net)
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        # accelerate's function reads the plugin from its shared state.
        self._accelerator.state.fsdp_plugin = plugin
        fsdp2_prepare_model(self._accelerator, net)
        # FSDP2 shards parameters only; each process holds all buffers.
        for buffer in net.buffers():
            buffer.data = buffer.data.to(self._accelerator.device)
        after = dict(net.named_parameters(remove_duplicate=False))
        return {before[name]: parameter for name, parameter in after.items()}

    def _check(self, net: nn.Module) -> None:
        named: list[tuple[str, Any]] = [*net.named_parameters()]
        refuse_lazy(net, "a sharded net")
        forms = {name: (tuple(p.shape), p.dtype) for name, p in named}
        # All processes wait in this collective. Without it, different nets would wait for each
        # other in broadcasts.
        self._processes.require_equal({"weights of the net": len(forms), **forms})

    def _broadcast_weights(self, net: nn.Module) -> None:
        """Broadcast parameters and buffers from rank 0, one after the other to save memory."""
        device = self._accelerator.device
        with torch.no_grad():
            for tensor in (*net.parameters(), *net.buffers()):
                placed = tensor.data.to(device)
                # The processes wait for rank 0, once per tensor.
                torch.distributed.broadcast(placed, 0)
                tensor.data.copy_(placed)

    def _plugin_for(self, net: nn.Module) -> FullyShardedDataParallelPlugin:
        """Return the plugin; if none was passed, a new one for this net."""
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


def fsdp_plugin(fsdp: Any, accelerator: Accelerator) -> Plugin | None:
    """Return the plugin or True if an argument or accelerate's configuration requests FSDP."""
    if fsdp is not None:
        return fsdp or None
    if os.environ.get(ENVIRONMENT, "false").lower() not in ("true", "1"):
        return None
    plugin = getattr(accelerator.state, "fsdp_plugin", None)  # accelerate sets it only on GPUs
    if plugin is None:
        from accelerate.utils import FullyShardedDataParallelPlugin

        plugin = FullyShardedDataParallelPlugin()
    return plugin


def check_fsdp(fsdp: object) -> None:
    """Check the type of the argument `fsdp`.

    Raises:
        TypeError: It is neither a flag, nor a plugin, nor None.
    """
    if fsdp in (None, True, False) or hasattr(fsdp, "fsdp_version"):
        return
    message = (
        f"fsdp is {fsdp!r}; expected True, False, an accelerate.FullyShardedDataParallelPlugin, or "
        "None for accelerate's configuration"
    )
    raise TypeError(message)


def is_sharded(net: nn.Module) -> bool:
    """Return whether a net is sharded over processes."""
    return any(map(is_split, net.parameters()))


def can_shard() -> bool:
    """Return whether torch provides FSDP2, and can save safetensors from several processes."""
    from torch.distributed import checkpoint, fsdp

    writer = getattr(checkpoint, "HuggingFaceStorageWriter", None)
    stores = writer is not None and "save_distributed" in inspect.signature(writer).parameters
    return stores and hasattr(fsdp, "fully_shard")


def mesh_of(net: nn.Module) -> DeviceMesh | None:
    """Return torch's DeviceMesh of a sharded net, None if the net is not sharded."""
    sharded: Any = next(filter(is_split, net.parameters()), None)
    return None if sharded is None else sharded.device_mesh


def release_gathered(net: nn.Module) -> None:
    """Release gathered weights, which FSDP2 keeps after a forward pass without a backward pass."""
    for module in net.modules():
        reshard = getattr(module, "reshard", None)
        if reshard is not None and hasattr(module, "set_requires_gradient_sync"):
            reshard()


def follow(optimizer: Optimizer | None, moved: Moved) -> None:
    """Replace the parameters of an optimizer by the sharded ones, and shard its state alike."""
    if optimizer is None or not moved:
        return
    # The groups are changed in place, because schedulers and callbacks hold them.
    for group in optimizer.param_groups:
        group["params"] = [moved.get(parameter, parameter) for parameter in group["params"]]
    for old, new in moved.items():
        if old in optimizer.state:
            state = optimizer.state.pop(old)
            optimizer.state[new] = {name: _shard(value, new) for name, value in state.items()}


def _shard(value: object, parameter: nn.Parameter) -> object:
    same = isinstance(value, torch.Tensor) and value.shape == parameter.shape
    return distribute_like(value, parameter) if same else value


def _blocks(net: nn.Module) -> list[str]:
    """Return the classes of the repeated blocks of a net, as the layers of a transformer."""
    declared = getattr(net, "_no_split_modules", None)  # nets of Hugging Face
    if declared:
        return list(declared)
    counts: Counter[str] = Counter()
    for module in net.modules():
        for block in module if isinstance(module, (nn.ModuleList, nn.Sequential)) else ():
            # A single layer, as a Linear in a Sequential, is not a block; its children have no
            # parameters.
            if any(any(True for _ in part.parameters()) for part in block.children()):
                counts[type(block).__name__] += 1
    return [name for name, count in counts.items() if count > 1]
