import io
import itertools
import math
import re

import pyte
import pyte.modes
import pytest
from rich.cells import cell_len
from rich.console import Console

from fitorch.callbacks import EarlyStopping
from fitorch.callbacks.display import number_format as figures
from fitorch.callbacks.display import progress, screen
from fitorch.callbacks.display.progress import Progress
from fitorch.callbacks.hooks import Hooks
from fitorch.callbacks.logs import BatchLogs, EpochLogs

WIDTHS = pytest.mark.parametrize("width", [40, 80, 200])


class Clock:
    """A clock that only moves when it is told to."""

    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A file whose text is shown by a terminal emulator; `wide` never wraps, so it tells wraps."""

    encoding = "utf-8"
    console: Console

    def __init__(self, width=80):
        super().__init__()
        self.narrow, self.wide = pyte.Screen(width, 60), pyte.Screen(1000, 60)
        for emulator in (self.narrow, self.wide):
            emulator.set_mode(pyte.modes.LNM)  # as terminals do: a new line starts on the left
        self.streams = [pyte.Stream(self.narrow), pyte.Stream(self.wide)]
        self.writes = 0

    def write(self, text):
        self.writes += 1
        for stream in self.streams:
            stream.feed(text)
        return super().write(text)

    @property
    def lines(self):
        shown = [line.rstrip() for line in self.narrow.display]
        assert shown == [line.rstrip() for line in self.wide.display], "a line was wrapped"
        return "\n".join(shown).rstrip().split("\n")

    @property
    def live_line(self):
        return self.lines[-1]


class Figures(dict):
    """What BatchLogs reads; counts how often."""

    reads = 0

    def __call__(self):
        Figures.reads += 1
        return self


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    Figures.reads = 0
    monkeypatch.setattr(progress, "perf_counter", clock)
    return clock


def on_terminal(width=80, **arguments):
    file = Terminal(width)
    file.console = Console(file=file, force_terminal=True, width=width, height=60)
    return Progress(console=file.console, **arguments), file


def on_file(**arguments):
    file = Terminal()
    return Progress(console=Console(file=file, force_terminal=False), **arguments), file


def steps(hook, prefix, clock, count, seconds, figures):
    for batch in range(count):
        clock.now += seconds
        hook(batch, BatchLogs(prefix, Figures(figures)))


def epoch(callback, clock, number, logs, *, steps_=10, seconds=0.01, validate=0):
    """Run epoch `number`, from 1, whose last figures are `logs`."""
    trained = {name: value for name, value in logs.items() if name.startswith("train_")}
    validated = {name: value for name, value in logs.items() if name.startswith("val_")}
    callback.on_epoch_begin(number - 1)
    steps(callback.on_train_batch_end, "train_", clock, steps_, seconds, trained)
    if validate:
        callback.on_test_begin()
        steps(callback.on_test_batch_end, "val_", clock, validate, seconds, validated)
        callback.on_test_end()
    callback.on_epoch_end(number - 1, EpochLogs(logs))


def begin(callback, epochs: int | None = 20, steps_: int | None = 10):
    callback.set_params({"epochs": epochs, "steps": steps_, "verbose": 1})
    callback.on_train_begin()


def train(callback, clock, history, **arguments):
    begin(callback, len(history), arguments.get("steps_", 10))
    for number, logs in enumerate(history, 1):
        epoch(callback, clock, number, logs, **arguments)
    callback.on_train_end()


HISTORY = [
    {"train_loss": 0.9, "train_acc": 0.6, "lr": 1e-3, "val_loss": 0.8, "val_acc": 0.65},
    {"train_loss": 0.5, "train_acc": 0.8, "lr": 1e-3, "val_loss": 0.4, "val_acc": 0.91},
    {"train_loss": 0.2314, "train_acc": 0.9121, "lr": 3e-4, "val_loss": 0.5, "val_acc": 0.88},
]


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


TERMS = {
    "train_loss": 0.31,
    "train_auc": 0.9,
    "train_focal": 0.25,
    "train_l2": 0.04,
    "lr": 1e-3,
    "l2_weight": 0.25,
    "val_loss": 0.3,
    "val_auc": 0.95,
    "val_focal": 0.26,
    "val_l2": 0.04,
}


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


def test_the_live_line_shows_terms_where_there_is_room(clock):
    callback, file = on_terminal(200)
    begin(callback)
    callback.on_epoch_begin(0)
    trained = {name: value for name, value in TERMS.items() if name.startswith("train_")}
    steps(callback.on_train_batch_end, "train_", clock, 3, 0.2, trained)
    assert "train_loss 0.3100  train_auc 0.9000  train_focal 0.2500  train_l2 0.04000" in (
        file.live_line
    )


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


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (40, "epoch  3/20   7/49  train_loss 0.5000"),
        (80, "epoch  3/20  ━─────────   7/49  100 ms/step  ETA 0:05  train_loss 0.5000"),
        (
            200,
            f"epoch  3/20  {'━' * 4}{'─' * 26}   7/49  100 ms/step  ETA 0:05"
            "  train_loss 0.5000  train_acc 0.9000",
        ),
    ],
)
def test_tells_on_one_line_how_the_epoch_gets_on(clock, width, line):
    callback, file = on_terminal(width)
    begin(callback, 20, 49)
    callback.on_epoch_begin(2)
    figures = {"train_loss": 0.5, "train_acc": 0.9}
    steps(callback.on_train_batch_end, "train_", clock, 7, 0.1001, figures)
    assert file.lines == ["", line]


def test_shows_the_live_line_before_the_first_batch(clock):
    callback, file = on_terminal()
    begin(callback, 20, 49)
    callback.on_epoch_begin(0)
    assert file.live_line == "epoch  1/20  ──────────   0/49"


def test_counts_the_batches_of_a_loader_without_length(clock):
    callback, file = on_terminal()
    begin(callback, 20, None)
    callback.on_epoch_begin(0)
    steps(callback.on_train_batch_end, "train_", clock, 12, 0.1001, {"train_loss": 0.5})
    assert file.live_line == "epoch  1/20  batch 12  100 ms/step  train_loss 0.5000"


def test_forgets_a_slow_first_step(clock):
    callback, file = on_terminal()
    begin(callback, 1, 1000)
    callback.on_epoch_begin(0)
    clock.now += 60
    steps(callback.on_train_batch_end, "train_", clock, 100, 0.1001, {"train_loss": 0.5})
    assert "100 ms/step  ETA 1:31" in file.live_line


def test_measures_the_pace_of_an_epoch_that_is_resumed_in_its_middle(clock):
    callback, file = on_terminal()
    begin(callback, 1, 100)
    callback.on_epoch_begin(0)
    for batch in range(90, 95):
        clock.now += 0.19
        callback.on_train_batch_end(batch, {"train_loss": 0.5})
    assert "95/100  190 ms/step  ETA 0:01" in file.live_line


def test_says_how_much_patience_is_left_once_some_is_used_up(clock):
    callback, file = on_terminal(120)
    callback.stopping = EarlyStopping(patience=3)
    begin(callback)
    shown = []
    for number, wait in enumerate((0, 1, 2), 1):
        callback.stopping.wait = wait
        callback.on_epoch_begin(number - 1)
        steps(callback.on_train_batch_end, "train_", clock, 3, 0.2, {"train_loss": 1.0})
        shown.append(re.findall(r"patience (\d/\d)", file.live_line))
        callback.on_epoch_end(number - 1, EpochLogs({"train_loss": 1.0}))
    assert shown == [[], ["2/3"], ["1/3"]]


def test_says_that_validation_is_running(clock):
    callback, file = on_terminal()
    begin(callback, 20)
    epoch(callback, clock, 1, {"train_loss": 0.5, "val_loss": 0.4}, validate=21)
    callback.on_epoch_begin(1)
    callback.on_test_begin()
    steps(callback.on_test_batch_end, "val_", clock, 12, 0.1001, {"val_loss": 0.4})
    assert "epoch  2/20" in file.live_line
    assert "validating 12/21" in file.live_line
    assert "val_loss 0.4000" in file.live_line


def test_takes_the_number_of_validation_batches_from_the_parameters(clock):
    callback, file = on_terminal()
    callback.set_params({"epochs": 1, "steps": 4, "validation_steps": 9})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    clock.now += 1
    callback.on_test_begin()
    assert "validating 0/9" in file.live_line


@pytest.mark.parametrize(("stage", "verb"), [("test", "evaluating"), ("predict", "predicting")])
def test_shows_a_live_line_outside_fit_and_takes_it_away(clock, stage, verb):
    callback, file = on_terminal()
    callback.set_params({"steps": 21})
    getattr(callback, f"on_{stage}_begin")()
    steps(getattr(callback, f"on_{stage}_batch_end"), "val_", clock, 12, 0.1001, {})
    assert re.fullmatch(rf"━+╸?─+  {verb} 12/21  100 ms/step  ETA 0:01", file.live_line)
    getattr(callback, f"on_{stage}_end")()
    assert file.lines == [""]


def test_refreshes_at_most_ten_times_a_second(clock):
    callback, file = on_terminal()
    begin(callback, 500, 49)
    start = clock.now
    for number in range(1, 501):
        epoch(callback, clock, number, {"train_loss": 0.5}, steps_=49, seconds=0.0004)
    callback.on_train_end()
    assert 0.9 * 10 < file.writes / (clock.now - start) <= 10 + 0.2  # the first and the last


def test_writes_plain_lines_at_most_ten_times_a_second(clock):
    callback, file = on_file()
    train(callback, clock, [{"train_loss": 0.5}] * 500, seconds=0.0004)
    assert file.writes <= 10 * 500 * 10 * 0.0004 + 2
    assert file.getvalue().count("\n") == 500


def test_reads_the_figures_only_when_it_refreshes(clock):
    callback, _ = on_terminal()
    begin(callback, 1, 1000)
    callback.on_epoch_begin(0)
    steps(callback.on_train_batch_end, "train_", clock, 99, 0.001, {"train_loss": 0.5})
    assert Figures.reads == 0
    steps(callback.on_train_batch_end, "train_", clock, 2, 0.001, {"train_loss": 0.5})
    seen = Figures.reads
    assert seen > 0
    steps(callback.on_train_batch_end, "train_", clock, 98, 0.001, {"train_loss": 0.5})
    assert Figures.reads == seen


def test_never_reads_the_figures_of_a_batch_for_a_file(clock):
    callback, _ = on_file()
    train(callback, clock, HISTORY, seconds=0.3, validate=5)
    assert Figures.reads == 0


def test_refreshes_less_often_when_the_figures_are_slow_to_read(clock):
    callback, _ = on_terminal()
    begin(callback, 1, 1000)
    reads = []

    def read():
        reads.append(clock.now)
        clock.now += 0.003
        return {}

    callback.on_epoch_begin(0)
    for batch in range(1000):
        clock.now += 0.01
        callback.on_train_batch_end(batch, BatchLogs("train_", read))
    pauses = [after - before for before, after in itertools.pairwise(reads)]
    assert min(pauses) >= 0.3
    assert max(pauses) < 0.4


def test_writes_the_row_of_a_slow_epoch_at_once(clock):
    callback, file = on_terminal()
    begin(callback, 2)
    epoch(callback, clock, 1, {"train_loss": 0.5}, seconds=0.1)
    assert file.lines[-1].split() == ["1/2", "0.5000", "1.00", "s"]


def test_says_a_line_above_the_live_line(clock):
    callback, file = on_terminal()
    begin(callback, 2)
    epoch(callback, clock, 1, {"train_loss": 0.5})
    callback.on_epoch_begin(1)
    clock.now += 1
    callback.on_train_batch_end(0, {})
    live_line = file.live_line
    callback.say("saved to runs/ring")
    assert file.lines[3:] == ["saved to runs/ring", "", live_line]


@pytest.mark.parametrize("make", [on_terminal, on_file])
def test_says_a_line_after_the_last_row(clock, make):
    callback, file = make()
    train(callback, clock, [{"train_loss": 0.5}])
    callback.say("best val_loss 0.4 in epoch 1")
    assert file.getvalue().endswith("\nbest val_loss 0.4 in epoch 1\n")


def test_gives_what_others_print_a_line_of_its_own(clock):
    callback, file = on_terminal()
    begin(callback, 1)
    callback.on_epoch_begin(0)
    file.write("hello\n")
    clock.now += 1
    callback.on_train_batch_end(0, {"train_loss": 0.5})
    assert file.lines[0] == "hello"
    assert file.lines[1] == ""
    assert file.lines[2].startswith("epoch 1/1")
    callback.on_train_end()
    assert file.lines == ["hello"]


@pytest.mark.parametrize("make", [on_terminal, on_file])
def test_writes_nothing_when_no_epoch_ran(clock, make):
    callback, file = make()
    train(callback, clock, [])
    assert file.getvalue() == ""


def test_writes_what_is_left_when_training_ends_in_the_middle_of_an_epoch(clock):
    callback, file = on_terminal()
    begin(callback, 9)
    epoch(callback, clock, 1, {"train_loss": 0.5}, seconds=0.001)
    callback.on_epoch_begin(1)
    callback.on_train_end()
    assert [line.split()[0] for line in file.lines[2:]] == ["1/9"]


@pytest.mark.parametrize("make", [on_terminal, on_file])
@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_goes_silent_when_the_output_breaks(clock, make, error):
    callback, file = make()
    tries = []

    def write(text):
        tries.append(text)
        raise error

    file.write = write
    train(callback, clock, HISTORY, seconds=0.2, validate=3)
    callback.say("still alive")
    assert len(tries) == 1


def test_reads_no_figures_once_the_output_is_broken(clock):
    callback, file = on_terminal()
    begin(callback, 3)
    file.close()
    for number in range(1, 4):
        epoch(callback, clock, number, {"train_loss": 0.5}, seconds=0.2)
    assert Figures.reads == 0


def test_goes_silent_when_standard_output_is_closed(clock, monkeypatch):
    file = io.StringIO()
    file.close()
    monkeypatch.setattr("sys.stdout", file)
    train(Progress(), clock, HISTORY)


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


def test_survives_logs_that_are_no_numbers(clock):
    callback, file = on_terminal(monitor="val_note")
    train(callback, clock, [{"train_loss": 0.5, "val_note": "plateau\nreached at last"}])
    assert "plateau r…" in file.lines[2]


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
