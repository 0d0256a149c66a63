"""`python -m fitorch`: show versions and devices, and check that training works.

Commands list checkpoints, verify them, and export their weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitorch.checkpoint.finding import checkpoint_at, load_checkpoint
from fitorch.checkpoint.listing import list_checkpoints
from fitorch.checkpoint.weights import save_weights

from .errors import FitorchError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 0, or 1 on errors."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (FitorchError, OSError) as error:
        print(f"fitorch: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fitorch", description=__doc__)
    parser.set_defaults(run=_check_installation)
    commands = parser.add_subparsers(metavar="command")
    for name, run, text in (
        ("checkpoints", _show, "list the checkpoints of a run"),
        ("verify", _verify, "compare every file with its digest; exit with 1 if one differs"),
        ("export", _export, "write the weights in a checkpoint to a file"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("path", type=Path, help="the folder of a run, or a checkpoint")
        if name == "export":
            command.add_argument("target", type=Path, help="a .safetensors or .pt file")
        command.set_defaults(run=run)
    return parser


def _check_installation(_: argparse.Namespace) -> int:
    """Print versions and devices, and whether training works; return 1 if it does not."""
    from rich.console import Console

    from .environment import hardware, versions
    from .selfcheck import outcomes

    console, failed = Console(highlight=False), 0
    for facts in (versions(), hardware()):
        width = max(map(len, facts))
        _print_rows(console, [(f"{name:<{width}}", value, "") for name, value in facts.items()])
    start = time.perf_counter()
    for outcome in outcomes():
        word, style = ("failed", "bold red") if outcome.error else ("ok", "green")
        text = f"{outcome.name}: {outcome.error}" if outcome.error else outcome.name
        _print_rows(console, [(f"{word:<6}", text, style)], end="")
        failed += bool(outcome.error)
    result = f"{failed} checks failed" if failed else "all checks passed"
    console.print(f"\n{result} in {time.perf_counter() - start:.1f} s")
    return int(failed > 0)


def _print_rows(console: Console, rows: Sequence[tuple[str, str, str]], end: str = "\n") -> None:
    """Print names and values; on a terminal, long values are wrapped within their column."""
    from rich.table import Table
    from rich.text import Text

    if not console.is_terminal:
        for name, value, _ in rows:
            print(f"{name}  {value}")
        print(end=end)
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value, style in rows:
        table.add_row(Text(name, style or "cyan"), Text(value))
    console.print(table)
    console.print(end=end)


def _show(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    frame = list_checkpoints(options.path)
    table = Table(title=str(options.path), title_justify="left", box=None, pad_edge=False)
    for name, side in (
        ("step", "right"),
        ("epoch", "right"),
        ("batch", "right"),
        (_monitor(frame), "right"),
        ("size", "right"),
        ("age", "right"),
        ("state", "left"),
    ):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for row in frame.to_dict("records"):
        table.add_row(*_cells({str(name): row[name] for name in row}))
    Console(soft_wrap=False).print(table)
    return 0


def _verify(options: argparse.Namespace) -> int:
    frame = list_checkpoints(options.path)
    for row in frame.to_dict("records"):
        print(f"{Path(row['path']).name}: {row['state']}")
    return int((frame["state"] != "whole").any())


def _export(options: argparse.Namespace) -> int:
    loaded = load_checkpoint(checkpoint_at(options.path))
    if options.target.is_dir() or options.target.suffix not in (".safetensors", ".pt", ".pth"):
        print(
            f"fitorch: the name of {options.target} must end in .safetensors, .pt or .pth",
            file=sys.stderr,
        )
        return 1
    facts = {name: str(loaded.info.get(name)) for name in ("epoch", "monitor", "value")}
    print(save_weights(loaded.with_tensors(loaded.parts["model"]), options.target, facts))
    return 0


def _monitor(frame: pd.DataFrame) -> str:
    names = frame["monitor"].dropna()
    return str(names.iloc[0]) if len(names) else "value"


def _cells(row: dict[str, Any]) -> list[Any]:
    from rich.text import Text

    step = str(int(row["step"]))
    if row["state"] != "whole":
        return [step, "", "", "", "", "", Text(str(row["state"]), "red")]
    value = "" if row["value"] is None or row["value"] != row["value"] else f"{row['value']:.4g}"
    counts = [str(int(row["epoch"])), str(int(row["batch"]))]
    return [step, *counts, value, _size(row["size"]), _age(row["age"]), Text("whole", "green")]


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def _age(seconds: float) -> str:
    scale, unit = next(((s, u) for s, u in _UNITS if seconds >= s), (1, "s"))
    return f"{seconds / scale:.0f} {unit}"


if __name__ == "__main__":
    sys.exit(main())
