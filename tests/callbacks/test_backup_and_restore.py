import json

import pytest
import torch
from torch import nn

from fitorch import KerasModel, list_checkpoints
from fitorch.callbacks import BackupAndRestore, Callback, EarlyStopping, ModelCheckpoint

X = torch.randn(26, 3, generator=torch.Generator().manual_seed(0))
DATA = (X, X.sum(1, keepdim=True))


class Cut(Callback):
    """Raises after a batch, as a crash would."""

    def __init__(self, epoch, batch):
        self.where = epoch, batch
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        if (self.epochs[-1], batch) == self.where:
            raise SystemExit


def make_model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 1))
    return KerasModel(net, "mse", optimizer="adam")


def fit(*callbacks, model=None, **options):
    model = model or make_model()
    options = {"epochs": 4, "batch_size": 8, "verbose": 0, "seed": 3, **options}
    model.fit(DATA, DATA, callbacks=[*callbacks], **options)
    return model


def assert_same(model, other):
    for name, value in other.net.state_dict().items():
        assert torch.equal(model.net.state_dict()[name], value), name


@pytest.mark.parametrize("freq", ["epoch", 1, 3])
@pytest.mark.parametrize("where", [(1, 0), (2, 2)])
def test_goes_on_where_a_fit_was_cut(tmp_path, freq, where):
    expected, cut = fit(), Cut(*where)
    with pytest.raises(SystemExit):
        fit(BackupAndRestore(tmp_path / "backup", freq), cut)
    again = Cut(-1, -1)
    model = fit(BackupAndRestore(tmp_path / "backup", freq), again)
    assert_same(model, expected)
    columns = ["epoch", "train_loss", "lr", "val_loss"]
    assert model.history.frame[columns].equals(expected.history.frame[columns])
    assert again.epochs == list(range(where[0], 4))  # nothing is trained twice


def test_deletes_its_checkpoints_once_training_is_complete(tmp_path):
    fit(BackupAndRestore(tmp_path / "backup"))
    assert not (tmp_path / "backup").exists()


def test_keeps_its_checkpoints_where_asked_to(tmp_path):
    model = fit(BackupAndRestore(tmp_path / "backup", delete_checkpoint=False))
    assert list_checkpoints(tmp_path / "backup")["epoch"].tolist() == [4, 3]
    assert_same(fit(BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)), model)


def test_other_files_in_its_folder_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    fit(BackupAndRestore(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_net_ends_with_its_last_weights(tmp_path):
    assert_same(fit(BackupAndRestore(tmp_path / "backup")), fit())
    assert not (tmp_path / "backup" / "best.safetensors").exists()


@pytest.mark.parametrize("options", [{"ckpt_path": "runs"}, {"resume": "runs"}])
def test_two_ways_to_say_the_same_are_refused(tmp_path, options, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="BackupAndRestore does what ckpt_path with resume=True"):
        fit(BackupAndRestore("backup"), **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("freq", ["batch", 0, -1, 1.5, True])
def test_a_frequency_that_is_none_is_refused(freq):
    with pytest.raises(ValueError, match=r"save_freq is .* 'epoch' or a number of updates >= 1"):
        BackupAndRestore("backup", freq)


def test_an_empty_folder_name_is_refused():
    with pytest.raises(ValueError, match="backup_dir is empty"):
        BackupAndRestore("")


# ModelCheckpoint with a name without suffix saves the same


def test_a_whole_checkpoint_can_be_gone_on_with(tmp_path):
    expected = fit(ModelCheckpoint(tmp_path / "epoch_{epoch}"), EarlyStopping(patience=9))
    assert {path.name for path in tmp_path.iterdir()} == {f"epoch_{n}" for n in (1, 2, 3, 4)}
    model = fit(
        ModelCheckpoint(tmp_path / "again_{epoch}"),
        EarlyStopping(patience=9),
        resume=tmp_path / "epoch_2",
    )
    assert_same(model, expected)
    assert len(model.history) == 4


def test_a_whole_checkpoint_can_be_put_into_a_model(tmp_path):
    trained = fit(ModelCheckpoint(tmp_path / "whole"), epochs=3)
    model = make_model()
    assert model.restore(tmp_path / "whole").parent == tmp_path / "whole"
    assert_same(model, trained)
    assert len(model.history) == 3
    assert model.updates == trained.updates == 12
    state = model.optimizer.state_dict()["state"]
    for number, values in trained.optimizer.state_dict()["state"].items():
        assert all(torch.equal(state[number][name], value) for name, value in values.items())
    fit(model=model, epochs=1)
    assert model.history.frame["epoch"].tolist() == [1, 2, 3, 4]


def test_whole_checkpoints_within_an_epoch_wait_for_the_end_of_an_update(tmp_path):
    keep = ModelCheckpoint(tmp_path / "{epoch}_{batch}", save_freq=1)
    fit(keep, gradient_accumulation_steps=2, epochs=1)
    assert {path.name for path in tmp_path.iterdir()} == {"1_2", "1_4"}


def test_only_the_best_whole_checkpoints_are_kept(tmp_path):
    keep = ModelCheckpoint(tmp_path / "{epoch}", monitor="train_loss", save_top_k=2)
    model = fit(keep)
    best = model.history.frame.nsmallest(2, "train_loss")["epoch"]
    assert {path.name for path in tmp_path.iterdir()} == {str(epoch) for epoch in best}


def test_a_whole_checkpoint_holds_the_states_of_all_callbacks(tmp_path):
    stopping = EarlyStopping(patience=9)
    fit(ModelCheckpoint(tmp_path / "whole"), stopping, epochs=2)  # though it stands before it
    (folder,) = (tmp_path / "whole").iterdir()
    state = json.loads((folder / "state.json").read_text())
    assert state["callbacks.EarlyStopping.0"]["best"] == stopping.watched.best


def test_a_whole_checkpoint_is_refused_as_weights_only():
    with pytest.raises(ValueError, match=r"filepath is 'whole'; expected .* \.safetensors"):
        ModelCheckpoint("whole", save_weights_only=True)


def test_all_state_can_be_saved_only_while_a_fit_is_under_way(tmp_path):
    with pytest.raises(RuntimeError, match="no fit is running"):
        make_model().save_state(tmp_path)
