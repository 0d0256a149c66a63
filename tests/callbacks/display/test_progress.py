"""The table of epochs and the lines of a file, as a terminal emulator shows them."""

import io
import math
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from fitorch.callbacks.display import number_format as figures
from fitorch.callbacks.display import screen
from fitorch.callbacks.display.progress import Progress
from fitorch.callbacks.hooks import Hooks
from fitorch.callbacks.logs import EpochLogs
from terminals import HISTORY, TERMS, Terminal, begin, epoch, on_file, on_terminal, train

WIDTHS = pytest.mark.parametrize("width", [40, 80, 200])


def test_prints_one_plain_line_per_epoch_when_piped(clock):
    callback, file = on_file(monitor="val_acc", mode="max")
    train(callback, clock, HISTORY, seconds=0.041)
    assert file.getvalue().splitlines() == [
        "epoch 1/3  train_loss 0.9000  train_acc 0.6000  lr 0.001"
        "  val_loss 0.8000  val_acc 0.6500 *  0.41 s",
        "epoch 2/3  train_loss 0.5000  train_acc 0.8000  lr 0.001"
        "  val_loss 0.4000  val_acc 0.9100 *  0.41 s",
        "epoch 3/3  train_loss 0.2314  train_acc 0.9121  lr 3e-04"
        "  val_loss 0.5000  val_acc 0.8800  0.41 s",
    ]


def test_prints_the_terms_of_an_objective_and_their_weights(clock):
    callback, file = on_file(monitor="val_focal")
    train(callback, clock, [TERMS], seconds=0.041)
    assert file.getvalue().splitlines() == [
        "epoch 1/1  train_loss 0.3100  train_auc 0.9000  train_focal 0.2500  train_l2 0.04000"
        "  lr 0.001  l2_weight 0.25"
        "  val_loss 0.3000  val_auc 0.9500  val_focal 0.2600 *  val_l2 0.04000  0.41 s"
    ]


@WIDTHS
def test_terms_stand_behind_metrics_and_fold_first(clock, width):
    callback, file = on_terminal(width, monitor="val_loss")
    train(callback, clock, [TERMS] * 2, seconds=0.06)
    header = file.lines[0].split()
    wide = ["val_loss", "val_auc", "val_focal", "val_l2", "time"]
    expected = {
        40: ["epoch", "train_loss", "val_loss"],
        80: ["epoch", "train_loss", "val_loss", "val_auc", "val_focal", "val_l2", "time"],
        200: ["epoch", *list(TERMS)[:6], *wide],
    }[width]
    assert [name for name in header if not name.startswith("+")] == expected


def test_writes_no_control_characters_when_piped(clock):
    callback, file = on_file()
    train(callback, clock, HISTORY, seconds=0.3, validate=5)
    callback.say("done")
    assert re.fullmatch(r"[\x20-\x7e\n]+", file.getvalue())


def test_writes_plain_lines_on_a_terminal_too_when_verbose_is_2(clock):
    callback, file = on_terminal(verbose=2)
    train(callback, clock, HISTORY, seconds=0.3)
    assert "\x1b" not in file.getvalue()
    assert len(file.getvalue().splitlines()) == 3


def test_treats_standard_output_as_a_file_when_it_is_captured(clock, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    train(Progress(), clock, HISTORY)
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(("value", "live"), [("true", False), ("", True), ("false", True)])
def test_shows_no_live_line_on_the_terminal_of_ci(monkeypatch, value, live):
    file = io.StringIO()
    file.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", file)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("CI", value)
    assert screen.Screen().live is live


def test_shows_no_live_line_on_a_dumb_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert not screen.Screen(Console(file=io.StringIO(), force_terminal=True)).live


@WIDTHS
def test_aligns_the_rows_of_the_table_under_their_heads(clock, width):
    callback, file = on_terminal(width, monitor="val_acc", mode="max")
    train(callback, clock, HISTORY)
    head, rule, *rows = file.lines
    assert len(rows) == 3
    assert set(rule) == {"─"}
    ends = [match.end() for match in re.finditer(r"\S+", head) if match[0] != "time"]
    for row in rows:
        assert {match.end() for match in re.finditer(r"\S+", row)} >= set(ends[:-1])
    assert head.split()[0] == "epoch"
    assert {"train_loss", "val_acc"} <= set(head.split())


def test_shows_every_column_in_the_order_of_the_logs_where_there_is_room(clock):
    callback, file = on_terminal(80, monitor="val_acc", mode="max")
    train(callback, clock, HISTORY)
    assert file.lines[0].split() == ["epoch", *HISTORY[0], "time"]


@WIDTHS
def test_leaves_nothing_of_the_live_line(clock, width):
    callback, file = on_terminal(width)
    train(callback, clock, HISTORY * 3, seconds=0.03, validate=7)
    assert len(file.lines) == 2 + 9
    assert not re.search("━|╸|ETA|validating|step", "".join(file.lines))
    assert file.narrow.cursor.x == 0
    assert file.narrow.cursor.y == 11
    assert not file.narrow.cursor.hidden


@WIDTHS
def test_never_wraps_a_line(clock, width):
    callback, file = on_terminal(width, monitor="val_m3", mode="max")
    names = [f"{stage}_m{metric}" for stage in ("train", "val") for metric in range(20)]
    begin(callback, epochs=100, steps_=10000)
    for number in range(1, 4):
        values = dict.fromkeys(names, -0.0002314 * number)
        epoch(callback, clock, number, {"train_loss": 1e-9, "val_loss": 1.0, **values}, validate=3)
        assert len(file.lines) >= 2
    callback.on_train_end()
    assert all(len(line) < width for line in file.lines)


def test_folds_the_least_important_columns_and_says_how_many(clock):
    names = [f"{stage}_m{metric}" for stage in ("train", "val") for metric in range(20)]
    callback, file = on_terminal(80, monitor="val_m3", mode="max")
    train(callback, clock, [{"train_loss": 1.0, **dict.fromkeys(names, 0.5), "val_loss": 2.0}])
    shown = file.lines[0].split()
    assert shown[:-1] == ["epoch", "train_loss", "train_m3", "val_m0", "val_m3", "val_loss", "time"]
    assert shown[-1] == f"+{len(names) + 4 - 7}"


@WIDTHS
def test_says_how_many_columns_are_folded_wherever_some_are(clock, width):
    names = [f"{stage}_m{metric}" for stage in ("train", "val") for metric in range(20)]
    callback, file = on_terminal(width, monitor="val_m3", mode="max")
    train(callback, clock, [{"train_loss": 1.0, **dict.fromkeys(names, 0.5), "val_loss": 2.0}])
    *shown, note = file.lines[0].split()
    assert note == f"+{len(names) + 4 - len(shown)}"


@WIDTHS
def test_breaks_sentences_between_words_and_leaves_paths_whole(clock, width):
    callback, file = on_terminal(width)
    path = "/path/to/the/folder/of/this/run"
    sentence = f"best epoch 3: val_loss 0.1234, weights restored, saved in {path} for later use"
    callback.say(sentence)
    assert " ".join(line.strip() for line in file.lines) == sentence
    assert path in "".join(file.lines)
    assert all(len(line) < width for line in file.lines)
    assert len(file.lines) == {40: 4, 80: 2, 200: 1}[width]


def test_keeps_a_number_and_its_unit_together(clock):
    callback, file = on_terminal(40)
    callback.say("stopped after epoch 16: no better (1.22 s)")
    assert file.lines == ["stopped after epoch 16: no better", "  (1.22 s)"]


def test_leaves_sentences_whole_in_a_file(clock):
    callback, file = on_file()
    callback.say("word " * 50)
    assert file.getvalue() == "word " * 50 + "\n"


def test_keeps_the_monitored_figure_and_the_training_loss_in_40_columns(clock):
    callback, file = on_terminal(40, monitor="val_balanced_accuracy_macro", mode="max")
    train(
        callback, clock, [{"train_loss": 1.0, "val_loss": 2.0, "val_balanced_accuracy_macro": 0.5}]
    )
    assert file.lines[0].split() == ["epoch", "train_loss", "val_balanced…", "+2"]
    assert file.lines[2].split() == ["1/1", "1.000", "0.5000", "★"]


@pytest.mark.parametrize(
    ("monitor", "mode", "marks"),
    [
        ("val_acc", "max", [True, True, False]),
        ("val_loss", "min", [True, True, False]),
        ("loss", "min", [True, True, True]),
        ("train_acc", "min", [True, False, False]),
        (None, "min", [False, False, False]),
        ("val_f1", "max", [False, False, False]),
    ],
)
def test_marks_the_best_figure_so_far(clock, monitor, mode, marks):
    callback, file = on_terminal(80, monitor=monitor, mode=mode)
    train(callback, clock, HISTORY)
    assert ["★" in row for row in file.lines[2:]] == marks


def test_paints_the_best_figure_green(clock):
    callback, file = on_terminal(80, monitor="val_acc", mode="max")
    train(callback, clock, HISTORY)
    column = file.lines[3].index("0.9100")
    assert file.narrow.buffer[3][column].fg == "green"
    assert file.narrow.buffer[4][column].fg == "default"


ARROWS = [
    ({"train_loss": 0.5, "val_acc": 0.9}, "", ""),
    ({"train_loss": 0.4, "val_acc": 0.8}, "↓", "↓"),
    ({"train_loss": 0.6, "val_acc": 0.85}, "↑", "↑"),
    ({"train_loss": 0.60001, "val_acc": math.nan}, "", ""),
    ({"train_loss": 0.7}, "↑", ""),
    ({"train_loss": 0.3, "val_acc": 0.8}, "↓", "↓"),  # since it was measured last
]


def test_arrows_tell_where_a_figure_went_since_the_epoch_before(clock):
    callback, file = on_terminal()
    callback.directions = {"train_loss": "min", "val_acc": "max"}
    begin(callback)
    for number, (logs, _, _) in enumerate(ARROWS, 1):
        epoch(callback, clock, number, logs)
    callback.on_train_end()
    rows = [line for line in file.lines if re.match(r" *\d+/20", line)]
    for row, (logs, loss, acc) in zip(rows, ARROWS, strict=True):
        cells = row.split()
        assert cells[1].lstrip("0123456789.") == loss, logs
        assert cells[2].lstrip("0123456789.-") == acc, logs


def test_arrows_are_green_where_a_figure_is_better_and_red_where_it_is_worse(clock):
    callback, file = on_terminal()
    callback.directions = {"train_loss": "min", "val_acc": "max"}
    begin(callback)
    for number, (logs, _, _) in enumerate(ARROWS[:3], 1):
        epoch(callback, clock, number, logs)
    callback.on_train_end()
    styles = {"↓": [], "↑": []}
    for line in file.narrow.buffer.values():
        for character in line.values():
            if character.data in styles:
                styles[character.data].append(character.fg)
    assert styles == {"↓": ["green", "red"], "↑": ["red", "green"]}


def test_the_best_figure_has_its_star_and_no_arrow(clock):
    callback, file = on_terminal(monitor="val_acc", mode="max")
    callback.directions = {"val_acc": "max"}
    begin(callback)
    for number, value in enumerate((0.5, 0.6, 0.55), 1):
        epoch(callback, clock, number, {"val_acc": value})
    callback.on_train_end()
    marks = re.findall(r"\d/20 +[\d.]+( ★|↓|↑)", "\n".join(file.lines))
    assert marks == [" ★", " ★", "↓"]


def test_figures_of_no_known_direction_get_no_arrow(clock):
    callback, file = on_terminal()
    begin(callback)
    for number, value in enumerate((0.5, 0.6), 1):
        epoch(callback, clock, number, {"train_loss": value})
    callback.on_train_end()
    assert not {"↓", "↑"} & {*"".join(file.lines)}


def test_never_marks_nan(clock):
    callback, file = on_file(monitor="val_loss")
    train(callback, clock, [{"val_loss": math.nan}, {"val_loss": 3.0}, {"val_loss": math.nan}])
    assert ["*" in line for line in file.getvalue().splitlines()] == [False, True, False]


def test_shows_nan_as_a_dash(clock):
    callback, file = on_terminal()
    train(callback, clock, [{"train_loss": 0.5, "val_loss": math.nan}])
    assert file.lines[2].split() == ["1/1", "0.5000", "-", "0.10", "s"]


def test_keeps_the_columns_of_figures_that_some_epochs_do_not_measure(clock):
    callback, file = on_terminal()
    history = [{"train_loss": 0.5, "val_loss": 0.4}, {"train_loss": 0.3}] * 2
    train(callback, clock, history)
    assert [line.split()[0] for line in file.lines[2:]] == ["1/4", "2/4", "3/4", "4/4"]
    assert [line.split()[2] for line in file.lines[2:]] == ["0.4000", "-", "0.4000", "-"]


def test_repeats_the_header_when_a_figure_appears_later(clock):
    callback, file = on_terminal()
    train(callback, clock, [{"train_loss": 0.5}, {"train_loss": 0.3, "val_loss": 0.4}])
    heads = [line.split() for line in file.lines if "epoch" in line]
    assert heads == [["epoch", "train_loss", "time"], ["epoch", "train_loss", "val_loss", "time"]]


def test_repeats_the_header_when_the_terminal_changes_its_width(clock):
    callback, file = on_terminal(200)
    begin(callback, 2)
    epoch(callback, clock, 1, HISTORY[0], seconds=0.1)
    file.console.width = 40
    epoch(callback, clock, 2, HISTORY[1], seconds=0.1)
    callback.on_train_end()
    assert sum("epoch" in line for line in file.lines) == 2
    assert max(len(line) for line in file.lines[3:]) < 40


def test_prefers_the_seconds_of_the_logs_to_its_own(clock):
    callback, file = on_file()
    begin(callback, 1)
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, EpochLogs({"train_loss": 0.5, "seconds": 83.0}))
    assert file.getvalue() == "epoch 1/1  train_loss 0.5000  1:23\n"


def test_keeps_to_ascii_where_the_output_knows_no_more(clock):
    callback, file = on_terminal(monitor="val_acc", mode="max")
    file.encoding = "ascii"
    train(callback, clock, HISTORY, seconds=0.1)
    assert file.getvalue().isascii()
    assert "0.9100 *" in file.lines[3]


def test_uses_no_colours_where_they_are_not_wanted(clock):
    file = Terminal()
    console = Console(file=file, force_terminal=True, no_color=True, width=80, height=60)
    train(Progress(monitor="val_acc", mode="max", console=console), clock, HISTORY)
    assert not re.search(r"\x1b\[(?:\d+;)*3\dm", file.getvalue())


def test_replaces_characters_that_the_output_cannot_write(clock):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="latin-1", newline="\n")
    train(Progress(console=Console(file=file)), clock, [{"train_größe_λ": 1.0}])
    assert raw.getvalue().decode("latin-1").startswith("epoch 1/1  train_größe_? 1.000")


def test_aligns_names_that_are_wider_than_their_letters(clock):
    callback, file = on_terminal()
    train(callback, clock, [{"train_loss": 0.5, "train_精度精度精度": 0.25, "val_loss": 1.0}])
    head, _, row = file.wide.display[:3]
    ends = [[cell_len(line[: m.end()]) for m in re.finditer(r"\S+", line)] for line in (head, row)]
    assert ends[0][:4] == ends[1][:4]


def test_counts_epochs_whose_number_is_not_known(clock):
    callback, file = on_file()
    begin(callback, None)
    epoch(callback, clock, 3, {"train_loss": 0.5}, seconds=0.1)
    assert file.getvalue() == "epoch 3  train_loss 0.5000  1.00 s\n"


def test_starts_a_new_table_in_a_second_fit(clock):
    callback, file = on_terminal(monitor="val_acc", mode="max")
    train(callback, clock, HISTORY)
    train(callback, clock, HISTORY)
    assert sum("epoch" in line for line in file.lines) == 2
    assert ["★" in line for line in file.lines] == [False, False, True, True, False] * 2


def test_listens_to_the_hooks_it_needs_and_to_no_other():
    hooks = Hooks.collect([Progress()])
    silent = {name for name in Hooks.__dataclass_fields__ if not getattr(hooks, name)}
    assert silent == {
        "on_train_batch_begin",
        "on_test_batch_begin",
        "on_predict_batch_begin",
    }


@pytest.mark.parametrize("arguments", [{"verbose": 0}, {"verbose": 3}, {"mode": "auto"}])
def test_refuses_arguments_that_mean_nothing(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Progress(**arguments)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.9, "0.9000"),
        (-0.00023141, "-0.0002314"),
        (12345.6, "1.235e+04"),
        (999.96, "1000"),
        (math.inf, "inf"),
        (math.nan, "-"),
    ],
)
def test_writes_numbers_with_four_significant_digits(value, text):
    assert figures.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.001, "0.001"), (3e-4, "3e-04"), (0.0, "0"), (1, "1"), (math.nan, "-"), (2.5e-7, "2.5e-07")],
)
def test_writes_learning_rates_short(value, text):
    assert figures.learning_rate(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "0.00 s"), (9.99, "9.99 s"), (59.94, "59.9 s"), (59.96, "1:00"), (7200, "2:00:00")],
)
def test_writes_times_as_people_say_them(seconds, text):
    assert figures.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00035, "0.35 ms/step"),
        (0.9994, "999 ms/step"),
        (0.9996, "1.0 s/step"),
        (1234, "1234.0 s/step"),
    ],
)
def test_writes_the_pace_of_a_step(seconds, text):
    assert figures.pace(seconds) == text
