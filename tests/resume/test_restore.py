"""What a fit goes on with, and what it does not."""

import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from fitorch import CheckpointError, CheckpointMismatchError, KerasModel
from fitorch.__main__ import main
from fitorch.checkpoint import CheckpointStore

X = torch.randn(26, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def make_model(net=None):
    return KerasModel(net or make_net(), "mse", optimizer="adam")


def fit(model, path, data=(X, Y), **options):
    chosen = {"epochs": 2, "batch_size": 8, "seed": 1, "verbose": 0, "ckpt_path": path, **options}
    return model.fit(data, **chosen)


def by_hand(folder):
    """A checkpoint of somebody's own loop."""
    net = make_net()
    state = {"model": net.state_dict(), "state": {"epoch": 3}}
    return CheckpointStore(folder / "checkpoints").save(7, state).path


@pytest.mark.parametrize(
    "use",
    [
        lambda folder, path: fit(make_model(), None, resume=path),
        lambda folder, path: fit(make_model(), folder, resume=True),
        lambda folder, path: make_model().restore(path),
    ],
    ids=["resume from it", "resume there", "restore"],
)
def test_a_checkpoint_of_another_loop_is_refused_with_what_it_lacks(tmp_path, use):
    path = by_hand(tmp_path)
    with pytest.raises(CheckpointError, match=r"not written by a fit: run, epoch, .*opt"):
        use(tmp_path, path)
    assert path.is_dir()


def test_the_command_tells_of_a_checkpoint_of_another_loop(tmp_path, capsys):
    by_hand(tmp_path)
    assert main(["export", str(tmp_path), str(tmp_path / "net.pt")]) == 1
    assert "was not written by a fit" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["rank-00000", "state", "optimizer"])
def test_a_checkpoint_that_holds_something_else_is_refused_and_changes_nothing(tmp_path, part):
    fit(make_model(), tmp_path / "run", epochs=1)
    checkpoint = CheckpointStore(tmp_path / "run" / "checkpoints").list()[0]
    parts = checkpoint.read() | {part: {"wings": 2}}
    other = CheckpointStore(tmp_path / "other").save(4, parts, checkpoint.manifest().info).path
    model = make_model()
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    uses = [lambda: fit(model, tmp_path / "new", resume=other), lambda: model.restore(other)]
    for use in uses[: 1 if part == "rank-00000" else 2]:  # nothing of that is a model's
        with pytest.raises(CheckpointMismatchError):
            use()
        assert all(torch.equal(before[n], value) for n, value in model.net.state_dict().items())
        assert len(model.history) == model.updates == 0
        assert model.run is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_a_run_of_a_compiled_net_goes_on_with_the_plain_one(tmp_path):
    whole = make_model()
    fit(whole, tmp_path / "whole")
    fit(make_model(torch.compile(make_net(), backend="eager")), tmp_path / "run", epochs=1)
    model = make_model()
    fit(model, tmp_path / "run", resume=True)
    for ours, theirs in zip(model.net.parameters(), whole.net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_another_kind_of_sampler_is_told_before_training(tmp_path):
    data = TensorDataset(X, Y)
    fit(make_model(), tmp_path, DataLoader(data, 8, sampler=RandomSampler(data)), epochs=1)
    other = DataLoader(data, 8, sampler=WeightedRandomSampler([1.0] * 26, 26))
    with pytest.raises(CheckpointMismatchError, match=r"samplers: .*Random.*Weighted"):
        fit(make_model(), tmp_path, other, resume=True)


def test_moving_a_run_aside_leaves_what_others_keep_there(tmp_path):
    folder, previous = tmp_path / "run", tmp_path / "run.previous"
    for _ in range(2):
        fit(make_model(), folder, epochs=1)
        previous.mkdir(exist_ok=True)
        (previous / "notes.txt").write_text("mine")
    fit(make_model(), folder, epochs=1)
    assert (previous / "notes.txt").read_text() == "mine"
    assert {path.name for path in previous.iterdir()} == {
        "notes.txt", "best.safetensors", "checkpoints", "history.csv",
    }  # fmt: skip
    assert len(list((previous / "checkpoints").iterdir())) == 1


def test_a_working_directory_that_is_gone_does_not_matter(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert len(fit(make_model(), tmp_path / "run")) == 2


def test_an_empty_path_is_refused(tmp_path):
    with pytest.raises(TypeError, match="resume is ''; expected True, False, or the path"):
        fit(make_model(), tmp_path / "run", resume="")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_tells_what_it_is_of_before_its_parts_are_read(tmp_path):
    model = make_model()
    fit(model, tmp_path)
    newest = CheckpointStore(tmp_path / "checkpoints").list()[0]
    info = json.loads(json.loads((newest.path / "manifest.json").read_text())["body"])["info"]
    assert (info["epoch"], info["batch"], info["seed"], info["epochs"]) == (2, 0, 1, 2)
    assert info["run_settings"]["parameters"] == [[n for n, _ in model.net.named_parameters()]]
    assert info["value"] == model.history.frame["train_loss"].iloc[-1]
