"""Open the data of a fit: turn what users pass into sources of batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from fitorch.data.column_names import check_columns, check_order, column_names
from fitorch.data.loader import LoaderSource
from fitorch.data.missing import check_targets
from fitorch.data.rank_split import RankShard
from fitorch.data.sources import (
    Batching,
    Source,
    as_source,
    check_enough,
)
from fitorch.data.validation import set_name, split_validation, validation_sets
from fitorch.engine.arguments import FitArguments
from fitorch.losses.objective import Objective
from fitorch.nets.precision import floating_dtype

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


@dataclass(frozen=True, slots=True)
class FitData:
    """The data of a fit.

    Args:
        train: Where the training batches come from.
        validation: The source of each validation set, by the prefix of its values, as "val_".
        batch_size: Samples in a training batch; None if the loader does not have a fixed size.
    """

    train: Source
    validation: dict[str, Source]
    batch_size: int | None

    def validation_steps(self, arguments: FitArguments) -> int | None:
        """Return the number of validation batches; None if unknown or if there are several sets."""
        if arguments.validation_steps is not None or len(self.validation) != 1:
            return arguments.validation_steps
        return next(iter(self.validation.values())).steps


def open_data(model: BaseModel, train_data: Any, val_data: Any, arguments: FitArguments) -> FitData:
    """Return the data of a fit as sources of batches; each process reads its part of them.

    Raises:
        DataError: The data is empty or of no known form.
        RankError: The processes have data of different lengths.
    """
    check_order(model.columns, train_data)
    for prefix, data in validation_sets(val_data).items():
        check_columns(column_names(train_data), data, set_name(prefix))
        refuse_nan(model, model.val_objective, data, set_name(prefix))
    refuse_nan(model, model.objective, train_data, "train_data")
    # A loader has a batch size of its own, which the argument does not change.
    is_loader = isinstance(train_data, DataLoader)
    batch_size = train_data.batch_size if is_loader else arguments.batch_size
    floating, processes = floating_dtype(model.net.parameters()), model.placement.processes
    # The split comes before the sources: they shuffle, and it must not depend on their order.
    if val_data is None and arguments.validation_split:
        train_data, val_data = split_validation(train_data, arguments.validation_split, floating)
    batching = Batching(
        arguments.batch_size,
        arguments.shuffle,
        arguments.seed,
        floating,
        arguments.num_workers,
        # All processes derive the same order from one seed, and each takes its part of it.
        RankShard(processes.rank, processes.world_size),
    )
    train = as_source(train_data, "train_data", batching)
    # Validation keeps the order of the data, so that its values do not depend on a seed.
    in_order = replace(batching, shuffle=False)
    validation = {
        prefix: as_source(data, set_name(prefix), in_order)
        for prefix, data in validation_sets(val_data).items()
    }
    named = {"train_data": train, **{set_name(name): s for name, s in validation.items()}}
    # What a user's iterable yields in each process is compared when it is read: it may be a share.
    lengths = {
        name: (s.samples, s.steps) for name, s in named.items() if type(s) is not LoaderSource
    }
    # This is a collective. With different lengths, the processes would take different numbers of
    # steps, and wait for each other.
    processes.require_equal(lengths)
    check_enough(train, "train_data", processes.world_size)
    return FitData(train, validation, batch_size)


def refuse_nan(model: BaseModel, objective: Objective, data: Any, name: str) -> None:
    """Check that targets in memory have no NaN, unless the user's code may leave them out.

    Raises:
        DataError: There is a NaN, and the loss is one of torch or fitorch.
    """
    own_code = model.forward_hook is not None or model.has_own_step
    if not own_code and not objective.by_output and objective.is_known:
        check_targets(data, name, objective.name)
