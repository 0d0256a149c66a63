"""A fit that was cut goes on with the bits of one that was not: loop, optimizer, schedule, saving.

The truth is always the uninterrupted fit in another process; nothing is compared but for equality.
"""

import json
import shutil

import pytest
from safetensors import safe_open

from resume.resume_worker import (
    METRICS,
    SOAK,
    assert_same,
    at_epoch,
    at_step,
    finished,
    fit,
    goes_on_exactly,
    grid,
    lines,
    resumed,
    times,
    trained,
    whole,
)

EVERY_STEP = {"save_every_n_steps": 1}
SCHEDULES = ["update", "epoch", "plateau"]
DIAGONAL = [(0, 1, "update"), (0, 3, "epoch"), (2, 1, "plateau"), (2, 3, "update")]


@pytest.mark.parametrize(
    ("workers", "window", "schedule", "callbacks"),
    grid(
        [0, 2],
        [1, 3],
        SCHEDULES,
        [[], ["ema"]],
        quick=lambda *case: case[:3] in DIAGONAL and (case[3] != []) == (case[1] == 1),
    ),
)
def test_g15_it_goes_on_exactly_between_epochs(tmp_path, workers, window, schedule, callbacks):
    goes_on_exactly(
        tmp_path,
        at_epoch(2),
        workers=workers,
        schedule=schedule,
        callbacks=callbacks,
        fit={"gradient_accumulation_steps": window},
    )


@pytest.mark.parametrize(
    ("window", "schedule"),
    grid(
        [1, 2, 3, 5],
        ["none", *SCHEDULES, "lambda"],
        quick=lambda *case: case in [(2, "update"), (3, "epoch"), (5, "plateau"), (1, "lambda")],
    ),
)
def test_it_goes_on_exactly_within_an_epoch_whatever_the_schedule(tmp_path, schedule, window):
    settings = {"gradient_accumulation_steps": window, **EVERY_STEP}
    cut = {"place": "batch_begin", "epoch": 1, "batch": 5}
    goes_on_exactly(tmp_path, cut, schedule=schedule, callbacks=["ema"], fit=settings)


KINDS = {
    "x and y": {"data": "memory"},
    "dataset": {"data": "dataset"},
    "loader": {"data": "loader"},
    "loader, 2 workers": {"data": "loader", "workers": 2},
    "dataset, 2 workers": {"data": "dataset", "workers": 2},
}


@pytest.mark.parametrize(
    ("kind", "step"),
    grid(
        KINDS,
        [1, 6, 7, 13, 20],
        quick=lambda kind, step: step == 13 or (kind == "x and y" and step in (6, 7, 20)),
    ),
)
def test_g16_it_goes_on_exactly_from_a_step(tmp_path, kind, step):
    _, _, folder = goes_on_exactly(tmp_path, at_step(step), fit=EVERY_STEP, **KINDS[kind])
    assert times(folder) == {}  # no batch was trained on twice, none was left out


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", range(1, 48))
def test_g16_it_goes_on_exactly_from_every_step(tmp_path, kind, step):
    _, _, folder = goes_on_exactly(
        tmp_path, at_step(step), samples=62, schedule="update", fit=EVERY_STEP, **KINDS[kind]
    )
    assert times(folder) == {}


def test_every_sample_is_seen_once_an_epoch(tmp_path):
    _, _, folder = goes_on_exactly(tmp_path, at_step(10), workers=2, fit=EVERY_STEP)
    for epoch in range(3):
        of_epoch = [told for (e, _), told in trained(folder).items() if e == epoch]
        assert sorted(i for told in of_epoch for i in told["samples"]) == list(range(26))


def test_what_came_behind_the_last_checkpoint_is_trained_again_alike(tmp_path):
    _, _, folder = goes_on_exactly(tmp_path, at_step(12), fit={"save_every_n_steps": 5})
    assert list(times(folder).values()) == [2, 2]  # the updates 11 and 12


@pytest.mark.parametrize(
    ("persistent", "before", "after", "data"),
    [
        *grid([False], [0, 1, 2, 4], [0, 1, 2, 4], ["dataset"], quick=lambda *c: c[1:3] == (0, 2)),
        *grid(
            [False, True],
            [0, 1, 2, 4],
            [0, 1, 2, 4],
            ["loader"],
            quick=lambda *c: c[:3] in [(False, 2, 0), (True, 2, 2)],
        ),
    ],
)
def test_g17_the_number_of_workers_may_change(tmp_path, data, before, after, persistent):
    found = resumed(
        tmp_path / "cut",
        at_step(10),
        first={"workers": before, "persistent": persistent},
        then={"workers": after, "persistent": persistent},
        data=data,
        fit=EVERY_STEP,
    )
    expected, folder = whole(data=data, workers=before, persistent=persistent)
    assert_same(found, expected, tmp_path / "cut", folder)


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True])
def test_g17_workers_may_become_persistent_or_cease_to_be(tmp_path, before):
    found = resumed(
        tmp_path / "cut",
        at_step(3),
        at_step(10),
        first={"persistent": before},
        then={"persistent": not before},
        data="loader",
        workers=2,
        fit=EVERY_STEP,
    )
    expected, folder = whole(data="loader", workers=2, persistent=before)
    assert_same(found, expected, tmp_path / "cut", folder)


CHAIN = [at_step(3), at_step(9), at_step(10), at_step(12), at_epoch(2)]


@pytest.mark.parametrize(
    "kind", grid(KINDS, quick=lambda kind: kind in ("x and y", "loader, 2 workers"))
)
def test_g18_five_interruptions_three_of_them_in_one_epoch(tmp_path, kind):
    _, _, folder = goes_on_exactly(
        tmp_path, *CHAIN, schedule="update", callbacks=["ema"], fit=EVERY_STEP, **KINDS[kind]
    )
    assert times(folder) == {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20 if SOAK else 3))
def test_g18_chains_of_any_interruptions(tmp_path, seed):
    import random

    draw = random.Random(seed)
    cuts = [at_step(step) for step in sorted(draw.sample(range(3, 21), 5))]  # one is saved then
    options = {"workers": draw.choice([0, 2]), "schedule": draw.choice(SCHEDULES)}
    every = {"save_every_n_steps": 1, "async_save": draw.random() < 0.5}
    goes_on_exactly(tmp_path, *cuts, fit=every, callbacks=["ema", "norm"], **options)


PLACES = {
    "before training": {"place": "train_begin"},
    "before the second epoch": {"place": "epoch_begin", "epoch": 1},
    "before validation": {"place": "test_begin", "epoch": 1},
    "within validation": {"place": "test_batch_end", "epoch": 1, "batch": 0},
    "behind validation": {"place": "test_end", "epoch": 1},
    "within callbacks": {"place": "epoch_end", "epoch": 1},
    "after the last epoch": {"place": "epoch_end", "epoch": 2},
}


@pytest.mark.parametrize(
    ("validation", "place", "every"),
    grid(
        ["memory", "noisy", "two"],
        PLACES,
        [None, 1, 2],
        quick=lambda validation, place, every: (
            (validation, every) == ("noisy", 1)
            or ((validation, every) == ("two", None) and "validation" in place)
        ),
    ),
)
def test_g19_it_goes_on_exactly_from_any_place(tmp_path, place, validation, every):
    settings = {"monitor": "val_clean_loss" if validation == "two" else "val_loss"}
    found, _, _ = goes_on_exactly(
        tmp_path,
        PLACES[place],
        then={"seed": 1} if place == "before training" else None,  # there is no checkpoint yet
        validation=validation,
        schedule="plateau",
        fit={"save_every_n_steps": every, **settings},
    )
    assert found["epochs"] == len(found["history"]["epoch"]) == 3


def test_g19_an_epoch_whose_training_was_saved_is_validated_once_more_alone(tmp_path):
    goes_on_exactly(tmp_path, PLACES["behind validation"], fit=EVERY_STEP)
    assert times(tmp_path / "cut") == {}
    validated = [line for line in lines(tmp_path / "cut") if line[0] == "validated"]
    assert validated == [("validated", 0), ("validated", 1), ("validated", 2)]


def test_g19_a_run_that_is_complete_trains_no_step_and_has_its_history_and_best_weights(tmp_path):
    before = finished(tmp_path, optimizer="sgd")
    steps = (tmp_path / "lines.jsonl").read_text()
    after = finished(tmp_path, optimizer="sgd", seed=99, fit={"resume": True})
    assert (tmp_path / "lines.jsonl").read_text() == steps
    assert after["history"] == before["history"]
    assert after["net"] == before["net"]
    assert after["updates"] == before["updates"]


def test_g19_a_run_that_is_complete_has_its_best_weights_without_patience_too(tmp_path):
    settings = {"patience": 1, "epochs": 30}
    before = finished(tmp_path, optimizer="sgd", fit=settings)
    assert before["epochs"] < 30
    steps = (tmp_path / "lines.jsonl").read_text()
    after = finished(tmp_path, optimizer="sgd", seed=99, fit={**settings, "resume": True})
    assert (tmp_path / "lines.jsonl").read_text() == steps
    assert (after["history"], after["net"]) == (before["history"], before["net"])


@pytest.mark.parametrize("schedule", ["none", "epoch", "update"])
def test_g19_more_epochs_go_on_as_if_they_had_been_asked_for_at_first(tmp_path, schedule):
    options = {"schedule": schedule, "callbacks": ["ema"]}
    finished(tmp_path / "cut", fit={"epochs": 2}, **options)
    found = finished(tmp_path / "cut", seed=99, fit={"epochs": 4, "resume": True}, **options)
    expected, folder = whole(fit={"epochs": 4}, **options)
    assert_same(found, expected, tmp_path / "cut", folder)


@pytest.mark.parametrize("cut", [at_epoch(4), at_step(31), PLACES["within callbacks"]], ids=str)
def test_g22_patience_ends_at_the_same_epoch_with_the_same_best_file(tmp_path, cut):
    settings = {"patience": 4, "epochs": 40, **EVERY_STEP}
    found, expected, folder = goes_on_exactly(
        tmp_path, cut, optimizer="sgd", validation="noisy", fit=settings
    )
    assert found["epochs"] == expected["epochs"] < 40
    _, beside = whole(optimizer="sgd", validation="noisy", fit=settings)
    assert content_of(folder) == content_of(beside)


def content_of(folder):
    """Bytes and metadata of the best weights; safetensors writes both in any order."""
    with safe_open(folder / "run" / "best.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118
        return weights, file.metadata()


@pytest.mark.parametrize(
    ("data", "background"),
    grid(
        ["memory", "dataset", "loader"],
        [False, True],
        quick=lambda data, background: (data == "memory") == background and data != "dataset",
    ),
)
def test_g25_saving_changes_nothing(tmp_path, data, background):
    options = {"data": data, "schedule": "update", "callbacks": ["ema", "norm"]}
    saving = {"save_every_n_steps": 1, "async_save": background, "keep": 3}
    often = finished(tmp_path / "often", fit=saving, **options)
    never = finished(tmp_path / "never", fit={"ckpt_path": None}, **options)
    assert trained(tmp_path / "often") == trained(tmp_path / "never")
    names = ["history", "rates", "random"]
    assert [often[name] for name in names] == [never[name] for name in names]
    parts = [name for name in never["parts"] if name not in ("net", "feed", "callbacks.EMA.0")]
    assert {n: often["parts"][n] for n in parts} == {n: never["parts"][n] for n in parts}


def test_saving_in_a_thread_is_resumed_as_exactly(tmp_path):
    settings = {"save_every_n_steps": 1, "async_save": True}
    for step in (3, 9, 14):
        goes_on_exactly(tmp_path / str(step), at_step(step), fit=settings)


def test_saving_by_the_clock_is_resumed_as_exactly(tmp_path):
    goes_on_exactly(tmp_path, at_step(9), fit={"save_every_minutes": 1e-9})
    assert times(tmp_path / "cut") == {}


@pytest.mark.parametrize(
    ("window", "cut"),
    grid(
        [1, 3],
        [at_step(3), at_step(5)],
        quick=lambda window, cut: (window == 3) == (cut == at_step(3)),
    ),
)
def test_metrics_of_training_have_the_same_bits(tmp_path, cut, window):
    settings = {"gradient_accumulation_steps": window, **EVERY_STEP}
    found, _, _ = goes_on_exactly(
        tmp_path, cut, metrics=METRICS, data="loader", validation="noisy", fit=settings
    )
    assert {f"train_{name}" for name in METRICS if name != "collection"} <= set(found["history"])


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_each_metric_of_training_goes_on(tmp_path, name):
    goes_on_exactly(tmp_path, at_step(10), metrics=[name], fit=EVERY_STEP)


@pytest.mark.parametrize(
    ("loss", "cut"),
    grid(
        ["parameters", "scheduled"],
        [at_epoch(2), at_step(10)],
        quick=lambda _, cut: cut == at_step(10),
    ),
)
def test_losses_with_parameters_and_scheduled_weights_go_on(tmp_path, loss, cut):
    goes_on_exactly(tmp_path, cut, loss=loss, callbacks=["ema"], fit=EVERY_STEP)


OTHERS = {
    "frozen parts": {"frozen": True, "optimizer": "sgd"},
    "class weights": {"fit": {"class_weight": {0: 1.0, 1: 2.5}}},
    "sample weights": {"data": "weighted memory"},
    "several validation sets": {"validation": "two", "fit": {"monitor": "val_noisy_acc"}},
    "no validation": {"validation": "none"},
    "seldom validation": {"fit": {"validation_freq": 2}},
    "few batches of validation": {"validation": "noisy", "fit": {"validation_steps": 1}},
    "bf16": {"fit": {"mixed_precision": "bf16"}},
    "clipping": {"fit": {"clip_grad_norm": 0.1, "clip_grad_value": 0.05}},
    "no metrics in training": {"fit": {"train_metrics": False}},
    "a fused optimizer": {"optimizer": "adamw"},
    "momentum": {"optimizer": "sgd"},
    "no shuffling": {"fit": {"shuffle": False}},
    "a seed": {"fit": {"seed": 77}},
    "a step per validation": {"schedule": "epoch", "fit": {"scheduler_step": "validation"}},
    "everything": {
        "validation": "two",
        "metrics": ["acc", "auc"],
        "loss": "scheduled",
        "schedule": "update",
        "callbacks": ["ema", "norm"],
        "fit": {"gradient_accumulation_steps": 2, "clip_grad_norm": 1.0, "patience": 5},
    },
}


LATER = (
    "no metrics in training",
    "no shuffling",
    "a seed",
    "frozen parts",
    "momentum",
    "few batches of validation",
    "no validation",
)


@pytest.mark.parametrize("name", grid(OTHERS, quick=lambda name: name not in LATER))
def test_other_settings_go_on(tmp_path, name):
    options = OTHERS[name]
    settings = {**options.get("fit", {}), **EVERY_STEP}
    cuts = [at_step(4), at_epoch(2)] if SOAK else [at_step(4)]
    goes_on_exactly(tmp_path, *cuts, **{"data": "memory", **options, "fit": settings})


def test_it_goes_on_from_the_path_of_a_checkpoint_in_another_folder(tmp_path):
    fit(tmp_path / "first", cut=at_step(10), fit=EVERY_STEP)
    path = next((tmp_path / "first" / "run" / "checkpoints").glob("*10"))
    found = finished(tmp_path / "cut", seed=99, fit={"resume": str(path)})
    expected, folder = whole()
    steps, others = trained(tmp_path / "cut"), trained(folder)
    assert steps == {where: others[where] for where in list(others)[10:]}
    assert found["history"] == expected["history"]
    assert found["parts"] == expected["parts"]


def test_it_goes_on_from_the_path_of_a_run(tmp_path):
    fit(tmp_path / "first", cut=at_step(10), fit=EVERY_STEP)
    path = tmp_path / "first" / "run"
    found = finished(tmp_path / "second", seed=99, fit={"resume": str(path), "ckpt_path": None})
    assert found["history"] == whole()[0]["history"]


def test_an_older_checkpoint_of_the_same_folder_is_gone_on_with(tmp_path):
    fit(tmp_path, cut=at_step(10), fit={"save_every_n_steps": 1, "keep": 9})
    older = next((tmp_path / "run" / "checkpoints").glob("*08"))
    found = finished(tmp_path, seed=99, fit={"resume": str(older)})
    assert_same(found, whole()[0], tmp_path, whole()[1])
    again = finished(tmp_path, seed=98, fit={"resume": True})
    assert again["history"] == found["history"]


def test_a_checkpoint_that_was_moved_goes_on(tmp_path):
    fit(tmp_path / "first", cut=at_step(10), fit=EVERY_STEP)
    (tmp_path / "cut").mkdir()
    shutil.move(tmp_path / "first" / "run", tmp_path / "cut" / "run")
    shutil.copy(tmp_path / "first" / "lines.jsonl", tmp_path / "cut" / "lines.jsonl")
    found = finished(tmp_path / "cut", seed=99, fit={"resume": True})
    assert_same(found, whole()[0], tmp_path / "cut", whole()[1])


def test_the_history_is_written_as_csv_once_an_epoch(tmp_path):
    goes_on_exactly(tmp_path, at_step(10), fit=EVERY_STEP)
    rows = (tmp_path / "cut" / "run" / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2", "3"]


def test_a_run_afresh_begins_where_there_is_no_checkpoint(tmp_path):
    found = finished(tmp_path / "cut", fit={"resume": True})
    assert_same(found, whole()[0], tmp_path / "cut", whole()[1])


@pytest.mark.slow
def test_its_own_worker_script_runs_alone(tmp_path):
    import subprocess
    import sys
    from pathlib import Path

    (tmp_path / "options.json").write_text(json.dumps({"fit": {"epochs": 1}}))
    script = Path(__file__).with_name("resume_worker.py")
    done = subprocess.run(
        [sys.executable, str(script), "options.json"], cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 0
    assert json.loads((tmp_path / "digest.json").read_text())["error"] is None
