"""Ctrl-C, SIGTERM and kill -9 at any moment: what was done is on the disk, and goes on exactly."""

import os
import random
import signal
import threading
import time

import pytest
import torch

from fitorch import KerasModel
from fitorch.callbacks import Callback
from fitorch.errors import Preempted
from resume.resume_worker import (
    SOAK,
    Net,
    assert_same,
    at_step,
    finished,
    fit,
    grid,
    start,
    tensors,
    times,
    whole,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
LONG = {"epochs": 8}  # 56 updates of 20 ms at least
RIGHT = {"SIGINT": ("KeyboardInterrupt", "1"), "SIGTERM": ("Preempted", "143")}


def steps_saved(folder):
    return sorted(int(p.name[5:15]) for p in (folder / "run" / "checkpoints").glob("step-*"))


def send(child, name, *, group):
    number = getattr(signal, name)
    if group:
        os.killpg(child.pid, number)
    else:
        os.kill(child.pid, number)


def group_is_gone(pid, within=2.0):
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def interrupted(folder, name, *, group, wait, **options):
    """Begin a fit, send it a signal after some seconds, and check how it ends."""
    child = start(folder, group=True, pace=0.02, **options)
    child.until("ready")
    time.sleep(wait)
    sent = time.monotonic()
    send(child, name, group=group)
    found = child.wait(20)
    assert found is not None, child.log()
    assert time.monotonic() - sent < 5
    assert (found["error"], (folder / "code").read_text()) == RIGHT[name]
    assert steps_saved(folder)[-1] == found["updates"]  # the step that was running
    assert f"update {found['updates']} is saved in" in found["message"]
    assert "resume=True" in found["message"]
    assert len(found["history"].get("epoch", ())) == found["epochs"]
    assert found["handlers after"] == found["handlers"]
    assert found["children"] == 0
    assert group_is_gone(child.pid)
    return found


@pytest.mark.parametrize(
    ("name", "workers", "group", "data"),
    [
        ("SIGTERM", 0, False, "dataset"),
        ("SIGTERM", 2, True, "loader"),
        ("SIGINT", 0, True, "memory"),
        ("SIGINT", 2, True, "dataset"),
        pytest.param("SIGTERM", 2, False, "loader", marks=pytest.mark.slow),
        pytest.param("SIGTERM", 2, True, "dataset", marks=pytest.mark.slow),
        pytest.param("SIGINT", 2, False, "loader", marks=pytest.mark.slow),
        pytest.param("SIGINT", 2, True, "loader", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("seed", range(5 if SOAK else 1))
def test_g32_g33_a_signal_at_any_moment(tmp_path, name, workers, group, data, seed):
    draw = random.Random(f"{name}{workers}{group}{data}{seed}")
    options = {"workers": workers, "data": data, "fit": LONG}
    wait = draw.uniform(0, 0.6)
    interrupted(tmp_path, name, group=group, wait=wait, **options)
    again = {**LONG, "resume": True}
    found = finished(tmp_path, workers=workers, data=data, seed=99, fit=again)
    assert_same_as_whole(found, tmp_path, **options)
    assert times(tmp_path) == {}


def assert_same_as_whole(found, folder, **options):
    expected, beside = whole(**options)
    assert_same(found, expected, folder, beside)


PLACES = {
    "at the beginning": {"place": "train_begin"},
    "before an epoch": {"place": "epoch_begin", "epoch": 1},
    "before a batch": {"place": "batch_begin", "epoch": 1, "batch": 2},
    "behind a batch": {"place": "batch_end", "step": 3},
    "before a validation": {"place": "test_begin", "epoch": 1},
    "within a validation": {"place": "test_batch_end", "epoch": 1, "batch": 0},
    "behind a validation": {"place": "test_end", "epoch": 1},
    "in a callback": {"place": "epoch_end", "epoch": 1},
    "at the last batch": {"place": "batch_begin", "epoch": 2, "batch": 6},
    "behind the last epoch": {"place": "epoch_end", "epoch": 2},
}


@pytest.mark.parametrize(
    ("name", "window", "place"),
    grid(
        RIGHT,
        [1, 3],
        PLACES,
        quick=lambda name, window, place: (
            (name == "SIGTERM") == (window == 1) and (window == 1 or "batch" in place)
        ),
    ),
)
def test_a_signal_at_a_place(tmp_path, place, window, name):
    options = {"validation": "noisy", "fit": {"gradient_accumulation_steps": window}}
    cut = PLACES[place]
    if window == 3 and "step" in cut:
        cut = {"place": "batch_begin", "epoch": 1, "batch": 1}  # the window is finished first
    found = fit(tmp_path, cut=cut, act=name, **options)
    assert (found["error"], (tmp_path / "code").read_text()) == RIGHT[name], found
    assert steps_saved(tmp_path)[-1] == found["updates"]
    again = {**options["fit"], "resume": True}
    found = finished(tmp_path, validation="noisy", seed=99, fit=again)
    assert_same_as_whole(found, tmp_path, **options)
    assert times(tmp_path) == {}


def test_a_signal_while_a_checkpoint_is_written_in_a_thread(tmp_path):
    settings = {"save_every_n_steps": 1, "async_save": True}
    found = fit(tmp_path, cut=at_step(5), act="SIGTERM", fit=settings)
    assert found["error"] == "Preempted"
    assert steps_saved(tmp_path)[-1] == found["updates"] == 6
    found = finished(tmp_path, seed=99, fit={**settings, "resume": True})
    assert_same_as_whole(found, tmp_path)


def test_slurms_signal_is_handled_in_its_jobs_alone(tmp_path):
    cut = {"cut": at_step(4), "act": "SIGUSR1"}
    found = fit(tmp_path / "job", environment={"SLURM_JOB_ID": "1"}, **cut)
    assert found["error"] == "Preempted"
    assert "SIGUSR1" in found["message"]
    assert found["handlers after"] == [True, True, True]
    child = start(tmp_path / "other", **cut)
    assert child.wait() is None  # it ended by the signal


def test_sigterm_ends_a_fit_without_a_folder_at_once(tmp_path):
    child = start(tmp_path, cut=at_step(4), act="SIGTERM", fit={"ckpt_path": None})
    assert child.wait() is None
    assert not (tmp_path / "run").exists()


def test_a_second_ctrl_c_a_second_later_aborts_at_once(tmp_path):
    cut = {"place": "batch_end", "step": 4}
    options = {"group": True, "cut": cut, "act": "sleep", "fit": {"save_every_n_steps": 1}}
    child = start(tmp_path, **options)
    child.until("run/checkpoints/step-0000000003")
    time.sleep(0.2)
    send(child, "SIGINT", group=False)
    time.sleep(0.3)
    send(child, "SIGINT", group=True)  # a terminal's and a launcher's are one
    time.sleep(0.9)
    assert child.alive()
    sent = time.monotonic()
    send(child, "SIGINT", group=False)
    found = child.wait(5)
    assert time.monotonic() - sent < 3
    assert found["error"] == "KeyboardInterrupt"
    assert found["handlers after"] == [True, True, True]
    found = finished(tmp_path, seed=99, fit={"save_every_n_steps": 1, "resume": True})
    assert_same_as_whole(found, tmp_path)


@pytest.mark.parametrize(
    ("background", "workers"), grid([False, True], [0, 2], quick=lambda _, workers: not workers)
)
def test_g1_g2_kill_9_at_any_moment(tmp_path, background, workers):
    kills = 50 if SOAK else 3
    draw = random.Random(f"{background}{workers}")
    saving = {"epochs": 4 * kills, "save_every_n_steps": 1, "async_save": background}
    options = {"callbacks": ["ema"], "schedule": "update", "workers": workers}
    for number in range(kills):
        seed = 1 if number == 0 else 1000 + number
        resuming = {**saving, "resume": number > 0}
        child = start(tmp_path, seed=seed, group=True, fit=resuming, **options)
        child.until("ready")
        time.sleep(draw.uniform(0, 0.25))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        acknowledged = steps_acknowledged(tmp_path)
        if not steps_saved(tmp_path):
            continue  # it was killed before the first one
        told = (tmp_path / "lines.jsonl").read_text().count("\n")
        cut = fit(
            tmp_path,
            cut={"place": "train_begin"},
            seed=5,
            fit=resuming | {"resume": True},
            **options,
        )
        assert cut is None
        assert steps_saved(tmp_path)[-1] >= acknowledged
        assert (tmp_path / "lines.jsonl").read_text().count("\n") == told
    found = finished(tmp_path, seed=99, fit={**saving, "resume": True}, **options)
    assert_same_as_whole(found, tmp_path, fit=saving, **options)


def steps_acknowledged(folder):
    names = (folder / "acknowledged").read_text().splitlines()
    return max((int(name[5:15]) for name in names), default=0)


# In this process: who handles what, and notebooks.


class Handlers(Callback):
    """Remembers who handles signals in a batch, and sends one where asked."""

    def __init__(self, send=None, step=3):
        self.send, self.step, self.seen = send, step, []

    def on_train_batch_end(self, batch, logs=None):
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        self.seen = [signal.getsignal(number) for number in numbers]
        if self.send is not None and self.model.updates == self.step:
            os.kill(os.getpid(), self.send)


def make_model():
    torch.manual_seed(0)
    return KerasModel(Net(lambda samples: None), "bce_with_logits", optimizer="adamw")


def train(model, callback, epochs=2, **options):
    return model.fit(
        tensors(), epochs=epochs, batch_size=4, callbacks=[callback], verbose=0, seed=3, **options
    )


DEFAULT = [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]


def test_handlers_are_there_in_a_fit_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    assert before == DEFAULT
    callback = Handlers()
    train(make_model(), callback, ckpt_path=tmp_path / "run")
    assert [seen == default for seen, default in zip(callback.seen, DEFAULT, strict=True)] == [
        False,
        False,
        True,
    ]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before[:2]
    train(make_model(), callback)  # without a folder
    assert callback.seen[1:] == DEFAULT[1:]


def test_nothing_is_installed_outside_of_the_main_thread(tmp_path):
    callback = Handlers()
    work = lambda: train(make_model(), callback, ckpt_path=tmp_path / "run")  # noqa: E731
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert callback.seen == DEFAULT
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_a_users_own_handler_of_sigterm_is_left_alone(tmp_path):
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    try:
        frame = train(make_model(), Handlers(signal.SIGTERM), ckpt_path=tmp_path / "run")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [1]
    assert len(frame) == 2


def test_handlers_are_back_after_an_error(tmp_path):
    class Failing(Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(make_model(), Failing(), ckpt_path=tmp_path / "run")
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == DEFAULT[:2]


def test_sigterm_is_a_systemexit_with_code_143(tmp_path):
    with pytest.raises(Preempted) as caught:
        train(make_model(), Handlers(signal.SIGTERM), ckpt_path=tmp_path / "run")
    assert isinstance(caught.value, SystemExit)
    assert caught.value.code == 143
    assert str(tmp_path / "run") in str(caught.value)


def test_g34_in_a_notebook_fit_returns_and_the_next_one_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("fitorch.model.in_notebook", lambda: True)
    model = make_model()
    train(model, Handlers(signal.SIGINT, 10), ckpt_path=tmp_path / "run", epochs=3)
    assert list(model.history.frame["epoch"]) == [1]
    assert model.predict(tensors()[0][:4]).shape == (4, 1)
    assert list(model.evaluate(tensors(), verbose=0)) == ["val_loss"]
    frame = train(model, Callback(), epochs=1)
    assert list(frame["epoch"]) == [1, 2]


@pytest.mark.parametrize("anew", [False, True])
def test_g34_in_a_notebook_a_fit_is_resumed_exactly(tmp_path, monkeypatch, anew):
    monkeypatch.setattr("fitorch.model.in_notebook", lambda: True)
    model, expected = make_model(), make_model()
    train(expected, Callback(), ckpt_path=tmp_path / "other", epochs=3)
    train(model, Handlers(signal.SIGINT, 10), ckpt_path=tmp_path / "run", epochs=3)
    model = make_model() if anew else model
    train(model, Callback(), ckpt_path=tmp_path / "run", epochs=3, resume=True)
    for name, value in expected.net.state_dict().items():
        assert torch.equal(model.net.state_dict()[name], value), name
    columns = ["epoch", "train_loss", "lr"]
    assert model.history.frame[columns].equals(expected.history.frame[columns])


def test_a_net_that_is_no_longer_trained_is_not_left_in_another_mode(tmp_path):
    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        train(model, Handlers(signal.SIGINT), ckpt_path=tmp_path / "run")
    assert all(module.training for module in model.net.modules())
