"""The output of progress: permanent lines and, on a terminal, one live line below them."""

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

    The cursor stays on an empty line above the live line. So the output of other code gets its own
    line, a resized terminal shows no remains of the live line, and the cursor is not hidden.

    Once writing has failed, nothing more is written, and training continues.

    Args:
        console: The console; None is standard output, with plain lines unless it is a terminal.
        live: Whether to use a live line and colours on a terminal.

    Attributes:
        live: Whether there is a live line, with colours and a limited width.
        broken: Whether writing has failed.
        ascii_only: Whether the encoding of the output is limited to ASCII.
    """

    def __init__(self, console: Console | None = None, *, live: bool = True) -> None:
        self._console = Console() if console is None else console
        # A console of the user's is used as it is.
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
        """The usable columns: all but the last, after which some terminals start a new line."""
        return self._console.width - 1

    def paint(self, text: str, style: str) -> str:
        """Return `text` in one of rich's styles, as far as the terminal supports it."""
        if not (self.live and style):
            return text
        if style not in self._codes:
            self._codes[style] = _codes(self._console, style)
        before, after = self._codes[style]
        return f"{before}{text}{after}"

    def fold(self, sentence: str) -> list[str]:
        """Return a sentence as lines, broken between words: terminals break them anywhere."""
        if not self.live:
            return [sentence]
        lines = textwrap.wrap(
            _SECONDS.sub(_TIED, sentence),
            max(self.width, 20),
            subsequent_indent="  ",
            break_long_words=False,  # so that paths can be copied
            break_on_hyphens=False,
        )
        return [line.replace(_TIED, " ") for line in lines]

    def write(self, lines: Iterable[str] = (), live_line: str = "") -> None:
        """Write `lines` above the live line, and replace it by `live_line`, in one write."""
        text = "".join(f"{line}\n" for line in lines)
        if self.live:
            erase = _ERASE if self._live_line else ""
            # One write erases and writes, so that the terminal shows nothing in between.
            text = f"{erase}{text}\n{live_line}{_UP}" if live_line else f"{erase}{text}"
            self._live_line = live_line
        if text and not self.broken:
            self._put(text)

    def insert(self, lines: Iterable[str]) -> None:
        """Write `lines` above the live line, which does not change."""
        self.write(lines, self._live_line)

    def _put(self, text: str) -> None:
        """Write to the file itself: rich exits the program if a pipe breaks."""
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
    """Return the escape codes before and after a text in that style."""
    system = COLOR_SYSTEMS.get(console.color_system or "")
    parsed = Style.parse(style)
    if console.no_color:
        parsed = parsed.without_color
    rendered = parsed.render("|", color_system=system)
    before, _, after = rendered.partition("|")
    return before, after


def _is_watched(file: IO[str]) -> bool:
    """Return whether `file` is a terminal, and not that of a CI job."""
    if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
        return False
    try:
        return file.isatty()
    except (AttributeError, OSError, ValueError):  # a user's file object, or a closed file
        return False
