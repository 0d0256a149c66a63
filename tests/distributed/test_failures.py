"""Whatever ends one of several processes ends all, soon, and each tells why; nothing is lost."""

import math
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch
from distributed.cluster import Cluster
from distributed.forks import outcomes
from distributed.torchrun import SCRIPT, Torchrun, run
from torch import nn
from torchmetrics import Metric

from fitorch import KerasModel, RankError, list_checkpoints
from fitorch.callbacks import Callback, EarlyStopping, MaxTime
from fitorch.checkpoint import CheckpointStore

SOAK = os.environ.get("FITORCH_SOAK") == "1"
SOON = 15  # seconds in which all must have ended
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def happens(act, place="batch", rank=1, update=4, **more):
    return {"act": act, "place": place, "rank": rank, "update": update, **more}


def saved_to(folder, **more):
    return {"ckpt_path": str(folder / "run"), **more}


@pytest.fixture(scope="module")
def whole(forks, tmp_path_factory):
    """What a fit of two processes becomes that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    found = forks.run(folder, fit=saved_to(folder))
    assert [each["error"] for each in found] == [None, None]
    return found


def assert_same(found, expected):
    for own, other in zip(found, expected, strict=True):
        assert own["error"] is None
        assert (own["digest"], own["history"]) == (other["digest"], other["history"])
        assert own["updates"] == other["updates"]


class Fails(nn.Linear):
    """Raises in its forward pass in the second process, while the first one waits for it."""

    def forward(self, x):
        if self.training and torch.distributed.get_rank() == 1 and x[0, 0] == 6:
            message = "the seventeenth sheep"
            raise LookupError(message)
        return super().forward(x)


def fit_and_keep_the_error():
    x = torch.arange(12.0)[:, None]
    options = {"batch_size": 2, "shuffle": False, "epochs": 1, "verbose": 0, "cpu": True}
    KerasModel(nn.Linear(1, 1), "mse").fit((x, x), **options)  # leaves reference cycles
    with pytest.raises((LookupError, RankError)) as caught:
        KerasModel(Fails(1, 1), "mse").fit((x, x), **options)
    sys.last_value = caught.value  # as in a notebook, which keeps the last error
    return str(caught.value), torch.distributed.is_initialized()


def test_a_process_that_lives_on_with_its_error_keeps_no_other_waiting():
    two = Cluster(2)  # the group is left
    try:
        (first, joined), (second, other_joined) = two.run(fit_and_keep_the_error)
    finally:
        two.close()
    assert "fit failed in process 1: LookupError: the seventeenth sheep" in first
    assert "the seventeenth sheep" in second
    assert not joined
    assert not other_joined


# One process raises, or is killed.

RAISED = {
    (place, count, rank): happens("raise", place, rank)
    for place in ("batch", "sample", "forward", "validation", "epoch")
    for count, rank in ((2, 1), (3, 0))
}
QUICK_RAISED = {("batch", 3, 0), ("forward", 2, 1), ("validation", 2, 1)}
KILLED = {
    (place, count, rank): happens("SIGKILL", place, rank)
    for place, count, rank in (
        ("batch", 2, 0),
        ("batch", 2, 1),
        ("forward", 3, 0),
        ("validation", 3, 1),
        ("sample", 3, 2),
    )
}
QUICK_KILLED = {("batch", 2, 0), ("sample", 3, 2)}


def slow_unless(quick, keys):
    return [key if key in quick else pytest.param(key, marks=pytest.mark.slow) for key in keys]


RAISED_TEST = "test_g30_an_error_in_one_process_is_told_by_all"
KILLED_TEST = "test_g30_the_others_tell_which_process_was_killed"


@pytest.fixture(scope="module")
def failed(forks, tmp_path_factory, request):
    """The fits of the selected tests in which a process fails, at once, as they mostly wait."""
    events = {("raised", *key): event for key, event in RAISED.items()}
    events |= {("killed", *key): event for key, event in KILLED.items()}
    of_tests = {RAISED_TEST: "raised", KILLED_TEST: "killed"}
    selected = {
        (of_tests[item.originalname], *item.callspec.params["key"])
        for item in request.session.items
        if getattr(item, "originalname", None) in of_tests
    }
    events = {key: event for key, event in events.items() if key in selected}
    launched = {}
    for batch in range(0, len(events), 8):
        some = dict(list(events.items())[batch : batch + 8])
        started = {
            key: forks.start(tmp_path_factory.mktemp("failed"), key[2], event=event)
            for key, event in some.items()
        }
        for each in started.values():
            each.wait()
        launched |= started
    return launched


@pytest.mark.parametrize("key", slow_unless(QUICK_RAISED, RAISED), ids=str)
def test_g30_an_error_in_one_process_is_told_by_all(failed, key):
    _, count, rank = key
    launched = failed[("raised", *key)]
    assert launched.codes == [1] * count
    for number, found in enumerate(launched.wait()):
        assert found["world"] == count
        printed = launched.printed(number)
        assert "the seventeenth sheep" in printed.splitlines()[-2] + printed.splitlines()[-1]
        if number == rank:
            assert found["error"] == "LookupError"
            assert "raise LookupError(message)\n" in printed  # its own traceback
        else:
            assert found["error"] == "RankError"
            told = f"fit failed in process {rank}: LookupError: the seventeenth sheep"
            assert told in found["message"]
    assert_soon(launched.wait())


def assert_soon(found):
    times = [each["time"] for each in found if each is not None]
    assert max(times) - min(times) < SOON


@pytest.mark.parametrize("key", slow_unless(QUICK_KILLED, KILLED), ids=str)
def test_g30_the_others_tell_which_process_was_killed(failed, key):
    _, count, rank = key
    launched = failed[("killed", *key)]
    assert launched.codes == [-9 if n == rank else 1 for n in range(count)]
    others = [str(n) for n in range(count) if n != rank]
    for number, found in enumerate(launched.wait()):
        if number == rank:
            assert found is None
            continue
        assert found["error"] == "RankError"
        told = f"process {rank} of {count} vanished"
        assert told in found["message"]
        assert f"{', '.join(others)} responded" in found["message"]
        assert re.search(r"was at epoch \d+, with \d+ updates completed$", found["message"])
        assert told in launched.printed(number).splitlines()[-1]  # though it was told to end
    assert_soon(launched.wait())


def test_an_exit_of_one_process_is_told_by_the_others(forks, tmp_path):
    launched = forks.start(tmp_path, event=happens("exit"))
    first, second = launched.wait()
    assert launched.codes == [1, 5]
    assert (first["error"], second["error"]) == ("RankError", "SystemExit")
    assert "fit failed in process 1: SystemExit: 5" in first["message"]


def test_a_loss_that_is_not_finite_in_one_process_ends_all_before_the_update(forks, tmp_path):
    launched = forks.start(tmp_path, event=happens("nan", "forward"))
    first, second = launched.wait()
    assert launched.codes == [1, 1]
    for found in (first, second):
        assert found["error"] == "NonFiniteError"
        assert found["updates"] == 4
        assert found["weights"] == found["behind the last update"]
    assert first["message"].startswith("process 1: the training loss")
    assert first["weights"] == second["weights"]


# Signals and wishes to stop.


QUICK = (
    ("SIGTERM", "batch"),
    ("SIGINT", "forward"),
    ("SIGTERM", "validation"),
    ("SIGINT", "epoch"),
)


@pytest.mark.parametrize(
    ("act", "place"),
    [
        pytest.param(act, place, marks=() if quick else pytest.mark.slow)
        for act in ("SIGTERM", "SIGINT", "group SIGINT", "group SIGTERM")
        for place in ("batch", "sample", "forward", "validation", "epoch")
        for quick in [(act, place) in QUICK or (act.startswith("group") and place == "sample")]
    ],
)
def test_g32_g33_a_signal_ends_all_at_the_same_update_and_the_fit_goes_on(
    forks, tmp_path, whole, act, place
):
    update = 6 if place in ("validation", "epoch") else 3
    launched = forks.start(tmp_path, fit=saved_to(tmp_path), event=happens(act, place, 1, update))
    found = launched.wait()
    interrupted = act.endswith("SIGINT")
    assert launched.codes == ([1, 1] if interrupted else [143, 143])
    kind = "KeyboardInterrupt" if interrupted else "Preempted"
    assert [each["error"] for each in found] == [kind, kind]
    assert found[0]["updates"] == found[1]["updates"] in (update, update + 1)
    assert f"update {found[0]['updates']} is saved in" in found[0]["message"]
    assert list_checkpoints(tmp_path / "run").iloc[0]["step"] == found[0]["updates"]
    assert_same(forks.run(tmp_path, fit=saved_to(tmp_path, resume=True)), whole)


def test_g32_a_signal_to_the_workers_of_a_users_loader_too_loses_nothing(forks, tmp_path):
    options = {"loader workers": 2, "pace": 0.01}
    expected = forks.run(tmp_path / "whole", fit=saved_to(tmp_path / "whole"), **options)
    event = happens("group SIGTERM", "batch", 1, 3)
    launched = forks.start(tmp_path, fit=saved_to(tmp_path), event=event, **options)
    found = launched.wait()
    assert launched.codes == [143, 143]
    assert list_checkpoints(tmp_path / "run").iloc[0]["step"] == found[0]["updates"] in (3, 4)
    assert_same(forks.run(tmp_path, fit=saved_to(tmp_path, resume=True), **options), expected)


def test_sigterm_without_a_folder_ends_all_at_the_same_update(forks, tmp_path):
    launched = forks.start(tmp_path, event=happens("SIGTERM"))
    found = launched.wait()
    assert launched.codes == [143, 143]
    assert [each["updates"] for each in found] == [5, 5]


def test_stop_training_of_one_process_stops_all_behind_the_same_update(forks, tmp_path):
    found = forks.run(tmp_path, event=happens("stop"))
    assert [each["error"] for each in found] == [None, None]
    assert [each["updates"] for each in found] == [5, 5]
    assert found[0]["history"] == found[1]["history"]


class Slow(Callback):
    def __init__(self, seconds):
        self.seconds = seconds

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(self.seconds)


def run_out_of_time():
    rank = int(os.environ["RANK"])
    net = nn.Linear(2, 1)
    model = KerasModel(net, "mse", optimizer="sgd")
    limit = MaxTime(0.4 + 0.05 * rank)
    callbacks = [Slow(0.01 + 0.01 * rank), limit]
    x = torch.randn(400, 2)
    model.fit((x, x[:, :1]), epochs=100, batch_size=4, callbacks=callbacks, verbose=0, seed=1)
    return model.updates, limit.stopping_reason


def test_a_limit_of_time_stops_all_behind_the_same_update(two):
    found = two.run(run_out_of_time)
    assert len({updates for updates, _ in found}) == 1
    assert 0 < found[0][0] < 1000
    assert any(reason for _, reason in found)


# Decisions.


class Told(Metric):
    """The sum over the processes of what each was told for the epoch."""

    figure = 0.0

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.tensor(0.0).double(), dist_reduce_fx="sum")

    def update(self, _y_pred, _y_true):
        self.total = torch.tensor(Told.figure).double()

    def compute(self):
        return self.total


class Tell(Callback):
    """Tells the figure of each epoch, of which each process knows a part."""

    def __init__(self, parts):
        self.parts = [part[int(os.environ["RANK"])] for part in parts]

    def on_epoch_begin(self, epoch, logs=None):
        Told.figure = self.parts[epoch]


def decide(tales):
    """Fit with each tale of figures; return epochs, rates, the best epoch, and when it stopped."""
    warnings.simplefilter("ignore")
    found = []
    for tale in tales:
        net = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=0)
        model = KerasModel(net, "mse", {"told": Told()}, optimizer, lr_scheduler=plateau)
        stop = EarlyStopping("val_told", patience=2, mode="max")
        x = torch.zeros(4, 2)
        frame = model.fit(
            (x, x[:, :1]), (x, x[:, :1]), len(tale), batch_size=2, seed=1, verbose=0,
            train_metrics=False, callbacks=[Tell(tale), stop], monitor="val_told", mode="max",
        )  # fmt: skip
        best = model.history.best
        found.append((list(frame["epoch"]), list(frame["lr"]), repr(best), stop.stopped_epoch))
    return found


def last_epoch(figures):
    """Return how many epochs there are until the second in a row that is no better."""
    best, worse = -math.inf, 0
    for epoch, figure in enumerate(figures, 1):
        best, worse = (figure, 0) if figure > best else (best, worse + 1)
        if worse == 2:
            return epoch
    return len(figures)


def test_g29_decisions_are_the_same_for_any_figures(two):
    draw = random.Random(5)
    figure = lambda: draw.choice([math.nan, 0.0, 1.0, draw.random(), -draw.random()])  # noqa: E731
    tales = [[(figure(), figure()) for _ in range(6)] for _ in range(500 if SOAK else 12)]
    first, second = two.run(decide, tales)
    assert first == second
    expected = [last_epoch([a + b for a, b in tale]) for tale in tales]
    assert [len(epochs) for epochs, _, _, _ in first] == expected
    assert len(set(expected)) > 3


# What is saved.


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 25])
def test_g4_a_kill_of_any_process_while_saving_loses_nothing(forks, tmp_path, kills):
    kills = 50 if SOAK and kills > 3 else kills
    draw = random.Random(kills)
    saving = {"save_every_n_steps": 1, "epochs": 3 * kills}
    expected = forks.run(tmp_path / "whole", fit=saved_to(tmp_path / "whole", **saving))
    options = saved_to(tmp_path, resume=True, **saving)
    for _ in range(kills):
        launched = forks.start(tmp_path, fit=options, pace=0.01)
        pids = [launched.pid(rank) for rank in range(2)]
        time.sleep(draw.uniform(0, 0.15))
        victim = draw.randrange(2)
        os.kill(pids[victim], signal.SIGKILL)
        launched.wait()
        assert launched.codes[victim] == -9
        assert launched.codes[1 - victim] == 1
        store = CheckpointStore(tmp_path / "run" / "checkpoints")
        if store.list():
            store.newest_good().read()  # with a warning, which is an error, were one broken
    assert_same(forks.run(tmp_path, fit=options), expected)


def test_a_process_without_the_folder_is_named_when_the_fit_goes_on(forks, tmp_path):
    fit = saved_to(tmp_path)
    found = forks.run(tmp_path, fit=fit)
    again = {**fit, "resume": True, "epochs": 4}
    found = forks.run(tmp_path, fit=again, ranks={"1": {"hidden": str(tmp_path / "run")}})
    assert [each["error"] for each in found] == ["RankError", "RankError"]
    for each in found:
        assert "process 1 does not see that folder" in each["message"]
        assert str(tmp_path / "run") in each["message"]


# Before training.

APART = {
    "seed": ({"fit": {"seed": 7}}, "seed: 3 in process 0, 7 in process 1"),
    "net": ({"net": {"hidden": 8}}, "((6, 4), torch.float32) in process 0, ((8, 4),"),
    "data": ({"samples": 50}, "train_data: (60, 6) in process 0, (50, 5) in process 1"),
    "callbacks": ({"more callbacks": 1}, "['Watch'] in process 0, ['Watch', 'Callback'] in"),
    "epochs": ({"fit": {"epochs": 4}}, "epochs: '3' in process 0, '4' in process 1"),
}


@pytest.mark.parametrize("what", APART)
def test_processes_that_were_asked_for_different_fits_refuse(forks, tmp_path, what):
    apart, told = APART[what]
    found = forks.run(tmp_path, ranks={"1": apart})
    for each in found:
        assert (each["error"], each["updates"]) == ("RankError", 0)
        assert told in each["message"]


def test_fewer_samples_than_processes_are_refused(forks, tmp_path):
    found = forks.run(tmp_path, samples=1)
    for each in found:
        assert (each["error"], each["updates"]) == ("DataError", 0)
        assert "train_data has 1 samples, fewer than the 2 processes" in each["message"]


@pytest.mark.slow
def test_accelerate_that_starts_but_one_process_is_refused(tmp_path):
    told = tmp_path / "options.json"
    told.write_text(f'{{"folder": "{tmp_path}"}}')
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(told)],
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert done.returncode != 0
    (found,) = outcomes(tmp_path, 1)
    assert found["error"] == "RankError"
    assert "torchrun --nproc_per_node 2" in found["message"]
    assert "torchrun --nproc_per_node 2" in done.stderr


# Under torchrun itself.


@pytest.mark.slow
@pytest.mark.parametrize("starts", [1, 50])
def test_g31_clean_starts_end_with_0_and_print_nothing(tmp_path, starts):
    for number in range(starts):
        launched, found = run(tmp_path / str(number))
        assert launched.code == 0, launched.printed
        assert launched.printed.strip() == ""
        assert [each["world"] for each in found] == [2, 2]


@pytest.mark.slow
def test_g30_torchrun_shows_the_error_of_the_process_that_failed(tmp_path):
    launched, found = run(tmp_path, event=happens("raise"))
    assert launched.code == 1
    assert [each["error"] for each in found] == ["RankError", "LookupError"]
    assert launched.ended - found[1]["time"] < SOON
    root = launched.printed[launched.printed.rindex("Root Cause") :]  # what ends last on screen
    assert "LookupError: the seventeenth sheep" in root
    assert "1 (local_rank: 1)" in root or "failed in process 1" in root


@pytest.mark.slow
def test_g30_under_torchrun_the_others_tell_which_process_was_killed(tmp_path):
    launched, found = run(tmp_path, 3, event=happens("SIGKILL", rank=0))
    assert launched.code == 1
    assert [each and each["error"] for each in found] == [None, "RankError", "RankError"]
    assert launched.ended - found[1]["time"] < SOON
    assert "RankError: fit: process 0 of 3 vanished" in launched.printed
    root = launched.printed[launched.printed.rindex("Root Cause") :]
    assert "0 (local_rank: 0)" in root
    assert "SIGKILL" in root


@pytest.mark.slow
def test_torchrun_starts_again_and_the_fit_goes_on_with_the_same_bits(tmp_path, whole):
    options = saved_to(tmp_path, resume=True)
    event = happens("SIGKILL", update=9, once=True)
    launched, found = run(tmp_path, 2, "--max-restarts", "1", event=event, fit=options)
    assert launched.code == 0, launched.printed
    assert (tmp_path / "happened").exists()
    assert_same(found, whole)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        pytest.param("SIGTERM", False, marks=pytest.mark.slow),
        pytest.param("SIGINT", True, marks=pytest.mark.slow),
        pytest.param("SIGTERM", True, marks=pytest.mark.slow),
    ],
)
def test_g32_a_signal_to_torchrun_saves_and_the_fit_goes_on(forks, tmp_path, whole, name, group):
    launched = Torchrun(tmp_path, pace=0.1, fit=saved_to(tmp_path))
    launched.until_trained()
    send = os.killpg if group else os.kill
    send(launched.process.pid, getattr(signal, name))
    sent = time.time()
    found = launched.wait()
    assert launched.code != 0
    assert launched.ended - sent < SOON
    kind = {"SIGTERM": "Preempted", "SIGINT": "KeyboardInterrupt"}[name]
    assert [each["error"] for each in found] == [kind, kind]
    assert f"update {found[0]['updates']} is saved in" in found[0]["message"]
    assert found[0]["updates"] == found[1]["updates"] < 18
    assert_same(forks.run(tmp_path, fit=saved_to(tmp_path, resume=True)), whole)
