"""The line of the epoch that runs, what is said above it, and outputs that break."""

import io
import itertools
import re

import pytest

from fitorch.callbacks import EarlyStopping
from fitorch.callbacks.display.progress import Progress
from fitorch.callbacks.logs import BatchLogs, EpochLogs
from terminals import HISTORY, TERMS, Figures, begin, epoch, on_file, on_terminal, steps, train


def test_the_live_line_shows_terms_where_there_is_room(clock):
    callback, file = on_terminal(200)
    begin(callback)
    callback.on_epoch_begin(0)
    trained = {name: value for name, value in TERMS.items() if name.startswith("train_")}
    steps(callback.on_train_batch_end, "train_", clock, 3, 0.2, trained)
    assert "train_loss 0.3100  train_auc 0.9000  train_focal 0.2500  train_l2 0.04000" in (
        file.live_line
    )


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


def test_survives_logs_that_are_no_numbers(clock):
    callback, file = on_terminal(monitor="val_note")
    train(callback, clock, [{"train_loss": 0.5, "val_note": "plateau\nreached at last"}])
    assert "plateau r…" in file.lines[2]
