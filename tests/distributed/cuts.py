"""Fits that are cut off after some updates, and gone on with elsewhere."""

import pytest

from fitorch import NotBitExactWarning
from fitorch.callbacks import Callback


class Cut(Callback):
    """Ends training after a number of updates, in all processes."""

    def __init__(self, after):
        self.after = after

    def on_train_batch_end(self, batch, logs=None):
        if self.model.updates == self.after:
            raise ZeroDivisionError


def fit_or_cut(model, train, val, cut=None, callbacks=(), **options):
    """Train 3 epochs with checkpoints within them; say whether that came to its end."""
    options = {"epochs": 3, "seed": 3, "verbose": 0, "save_every_n_steps": 2} | options
    callbacks = [*callbacks, *([] if cut is None else [Cut(cut)])]
    try:
        model.fit(train, val, callbacks=callbacks, **options)
    except ZeroDivisionError:
        return False
    return True


def going_on_elsewhere(fit, *args, **options):
    """Return what a fit gives that goes on with what other processes, or as many others, began."""
    with pytest.warns(NotBitExactWarning):
        return fit(*args, resume=True, elastic=True, **options)
