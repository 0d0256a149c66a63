"""The arguments of `fit`, with their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from fitorch.callbacks.backup_and_restore import BackupAndRestore
from fitorch.callbacks.hooks import with_four_hooks
from fitorch.callbacks.max_time import seconds_of
from fitorch.callbacks.monitor import check_mode
from fitorch.checks import (
    check_choice,
    check_count,
    check_flag,
    check_verbose,
    check_workers,
    plain,
)
from fitorch.randomness import draw_seed

from .class_weights import class_weights_of

_FLAGS = (
    "shuffle",
    "cpu",
    "train_metrics",
    "async_save",
    "elastic",
    "sync_batchnorm",
    "find_unused_parameters",
    "deterministic",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitArguments:
    """The arguments of `KerasModel.fit` that follow the data, documented there.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """

    epochs: int
    ckpt_path: str | Path | None
    patience: int | None
    monitor: str
    mode: str
    callbacks: Sequence[Any]
    plot: bool | str | Path | None
    wandb: bool | str | None
    batch_size: int | None
    shuffle: bool
    validation_split: float
    validation_freq: int
    steps_per_epoch: int | None
    validation_steps: int | None
    initial_epoch: int | None
    class_weight: Mapping[int, float] | None
    verbose: int | str
    mixed_precision: str | None
    cpu: bool
    gradient_accumulation_steps: int
    seed: int
    max_time: timedelta | float | str | None
    clip_grad_norm: float | None
    clip_grad_value: float | None
    scheduler_step: str
    train_metrics: bool
    num_workers: int | str
    seeded: bool
    resume: bool | str | Path
    save_every_n_steps: int | None
    save_every_minutes: float | None
    keep: int
    async_save: bool
    on_save_error: str
    elastic: bool
    sync_batchnorm: bool
    find_unused_parameters: bool
    deterministic: bool

    @classmethod
    def of_call(cls, values: Mapping[str, Any]) -> FitArguments:
        """Return the arguments of a call of `KerasModel.fit`.

        Args:
            values: The values by name, as `locals()` returns them at the beginning of the call.
                Other names are ignored.
        """
        arguments = {f.name: plain(values[f.name]) for f in fields(cls) if f.name in values}
        seed = arguments["seed"]
        arguments["verbose"] = check_verbose(values["verbose"])
        arguments["class_weight"] = class_weights_of(values["class_weight"])
        arguments["callbacks"] = with_four_hooks(values["callbacks"] or ())
        # The seed is drawn only if none is passed: a draw advances torch's global generator.
        arguments |= {"seed": draw_seed() if seed is None else seed, "seeded": seed is not None}
        return cls(**arguments)

    def __post_init__(self) -> None:
        for name in ("epochs", "validation_freq", "gradient_accumulation_steps"):
            check_count(name, getattr(self, name))
        for name in ("batch_size", "patience", "steps_per_epoch", "validation_steps"):
            check_count(name, getattr(self, name), optional=True)
        check_count("initial_epoch", self.initial_epoch, least=0, optional=True)
        check_workers(self.num_workers)
        for name in _FLAGS:
            check_flag(name, getattr(self, name))
        self._check_numbers()
        self._check_choices()
        self._check_saving()
        if self.max_time is not None:
            seconds_of(self.max_time)

    def _check_numbers(self) -> None:
        for name in ("clip_grad_norm", "clip_grad_value"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                message = f"{name} is {value!r}; expected a number above 0, or None for no clipping"
                raise ValueError(message)
        if not 0 <= self.validation_split < 1:
            message = (
                f"validation_split is {self.validation_split!r}; expected a fraction in [0, 1)"
            )
            raise ValueError(message)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            message = f"seed is {self.seed!r}; expected an int or None"
            raise TypeError(message)

    @property
    def backup(self) -> BackupAndRestore | None:
        """Keras' callback that resumes a fit, None if it was not passed."""
        return next((c for c in self.callbacks if isinstance(c, BackupAndRestore)), None)

    @property
    def folder(self) -> str | Path | None:
        """The folder that checkpoints are written to, None if none are written."""
        return self.ckpt_path if self.backup is None else self.backup.backup_dir

    def _check_saving(self) -> None:
        if self.backup is not None and (self.ckpt_path is not None or self.resume is not False):
            message = (
                "BackupAndRestore does what ckpt_path with resume=True does, but for best weights; "
                "pass one of them"
            )
            raise ValueError(message)
        check_count("keep", self.keep)
        check_count("save_every_n_steps", self.save_every_n_steps, optional=True)
        check_choice("on_save_error", self.on_save_error, ("raise", "warn"))
        minutes = self.save_every_minutes
        if minutes is not None and not minutes > 0:
            message = f"save_every_minutes is {minutes!r}; expected a number above 0, or None"
            raise ValueError(message)
        resume: object = self.resume
        if not isinstance(resume, (bool, str, Path)) or resume == "":
            message = f"resume is {resume!r}; expected True, False, or the path of a checkpoint"
            raise TypeError(message)
        if self.ckpt_path is None:
            requests = {"resume": resume is True, "async_save": self.async_save}
            requests |= {
                name: getattr(self, name) is not None
                for name in ("save_every_n_steps", "save_every_minutes")
            }
            for name in (name for name, requested in requests.items() if requested):
                message = f"{name} needs a folder: pass ckpt_path='runs/name' too"
                raise ValueError(message)
        if resume is not False and self.initial_epoch is not None:
            message = (
                f"initial_epoch={self.initial_epoch} and resume={resume!r} both set the first "
                "epoch; pass one of them"
            )
            raise ValueError(message)

    def _check_choices(self) -> None:
        if self.mode != "auto":
            check_mode(self.mode)
        check_choice(
            "scheduler_step", self.scheduler_step, ("auto", "update", "epoch", "validation")
        )
        check_choice("mixed_precision", self.mixed_precision, (None, "no", "fp16", "bf16"))
        wandb: object = self.wandb
        if wandb is not None and not isinstance(wandb, (bool, str)):
            message = f"wandb is {wandb!r}; expected True, a project's name, or None"
            raise TypeError(message)
