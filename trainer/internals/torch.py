"""Private names of torch, each with the reason for it and the public way if a release drops it.

`missing()` lists the names that the installed release does not have. A test fails for each of them,
by its name, before a user's run does.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, distributed, nn, optim
from torch.autograd import profiler
from torch.autograd.graph import Node
from torch.nn.modules import batchnorm
from torch.utils.data import ChainDataset, DataLoader, TensorDataset

from .torchdata import has_loaded, stateful_loader_class

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

    BatchNorm: TypeAlias = _BatchNorm
    NormBase: TypeAlias = _NormBase
else:
    # The common bases of batch norms, and of all norms with running statistics: users' subclasses
    # of torch's norms are found as well.
    _PUBLIC_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    BatchNorm = getattr(batchnorm, "_BatchNorm", _PUBLIC_NORMS)
    NormBase = getattr(
        batchnorm,
        "_NormBase",
        (*_PUBLIC_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    )


# One kernel for a list of tensors. The public way is a loop, which costs a call for each tensor.


def _foreach(name: str) -> Callable[..., Any]:
    operation = getattr(torch, f"_foreach_{name}", None)
    return _foreach_loop(name) if operation is None else operation


def _foreach_loop(name: str) -> Callable[..., list[Tensor]]:
    """Return the operation on a list of tensors as a loop of the public one."""

    def loop(tensors: Sequence[Tensor], *args: Any, **options: Any) -> list[Tensor]:
        columns = [arg if isinstance(arg, (list, tuple)) else repeat(arg) for arg in args]
        return [
            _one_norm(tensor, *row) if name == "norm" else getattr(tensor, name)(*row, **options)
            for tensor, *row in zip(tensors, *columns, strict=False)
        ]

    return loop


def _one_norm(tensor: Tensor, order: float, dtype: torch.dtype | None = None) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor, order, dtype=dtype)
    return norm


_FOREACH = ("add", "add_", "copy_", "div_", "lerp_", "mul", "norm", "sign")
foreach_add, foreach_add_, foreach_copy_, foreach_div_ = map(_foreach, _FOREACH[:4])
foreach_lerp_, foreach_mul, foreach_norm, foreach_sign = map(_foreach, _FOREACH[4:])


class FiniteCheck:
    """Checks whether all elements of some tensors in host memory are finite.

    The kernel of torch's gradient scaler reads all tensors in one call; it multiplies them by 1,
    which changes no bit. Sparse and complex tensors, which it refuses, are checked one by one, the
    public way.
    """

    def __init__(self) -> None:
        self._kernel: Any = getattr(torch, _UNSCALE, None)
        host = torch.device("cpu")  # whatever the default device is
        self._found, self._one = torch.zeros((), device=host), torch.ones((), device=host)

    def __call__(self, tensors: list[Tensor]) -> bool:
        """Return whether no element is NaN or infinite."""
        try:
            self._kernel(tensors, self._found, self._one)
        except (RuntimeError, NotImplementedError, TypeError):  # the last one without a kernel
            self._kernel = None
            return all(map(_is_finite, tensors))
        if not self._found.item():
            return True
        self._found.zero_()
        return False


_UNSCALE = "_amp_foreach_non_finite_check_and_unscale_"


def _is_finite(tensor: Tensor) -> bool:
    values = tensor if tensor.layout is torch.strided else tensor.coalesce().values()
    return bool(values.isfinite().all())


optimizers: Any = sys.modules[optim.Optimizer.__module__]  # torch.optim hides it
_STEP_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_GLOBAL_HOOKS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")


def bare_step(optimizer: optim.Optimizer) -> Callable[[], Any]:
    """Return `optimizer.step` without what torch wraps around it, which costs as much as the step.

    The wrappers serve hooks, profilers and torch.compile: once there is a hook or a profiler, the
    step is called with them. Optimizers that are not torch's own keep their `step`, and so do all
    if a release of torch keeps its hooks elsewhere.
    """
    kind: Any = type(optimizer)
    instance_step: Any = vars(optimizer).get("step")  # a schedule's, which counts the calls
    plain = instance_step is None or hasattr(instance_step, "_wrapped_by_lr_sched")
    of_torch = kind.__module__.startswith("torch.optim.")
    wrapped = hasattr(kind.step, "__wrapped__") and not optimizer.defaults.get("differentiable")
    known = all(hasattr(optimizer, name) for name in _STEP_HOOKS) and not _missing_globals()
    if not (plain and of_torch and wrapped and known):
        return optimizer.step
    # The decorator of torch's step also disables gradients; here `no_grad` does that.
    step: Any = torch.no_grad()(inspect.unwrap(kind.step))
    hooked: Any = optimizer
    before_all, after_all = (getattr(optimizers, name) for name in _GLOBAL_HOOKS)
    mark_stepped(optimizer)

    # Each call looks at them, because hooks and profilers may come at any time.
    def bare() -> None:
        if (
            hooked._optimizer_step_pre_hooks
            or hooked._optimizer_step_post_hooks
            or before_all
            or after_all
            or profiler._is_profiler_enabled
        ):
            optimizer.step()
        else:
            step(optimizer)

    return bare


def _missing_globals() -> list[str]:
    gone = [name for name in _GLOBAL_HOOKS if not hasattr(optimizers, name)]
    return gone if hasattr(profiler, "_is_profiler_enabled") else [*gone, "_is_profiler_enabled"]


def release_group(ddp: nn.parallel.DistributedDataParallel) -> None:
    """Let a DDP module, which cannot be used any more, release its group of processes.

    An error that was raised in its forward pass keeps the module alive in its traceback.
    """
    for name in ("logger", "reducer", "process_group"):
        if hasattr(ddp, name):
            delattr(ddp, name)


def scale_of(scaler: torch.amp.GradScaler) -> float | Tensor:
    """Return the scale of a gradient scaler, on its device: `get_scale()` waits for it."""
    scale: Tensor | None = getattr(scaler, _SCALE, None)
    return scaler.get_scale() if scale is None else scale


def skips_by_itself(optimizer: optim.Optimizer) -> bool:
    """Return whether an optimizer's step gets the scale, and skips the update on the device.

    If a release of torch keeps the mark elsewhere, the step is called only if there is an update.
    """
    return bool(getattr(optimizer, _SKIPS, False))


def hook_step(optimizer: optim.Optimizer, function: Callable[..., Any]) -> Any:
    """Call a function after each step of an optimizer; return its handle.

    Returns None if its step does not call hooks, as a step that replaces torch's does not.
    """
    hooked = hasattr(optimizer.step, _HOOKED)  # also what a schedule has wrapped around it
    return optimizer.register_step_post_hook(function) if hooked else None


def has_step_hooks(optimizer: optim.Optimizer) -> bool:
    """Return whether hooks run around an optimizer's step; True if that is not known."""
    return any(bool(getattr(optimizer, name, True)) for name in _STEP_HOOKS)


def mark_stepped(optimizer: optim.Optimizer) -> None:
    """Keep schedules from warning that they step before an optimizer that was stepped elsewhere."""
    optimizer._opt_called = True  # type: ignore[attr-defined]


def has_gradient_hooks(parameter: nn.Parameter) -> bool:
    """Return whether hooks see a parameter's gradient; True if that is not known."""
    names = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return any(bool(getattr(parameter, name, True)) for name in names)


def check_input_dim(norm: nn.Module, features: Tensor) -> None:
    """Refuse features of another rank than a batch norm takes, as its own forward pass does."""
    check = getattr(norm, "_check_input_dim", None)
    if check is not None:
        check(features)


def non_persistent_buffers(module: nn.Module) -> set[str]:
    """Return the names of a module's own buffers that its state dict leaves out."""
    names = getattr(module, "_non_persistent_buffers_set", None)
    if names is None:
        own = {name for name, _ in module.named_buffers(recurse=False)}
        names = own - module.state_dict().keys()
    return set(names)


@contextmanager
def without_compiled_calls(net: nn.Module) -> Iterator[None]:
    """Call modules uncompiled that `module.compile()` has compiled: hooks would compile them anew.

    If a release keeps what it compiled elsewhere, the hooks cost a compilation.
    """
    calls = [(module, getattr(module, "_compiled_call_impl", None)) for module in net.modules()]
    for module, compiled in calls:
        if compiled is not None:
            module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, compiled in calls:
            if compiled is not None:
                module._compiled_call_impl = compiled


def original_module(net: object) -> nn.Module | None:
    """Return the module that torch.compile was given, None if it did not compile this one."""
    module: nn.Module | None = getattr(net, "_orig_mod", None)
    return module


def sequence_number(node: Node | None) -> int:
    """Return the number of a node of autograd's graph; later nodes have higher ones.

    Raises:
        RuntimeError: This release of torch does not number nodes.
    """
    number = getattr(node, "_sequence_nr", None)
    if number is None:
        message = (
            f"torch {torch.__version__} does not number the nodes of its graph, which counting a "
            "backward pass needs; pass backward=False"
        )
        raise RuntimeError(message)
    return int(number())


def default_store() -> Any:
    """Return the store in which the processes of the default group have met."""
    private = getattr(distributed.distributed_c10d, "_get_default_store", None)
    return _store_of_our_own() if private is None else private()


@cache
def _store_of_our_own() -> Any:
    """Return a store that the main process keeps; all processes must call this once."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined] # public, but untyped

    host, store = os.environ.get("MASTER_ADDR", "127.0.0.1"), None
    port: list[Any] = [0]
    if distributed.get_rank() == 0:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        port = [store.port]
    distributed.broadcast_object_list(port)
    return store or TCPStore(host, port[0], is_master=False)


_HOOKED = "hooked"
_SCALE, _SKIPS = "_scale", "_step_supports_amp_scaling"
_FUSED, _SHALLOW = "_get_fused_kernels_supported_devices", "_has_compatible_shallow_copy_type"
_OBJECTS = "_get_object_coll_device"  # torch 2.6


def version_of(tensor: Tensor) -> int:
    """Return a number that grows when torch changes a tensor in place; 0 if that is not known."""
    return int(getattr(tensor, "_version", 0))


def private_backend() -> str:
    """Return the name of the backend that a package has added to torch, as "npu"."""
    name = getattr(torch._C, "_get_privateuse1_backend_name", None)
    return "privateuseone" if name is None else str(name())


def fused_devices() -> Sequence[str]:
    """Return the types of devices on which torch's optimizers have fused kernels."""
    from torch.utils import _foreach_utils

    listed = getattr(_foreach_utils, _FUSED, None)
    names = ["cpu"] if listed is None else listed()
    return [private_backend() if name == "privateuseone" else name for name in names]


def keeps_parameters(home: torch.device, device: torch.device) -> bool:
    """Return whether `Module.to(device)` changes parameters on `home` in place.

    For the devices of some backends it replaces them, which an optimizer would not notice.
    """
    compatible = getattr(torch, _SHALLOW, None)
    if compatible is None:
        return True
    return bool(compatible(torch.empty(0, device=home), torch.empty(0, device=device)))


def object_device(device: torch.device) -> torch.device:
    """Return where messages of the default process group start: the CPU if its backends allow it.

    Args:
        device: The device in use, which is returned if the group knows devices only.
    """
    ask = getattr(distributed.distributed_c10d, _OBJECTS, None)  # torch 2.6
    if ask is None:
        named = distributed.get_backend()
        return device if named == "nccl" else torch.device("cpu")
    return torch.device("cpu") if ask() == "cpu" else device


def iterates_as_torch(loader: DataLoader[Any]) -> bool:
    """Return whether a subclass of DataLoader begins its passes as torch's own does.

    So does torchdata's StatefulDataLoader, unless it was given a state to begin with.
    """
    kind, names = type(loader), ("__iter__", "_get_iterator")
    base = stateful_loader_class(kind) or DataLoader
    own = all(getattr(kind, name, None) is getattr(base, name, None) for name in names)
    return own and not has_loaded(loader)


def fetcher_of(batches: object) -> Any:
    """Return what reads the samples of a loader's iterator in this process, None if there is none.

    Its `ended` says whether it has read the end of a stream with its last batch. Without the
    private names, the loader is asked for another batch after a resume.
    """
    return getattr(batches, "_dataset_fetcher", None)


def has_begun(loader: DataLoader[Any]) -> bool:
    """Return whether a loader with persistent workers has started them."""
    return loader.__dict__.get("_iterator") is not None


def workers_of(batches: object) -> Sequence[Any]:
    """Return the worker processes of a loader's iterator."""
    return getattr(batches, "_workers", ())


def shut_down_workers(batches: object) -> None:
    """End the workers of a loader's iterator; otherwise they end when it is collected."""
    shut_down = getattr(batches, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()


def worker_error(error: Exception) -> tuple[str, Exception | None]:
    """Return the number of the DataLoader worker that raised an error, and the error if it changed.

    torch raises a worker's error again in this process: with the same type if that takes a message
    as its only argument, otherwise as a RuntimeError. The number is "" for an error of this process
    or of a thread. If a release raises such errors elsewhere, only their text names the worker.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    wrapper = None if traceback is None else traceback.tb_frame.f_locals.get("self")
    utils: Any = sys.modules.get("torch._utils")
    kind: Any = getattr(utils, _WRAPPER, None)
    if wrapper is None or kind is None or not isinstance(wrapper, kind):
        return "", None
    number = re.search(r"worker process (\d+)", wrapper.where)
    same = isinstance(error, wrapper.exc_type)
    # The constructor takes unknown arguments, so it is not called.
    original = None if same else wrapper.exc_type.__new__(wrapper.exc_type, wrapper.exc_msg)
    return number[1] if number else "", original


_WRAPPER = "ExceptionWrapper"
_STATIC = "mark_static_address"


def can_trace_backward() -> bool:
    """Return whether torch.compile can trace a backward pass within a step."""
    from torch._dynamo import config

    return hasattr(config, "trace_autograd_ops")


def tracing_options(**options: Any) -> AbstractContextManager[Any]:
    """Return a context in which torch.compile traces with options of its own configuration."""
    from torch._dynamo import config

    patched: AbstractContextManager[Any] = config.patch(options)
    return patched


def keep_address(tensor: Tensor) -> None:
    """Tell torch.compile that a tensor stays where it is, so that compiled code may change it.

    Steps that change other inputs are not recorded as CUDA graphs.
    """
    import torch._dynamo

    mark = getattr(torch._dynamo, _STATIC, None)
    if mark is not None:
        mark(tensor, guard=False)


def compile_error() -> type[Exception]:
    """Return the base of what torch.compile raises if it cannot compile."""
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException


def missing() -> list[str]:
    """Return the private names above that the installed torch does not have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch, about itself
        import torch._dynamo.exc
        from torch._dynamo import config
        from torch.utils import _foreach_utils

        compiled = torch.compile(nn.Module())  # compiles nothing before its first call
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = optim.SGD([parameter])
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    assert scheduler is not None
    loader: DataLoader[Any] = DataLoader(TensorDataset(torch.zeros(1)))
    stream: DataLoader[Any] = DataLoader(ChainDataset([]))
    owners: list[tuple[Any, str, tuple[str, ...]]] = [
        (torch, "torch", (*(f"_foreach_{name}" for name in _FOREACH), _UNSCALE, _SHALLOW)),
        (sys.modules.get("torch._utils"), "torch._utils", (_WRAPPER,)),
        (torch._C, "torch._C", ("_get_privateuse1_backend_name",)),
        (_foreach_utils, "torch.utils._foreach_utils", (_FUSED,)),
        (batchnorm, "torch.nn.modules.batchnorm", ("_BatchNorm", "_NormBase")),
        (nn.BatchNorm1d, "BatchNorm1d", ("_check_input_dim",)),
        (optimizers, "torch.optim.optimizer", _GLOBAL_HOOKS),
        (optimizer, "Optimizer", _STEP_HOOKS),
        (optimizer.step, "a scheduled Optimizer.step", ("_wrapped_by_lr_sched",)),
        (optim.SGD.step, "SGD.step", (_HOOKED,)),
        (optim.SGD([parameter], fused=True), "a fused Optimizer", (_SKIPS,)),
        (torch.amp.GradScaler("cpu"), "GradScaler", (_SCALE,)),
        (profiler, "torch.autograd.profiler", ("_is_profiler_enabled",)),
        (parameter, "Parameter", ("_version", "_backward_hooks", "_post_accumulate_grad_hooks")),
        (compiled, "a compiled module", ("_orig_mod",)),
        (nn.Module(), "Module", ("_compiled_call_impl", "_non_persistent_buffers_set")),
        ((parameter * 1).grad_fn, "a node of the graph", ("_sequence_nr",)),
        (distributed.distributed_c10d, "distributed_c10d", ("_get_default_store", _OBJECTS)),
        (DataLoader, "DataLoader", ("_get_iterator",)),
        (loader, "a DataLoader", ("_iterator",)),
        (iter(stream), "a DataLoader's iterator", ("_dataset_fetcher",)),
        (iter(stream)._dataset_fetcher, "a DataLoader's fetcher", ("ended",)),  # type: ignore[attr-defined]
        (torch._dynamo.exc, "torch._dynamo.exc", ("TorchDynamoException",)),
        (torch._dynamo, "torch._dynamo", (_STATIC,)),
        (config, "torch._dynamo.config", ("trace_autograd_ops", "automatic_dynamic_shapes")),
    ]
    return [
        f"{place}.{name}"
        for owner, place, names in owners
        for name in names
        if not hasattr(owner, name)
    ]
