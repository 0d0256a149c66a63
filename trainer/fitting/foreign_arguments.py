"""Reject unknown arguments, and suggest the fitorch names for those of other trainers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from fitorch.data.arrays import is_array
from fitorch.engine.arguments import FitArguments
from fitorch.errors import DataError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

FOREIGN = {
    "accelerator": "cpu=True; without it, accelerate chooses the device",
    "accumulate_grad_batches": "gradient_accumulation_steps",
    "batches_per_step": "gradient_accumulation_steps",
    "check_val_every_n_epoch": "validation_freq",
    "compute_loss_func": "loss_fn of KerasModel(...)",
    "criterion": "loss_fn of KerasModel(...)",
    "default_root_dir": "ckpt_path",
    "devices": "fit_ddp(num_processes, ...), or torchrun",
    "dl_train": "train_data",
    "dl_val": "val_data",
    "early_stopping": "patience",
    "enable_progress_bar": "verbose=0",
    "eval_dataset": "val_data",
    "eval_strategy": "validation_freq",
    "fast_dev_run": "epochs=1, steps_per_epoch=1, validation_steps=1",
    "grad_clip": "clip_grad_norm",
    "gradient_clip_algorithm": "clip_grad_norm or clip_grad_value",
    "gradient_clip_val": "clip_grad_norm or clip_grad_value",
    "learning_rate": "optimizer of KerasModel(...)",
    "limit_train_batches": "steps_per_epoch",
    "limit_val_batches": "validation_steps",
    "log_step_freq": "verbose",
    "logger": "callbacks, as fitorch.callbacks.TensorBoardCallback()",
    "loss": "loss_fn of KerasModel(...)",
    "loss_fn": "loss_fn of KerasModel(...)",
    "loss_func": "loss_fn of KerasModel(...)",
    "loss_function": "loss_fn of KerasModel(...)",
    "loss_weights": "loss_fn={'output': 0.3 * fitorch.losses.term(loss)} of KerasModel(...)",
    "lr": "optimizer of KerasModel(...)",
    "max_epochs": "epochs",
    "max_grad_norm": "clip_grad_norm",
    "max_steps": "epochs, with steps_per_epoch",
    "metrics": "metrics_dict of KerasModel(...)",
    "metrics_dict": "metrics_dict of KerasModel(...)",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "precision": "mixed_precision",
    "quiet": "verbose=0",
    "sample_weight": "train_data=(x, y, sample_weight)",
    "save_total_limit": "keep",
    "strategy": "fit_ddp(num_processes, ...), or torchrun",
    "train_dataloader": "train_data",
    "train_dataloaders": "train_data",
    "train_dataset": "train_data",
    "train_generator": "train_data",
    "train_split": "validation_split, or val_data",
    "val_dataloader": "val_data",
    "val_dataloaders": "val_data",
    "valid_generator": "val_data",
    "validation_batch_size": "val_data as a DataLoader with its own batch_size",
    "validation_data": "val_data",
    "workers": "num_workers",
    "x": "train_data=(x, y)",
    "X": "train_data=(x, y)",
    "y": "train_data=(x, y)",
}

_DATA = {"evaluate": "val_data", "predict": "data"}  # the first argument of other methods

_INTERNAL = ("seeded",)  # fields of FitArguments that are not arguments of fit


def refuse_unknown(unknown: Mapping[str, Any], function: str) -> None:
    """Raise an error if there are unknown arguments.

    Args:
        unknown: The arguments that `function` does not have, by name.
        function: The name of the function, for the message.

    Raises:
        TypeError: There is an unknown argument. If it is one of another trainer, the message
            contains the fitorch name.
    """
    for name in unknown:
        known = [field.name for field in fields(FitArguments)] if function == "fit" else []
        known = [argument for argument in known if argument not in _INTERNAL]
        if name in FOREIGN:
            instead = FOREIGN[name].replace("train_data", _DATA.get(function, "train_data"))
            message = f"{function}() has no argument {name!r}; use {instead}"
        else:
            listed = f"; it has {', '.join(known)}" if known else ""
            message = f"{function}() got an unexpected argument {name!r}{listed}"
        raise TypeError(message)


def explains_calls(method: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return a method whose wrong calls, such as Keras' `evaluate(x, y)`, get a message with ours.

    Args:
        method: A method whose first argument is the data, with `**unknown`.
    """
    name, signature = method.__name__, inspect.signature(method)

    @wraps(method)
    def checked(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            refuse_unknown({k: v for k, v in kwargs.items() if k not in signature.parameters}, name)
            message = f"{name}(): {error}; features and targets are one argument, {name}((x, y))"
            raise TypeError(message) from None
        return method(*args, **kwargs)

    return checked


def refuse_apart(train_data: Any, val_data: Any) -> None:
    """Raise an error if features and targets are passed as two arguments, as Keras takes them.

    Raises:
        DataError: An argument is an array alone, and so has no targets.
    """
    for name, data in (("val_data", val_data), ("train_data", train_data)):
        if is_array(data):
            message = (
                f"{name} is an array alone, without targets; pass features and targets as one "
                "argument, fit((x, y)) or fit((x, y), (x_val, y_val)), or forward= for data "
                "without targets"
            )
            raise DataError(message)
