"""What can go wrong, by kind.

FitorchError
  DataError           the data isn't what it is said to be (also a ValueError)
    ShapeError        the net or the loss rejects a batch's shape (also a RuntimeError)
  CheckpointError     a checkpoint can't be written or read (also a RuntimeError)
    CheckpointWriteError  (also an OSError)
  NonFiniteError      the training loss is NaN or infinite (also an ArithmeticError)
"""

from __future__ import annotations


class FitorchError(Exception):
    """Any error of fitorch's own; catch it to catch them all."""


class DataError(FitorchError, ValueError):
    """The data does not have the form that training needs."""


class ShapeError(DataError, RuntimeError):
    """The net or the loss rejects the shape of a batch; the original error is its cause."""


class CheckpointError(FitorchError, RuntimeError):
    """A checkpoint can't be written or read."""


class CheckpointWriteError(CheckpointError, OSError):
    """A checkpoint can't be written; the original error is its cause."""


class NonFiniteError(FitorchError, ArithmeticError):
    """The training loss, or a gradient, is NaN or infinite."""


def annotate(error: BaseException, note: str) -> None:
    """Add `note` to an error's text, which keeps its type and its traceback."""
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:  # Python 3.10
        error.args = (f"{error.args[0] if error.args else ''}\n{note}", *error.args[1:])
