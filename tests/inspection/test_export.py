"""Exported nets give what the net gives, for other batches than the one they were followed with."""

import inspect
import json
import subprocess
import sys
import warnings
from importlib import metadata

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitorch import ExportError, KerasModel, ShapeError
from tolerances import FORWARD

HAS_ONNX = "dynamic_shapes" in inspect.signature(torch.onnx.export).parameters
with_onnx = pytest.mark.skipif(not HAS_ONNX, reason="needs torch 2.6")


class Two(nn.Module):
    """Takes two inputs, gives two outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, wide, narrow):
        both = self.first(wide) + self.second(narrow)
        return {"sum": both, "mean": both.mean(1)}


class Asks(nn.Module):
    """Looks at a value, which no graph can."""

    def forward(self, x):
        return x + 1 if x.sum().item() > 0 else x - 1


class Counts(nn.Module):
    """Has the number of samples in its code."""

    def forward(self, x):
        return x.view(3, -1).reshape(x.shape)


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def fitted():
    model = KerasModel(convolutional(), "cross_entropy", {"acc": "acc"}, "adam")
    x, y = torch.randn(30, 1, 6, 6), torch.arange(30) % 2
    model.fit((x, y), validation_split=0.2, epochs=2, batch_size=8, seed=3, verbose=0, cpu=True)
    return model


def load_pt2(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.4's, about its own torch.load
        return torch.export.load(path).module()


def run_onnx(path, **inputs):
    session = onnxruntime.InferenceSession(path)
    names = [given.name for given in session.get_inputs()]
    assert names == list(inputs)
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})


def test_a_pt2_file_gives_what_the_net_gives(tmp_path):
    model, x = fitted(), torch.randn(11, 1, 6, 6)
    path = model.export(tmp_path / "deep" / "net.pt2", x[:3])
    assert path == tmp_path / "deep" / "net.pt2"
    loaded = load_pt2(path)
    model.net.eval()
    for samples in (1, 2, 11):
        torch.testing.assert_close(loaded(x[:samples]), model.net(x[:samples]), **FORWARD)


@with_onnx
def test_an_onnx_file_gives_what_the_net_gives(tmp_path):
    model, x = fitted(), torch.randn(11, 1, 6, 6)
    path = model.export(tmp_path / "net.onnx", x[:3])
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    model.net.eval()
    for samples in (1, 11):
        (output,) = run_onnx(path, input=x[:samples])
        assert np.allclose(output, model.net(x[:samples]).detach(), **FORWARD)


@pytest.mark.parametrize("by_name", [True, False])
def test_several_inputs_and_outputs(by_name, tmp_path):
    model = KerasModel(Two())
    wide, narrow = torch.randn(5, 4), torch.randn(5, 2)
    batch = {"wide": wide[:2], "narrow": narrow[:2]} if by_name else (wide[:2], narrow[:2])
    with torch.no_grad():
        true = model.net(wide, narrow)
    loaded = load_pt2(model.export(tmp_path / "net.pt2", batch))
    found = loaded(wide=wide, narrow=narrow) if by_name else loaded(wide, narrow)
    torch.testing.assert_close(found["sum"], true["sum"], **FORWARD)
    if HAS_ONNX:
        outputs = run_onnx(model.export(tmp_path / "net.onnx", batch), wide=wide, narrow=narrow)
        for output, name in zip(outputs, ("sum", "mean"), strict=True):
            assert np.allclose(output, true[name], **FORWARD)


@pytest.mark.skipif(HAS_ONNX, reason="this torch can")
def test_a_torch_that_is_too_old_for_onnx_is_told(tmp_path):
    with pytest.raises(RuntimeError, match=r"needs torch 2\.6 or later"):
        KerasModel(nn.Linear(4, 2)).export(tmp_path / "net.onnx", torch.ones(3, 4))


@pytest.mark.parametrize(
    "features",
    [
        np.zeros((3, 4)),
        torch.zeros(1, 4),
        DataLoader(TensorDataset(torch.zeros(6, 4), torch.zeros(6)), batch_size=3),
        TensorDataset(torch.zeros(6, 4), torch.zeros(6)),
    ],
    ids=["array", "one sample", "loader", "dataset"],
)
def test_features_of_any_kind(features, tmp_path):
    model, x = KerasModel(nn.Linear(4, 2)), torch.randn(7, 4)
    loaded = load_pt2(model.export(tmp_path / "net.pt2", features))
    torch.testing.assert_close(loaded(x), model.net(x), **FORWARD)


def test_a_safetensors_file_holds_the_weights(tmp_path):
    model = fitted()
    state = load_file(model.export(tmp_path / "net.safetensors"))
    assert state.keys() == model.net.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.net.state_dict().items())


def test_net_and_random_numbers_stay_as_they_were(tmp_path):
    model = fitted()
    model.net.train()
    model.net[1].eval()
    modes = [module.training for module in model.net.modules()]
    parameters, state = list(model.net.parameters()), model.net.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    random = torch.get_rng_state()
    model.export(tmp_path / "net.pt2", torch.randn(3, 1, 6, 6, generator=torch.Generator()))
    assert [module.training for module in model.net.modules()] == modes
    assert all(a is b for a, b in zip(model.net.parameters(), parameters, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_file_stays_whole_where_the_net_cannot_be_exported(tmp_path):
    path = tmp_path / "net.pt2"
    path.write_bytes(b"what was there")
    net = nn.Sequential(nn.Dropout(), Asks())
    with pytest.raises(RuntimeError, match=r"Sequential cannot be exported: .* reads") as caught:
        KerasModel(net).export(path, torch.ones(3, 4))
    assert isinstance(caught.value, ExportError)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"what was there"
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]
    assert net.training


@pytest.mark.parametrize("suffix", [".pt2", pytest.param(".onnx", marks=with_onnx)])
def test_a_net_that_counts_samples_is_told_so(suffix, tmp_path):
    with pytest.raises(ExportError, match="depends on the number of samples"):
        KerasModel(Counts()).export(tmp_path / f"net{suffix}", torch.ones(3, 4))


@pytest.mark.parametrize("name", ["net.pb", "net", "net.pt"])
def test_an_unknown_suffix_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"suffixes .pt2, .onnx, .safetensors"):
        KerasModel(nn.Linear(4, 2)).export(tmp_path / name, torch.ones(3, 4))


def test_what_cannot_be_features_is_refused(tmp_path):
    model = KerasModel(nn.Linear(4, 2))
    with pytest.raises(ValueError, match="needs a batch of features"):
        model.export(tmp_path / "net.pt2")
    with pytest.raises(TypeError, match="features is a str"):
        model.export(tmp_path / "net.pt2", "x")
    with pytest.raises(ShapeError, match=r"the net \(Linear\), which got"):
        model.export(tmp_path / "net.pt2", torch.ones(3, 5))


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        KerasModel(nn.Linear(4, 2)).export(tmp_path / "net.onnx", torch.ones(3, 4))


def test_a_card_tells_what_there_is_before_a_fit():
    net = nn.Linear(4, 2)
    net.bias.requires_grad_(False)
    card = KerasModel(net, "mse", {"mae": "mae"}, "sgd").card()
    assert (card["net"], card["parameters"], card["trainable_parameters"]) == ("Linear", 10, 8)
    assert (card["loss"], card["metrics"]) == ("MSELoss()", ["mae"])
    assert card["optimizer"].startswith("SGD(lr=")
    assert (card["epochs"], card["best"]) == (0, None)
    assert json.loads(json.dumps(card)) == card


def test_a_card_tells_all_about_a_fit():
    model = fitted()
    card, frame = model.card(), model.history.frame
    best = frame.loc[frame["val_loss"].idxmin()]
    assert card["best"]["value"] == best["val_loss"]
    assert card["best"]["epoch"] == best["epoch"]
    assert card["best"]["figures"]["val_acc"] == best["val_acc"]
    assert (card["epochs"], card["seed"], card["status"]) == (2, 3, "complete")
    assert card["data"] == "24 samples in 3 batches of 8"
    assert card["environment"]["torch"] == metadata.version("torch")
    assert card["environment"]["device"] == "cpu"
    assert json.loads(json.dumps(card)) == card


def test_a_card_names_the_commit(tmp_path, monkeypatch):
    def git(*arguments):
        told = ["-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        done = subprocess.run(["git", *told], cwd=tmp_path, check=True, capture_output=True)
        return done.stdout.decode().strip()

    monkeypatch.chdir(tmp_path)
    git("init", "-b", "main")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "first")
    model = fitted()
    assert model.card()["git"] == {
        "commit": git("rev-parse", "HEAD"),
        "branch": "main",
        "changed": False,
    }
    (tmp_path / "file").write_text("two")
    assert model.card()["git"]["changed"] is True
