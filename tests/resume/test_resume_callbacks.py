"""Callbacks go on where they were: at the end of an epoch, and in its middle."""

import csv
import json

import pytest

from resume.resume_worker import (
    assert_same,
    at_epoch,
    at_step,
    finished,
    fit,
    goes_on_exactly,
    grid,
    resumed,
    times,
    trained,
    whole,
)

FEW = ("swa", "plateau")  # cut where it is most telling
LATER = ("checkpoint", "epoch checkpoint", "goal", "best", "nan", "lambda", "ema every")
EVERY_STEP = {"save_every_n_steps": 1}
KINDS = {
    "rate": {},
    "plateau": {"optimizer": "sgd", "fit": {"epochs": 8}},
    "ema": {"validation": "noisy", "fit": {"patience": 5}},
    "ema every": {"fit": {"gradient_accumulation_steps": 2}},
    "swa": {"fit": {"epochs": 4}},
    "freeze": {"fit": {"epochs": 4}},
    "unfreeze": {"optimizer": "sgd", "fit": {"epochs": 4}},
    "checkpoint": {},
    "checkpoint steps": {},
    "epoch checkpoint": {},
    "goal": {},
    "early": {"optimizer": "sgd", "fit": {"epochs": 12}},
    "best": {},
    "nan": {},
    "norm": {"fit": {"gradient_accumulation_steps": 2}},
    "lambda": {},
    "own state": {},
    "list": {},
}
CUTS = {"at a boundary": at_epoch(2), "in the middle": at_step(9), "at the end": at_step(14)}


def options_of(kind):
    options = {"callbacks": [kind], "schedule": "none", **KINDS[kind]}
    return {**options, "fit": {**options.get("fit", {}), **EVERY_STEP}}


@pytest.mark.parametrize(
    ("kind", "cut"),
    grid(
        KINDS,
        CUTS,
        quick=lambda kind, cut: (
            cut == ("at a boundary" if kind in FEW else "in the middle") and kind not in LATER
        ),
    ),
)
def test_a_callback_goes_on_exactly(tmp_path, kind, cut):
    options = options_of(kind)
    if "gradient_accumulation_steps" in options["fit"]:
        where = {"place": "batch_begin", "epoch": 1, "batch": 4}
        cut = where if cut == "in the middle" else CUTS["at a boundary"]
    else:
        cut = CUTS[cut]
    goes_on_exactly(tmp_path, cut, **options)


def test_a_rate_that_falls_with_each_epoch_falls_once_in_an_epoch_that_is_resumed_twice(tmp_path):
    found, _, _ = goes_on_exactly(
        tmp_path, at_step(9), at_step(11), callbacks=["rate"], fit=EVERY_STEP
    )
    rates = [float.fromhex(rate) for rate in found["history"]["lr"]]
    assert rates == [0.02 * 0.9, 0.02 * 0.9 * 0.9, 0.02 * 0.9 * 0.9 * 0.9]


@pytest.mark.parametrize(
    ("kind", "cut"),
    grid(
        ["csv", "csv append", "json"],
        [at_epoch(1), at_step(9), at_epoch(2)],
        quick=lambda _, cut: cut == at_step(9),
    ),
)
def test_a_file_has_a_row_per_epoch_and_the_figures_of_one_run(tmp_path, kind, cut):
    goes_on_exactly(tmp_path, cut, callbacks=[kind], fit=EVERY_STEP)
    name = "log.jsonl" if kind == "json" else "log.csv"
    beside = whole(callbacks=[kind], fit=EVERY_STEP)[1]
    assert rows_of(tmp_path / "cut" / name) == rows_of(beside / name)


@pytest.mark.parametrize("kind", ["csv", "csv append", "json"])
def test_a_file_has_no_row_of_an_epoch_that_is_trained_again(tmp_path, kind):
    cut = {"place": "epoch_end", "epoch": 1}  # the row is written, the checkpoint is not
    goes_on_exactly(tmp_path, cut, callbacks=[kind])
    name = "log.jsonl" if kind == "json" else "log.csv"
    beside = whole(callbacks=[kind])[1]
    assert rows_of(tmp_path / "cut" / name) == rows_of(beside / name)


def rows_of(path):
    text = path.read_text()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(text.splitlines()))


@pytest.mark.parametrize("kind", ["checkpoint", "checkpoint steps", "epoch checkpoint"])
def test_the_same_files_are_there_at_the_end(tmp_path, kind):
    options = options_of(kind)
    goes_on_exactly(tmp_path, at_step(9), **options)
    beside = whole(**options)[1]
    assert files_of(tmp_path / "cut") == files_of(beside)


def files_of(folder):
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*.safetensors")
        if "checkpoints" not in path.parts
    )


def test_max_time_pauses_within_an_epoch_and_the_rest_is_as_if_it_had_not(tmp_path):
    legs = {"callbacks": ["time"], "fit": {"resume": True}}
    for number in range(5):  # a batch each
        found = finished(tmp_path / "cut", **legs, seed=1 if number == 0 else 1000 + number)
        assert found["updates"] == number + 1
    found = finished(tmp_path / "cut", seed=9, fit={"resume": True})
    assert_same(found, whole()[0], tmp_path / "cut", whole()[1])
    assert times(tmp_path / "cut") == {}


def test_max_time_as_an_argument_pauses_too(tmp_path):
    found = finished(tmp_path / "cut", fit={"max_time": 1e-9})
    assert found["updates"] == 1
    found = finished(tmp_path / "cut", seed=9, fit={"resume": True, "max_time": 3600})
    assert_same(found, whole()[0], tmp_path / "cut", whole()[1])


def test_max_time_at_the_last_batch_of_an_epoch_pauses_behind_it(tmp_path):
    window = {"gradient_accumulation_steps": 7}
    for number in range(3):
        finished(
            tmp_path / "cut",
            callbacks=["time"],
            fit={"resume": True, **window},
            seed=1 if number == 0 else 1000 + number,
        )
    found = finished(tmp_path / "cut", seed=9, fit={"resume": True, **window})
    expected, beside = whole(fit=window)
    assert_same(found, expected, tmp_path / "cut", beside)


def test_a_run_that_reached_its_goal_stays_complete(tmp_path):
    settings = {"patience": 1, "epochs": 30}
    before = finished(tmp_path, optimizer="sgd", fit=settings)
    for number in range(2):
        after = finished(tmp_path, optimizer="sgd", seed=number, fit={**settings, "resume": True})
        assert (after["history"], after["net"]) == (before["history"], before["net"])


@pytest.mark.parametrize("callback", ["ema", "swa", "early"])
def test_a_run_that_is_complete_has_the_weights_that_a_callback_ended_it_with(tmp_path, callback):
    before = finished(tmp_path, callbacks=[callback])
    steps = trained(tmp_path)
    after = finished(tmp_path, callbacks=[callback], seed=9, fit={"resume": True})
    assert (after["history"], after["net"]) == (before["history"], before["net"])
    assert trained(tmp_path) == steps


def test_a_run_that_was_stopped_goes_on_when_more_epochs_are_asked_for(tmp_path):
    before = finished(tmp_path, optimizer="sgd", fit={"patience": 1, "epochs": 30})
    after = finished(
        tmp_path, optimizer="sgd", seed=5, fit={"patience": 30, "epochs": 34, "resume": True}
    )
    assert after["epochs"] == 34 > before["epochs"]


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        (["norm"], ["norm", "ema"], "callbacks.EMA.0 has no saved state"),
        (["norm", "ema"], ["norm"], "callbacks.EMA.0 is not in this fit"),
        (["rate"], ["rate", "rate"], "callbacks.LearningRateScheduler.1 has no saved state"),
    ],
    ids=["added", "removed", "doubled"],
)
def test_a_callback_that_came_or_went_is_told_and_the_fit_goes_on(tmp_path, before, after, named):
    fit(tmp_path, cut=at_step(9), callbacks=before, fit=EVERY_STEP)
    found = finished(tmp_path, seed=9, callbacks=after, fit={**EVERY_STEP, "resume": True})
    assert found["epochs"] == 3
    told = [text for kind, text in found["warnings"] if kind == "NotBitExactWarning"]
    assert len(told) == 1
    assert named in told[0]
    assert times(tmp_path) == {}


def test_a_callback_without_influence_that_is_added_does_not_change_the_bits(tmp_path):
    found = resumed(
        tmp_path, at_step(9), first={"callbacks": []}, then={"callbacks": ["norm"]}, fit=EVERY_STEP
    )
    expected, beside = whole()
    assert trained(tmp_path) == trained(beside)
    assert found["net"] == expected["net"]


def test_a_fit_that_nothing_changed_for_warns_of_nothing(tmp_path):
    found, _, _ = goes_on_exactly(tmp_path, at_step(9), callbacks=["norm", "ema"], fit=EVERY_STEP)
    assert found["warnings"] == []


def test_many_callbacks_at_once_go_on_exactly(tmp_path):
    callbacks = ["ema", "norm", "early", "checkpoint", "csv", "json", "own state", "rate"]
    for cut in (at_step(9), at_epoch(2)):
        goes_on_exactly(tmp_path / str(cut), cut, callbacks=callbacks, fit=EVERY_STEP)
