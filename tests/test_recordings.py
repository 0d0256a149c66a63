"""The README's pictures: a recording is drawn as it was, its pictures are small."""

import importlib
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parent.parent / "docs"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("pictures")


def seen(svg, at):
    """Return the lines that a viewer shows after so many seconds, from above; None is the end."""
    lines = {}
    for group in ElementTree.fromstring(svg).findall(f"{SVG}g/{SVG}g"):
        visible = group.get("visibility") != "hidden"
        for change in group.findall(f"{SVG}set"):
            begin, seconds = (float(change.get(name)[:-1]) for name in ("begin", "dur"))
            if at is not None and begin <= at < begin + seconds:
                visible = change.get("to") == "visible"
        for text in group.findall(f"{SVG}text") if visible else ():
            lines.setdefault(float(text.get("y")), []).append(text.text.replace("\xa0", " "))
    return ["".join(lines[y]).rstrip() for y in sorted(lines)]


def test_a_recording_shows_at_each_time_what_the_terminal_showed(pictures):
    recorder = pictures.Recorder()
    for text in (
        "training Net\n",
        "\n\x1b[1mepoch 1\x1b[0m  1/2\x1b[A\r",
        "\r\x1b[J\n\x1b[1mepoch 1\x1b[0m  2/2\x1b[A\r",
        "\r\x1b[J  1  <0.5>\n\n\x1b[1mepoch 2\x1b[0m  0/2\x1b[A\r",
        "\r\x1b[Jdone\n",
    ):
        recorder.write(text)
    events = [event._replace(at=float(at)) for at, event in enumerate(recorder.events, 1)]
    svg = pictures.draw_terminal(events)
    command = pictures.COMMAND
    assert seen(svg, 0.5) == [command]
    assert seen(svg, 1.5) == [command, "training Net"]
    assert seen(svg, 2.5) == [command, "training Net", "epoch 1  1/2"]
    assert seen(svg, 3.5) == [command, "training Net", "epoch 1  2/2"]
    assert seen(svg, 4.5) == [command, "training Net", "  1  <0.5>", "epoch 2  0/2"]
    end = [command, "training Net", "  1  <0.5>", "done"]
    assert seen(svg, 5.5) == seen(svg, None) == end


def test_the_recorded_terminal_ends_with_a_whole_table():
    lines = seen((DOCS / "images/terminal.svg").read_text(encoding="utf-8"), None)
    epochs = [line.split()[0] for line in lines if "/30 " in line]
    assert epochs == [f"{number}/30" for number in range(1, len(epochs) + 1)]
    assert lines[-2].startswith(f"stopped after epoch {len(epochs)}: val_acc did not improve")


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in (DOCS / "images").iterdir()}
    assert {"terminal.svg", "live-plot.png"} <= set(sizes)
    assert {name: size for name, size in sizes.items() if size > 100_000} == {}
