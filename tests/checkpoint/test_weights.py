import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from fitorch import KerasModel
from fitorch.checkpoint.weights import load_weights, save_weights

NAMES = pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.bin", "net.safetensors", "net"])


class Tied(nn.Module):
    """An embedding and an output layer with one weight, and a buffer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("count", torch.tensor(3))


def make_net():
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def assert_same(net, expected):
    state, wanted = net.state_dict(), expected.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], value) for name, value in wanted.items())


def perturbed(make):
    net = make()
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            tensor += 1
    return net


@NAMES
@pytest.mark.parametrize("make", [make_net, Tied])
def test_weights_come_back(tmp_path, name, make):
    net, other = make(), perturbed(make)
    path = save_weights(net.state_dict(), tmp_path / name)
    assert path == tmp_path / name
    assert load_weights(other, path) == path
    assert_same(other, net)


def test_a_folder_gets_the_best_weights(tmp_path):
    net, other = make_net(), perturbed(make_net)
    assert save_weights(net.state_dict(), tmp_path) == tmp_path / "best.safetensors"
    load_weights(other, tmp_path)
    assert_same(other, net)


def test_folders_are_made(tmp_path):
    assert save_weights(make_net().state_dict(), tmp_path / "a" / "b" / "net.pt").is_file()


def test_plain_torch_reads_a_torch_file(tmp_path):
    net, other = make_net(), perturbed(make_net)
    save_weights(net.state_dict(), tmp_path / "net.pt")
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert_same(other, net)


def test_plain_safetensors_reads_tied_weights(tmp_path):
    net, other = Tied(), perturbed(Tied)
    save_weights(net.state_dict(), tmp_path / "net.safetensors")
    other.load_state_dict(load_file(tmp_path / "net.safetensors"), strict=True)
    assert_same(other, net)
    assert other.head.weight is other.embedding.weight


def test_tensors_that_are_views_are_saved_alone(tmp_path):
    net = nn.Module()
    storage = torch.arange(12.0).reshape(3, 4)
    net.register_buffer("row", storage[1])
    net.register_buffer("transposed", storage.T)
    path = save_weights(net.state_dict(), tmp_path / "net.safetensors")
    assert torch.equal(load_file(path)["row"], storage[1])
    assert torch.equal(load_file(path)["transposed"], storage.T)
    assert path.stat().st_size < 500


def test_metadata_is_kept(tmp_path):
    path = save_weights(make_net().state_dict(), tmp_path / "net.safetensors", {"epoch": "3"})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"epoch": "3"}


def test_weights_of_torchkeras_load(tmp_path):
    net, other = make_net(), perturbed(make_net)
    torch.save(net.state_dict(), tmp_path / "checkpoint")
    load_weights(other, tmp_path / "checkpoint")
    assert_same(other, net)


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name, broken):
    old = make_net()
    path = save_weights(old.state_dict(), tmp_path / name)

    def fail(*_):
        message = "no space left"
        raise OSError(message)

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[broken], fail)
    with pytest.raises(OSError, match="no space left"):
        save_weights(make_net().state_dict(), path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path]
    net = perturbed(make_net)
    load_weights(net, path)
    assert_same(net, old)


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append("fsync"), fsync(number)))
    monkeypatch.setattr(
        Path, "replace", lambda path, target: (calls.append("replace"), replace(path, target))[1]
    )
    save_weights(make_net().state_dict(), tmp_path / "net.safetensors")
    assert calls == ["fsync", "replace", "fsync"]  # at last, the name


def test_a_missing_file_names_what_is_there(tmp_path):
    save_weights(make_net().state_dict(), tmp_path / "first.pt")
    with pytest.raises(FileNotFoundError, match=r"no weights at .*second\.pt.*contains first\.pt"):
        load_weights(make_net(), tmp_path / "second.pt")
    with pytest.raises(FileNotFoundError, match=r"no weights at .*best\.safetensors"):
        load_weights(make_net(), tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_weights(make_net(), tmp_path / "nowhere" / "net.pt")


def notes(error):
    return " ".join([str(error), *getattr(error, "__notes__", ())])


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_weights_of_another_net_are_refused_with_the_files_name(tmp_path, name):
    path = save_weights(make_net().state_dict(), tmp_path / name)
    with pytest.raises(RuntimeError, match=r"0\.weight") as info:
        load_weights(nn.Linear(2, 4), path)
    assert str(path) in notes(info.value)


def test_a_truncated_file_is_refused(tmp_path):
    path = save_weights(make_net().state_dict(), tmp_path / "net.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(Exception, match=r"(?i)header|incomplete|buffer"):
        load_weights(make_net(), path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"weight": Evil()}, tmp_path / "net.pt")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_weights(nn.Linear(1, 1), tmp_path / "net.pt")
    assert not (tmp_path / "ran").exists()


def test_what_safetensors_cant_store_is_refused_with_the_way_out(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"note": "hello"}

        def set_extra_state(self, state):
            pass

    with pytest.raises(
        TypeError, match=r"'_extra_state' in the state dict is a dict.*save to a \.pt file"
    ):
        save_weights(Extra(1, 1).state_dict(), tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())
    assert save_weights(Extra(1, 1).state_dict(), tmp_path / "net.pt").is_file()


def test_safetensors_starts_with_its_headers_length(tmp_path):
    data = save_weights(make_net().state_dict(), tmp_path / "anything").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert data[8 : 8 + length].startswith(b"{")


def test_a_model_saves_and_loads_its_net(tmp_path):
    model, other = KerasModel(make_net(), "mse"), KerasModel(perturbed(make_net), "mse")
    path = model.save_ckpt(tmp_path / "runs" / "net.safetensors", {"monitor": "val_loss"})
    assert other.load_ckpt(path) == path
    assert_same(other.net, model.net)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_get_the_mode_that_the_umask_leaves(tmp_path, name, mask):
    before = os.umask(mask)
    try:
        save_weights(nn.Linear(2, 1).state_dict(), tmp_path / name)
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask


# Nets in wrappers


WRAPPERS = ["compiled", "a compiled part", "data parallel", "both"]


def wrapped_nets():
    """A net, and what wraps nets before names of theirs."""
    part = nn.Sequential(nn.Linear(2, 3), torch.compile(nn.Linear(3, 1)))
    return {
        "compiled": torch.compile(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))),
        "a compiled part": part,
        "data parallel": nn.DataParallel(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))),
        "both": torch.compile(nn.DataParallel(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))),
    }


NAMES = {"0.weight", "0.bias", "1.weight", "1.bias"}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_names_in_files_are_those_of_the_plain_net(name, tmp_path):
    net = wrapped_nets()[name]
    model = KerasModel(net, "mse")
    model.save_ckpt(tmp_path / "w.safetensors")
    assert set(load_file(tmp_path / "w.safetensors")) == NAMES
    plain = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    plain.load_state_dict(load_file(tmp_path / "w.safetensors"))
    other = wrapped_nets()[name]
    KerasModel(other, "mse").load_ckpt(tmp_path / "w.safetensors")
    for ours, theirs in zip(other.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_files_with_the_names_of_wrappers_are_read(name, tmp_path):
    net = wrapped_nets()[name]
    torch.save(net.state_dict(), tmp_path / "theirs.pt")
    plain = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    KerasModel(plain, "mse").load_ckpt(tmp_path / "theirs.pt")
    for ours, theirs in zip(plain.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_net_with_a_part_called_module_keeps_its_names(tmp_path):
    net = nn.Module()
    net.module = nn.Linear(2, 1)
    net.forward = net.module.forward
    KerasModel(net, "mse").save_ckpt(tmp_path / "w.safetensors")
    assert set(load_file(tmp_path / "w.safetensors")) == {"module.weight", "module.bias"}
    KerasModel(net, "mse").load_ckpt(tmp_path / "w.safetensors")
