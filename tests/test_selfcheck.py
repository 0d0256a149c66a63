"""`python -m fitorch` tells what there is, and notices what is broken."""

import os
import platform
import re
import sys

import pexpect
import pyte
import pytest
import torch
from torch import nn

from fitorch import KerasModel, selfcheck
from fitorch import environment as surroundings
from fitorch import files as disk
from fitorch.__main__ import main
from fitorch.engine.steps import training
from fitorch.fitting import evaluate as evaluating

NAMES = [name for name, _ in selfcheck.all_checks()]


def failures():
    return {outcome.name: outcome.error for outcome in selfcheck.outcomes() if outcome.error}


def test_everything_works_here_and_piped_it_is_plain(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert main([]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert not any("\x1b" in line for line in shown)
    assert [line for line in shown if line.startswith("ok ")] == [f"ok      {n}" for n in NAMES]
    assert re.fullmatch(r"all checks passed in \d+\.\d s", shown[-1])


def test_versions_and_devices_are_those_of_this_machine(capsys):
    main([])
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line)
    assert shown["python"] == platform.python_version()
    assert shown["torch"] == torch.__version__
    assert shown["threads"].startswith(f"{torch.get_num_threads()} of {os.cpu_count()} CPUs")
    assert '"bf16"' in shown["cpu"]
    assert shown["torch.compile"]


def test_nothing_is_left_of_the_checks():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert failures() == {}
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_that_is_not_the_loops_is_found(monkeypatch, capsys):
    step = torch.optim.SGD.step
    calls = []

    def twice_once(optimizer, closure=None):
        calls.append(1)
        step(optimizer)
        if len(calls) == 3:
            step(optimizer)

    monkeypatch.setattr(torch.optim.SGD, "step", twice_once)
    assert main([]) == 1
    shown = capsys.readouterr().out
    assert re.search(
        r"^failed  SGD: .* bit for bit: 0.weight differs by up to", shown, re.MULTILINE
    )
    assert re.search(r"^\d checks failed in", shown, re.MULTILINE)


def test_a_wrong_figure_is_found(monkeypatch):
    monkeypatch.setattr(nn.CrossEntropyLoss, "forward", lambda loss, y_pred, y_true: y_pred.sum())
    found = failures()
    assert "val_loss is" in found["evaluate() equals the loss and accuracy of the net's outputs"]
    assert "val_loss is" in found["loss and accuracy equal those of all samples at once"]


def test_predictions_in_another_order_are_found(monkeypatch):
    predict = evaluating.predict
    monkeypatch.setattr(evaluating, "predict", lambda *given: predict(*given).flip(0))
    assert (
        "samples 0 to 49 were returned as [49.0"
        in failures()["predict() keeps the order of samples"]
    )


def test_a_resume_that_begins_afresh_is_found(monkeypatch):
    fit = KerasModel.fit

    def forgetful(model, *data, resume=False, **options):
        return fit(model, *data, **{**options, "seed": 1 if resume else 0})

    monkeypatch.setattr(KerasModel, "fit", forgetful)
    assert set(failures()) == {"a resumed run ends with the same bits"}


def test_damage_that_nobody_sees_is_found(monkeypatch):
    monkeypatch.setattr(disk, "_compare", lambda *given: None)
    assert "their states are ['whole', 'whole']" in failures()["a damaged checkpoint is detected"]


def test_an_error_is_a_failure_and_the_other_checks_still_run(monkeypatch):
    def broken(*_):
        message = "nothing\nworks"
        raise RuntimeError(message)

    monkeypatch.setattr(training.TrainingStep, "__call__", broken)
    found = failures()
    assert (
        found["SGD: same weights as a hand-written loop, bit for bit"]
        == "RuntimeError: nothing works"
    )
    assert "predict() keeps the order of samples" not in found


def test_a_device_that_does_not_learn_is_found(monkeypatch):
    monkeypatch.setattr(selfcheck, "devices", lambda: [torch.device("cpu")] * 2)
    name = "a fit on cpu learns, and returns predictions on the CPU"
    assert name not in failures()
    monkeypatch.setattr(selfcheck, "_sgd", lambda p: torch.optim.SGD(p, lr=0.0))
    monkeypatch.setattr(selfcheck._model, "__defaults__", (selfcheck._sgd,))
    assert "its losses were" in failures()[name]


def test_a_precision_that_a_device_lacks_is_told():
    cpu = torch.device("cpu")
    assert surroundings.runs_in(cpu, torch.bfloat16)
    assert not surroundings.runs_in(torch.device("meta"), torch.int8)


@pytest.mark.parametrize(("found", "told"), [("/bin/g++", "with /bin/g++"), (None, "no C.. comp")])
def test_a_compiler_is_looked_for(found, told, monkeypatch):
    monkeypatch.setattr(surroundings.shutil, "which", lambda name: found)
    assert re.search(told, surroundings.hardware()["torch.compile"])


@pytest.mark.parametrize("columns", [80, pytest.param(200, marks=pytest.mark.slow)])
def test_a_terminal_shows_each_check_in_colour_and_whole(columns, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    child = pexpect.spawn(
        sys.executable, ["-m", "fitorch"], dimensions=(60, columns), timeout=60, encoding="utf-8"
    )
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    screen = pyte.Screen(columns, 60)
    pyte.Stream(screen).feed(child.before)
    lines = [line.rstrip() for line in screen.display]
    assert [line.split("  ", 1)[1].strip() for line in lines if line.startswith("ok")] == NAMES
    row = next(number for number, line in enumerate(lines) if line.startswith("ok"))
    assert screen.buffer[row][0].fg == "green"
