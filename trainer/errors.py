"""The errors and warnings of fitorch.

FitorchError
  DataError           the data does not have the required form (also a ValueError)
    ShapeError        the net or the loss rejects a batch's shape (also a RuntimeError)
  CheckpointError     a checkpoint cannot be written or read (also a RuntimeError)
    CheckpointNotFoundError   it does not exist (also a FileNotFoundError)
    CheckpointCorruptedError  its files are damaged
    CheckpointMismatchError   it is of another net, optimizer or data (also a ValueError)
    CheckpointVersionError    a newer version of fitorch wrote it
    UnsafeCheckpointError     it contains pickle, or refers to files outside of its folder
    CheckpointWriteError      it cannot be written (also an OSError)
  NonFiniteError      the training loss is NaN or infinite (also an ArithmeticError)
  RankError           another process failed, or has other settings (also a RuntimeError)
  ExportError         a net cannot be exported (also a RuntimeError)

Preempted             a SystemExit, after SIGTERM and a checkpoint
NotBitExactWarning    a fit resumes on another machine, or with other settings
"""

from __future__ import annotations


class FitorchError(Exception):
    """The base class of all errors of fitorch."""


class DataError(FitorchError, ValueError):
    """The data does not have the form that training needs."""


class ShapeError(DataError, RuntimeError):
    """The net or the loss rejects the shape of a batch; the original error is its cause."""


class CheckpointError(FitorchError, RuntimeError):
    """A checkpoint cannot be written or read."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """The checkpoint does not exist."""


class CheckpointCorruptedError(CheckpointError):
    """The files of a checkpoint are damaged."""


class CheckpointMismatchError(CheckpointError, ValueError):
    """A checkpoint is of another net, another optimizer, or other data."""


class CheckpointVersionError(CheckpointError):
    """A checkpoint has a format of a newer version."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint contains pickled data, or refers to files outside of its folder."""


class CheckpointWriteError(CheckpointError, OSError):
    """A checkpoint cannot be written; the original error is its cause."""


class NonFiniteError(FitorchError, ArithmeticError):
    """The training loss, or a gradient, is NaN or infinite.

    Attributes:
        batches_since: How many batches have been trained on since the first one with such a loss,
            itself included, if it was found late: on an accelerator, reading each loss would wait.
            None if it is the current batch.
    """

    batches_since: int | None = None


class RankError(FitorchError, RuntimeError):
    """Another process of the fit failed, disappeared, or has other settings."""


class ExportError(FitorchError, RuntimeError):
    """A net cannot be exported; the original error is its cause."""


class Preempted(SystemExit):
    """The process received SIGTERM and wrote a checkpoint. The exit code is 143."""

    def __init__(self, message: str) -> None:
        super().__init__(143)
        self.message = message

    def __str__(self) -> str:
        return self.message


class NotBitExactWarning(UserWarning):
    """A resumed fit may differ from a run without interruption."""


def annotate(error: BaseException, note: str) -> None:
    """Add `note` to the text of an error, which keeps its type and its traceback."""
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:  # Python 3.10
        error.args = (f"{error.args[0] if error.args else ''}\n{note}", *error.args[1:])
