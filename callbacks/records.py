"""Logger callbacks: the values of each epoch in a file, as CSV or JSON lines."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from fitorch.checks import check_flag
from fitorch.files import replacing

from .base import Callback, Logs

_MISSING = "NA"


class _FileLogger(Callback):
    """Base class of loggers that write a row per epoch; the file is complete after each epoch.

    Args:
        filename: The file; missing folders are created.
        append: Whether to append to an existing file; rows of epochs that are trained again are
            dropped.
    """

    main_process_only: ClassVar[bool] = True

    def __init__(self, filename: str | Path, append: bool = False) -> None:
        self.filename = Path(filename)
        self.append = check_flag("append", append)
        self._started = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Open the file, so that errors surface before the first epoch.

        Raises:
            OSError: The file is not writable.
        """
        continues = self.append or self._started  # a second fit of this callback continues the file
        self._started = True
        self.filename.parent.mkdir(parents=True, exist_ok=True)
        with self.filename.open("a", encoding="utf-8"):
            pass
        # Rows of epochs that are trained again would otherwise occur twice.
        first = self.model.progress.epochs
        rows = [row for row in self._read_rows() if int(row["epoch"]) < first] if continues else []
        # The rewrite is atomic, because the rows of earlier epochs are in the file.
        self._rewrite(rows)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Append a row."""
        self._append_row({"epoch": epoch, **(logs or {})})

    def state_dict(self) -> dict[str, bool]:
        """Return whether the file was started; a resumed run appends to it."""
        return {"begun": self._started}

    def load_state_dict(self, state: Mapping[str, bool]) -> None:
        """Restore the state."""
        self._started = state["begun"]

    def _read_rows(self) -> list[dict[str, Any]]:
        """Return the rows of the file.

        Raises:
            ValueError: The file has a different format.
        """
        raise NotImplementedError

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Replace the file by one with these rows, atomically."""
        with (
            replacing(self.filename) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            self._write_rows(file, rows)

    def _write_rows(self, file: Any, rows: list[dict[str, Any]]) -> None:
        raise NotImplementedError

    def _append_row(self, row: dict[str, Any]) -> None:
        raise NotImplementedError

    def _format_error(self) -> ValueError:
        message = (
            f"{self.filename} was not written by {type(self).__name__}; pass another name, or "
            "append=False to overwrite it"
        )
        return ValueError(message)


class CSVLogger(_FileLogger):
    """Write the values of each epoch to a CSV file, as Keras' callback does.

    The columns are `epoch`, counted from 0, and the others in alphabetical order; values that an
    epoch did not measure are NA. The file equals that of Keras to the byte, except for columns that
    first appear in a later epoch: Keras leaves them out or guesses their names, and this callback
    adds them to all rows. The file is complete after each epoch.

    Args:
        filename: The file; missing folders are created.
        separator: The character between two values.
        append: Whether to append to an existing file; rows of epochs that are trained again are
            dropped.

    Raises:
        OSError: The file is not writable; raised before training.
        ValueError: The file to append to is not a CSV file with a column `epoch`.
    """

    def __init__(self, filename: str | Path, separator: str = ",", append: bool = False) -> None:
        super().__init__(filename, append)
        if len(separator) != 1:
            message = f"separator is {separator!r}; expected one character"
            raise ValueError(message)
        self.separator = separator
        self._columns: list[str] = []

    def _read_rows(self) -> list[dict[str, Any]]:
        with self.filename.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter=self.separator)
            columns, rows = list(reader.fieldnames or ()), list(reader)
        if not columns:
            return []
        if "epoch" not in columns:
            raise self._format_error()
        self._columns = columns
        return rows

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        if not rows:
            self._columns = []
        super()._rewrite(rows)

    def _write_rows(self, file: Any, rows: list[dict[str, Any]]) -> None:
        if not self._columns:
            return
        writer = csv.DictWriter(file, self._columns, restval=_MISSING, delimiter=self.separator)
        writer.writeheader()
        writer.writerows(rows)

    def _append_row(self, row: dict[str, Any]) -> None:
        cells = {name: _csv_value(value) for name, value in row.items()}
        # A new column changes the header, for which the whole file is written again.
        new = sorted(set(cells) - {*self._columns, "epoch"})
        if new or not self._columns:
            rows = self._read_rows() if self._columns else []
            self._columns = ["epoch", *sorted({*self._columns, *cells} - {"epoch"})]
            super()._rewrite([*rows, cells])
            return
        with self.filename.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval=_MISSING, delimiter=self.separator)
            writer.writerow(cells)


class JSONLinesLogger(_FileLogger):
    """Write the values of each epoch to a file as JSON lines, one object per epoch.

    `epoch` is counted from 0; values that are not finite are null. The file is complete after each
    epoch.

    Args:
        filename: The file; missing folders are created.
        append: Whether to append to an existing file; rows of epochs that are trained again are
            dropped.

    Raises:
        OSError: The file is not writable; raised before training.
        ValueError: The file to append to does not contain JSON lines with an `epoch`.
    """

    def _read_rows(self) -> list[dict[str, Any]]:
        lines = self.filename.read_text(encoding="utf-8").splitlines()
        try:
            rows = [json.loads(line) for line in lines if line.strip()]
            if all("epoch" in row for row in rows):
                return rows
        except (ValueError, TypeError) as error:
            raise self._format_error() from error
        raise self._format_error()

    def _write_rows(self, file: Any, rows: list[dict[str, Any]]) -> None:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)

    def _append_row(self, row: dict[str, Any]) -> None:
        values = {name: _json_value(value) for name, value in row.items()}
        with self.filename.open("a", encoding="utf-8") as file:
            self._write_rows(file, [values])


def _csv_value(value: Any) -> Any:
    """Return a value for a CSV cell; several values become a quoted list, as in Keras."""
    if isinstance(value, (str, int, float)):
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Iterable):
        return '"[' + ", ".join(map(str, value)) + ']"'
    return value


def _json_value(value: Any) -> Any:
    """Return a value that JSON supports."""
    # For a tensor on a device this waits.
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, type(None))) else str(value)
