"""The settings of a fit and its machine, which a resumed fit is compared with."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import nn

from fitorch.metrics.base import flat
from fitorch.nets.state import plain_name, unwrapped
from fitorch.optim.schedulers import scheduler_name
from fitorch.optim.several import name_of
from fitorch.version import version_of

from .groups import group_counts

if TYPE_CHECKING:
    from fitorch.engine.run import Run


def fingerprint(run: Run) -> dict[str, dict[str, Any]]:
    """Return what the bits of a run depend on, besides data and weights.

    Returns:
        "run_settings": settings that must be equal to resume the run. "machine": facts that must be
        equal for the same bits.
    """
    return {"run_settings": _of_run(run), "machine": machine(run)}


def _of_run(run: Run) -> dict[str, Any]:
    update, source, arguments = run.state.update, run.iterator.source, run.arguments
    objective = run.state.objective
    # Other sources ignore batch_size and shuffle, so that a difference means nothing.
    ours = type(source).__name__ in ("DatasetSource", "MemorySource") and not source.order_owners
    return {
        "optimizer": name_of(update.optimizer),
        "parameters": _parameter_names(run),
        "groups": group_counts(update.optimizer),
        "lr_scheduler": scheduler_name(update.scheduler) or None,
        "scheduler_step": None if update.scheduler is None else update.scheduling.when,
        "samplers": [type(owner).__name__ for owner in source.order_owners],
        "samples": source.samples,
        "batches": source.steps,
        "batch_size": arguments.batch_size if ours else None,
        "shuffle": arguments.shuffle if ours else None,
        "steps_per_epoch": arguments.steps_per_epoch,
        "gradient_accumulation_steps": arguments.gradient_accumulation_steps,
        "processes": run.coordinator.processes.world_size,
        "loss": objective.names or [objective.name],
        "metrics": [name for name, _, _ in flat(run.model.metrics_dict)],
    }


def machine(run: Run) -> dict[str, Any]:
    """Return the facts that must be equal for the same bits."""
    packages = ("fitorch", "torch", "accelerate", "numpy")
    return {
        "python": platform.python_version(),
        **{name: version_of(name) or "unknown" for name in packages},
        "device": run.model.placement.device.type,
        "mixed_precision": run.model.placement.mixed_precision,
        # The number of threads determines the order of sums, and thereby the bits.
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "matmul precision": torch.get_float32_matmul_precision(),
        "jit_compile": run.model.compilation is not None,
        "channels_last": run.model.channels_last,
        "ZeRO": None if run.model.placement.zero is None else run.model.placement.zero.stage,
    }


def _parameter_names(run: Run) -> list[list[str]]:
    """Return the names of the parameters in each group of the optimizer."""
    names = {id(parameter): name for name, parameter in parameters_by_name(run).items()}
    groups = run.state.update.optimizer.param_groups
    return [[names.get(id(p), "?") for p in group["params"]] for group in groups]


def parameters_by_name(run: Run) -> dict[str, nn.Parameter]:
    """Return the parameters of net and loss by name; those of the loss begin with "loss."."""
    modules: Mapping[str, nn.Module] = {"": run.net, "loss.": run.state.objective.module}
    return {
        prefix + plain_name(name): parameter
        for prefix, module in modules.items()
        for name, parameter in unwrapped(module).named_parameters()
    }


def differences(saved: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return the differences, as "batch_size: saved 32, given 16"."""
    texts = []
    for name in {**given, **saved}:
        before, now = saved.get(name), given.get(name)
        if before != now:
            texts.append(f"{name}: {_difference(before, now)}")
    return texts


def _are_groups(value: object) -> TypeGuard[list[list[str]]]:
    return isinstance(value, list) and all(isinstance(group, list) for group in value)


def _difference(before: object, now: object) -> str:
    """Return how two settings differ; of lists of names, the names that are not in both."""
    if not _are_groups(before) or not _are_groups(now):
        return f"saved {before!r}, given {now!r}"
    flat = [[name for group in groups for name in group] for groups in (before, now)]
    lost, new = ([n for n in flat[i] if n not in flat[1 - i]][:10] for i in (0, 1))
    if lost or new:
        return f"saved only {lost}, given only {new}"
    return (
        f"saved in groups of {[len(g) for g in before]}, given {[len(g) for g in now]}, or in "
        "another order"
    )
