"""What tests pass to `prepare`, where they look into a fit instead of calling it."""

from fitorch.engine.arguments import FitArguments

_CHOSEN = {
    "initial_epoch": 0,
    "monitor": "val_loss",
    "mode": "auto",
    "batch_size": 8,
    "shuffle": True,
    "validation_split": 0.0,
    "validation_freq": 1,
    "verbose": 0,
    "cpu": True,
    "gradient_accumulation_steps": 1,
    "seed": 3,
    "seeded": True,
    "scheduler_step": "auto",
    "num_workers": "auto",
    "resume": False,
    "keep": 2,
    "async_save": False,
    "on_save_error": "raise",
    "elastic": False,
    "sync_batchnorm": False,
    "train_metrics": True,
    "find_unused_parameters": False,
    "deterministic": False,
}


def fit_arguments(**options):
    """Arguments of a quiet fit on the CPU; what is not in `options` or chosen here is None."""
    return FitArguments(**dict.fromkeys(FitArguments.__dataclass_fields__) | _CHOSEN | options)
