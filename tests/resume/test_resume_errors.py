"""What cannot be resumed is refused with a message, and nothing is changed by it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from fitorch import KerasModel
from fitorch.callbacks import EMA, Callback, EarlyStopping, GradientNorm
from fitorch.errors import (
    CheckpointCorruptedError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    NotBitExactWarning,
    UnsafeCheckpointError,
)
from fitorch.losses import L2
from resume.resume_worker import (
    Net,
    OwnState,
    assert_same,
    at_step,
    digest_of,
    finished,
    fit,
    tensors,
    times,
    whole,
)
from resume.short_runs import Cut, adam, checkpoints, make_model, resume, train

pytestmark = pytest.mark.usefixtures("one_thread")


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.01, momentum=0.9)


@pytest.fixture
def run(tmp_path):
    """The folder of a run that stopped after 3 of 14 updates."""
    model = make_model()
    with pytest.raises(ZeroDivisionError):
        train(model, tmp_path / "run", [Cut()])
    return tmp_path / "run"


# Rows 27 to 35: a callback raises, or there is nothing to resume from.


def test_row_27_a_callback_that_raises_leaves_a_checkpoint(tmp_path):
    seen = []

    class Raising(Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.updates == 9:
                seen.append(self.model.progress.epochs)
                raise KeyError("mine")  # noqa: EM101

    with pytest.raises(KeyError, match="mine") as caught:
        train(make_model(), tmp_path / "run", [Raising()])
    note = caught.value.__notes__[0]
    assert "Raising.on_train_batch_end(1, logs)" in note
    assert seen == [1]
    assert checkpoints(tmp_path / "run")[-1] == "step-0000000009"


@pytest.mark.parametrize(
    "place",
    [
        {"place": "batch_end", "step": 10},
        {"place": "epoch_begin", "epoch": 1},
        {"place": "test_begin", "epoch": 1},
        {"place": "test_batch_end", "epoch": 1, "batch": 0},
        {"place": "test_end", "epoch": 1},
        {"place": "epoch_end", "epoch": 1},
    ],
    ids=str,
)
def test_row_27_the_fit_goes_on_exactly_from_where_a_callback_raised(tmp_path, place):
    options = {"validation": "noisy", "callbacks": ["ema", "norm"]}
    found = fit(tmp_path, cut=place, act="raise", **options)
    assert found["error"] == "ZeroDivisionError"
    assert "Watcher.on_" in found["message"]
    found = finished(tmp_path, seed=99, fit={"resume": True}, **options)
    expected, folder = whole(**options)
    assert_same(found, expected, tmp_path, folder)
    late = place["place"] == "epoch_end"  # what was to be counted then is not
    assert late or times(tmp_path) == {}


def test_row_29_a_path_with_nothing_there_tells_what_is_beside_it(run):
    missing = run / "checkpoints" / "step-0000000077"
    with pytest.raises(CheckpointNotFoundError) as caught:
        train(make_model(), None, resume=str(missing))
    for word in (str(missing), str(missing.absolute()), "step-0000000003"):
        assert word in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


def test_row_29_a_folder_without_a_checkpoint_is_told(tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointNotFoundError, match="has no checkpoint"):
        train(make_model(), None, resume=tmp_path / "other")


def test_row_30_all_broken_is_an_error_and_no_fresh_start(run):
    for path in (run / "checkpoints").glob("*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointCorruptedError) as caught:
        resume(run)
    assert "step-0000000003" in str(caught.value)
    assert "model.safetensors" in str(caught.value)


def test_the_one_before_is_taken_with_a_warning_where_the_newest_is_broken(run):
    with pytest.raises(ZeroDivisionError):
        resume(run, callbacks=[Cut(5)])
    path = run / "checkpoints" / "step-0000000005" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"using .*step-0000000003.*step-0000000005"):
        frame = resume(run)
    assert len(frame) == 2


@pytest.mark.parametrize(
    ("name", "looks"),
    [
        ("trainer_state.json", "Hugging Face"),
        ("optimizer.bin", "accelerate"),
        ("epoch=3.ckpt", "Lightning"),
    ],
)
def test_row_34_the_checkpoint_of_others_is_told(tmp_path, name, looks):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / name).write_text("{}")
    with pytest.raises(CheckpointError, match=looks) as caught:
        train(make_model(), None, resume=tmp_path / "foreign")
    assert "load_ckpt" in str(caught.value)


def test_row_35_a_file_is_refused_with_the_way_to_load_weights(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(UnsafeCheckpointError, match=r"weights\.pt.*load_ckpt"):
        train(make_model(), None, resume=tmp_path / "weights.pt")


# Rows 37 to 42: another run.


class Wider(Net):
    def __init__(self):
        super().__init__(lambda samples: None)
        self.head = torch.nn.Linear(8, 2)
        self.more = torch.nn.Linear(2, 1)

    def forward(self, x):
        return self.more(super().forward(x))


def test_row_37_another_net_is_refused_with_all_that_differs(run):
    model = make_model(Wider())
    before = digest_of(model.net.state_dict())
    with pytest.raises(CheckpointMismatchError) as caught:
        resume(run, model)
    for words in (
        "2 weights missing in the checkpoint: more.weight, more.bias",
        "head.weight saved float32 (1, 8), given float32 (2, 8)",
        "head.bias saved float32 (1,), given float32 (2,)",
    ):
        assert words in str(caught.value)
    assert digest_of(model.net.state_dict()) == before
    assert isinstance(caught.value, ValueError)


def groups(parameters):
    first, *others = parameters
    return torch.optim.Adam([{"params": [first], "lr": 0.1}, {"params": others}], 0.01)


@pytest.mark.parametrize(
    ("optimizer", "schedule", "words"),
    [
        (sgd, None, "optimizer: saved 'Adam', given 'SGD'"),
        (groups, None, "parameters: saved in groups of [6], given [1, 5]"),
        (lambda p: adam(list(p)[::-1]), None, "another order"),
        (
            adam,
            lambda o: lr_scheduler.StepLR(o, 1),
            "lr_scheduler: saved None, given 'StepLR'",
        ),
    ],
)
def test_row_38_another_optimizer_or_schedule_is_refused(run, optimizer, schedule, words):
    with pytest.raises(CheckpointMismatchError) as caught:
        resume(run, make_model(optimizer=optimizer, schedule=schedule))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 5}, ["batch_size: saved 4, given 5", "batches: saved 7, given 6"]),
        ({"seed": 4}, ["seed: saved 3, given 4"]),
        ({"data": tensors(25)}, ["samples: saved 26, given 25"]),
        (
            {"gradient_accumulation_steps": 2},
            ["gradient_accumulation_steps: saved 1, given 2"],
        ),
        ({"shuffle": False}, ["shuffle: saved True, given False"]),
        ({"steps_per_epoch": 3}, ["steps_per_epoch: saved None, given 3"]),
        (
            {"batch_size": 5, "seed": 4, "shuffle": False},
            ["batch_size: saved 4", "seed: saved 3", "shuffle: saved True"],
        ),
    ],
)
def test_row_39_other_settings_are_refused_all_in_one_error(run, options, words):
    with pytest.raises(CheckpointMismatchError) as caught:
        resume(run, **options)
    for each in words:
        assert each in str(caught.value)
    assert checkpoints(run)[-1] == "step-0000000003"


def test_row_40_other_circumstances_are_a_warning(run, monkeypatch):
    torch.set_num_threads(2)
    try:
        with pytest.warns(NotBitExactWarning, match="threads: saved 1, given 2"):
            resume(run)
    finally:
        torch.set_num_threads(1)


def test_row_41_fewer_epochs_than_are_done_are_refused(tmp_path):
    train(make_model(), tmp_path / "run", epochs=3)
    with pytest.raises(ValueError, match=r"has completed 3 epochs, but epochs=2") as caught:
        resume(tmp_path / "run", epochs=2)
    assert not isinstance(caught.value, CheckpointError)


def test_row_42_a_new_run_moves_the_old_one_out_of_its_way(run, capsys):
    (run / "notes.txt").write_text("mine")
    train(make_model(), run, verbose=2)
    previous = run.with_name("run.previous")
    assert checkpoints(previous)[-1] == "step-0000000003"
    assert checkpoints(run)[-1] == "step-0000000014"
    assert (run / "notes.txt").read_text() == "mine"
    assert not (previous / "notes.txt").exists()
    assert "run.previous" in capsys.readouterr().out
    train(make_model(), run)
    assert checkpoints(previous)[-1] == "step-0000000014"  # an older one made way


def test_a_second_fit_of_the_same_model_keeps_its_folder(tmp_path):
    model = make_model()
    train(model, tmp_path / "run")
    train(model, tmp_path / "run")
    assert not (tmp_path / "run.previous").exists()
    assert checkpoints(tmp_path / "run")[-1] == "step-0000000028"


# Row 43: the folder.


def test_row_43_a_second_process_is_refused(run):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from fitorch.checkpoint.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(run)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError) as caught:
            resume(run)
        for word in (str(process.pid), "since", os.uname().nodename):
            assert word in str(caught.value)
        process.kill()
        process.wait()
        assert len(resume(run)) == 2  # taken over
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# G14: all or nothing.


def everything(model, callbacks):
    parts = [model.net, model.objective, model.optimizer, model.history, *callbacks]
    states = [p.state_dict() for p in parts if p is not None]
    states[3] = {k: v for k, v in states[3].items() if k not in ("seconds", "seed")}
    scheduler = model.lr_scheduler.state_dict() if model.lr_scheduler is not None else None
    rng = [random.getstate(), np.random.get_state()[1:], torch.get_rng_state()]
    return [digest_of(state) for state in (*states, scheduler, rng, model.updates)]


PARTS = [
    ("fitorch.losses.objective.Objective", "load_state_dict"),
    ("fitorch.optim.update.Update", "load_state_dict"),
    ("torch.optim.Adam", "load_state_dict"),
    ("torch.optim.lr_scheduler.StepLR", "load_state_dict"),
    ("fitorch.history.history.History", "load_state_dict"),
    ("fitorch.engine.state.Progress", "load_state_dict"),
    ("fitorch.engine.steps.updating.UpdatingStep", "load_state_dict"),
    ("fitorch.data.epochs.EpochIterator", "load_state_dict"),
    ("fitorch.callbacks.EMA", "load_state_dict"),
    ("fitorch.callbacks.GradientNorm", "load_state_dict"),
    ("fitorch.callbacks.EarlyStopping", "load_state_dict"),
    ("fitorch.callbacks.BestWeights", "load_state_dict"),
    ("resume.resume_worker.OwnState", "load_state_dict"),
    ("fitorch.engine.state", "set_random_state"),
]


def stateful():
    return [EMA(0.9), GradientNorm(), EarlyStopping("train_loss", patience=9), OwnState()]


@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
@pytest.mark.parametrize(("owner", "name"), PARTS, ids=lambda part: part.rpartition(".")[2])
def test_g14_a_load_that_fails_changes_nothing(tmp_path, monkeypatch, owner, name, always):
    def step(optimizer):
        return lr_scheduler.StepLR(optimizer, 1)

    with pytest.raises(ZeroDivisionError):
        train(make_model(schedule=step), tmp_path / "run", [*stateful(), Cut(9)])
    model, callbacks = make_model(schedule=step), stateful()
    before = everything(model, callbacks)
    target = resolved(owner)
    original, calls = getattr(target, name), []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1 or always:
            raise RuntimeError("broken on purpose")  # noqa: EM101
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, failing)
    with pytest.raises(CheckpointMismatchError, match="broken on purpose"):
        train(model, tmp_path / "run", callbacks, resume=True)
    monkeypatch.undo()
    assert calls
    assert everything(model, callbacks) == before
    assert checkpoints(tmp_path / "run")[-1] == "step-0000000009"
    assert not (tmp_path / "run.previous").exists()


def resolved(name):
    import importlib

    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return importlib.import_module(name)


def test_after_a_load_that_failed_a_fit_trains_as_if_nothing_had_been_tried(run, monkeypatch):
    model, expected = make_model(), make_model()
    monkeypatch.setattr(
        "fitorch.data.epochs.EpochIterator.load_state_dict",
        lambda self, state: {}["broken on purpose"],
    )
    with pytest.raises(CheckpointMismatchError):
        resume(run, model)
    monkeypatch.undo()
    train(model, None)
    train(expected, None)
    assert digest_of(model.net.state_dict()) == digest_of(expected.net.state_dict())


def test_a_model_that_was_trained_stays_as_it_was_after_a_load_that_failed(run):
    model, expected = make_model(), make_model()
    for each in (model, expected):
        train(each, None)
    before = everything(model, [])
    with pytest.raises(CheckpointMismatchError):
        resume(run, model, shuffle=False, epochs=4)
    assert everything(model, []) == before
    for each in (model, expected):
        assert list(train(each, None, epochs=1)["epoch"]) == [1, 2, 3]
    assert digest_of(model.net.state_dict()) == digest_of(expected.net.state_dict())


# The arguments.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resume": True}, "resume needs a folder"),
        ({"save_every_n_steps": 3}, "save_every_n_steps needs a folder"),
        ({"save_every_minutes": 3}, "save_every_minutes needs a folder"),
        ({"async_save": True}, "async_save needs a folder"),
        ({"save_every_n_steps": 0}, "save_every_n_steps is 0"),
        ({"keep": 0}, "keep is 0"),
        ({"on_save_error": "ignore"}, "on_save_error is 'ignore'"),
        ({"save_every_minutes": -1}, "save_every_minutes is -1"),
    ],
)
def test_arguments_that_cant_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        train(make_model(), None, **options)


def test_resume_and_initial_epoch_dont_go_together(tmp_path):
    with pytest.raises(ValueError, match="initial_epoch=1 and resume=True"):
        train(make_model(), tmp_path / "run", resume=True, initial_epoch=1)


def test_rows_48_and_49_name_the_step_and_the_folder(tmp_path):
    for name, kind in (("SIGTERM", "Preempted"), ("SIGINT", "KeyboardInterrupt")):
        found = fit(tmp_path / name, cut=at_step(4), act=name)
        assert found["error"] == kind
        path = Path("run") / "checkpoints" / "step-0000000005"
        for words in ("update 5", str(path), " s", "resume=True"):
            assert words in found["message"]


def test_the_manifest_tells_where_training_stands(run):
    sealed = json.loads((run / "checkpoints" / "step-0000000003" / "manifest.json").read_text())
    info = json.loads(sealed["body"])["info"]
    assert (info["epoch"], info["batch"], info["seed"], info["epochs"]) == (0, 3, 3, 2)


def fitted(folder, loss, metrics, **options):
    torch.manual_seed(0)
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    model = KerasModel(nn.Linear(4, 3), loss, metrics, "sgd")
    given = {"ckpt_path": folder, "seed": 1, "batch_size": 8, "verbose": 0} | options
    return model.fit((x, x[:, :3].argmax(1)), **given)


def test_another_loss_is_refused_by_its_terms(tmp_path):
    fitted(tmp_path / "run", "cross_entropy", {}, epochs=1)
    loss = nn.CrossEntropyLoss() + 1e-3 * L2()
    with pytest.raises(CheckpointMismatchError) as caught:
        fitted(tmp_path / "run", loss, {}, epochs=2, resume=True)
    told = "loss: saved ['CrossEntropyLoss'], given ['cross_entropy', 'l2']"
    assert told in str(caught.value)


def test_metrics_may_change_between_epochs_but_not_within_one(tmp_path):
    fitted(tmp_path / "run", "cross_entropy", {"acc": "acc", "f1": "f1"}, epochs=1)
    frame = fitted(tmp_path / "run", "cross_entropy", {"mcc": "mcc"}, epochs=2, resume=True)
    assert frame["train_f1"].isna().tolist() == [False, True]
    assert frame["train_mcc"].isna().tolist() == [True, False]
    stop = StopInTheMiddle()
    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path / "cut", "cross_entropy", {"acc": "acc"}, epochs=1, callbacks=[stop],
               save_every_n_steps=1)  # fmt: skip
    with pytest.raises(CheckpointMismatchError, match=r"metrics: saved \['acc'\], given \['f1'\]"):
        fitted(tmp_path / "cut", "cross_entropy", {"f1": "f1"}, epochs=1, resume=True)


class StopInTheMiddle(Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 3:
            raise ZeroDivisionError
