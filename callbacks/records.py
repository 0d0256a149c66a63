"""An epoch's figures in files: CSV as Keras writes it, and JSON lines."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from fitorch.files import replacing

from .base import Callback, Logs

_MISSING = "NA"


class _FileLogger(Callback):
    """Writes a row per epoch to a file that is whole after each of them.

    Args:
        filename: The file; folders that are missing are made.
        append: Go on with a file that is there; rows of epochs that are trained anew are dropped.
    """

    main_process_only: ClassVar[bool] = True

    def __init__(self, filename: str | Path, append: bool = False) -> None:
        self.filename = Path(filename)
        self.append = append
        self._begun = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Begin the file: what can't be written is told now, not after an epoch.

        Raises:
            OSError: The file can't be written.
        """
        going_on = self.append or self._begun  # a second fit of this callback goes on
        self._begun = True
        self.filename.parent.mkdir(parents=True, exist_ok=True)
        with self.filename.open("a", encoding="utf-8"):
            pass
        first = self.model.progress.epochs
        kept = [row for row in self._rows() if int(row["epoch"]) < first] if going_on else []
        self._replace(kept)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add a row."""
        self._add({"epoch": epoch, **(logs or {})})

    def state_dict(self) -> dict[str, bool]:
        """Return whether it began the file: a run that is resumed goes on with it."""
        return {"begun": self._begun}

    def load_state_dict(self, state: Mapping[str, bool]) -> None:
        """Put it back."""
        self._begun = state["begun"]

    def _rows(self) -> list[dict[str, Any]]:
        """Read what is in the file.

        Raises:
            ValueError: It is of another form.
        """
        raise NotImplementedError

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        """Write a file with these rows alone, in the place of the old one."""
        with (
            replacing(self.filename) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            self._write(file, rows)

    def _write(self, file: Any, rows: list[dict[str, Any]]) -> None:
        raise NotImplementedError

    def _add(self, row: dict[str, Any]) -> None:
        raise NotImplementedError

    def _not_ours(self) -> ValueError:
        message = (
            f"{self.filename} is no file of {type(self).__name__}; pass another name, or "
            "append=False to write it anew"
        )
        return ValueError(message)


class CSVLogger(_FileLogger):
    """Write the figures of each epoch to a CSV file, as Keras' callback.

    The columns are `epoch`, counted from 0, and the figures in alphabetical order; what an epoch
    did not measure is NA. The file is Keras' to the byte, but for figures that appear only later:
    Keras leaves them out, or guesses their names; here they get columns in all rows. The file is
    whole after each epoch.

    Args:
        filename: The file; folders that are missing are made.
        separator: What stands between values.
        append: Go on with a file that is there; rows of epochs that are trained anew are dropped.

    Raises:
        OSError: The file can't be written; `fit` says so before it trains.
        ValueError: The file to append to is no CSV with a column `epoch`.
    """

    def __init__(self, filename: str | Path, separator: str = ",", append: bool = False) -> None:
        super().__init__(filename, append)
        if len(separator) != 1:
            message = f"separator is {separator!r}; expected one character"
            raise ValueError(message)
        self.separator = separator
        self._columns: list[str] = []

    def _rows(self) -> list[dict[str, Any]]:
        with self.filename.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter=self.separator)
            columns, rows = list(reader.fieldnames or ()), list(reader)
        if not columns:
            return []
        if "epoch" not in columns:
            raise self._not_ours()
        self._columns = columns
        return rows

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        if not rows:
            self._columns = []
        super()._replace(rows)

    def _write(self, file: Any, rows: list[dict[str, Any]]) -> None:
        if not self._columns:
            return
        writer = csv.DictWriter(file, self._columns, restval=_MISSING, delimiter=self.separator)
        writer.writeheader()
        writer.writerows(rows)

    def _add(self, row: dict[str, Any]) -> None:
        cells = {name: _cell(value) for name, value in row.items()}
        new = sorted(set(cells) - {*self._columns, "epoch"})
        if new or not self._columns:
            rows = self._rows() if self._columns else []
            self._columns = ["epoch", *sorted({*self._columns, *cells} - {"epoch"})]
            super()._replace([*rows, cells])
            return
        with self.filename.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval=_MISSING, delimiter=self.separator)
            writer.writerow(cells)


class JSONLinesLogger(_FileLogger):
    """Write the figures of each epoch as one JSON object in a line of its own.

    `epoch` counts from 0; a figure that is not finite is null. The file is whole after each epoch.

    Args:
        filename: The file; folders that are missing are made.
        append: Go on with a file that is there; rows of epochs that are trained anew are dropped.

    Raises:
        OSError: The file can't be written; `fit` says so before it trains.
        ValueError: The file to append to holds something else.
    """

    def _rows(self) -> list[dict[str, Any]]:
        lines = self.filename.read_text(encoding="utf-8").splitlines()
        try:
            rows = [json.loads(line) for line in lines if line.strip()]
            if all("epoch" in row for row in rows):
                return rows
        except (ValueError, TypeError) as error:
            raise self._not_ours() from error
        raise self._not_ours()

    def _write(self, file: Any, rows: list[dict[str, Any]]) -> None:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)

    def _add(self, row: dict[str, Any]) -> None:
        plain = {name: _plain(value) for name, value in row.items()}
        with self.filename.open("a", encoding="utf-8") as file:
            self._write(file, [plain])


def _cell(value: Any) -> Any:
    """Return a value for a cell; several values are a list within quotes, as Keras writes them."""
    if isinstance(value, (str, int, float)):
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Iterable):
        return '"[' + ", ".join(map(str, value)) + ']"'
    return value


def _plain(value: Any) -> Any:
    """Return a value that JSON knows."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, type(None))) else str(value)
