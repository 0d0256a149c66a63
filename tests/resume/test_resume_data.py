"""Whatever decides the order of samples, and wherever noise comes from, goes on exactly."""

import pytest

from resume.resume_worker import (
    LOADERS,
    SAMPLERS,
    SOAK,
    assert_same,
    at_epoch,
    at_step,
    finished,
    goes_on_exactly,
    grid,
    resumed,
    times,
    trained,
    whole,
)

LATER = ("replacement", "random", "weighted", "subset own", "buckets", "own random")
EVERY_STEP = {"save_every_n_steps": 1}


@pytest.mark.parametrize(
    ("kind", "workers"),
    grid(
        [*SAMPLERS, *LOADERS],
        [0, 2],
        quick=lambda kind, workers: (kind == "counting") == bool(workers) and kind not in LATER,
    ),
)
def test_g20_a_sampler_goes_on_exactly(tmp_path, kind, workers):
    steps = {"subset": 4, "batch sampler": 5}.get(kind, 7)
    cuts = [at_step(2), at_step(steps + 3), at_epoch(2)]
    _, _, folder = goes_on_exactly(
        tmp_path,
        *(cuts if SOAK else cuts[1:2]),
        data="loader",
        loader=kind,
        workers=workers,
        fit=EVERY_STEP,
    )
    assert times(folder) == {}


@pytest.mark.parametrize(
    "kind",
    grid(
        ["counting", "lazy global", "shuffle", "own numpy"], quick=lambda kind: kind == "counting"
    ),
)
def test_g20_a_sampler_goes_on_exactly_with_other_workers(tmp_path, kind):
    for before, after in ((0, 2), (2, 0)):
        options = {"data": "loader", "loader": kind, "fit": EVERY_STEP}
        folder = tmp_path / str(before)
        found = resumed(
            folder, at_step(9), first={"workers": before}, then={"workers": after}, **options
        )
        expected, beside = whole(workers=before, **options)
        assert_same(found, expected, folder, beside)


@pytest.mark.parametrize(
    ("own", "data"),
    grid(
        ["torch", "numpy", "random"],
        ["dataset", "loader"],
        quick=lambda own, data: (own == "numpy") == (data == "loader"),
    ),
)
def test_noise_from_a_datasets_own_generator_goes_on_exactly(tmp_path, data, own):
    goes_on_exactly(tmp_path, at_step(10), at_epoch(2), data=data, own_stream=own, fit=EVERY_STEP)


ITERABLES = {
    "an IterableDataset": {"data": "iterable dataset"},
    "a loader of an IterableDataset": {"data": "loader", "loader": "iterable"},
    "an iterable of batches": {"data": "batches"},
    "a dataset with a state": {"data": "loader", "loader": "seeking"},
}


@pytest.mark.parametrize(
    ("kind", "steps"),
    grid(
        ITERABLES,
        [None, 3, 9],
        quick=lambda kind, steps: steps == 3 if "batches" in kind else steps is None,
    ),
)
def test_g20_an_iterable_goes_on_exactly(tmp_path, kind, steps):
    settings = {**EVERY_STEP, "steps_per_epoch": steps}
    cuts = [at_step(2), at_step(8), at_epoch(2)] if steps != 9 else [at_step(8), at_step(16)]
    _, _, folder = goes_on_exactly(tmp_path, *cuts, fit=settings, **ITERABLES[kind])
    assert times(folder) == {}


def test_g20_a_dataset_with_a_state_reads_nothing_twice(tmp_path):
    found, expected, _ = goes_on_exactly(
        tmp_path, at_step(10), data="loader", loader="seeking", fit=EVERY_STEP
    )
    assert expected["reads"] == 3 * 26
    assert found["reads"] == 3 * 26 - 10 * 4 + 2  # the last batch of an epoch has 2 samples


def test_a_generator_goes_on_exactly_where_epochs_are_cut_out_of_it(tmp_path):
    settings = {**EVERY_STEP, "steps_per_epoch": 6}
    goes_on_exactly(tmp_path, at_step(4), at_step(14), data="generator", fit=settings)


@pytest.mark.parametrize(
    ("kind", "steps"),
    grid(
        ["memory", "dataset", "lazy global", "endless", "own random"],
        [2, 5, 7, 10],
        quick=lambda *case: (
            case in [("memory", 5), ("dataset", 10), ("lazy global", 5), ("endless", 2)]
        ),
    ),
)
def test_epochs_that_cut_passes_go_on_exactly(tmp_path, kind, steps):
    options = (
        {"data": kind} if kind in ("memory", "dataset") else {"data": "loader", "loader": kind}
    )
    settings = {**EVERY_STEP, "steps_per_epoch": steps}
    last = 3 * steps - 1
    _, _, folder = goes_on_exactly(
        tmp_path, at_step(steps - 1), at_step(steps), at_step(last), fit=settings, **options
    )
    assert times(folder) == {}


def test_more_epochs_of_a_loader_go_on_where_its_sampler_was(tmp_path):
    options = {"data": "loader", "loader": "own numpy"}
    finished(tmp_path / "cut", fit={"epochs": 2}, **options)
    found = finished(tmp_path / "cut", seed=99, fit={"epochs": 3, "resume": True}, **options)
    expected, folder = whole(**options)
    assert_same(found, expected, tmp_path / "cut", folder)


def test_a_stateful_loader_of_torchdata_goes_on_exactly(tmp_path):
    pytest.importorskip("torchdata")
    cuts = at_step(3), at_step(10), at_epoch(2)
    goes_on_exactly(tmp_path, *cuts, data="loader", loader="stateful", fit=EVERY_STEP)


def test_a_stateful_loader_of_torchdata_with_workers_gives_the_same_samples(tmp_path):
    pytest.importorskip("torchdata")  # it does not put back what its workers drew
    options = {"data": "loader", "loader": "stateful", "workers": 2}
    resumed(tmp_path, at_step(3), at_step(10), fit=EVERY_STEP, **options)
    expected = trained(whole(**options)[1])
    assert times(tmp_path) == {}
    found = {where: told["samples"] for where, told in trained(tmp_path).items()}
    assert found == {where: told["samples"] for where, told in expected.items()}
