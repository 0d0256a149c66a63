"""Where progress is written: lines that stay and, on a terminal, one live line below them."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable
from typing import IO

from rich.console import COLOR_SYSTEMS, Console
from rich.style import Style

_ERASE = "\r\x1b[J"  # from the start of this line to the end of the screen

_UP = "\x1b[A\r"

_SECONDS = re.compile(r"(?<=\d) (?=s\b)")  # a number and its unit stay together

_TIED = "\xa0"


class Screen:
    """Standard output, or any console of rich's.

    The cursor rests on an empty line above the live line. So what others print meanwhile has a line
    of its own, a resized terminal leaves nothing behind, and the cursor need not be hidden.

    Once the output is closed or broken, all writing is over and training goes on.

    Args:
        console: Where to write; None is standard output, plain unless a person looks at it.
        live: False asks for plain lines on a terminal too.

    Attributes:
        live: Whether there are a live line, colours and a width to keep to.
        broken: Whether writing has failed.
        ascii_only: Whether the output's encoding knows no more than that.
    """

    def __init__(self, console: Console | None = None, *, live: bool = True) -> None:
        self._console = Console() if console is None else console
        watched = console is not None or _is_watched(self._console.file)
        self.live = (
            live
            and watched
            and self._console.is_terminal
            and not self._console.is_dumb_terminal
            and not self._console.legacy_windows
        )
        self.broken = False
        self.ascii_only = self._console.options.ascii_only
        self._live_line = ""
        self._codes: dict[str, tuple[str, str]] = {}

    @property
    def width(self) -> int:
        """Columns to write on: all but the last, after which some terminals begin a new line."""
        return self._console.width - 1

    def paint(self, text: str, style: str) -> str:
        """Give `text` one of rich's styles, as far as the terminal has it."""
        if not (self.live and style):
            return text
        if style not in self._codes:
            self._codes[style] = _codes(self._console, style)
        before, after = self._codes[style]
        return f"{before}{text}{after}"

    def fold(self, sentence: str) -> list[str]:
        """Break a sentence between words, where a terminal would break it anywhere."""
        if not self.live:
            return [sentence]
        lines = textwrap.wrap(
            _SECONDS.sub(_TIED, sentence),
            max(self.width, 20),
            subsequent_indent="  ",
            break_long_words=False,  # a path can be copied
            break_on_hyphens=False,
        )
        return [line.replace(_TIED, " ") for line in lines]

    def write(self, lines: Iterable[str] = (), live_line: str = "") -> None:
        """Write `lines` above the live line and put `live_line` in its place, in one go."""
        text = "".join(f"{line}\n" for line in lines)
        if self.live:
            erase = _ERASE if self._live_line else ""
            text = f"{erase}{text}\n{live_line}{_UP}" if live_line else f"{erase}{text}"
            self._live_line = live_line
        if text and not self.broken:
            self._put(text)

    def insert(self, lines: Iterable[str]) -> None:
        """Write `lines` above the live line, which stays as it is."""
        self.write(lines, self._live_line)

    def _put(self, text: str) -> None:
        """Write past rich, which ends the program when a pipe breaks."""
        file = self._console.file
        try:
            try:
                file.write(text)
            except UnicodeEncodeError:
                encoding = self._console.encoding
                file.write(text.encode(encoding, "replace").decode(encoding))
            file.flush()
        except (OSError, ValueError):
            self.broken = True


def _codes(console: Console, style: str) -> tuple[str, str]:
    """Return what to write before and after a text of that style."""
    system = COLOR_SYSTEMS.get(console.color_system or "")
    meant = Style.parse(style)
    rendered = (meant.without_color if console.no_color else meant).render("|", color_system=system)
    before, _, after = rendered.partition("|")
    return before, after


def _is_watched(file: IO[str]) -> bool:
    """Say whether a person looks at `file` as it is written: it is a terminal, and not CI's."""
    if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
        return False
    try:
        return file.isatty()
    except (AttributeError, OSError, ValueError):  # somebody's own file, or a closed one
        return False
