"""A state that cannot be saved is refused, and a save that fails keeps the checkpoint before it."""

import errno
import os
import warnings

import pytest
import torch

import fitorch
from fitorch.callbacks import Callback, TerminateOnNaN
from fitorch.errors import CheckpointError, CheckpointWriteError, NonFiniteError
from resume.resume_worker import (
    BadState,
    Exploding,
    at_step,
    digest_of,
    finished,
    fit,
    trained,
    whole,
)
from resume.short_runs import checkpoints, make_model, resume, train

pytestmark = pytest.mark.usefixtures("one_thread")


def test_row_28_a_state_that_cant_be_stored_is_refused_before_the_first_step(tmp_path):
    model = make_model()
    before = digest_of(model.net.state_dict())
    with pytest.raises(CheckpointError) as caught:
        train(model, tmp_path / "run", [BadState()])
    assert "callbacks.BadState.0" in str(caught.value)
    assert "deep" in str(caught.value)
    assert "handle" in str(caught.value)
    assert "object" in str(caught.value)
    assert "expected None, bool, int" in str(caught.value)
    assert digest_of(model.net.state_dict()) == before
    assert model.updates == 0


def test_row_44_47_a_file_in_the_place_of_the_folder_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "run").write_text("a file")
    model = make_model()
    with pytest.raises(CheckpointWriteError) as caught:
        train(model, tmp_path / "run")
    assert str(tmp_path / "run") in str(caught.value)
    assert "file" in str(caught.value)
    assert model.updates == 0
    assert (tmp_path / "run").read_text() == "a file"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_row_44_a_folder_that_cant_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(CheckpointWriteError, match="Permission denied"):
        train(make_model(), tmp_path / "locked" / "run")


class Disk:
    """A disk that is full from a save on, for so many saves."""

    def __init__(self, monkeypatch, begin, saves):
        self.failing, self.count = range(begin, begin + saves), 0
        original = fitorch.checkpoint.CheckpointStore._make_room

        def make_room(store, parts):
            self.count += 1
            if self.count in self.failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(store, parts)

        monkeypatch.setattr(fitorch.checkpoint.CheckpointStore, "_make_room", make_room)


@pytest.mark.parametrize("background", [False, True])
def test_row_45_a_full_disk_ends_the_fit_and_keeps_what_was_saved(
    tmp_path, monkeypatch, background
):
    Disk(monkeypatch, 3, 99)
    with pytest.raises(CheckpointWriteError) as caught:
        train(make_model(), tmp_path / "run", save_every_n_steps=2, async_save=background)
    for words in (str(tmp_path / "run"), "No space left", "bytes", "step-0000000004 is intact"):
        assert words in str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert checkpoints(tmp_path / "run")[-1] == "step-0000000004"


@pytest.mark.parametrize("background", [False, True])
def test_row_45_a_warning_where_asked_for_and_an_error_at_the_third_in_a_row(
    tmp_path, monkeypatch, background
):
    options = {"save_every_n_steps": 2, "on_save_error": "warn", "async_save": background}
    Disk(monkeypatch, 3, 2)
    with pytest.warns(UserWarning, match="No space left") as caught:
        frame = train(make_model(), tmp_path / "run", **options)
    assert len(caught) == 2
    assert len(frame) == 2
    assert checkpoints(tmp_path / "run")[-1].startswith("step-0000000014")
    Disk(monkeypatch, 3, 3)
    with (
        pytest.warns(UserWarning, match="No space left"),
        pytest.raises(CheckpointWriteError, match="No space left"),
    ):
        train(make_model(), tmp_path / "other", **options)
    assert checkpoints(tmp_path / "other")[-1] == "step-0000000004"


def test_failures_with_a_success_between_them_are_warnings_for_ever(tmp_path, monkeypatch):
    original = fitorch.checkpoint.CheckpointStore._make_room
    count = []

    def make_room(store, parts):
        count.append(1)
        if len(count) % 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(store, parts)

    monkeypatch.setattr(fitorch.checkpoint.CheckpointStore, "_make_room", make_room)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(make_model(), tmp_path / "run", save_every_n_steps=1, on_save_error="warn")
    assert len(caught) >= 8
    assert "EIO" in str(caught[0].message)


def test_a_fit_whose_saving_failed_goes_on_exactly_from_the_checkpoint_before(tmp_path):
    options = {"save_every_n_steps": 2}
    found = fit(tmp_path, cut=at_step(9), fit=options)
    assert found is None
    (tmp_path / "run" / "checkpoints" / ".tmp-0000000010-deadbeef").mkdir()
    found = finished(tmp_path, seed=99, fit={**options, "resume": True})
    assert not list((tmp_path / "run" / "checkpoints").glob(".t*"))
    assert trained(tmp_path) == trained(whole()[1])
    assert found["history"] == whole()[0]["history"]


# G41: what is not finite.


def test_g41_a_loss_that_is_nan_is_in_no_checkpoint(tmp_path):
    model = make_model(loss=Exploding(9))
    with pytest.raises(NonFiniteError):
        train(model, tmp_path / "run", save_every_n_steps=1)
    assert checkpoints(tmp_path / "run")[-1] == "step-0000000009"
    again = make_model(loss=Exploding(99))
    frame = train(again, tmp_path / "run", resume=True)
    assert frame["train_loss"].notna().all()


def test_g41_a_loss_that_is_nan_and_forgiven_is_in_no_checkpoint(tmp_path):
    model = make_model(loss=Exploding(9))
    train(model, tmp_path / "run", [TerminateOnNaN()], epochs=4)
    assert checkpoints(tmp_path / "run") == ["step-0000000007"]
    assert len(resume(tmp_path / "run", make_model(loss=Exploding(99)), epochs=4)) == 4


class Poison(Callback):
    """Puts NaN into a weight."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.updates == 5:
            with torch.no_grad():
                self.model.net.head.weight[0, 0] = float("nan")


@pytest.mark.parametrize("every", [1, None])
def test_g41_weights_that_are_nan_are_in_no_checkpoint(tmp_path, every):
    with pytest.raises(NonFiniteError, match=r"head\.weight|training loss"):
        train(make_model(), tmp_path / "run", [Poison()], save_every_n_steps=every)
    assert all(int(name[5:15]) <= 4 for name in checkpoints(tmp_path / "run"))
