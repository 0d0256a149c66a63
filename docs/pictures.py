"""Make the pictures of the README: what people see of a fit to scikit-learn's digits.

    python docs/pictures.py

They are what a fit really shows. `images/terminal.svg` plays once what was written to a terminal,
at its pace, and rests at the end; where nothing moves, the end is all there is. The plot in
`images/live-plot.png` is the last one that a notebook's kernel got. `images/report.png`, for which
a Chromium must be there, is the page that `history.to_html` writes.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text
from sklearn.datasets import load_digits
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback

IMAGES = Path(__file__).parent / "images"
WIDTH, FRAMES = 88, 4  # columns; live lines a second
PAUSE = 0.025  # seconds a batch
COMMAND = "$ python train.py"
THEME = TerminalTheme(
    (22, 27, 34),
    (201, 209, 217),
    [
        *((72, 79, 88), (255, 123, 114), (86, 211, 100), (227, 179, 65)),
        *((121, 192, 255), (210, 168, 255), (86, 212, 221), (177, 186, 196)),
    ],
)
ASPECT, LINE = 0.6, 24.4  # of a character: width by height; rich's distance of lines
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"

FRAME = """\
<svg viewBox="0 0 {width:.0f} {height:.0f}" xmlns="http://www.w3.org/2000/svg">
<style>text {{ font: 20px {font}; white-space: pre }} {styles}</style>
<rect width="{width:.0f}" height="{height:.0f}" rx="10" fill="#161b22"/>
<circle cx="24" cy="23" r="7" fill="#ff5f57"/>
<circle cx="46" cy="23" r="7" fill="#febc2e"/>
<circle cx="68" cy="23" r="7" fill="#28c840"/>
<g transform="translate(16 44)">
{lines}
</g>
</svg>
"""


class Paced(Callback):
    """Makes a small net take its time, so that there is something to see."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Wait."""
        time.sleep(self.seconds)


def fit_digits(pause: float, epochs: int = 30) -> KerasModel:
    """Train a small net until it gets no better."""
    digits = load_digits()
    x, y = digits.data / 16.0, digits.target
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, fused=True)
    model = KerasModel(net, nn.CrossEntropyLoss(), {"acc": "acc"}, optimizer)
    model.fit(
        (x[:1200], y[:1200]),
        (x[1200:], y[1200:]),
        batch_size=64,
        epochs=epochs,
        patience=3,
        monitor="val_acc",
        ckpt_path="runs/digits",
        callbacks=[Paced(pause)],
        seed=0,
    )
    return model


class Event(NamedTuple):
    """What one write did: when, in seconds, which lines it added, and which live line it left."""

    at: float
    lines: list[str]
    live: str


class Recorder(io.StringIO):
    """A terminal that remembers what is written to it, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.perf_counter()
        self.events: list[Event] = []

    def isatty(self) -> bool:
        """Say yes."""
        return True

    def write(self, text: str) -> int:
        """Remember what Screen writes: lines, then perhaps a live line and the way back up."""
        body, live = text.removeprefix("\r\x1b[J"), ""
        if body.endswith("\x1b[A\r"):
            body, _, live = body.removesuffix("\x1b[A\r").rpartition("\n")
        self.events.append(Event(time.perf_counter() - self.began, body.splitlines(), live))
        return len(text)


def record_terminal() -> list[Event]:
    """Return what a fit writes to a terminal."""
    os.environ.update(TERM="xterm-256color", COLUMNS=str(WIDTH + 1), LINES="40")
    for name in ("CI", "NO_COLOR", "COLORTERM"):
        os.environ.pop(name, None)
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(recorder):
        os.chdir(folder)
        fit_digits(PAUSE)
        os.chdir(IMAGES)
    return recorder.events


def draw_terminal(events: list[Event]) -> str:
    """Return a recording as an SVG that plays once.

    Each line is hidden until its time, each live line visible for its time only. So a viewer that
    plays nothing shows the end.
    """
    lines, times = [COMMAND], [0.0]
    live: list[Event] = []
    rows: list[int] = []
    ends: list[float] = []
    for event in events:
        if len(ends) < len(live) and (
            event.lines or not event.live or event.at - live[-1].at >= 1 / FRAMES
        ):
            ends.append(event.at)
        lines += event.lines
        times += [event.at] * len(event.lines)
        if event.live and len(ends) == len(live):
            live.append(event)
            rows.append(len(lines) + 1)
    styles, drawn = draw_lines([*lines, *(event.live for event in live)])
    parts = [shown(text, at, 0.0) for text, at in zip(drawn, times, strict=False)]
    for text, event, row, end in zip(drawn[len(lines) :], live, rows, ends, strict=True):
        text = re.sub(r' y="[^"]*"', f' y="{20 + LINE * row:.1f}"', text)
        parts.append(shown(text, event.at, end))
    width, height = WIDTH * 20 * ASPECT + 32, LINE * len(lines) + 64
    return FRAME.format(
        width=width, height=height, styles=styles, font=FONT, lines="\n".join(parts)
    )


def shown(text: str, begin: float, end: float) -> str:
    """Return a drawing that is seen from `begin` to `end` seconds, or for ever where that is 0."""
    change = '<set attributeName="visibility" to="{}" begin="{:.2f}s" dur="{:.2f}s"/>'
    if not end:
        return f"<g>{text}{change.format('hidden', 0, begin) if begin else ''}</g>"
    if end - begin < 0.02:
        return ""
    return f'<g visibility="hidden">{text}{change.format("visible", begin, end - begin)}</g>'


def draw_lines(lines: list[str]) -> tuple[str, list[str]]:
    """Return the styles that lines of a terminal need, and rich's drawing of each."""
    console = Console(record=True, file=io.StringIO(), width=WIDTH)
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    styles, _, matrix = console.export_svg(
        theme=THEME,
        code_format="{styles}@@{matrix}",
        font_aspect_ratio=ASPECT,
        unique_id="t",
    ).partition("@@")
    drawn = [""] * len(lines)
    for text in re.findall(r"<text .*?</text>", matrix):
        number = int(re.search(r"line-(\d+)", text)[1])
        drawn[number] += re.sub(r' clip-path="[^"]*"', "", text)
    return styles.replace("\n", " "), drawn


def record_plot() -> bytes:
    """Return the last picture that a notebook shows of the same fit, as a PNG."""
    import nbformat
    from nbclient import NotebookClient

    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += "import pictures; pictures.fit_digits(pictures.PAUSE);"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=300, resources=resources).execute()
    pages = [output["data"]["text/html"] for output in notebook.cells[0].outputs]
    return base64.b64decode(re.findall(r'base64,([^"]+)"', pages[-1])[-1])


def photograph_report(picture: Path) -> None:
    """Write a report, and what Chromium shows of its upper part."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        sys.exit(f"no {picture.name}: it needs one of {', '.join(names)}")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        page = fit_digits(0.0).history.to_html("report.html").absolute()
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--hide-scrollbars"),
                *("--window-size=1200,1780", f"--screenshot={picture}", page.as_uri()),
            ],
            check=True,
            capture_output=True,
        )
        os.chdir(IMAGES)
    Image.open(picture).quantize(64).save(picture, optimize=True)


def main() -> None:
    """Make all."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "terminal.svg").write_text(draw_terminal(record_terminal()), encoding="utf-8")
    (IMAGES / "live-plot.png").write_bytes(record_plot())
    photograph_report(IMAGES / "report.png")


if __name__ == "__main__":
    main()
