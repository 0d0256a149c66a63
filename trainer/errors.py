"""What can go wrong, by kind.

FitorchError
  DataError           the data isn't what it is said to be (also a ValueError)
    ShapeError        the net or the loss rejects a batch's shape (also a RuntimeError)
  CheckpointError     a checkpoint can't be written or read (also a RuntimeError)
    CheckpointNotFoundError   there is none (also a FileNotFoundError)
    CheckpointCorruptedError  its files are not those that were written
    CheckpointMismatchError   it is of another net, optimizer or data (also a ValueError)
    CheckpointVersionError    a newer fitorch wrote it
    UnsafeCheckpointError     it holds pickle, or points out of its folder
    CheckpointWriteError      it can't be written (also an OSError)
  NonFiniteError      the training loss is NaN or infinite (also an ArithmeticError)
  RankError           another of several processes failed, or was asked for something else

Preempted             a SystemExit, after SIGTERM and a checkpoint
NotBitExactWarning    a fit is resumed elsewhere, or otherwise, than it was begun
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


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no checkpoint where one was looked for."""


class CheckpointCorruptedError(CheckpointError):
    """The files of a checkpoint are not those that were written."""


class CheckpointMismatchError(CheckpointError, ValueError):
    """A checkpoint is of another net, another optimizer, or other data."""


class CheckpointVersionError(CheckpointError):
    """A checkpoint has a format that this version does not know."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint holds pickled data, or points out of its folder."""


class CheckpointWriteError(CheckpointError, OSError):
    """A checkpoint can't be written; the original error is its cause."""


class NonFiniteError(FitorchError, ArithmeticError):
    """The training loss, or a gradient, is NaN or infinite."""


class RankError(FitorchError, RuntimeError):
    """Another of several processes failed, vanished, or was asked for something else."""


class ExportError(FitorchError, RuntimeError):
    """A net can't be exported; the original error is its cause."""


class Preempted(SystemExit):
    """The process was told to end (SIGTERM); a checkpoint was written. The exit code is 143."""

    def __init__(self, message: str) -> None:
        super().__init__(143)
        self.message = message

    def __str__(self) -> str:
        return self.message


class NotBitExactWarning(UserWarning):
    """A fit goes on, but what follows may differ from a run without interruption."""


def annotate(error: BaseException, note: str) -> None:
    """Add `note` to an error's text, which keeps its type and its traceback."""
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:  # Python 3.10
        error.args = (f"{error.args[0] if error.args else ''}\n{note}", *error.args[1:])
