"""The host does not wait for the device in a step, nor in a batch of validation."""

import pytest

from devices.waiting import SCENARIOS

FITS = [name for name in SCENARIOS if name.startswith("fit with")]
SELDOM = 0.1  # as what metrics do once in 64 batches


@pytest.fixture
def row(running):
    """Return a function that returns the row of a scenario."""

    def row_of(name):
        found = running.outcome("devices.waiting", name)
        assert found["error"] is None, found["error"]
        return found["value"]

    return row_of


def check(row, thing, goal=0):
    assert row[thing] <= goal + SELDOM, f"{row[thing]} waits a {thing}: {row[f'places_{thing}']}"


@pytest.mark.parametrize("name", FITS)
def test_a_training_step_does_not_wait(name, row):
    # A gradient scaler reads whether the gradients were finite, if the optimizer is torch's own.
    check(row(name), "step", goal=1 if "fp16" in name else 0)


@pytest.mark.parametrize("name", FITS)
def test_a_validation_batch_does_not_wait(name, row):
    check(row(name), "validation_batch")


@pytest.mark.parametrize("name", FITS)
def test_an_epoch_waits_a_few_times_for_its_figures(name, row):
    found = row(name)
    if "epoch" in found:  # a generator has only one
        steps = 4 if "fp16" in name else 0
        check(found, "epoch", goal=25 + steps)


BY_THE_USER = ("a loader", "a generator")  # from memory that is not pinned


@pytest.mark.parametrize("name", FITS)
def test_batches_are_sent_from_pinned_memory(name, row):
    found, asked = row(name), name.removeprefix("fit with ") in BY_THE_USER
    assert found["staged_step"] <= SELDOM + 2 * asked
    assert found["staged_validation_batch"] <= SELDOM + 2 * asked


@pytest.mark.parametrize("name", ["only evaluate", "only predict"])
def test_a_batch_without_training_does_not_wait(name, row):
    check(row(name), "batch")


def test_a_checkpoint_waits_for_its_tensors_at_once(row):
    # A copy for each of three dtypes, and the figures.
    check(row("each checkpoint"), "checkpoint", goal=4)


def test_a_device_that_stages_no_copies_gets_no_early_ones(running):
    found = running.outcome("devices.waiting", "a device that stages no copies")
    assert found["error"] is None, found["error"]
