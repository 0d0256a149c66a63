"""Nets that FSDP2 spreads over processes train, and are measured and stored, as in one process."""

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from distributed.cuts import fit_or_cut, going_on_elsewhere
from safetensors.torch import load_file
from torch import nn

from fitorch import (
    CheckpointCorruptedError,
    KerasModel,
    RankError,
    UnsafeCheckpointError,
)
from fitorch.callbacks import (
    EMA,
    Callback,
    EarlyStopping,
    GradientNorm,
    ModelCheckpoint,
    best_weights,
    model_checkpoint,
)
from fitorch.checkpoint import Checkpoint
from fitorch.checkpoint.weights import metadata_of
from fitorch.distributed.fsdp import can_shard, is_sharded
from fitorch.losses import L1, L2
from fitorch.losses.penalties import Penalty
from tolerances import FLOAT64

pytestmark = pytest.mark.skipif(not can_shard(), reason="this torch can't shard nets")
SAMPLES, VALIDATED = 50, 13


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x):
        return x + torch.tanh(self.inner(x))


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.into, self.out = nn.Linear(4, 5), nn.Linear(5, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.BatchNorm1d(5)
        self.double()

    def forward(self, x):
        x = self.into(x)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))


class Largest(Penalty):
    """A penalty that is no sum over the weights."""

    def value(self, weights):
        return torch.stack([weight.abs().max() for weight in weights]).sum()


def samples(count=SAMPLES):
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def model_of(kind="plain", seed=0, **options):
    net = Net(seed)
    if kind != "normed":
        net.norm = nn.Identity()
    loss = nn.CrossEntropyLoss(ignore_index=2 if kind == "ignoring" else -100)
    if kind == "penalized":
        loss = loss + 1e-2 * L2() + 1e-3 * L1() + 1e-2 * Largest()
    optimizer = "adam" if kind == "adam" else lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)
    # A class that the loss ignores has no positive samples, so that no AUC is defined.
    without_auc = kind in ("counted", "ignoring")
    metrics = {"acc": "acc"} if without_auc else {"acc": "acc", "auc": "auroc"}
    return KerasModel(net, loss, metrics, optimizer, **options)


def outcome(model, folder, frame):
    """Return the weights, which a file holds whole, and the figures."""
    assert is_sharded(model.net) == (model.placement.processes.world_size > 1)
    file = model.save_ckpt(folder / "weights.safetensors")
    model.placement.processes.gather(None)
    table = {name: list(frame[name]) for name in frame if name != "seconds"}
    return load_file(file), table


def trained(folder, kind="plain", world=1, weights=False, **options):
    with_norms = {"sync_batchnorm": True} if kind == "normed" else {}
    rank = 0
    if world > 1:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    model = model_of(kind, seed=rank, fsdp=True)
    x, y = samples()
    data = (x, y, torch.linspace(0, 2, SAMPLES, dtype=x.dtype)) if weights else (x, y)
    options = {"epochs": 3, "batch_size": 12 // world, "seed": 3, "verbose": 0} | options
    frame = model.fit(data, samples(VALIDATED), **options, **with_norms)
    return outcome(model, folder, frame)


def check_alike(answers, expected):
    weights, table = expected
    for own, figures in answers:
        assert figures.keys() == table.keys()
        for name, values in table.items():
            assert figures[name] == pytest.approx(values, rel=1e-9, abs=1e-12), name
        assert own.keys() == weights.keys()
        for name, value in weights.items():
            assert torch.allclose(own[name], value, **FLOAT64), name


CASES = {
    "plain": {},
    "adam": {"clip_grad_norm": 0.1},
    "ignoring": {"gradient_accumulation_steps": 2},
    "penalized": {"class_weight": {0: 1.0, 1: 3.0}},
    "normed": {"weights": True},
}


@pytest.mark.parametrize("kind", CASES)
def test_it_is_trained_as_in_one_process(three, tmp_path, kind):
    answers = three.run(trained, tmp_path, kind, world=3, **CASES[kind])
    check_alike(answers, trained(tmp_path, kind, **CASES[kind]))


def watched(folder, world=1):
    model = model_of(fsdp=True)
    stopping, norm = EarlyStopping(patience=1), GradientNorm()
    frame = model.fit(
        samples(),
        samples(VALIDATED),
        epochs=6,
        batch_size=12 // world,
        seed=3,
        verbose=0,
        ckpt_path=folder / "run",
        callbacks=[norm, EMA(0.9), stopping],
    )
    best = load_file(folder / "run" / "best.safetensors")
    weights, table = outcome(model, folder, frame)
    assert all(torch.equal(best[name], weights[name]) for name in weights)
    return weights, table


def test_callbacks_see_and_keep_what_they_do_in_one_process(two, tmp_path):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
    answers = two.run(watched, tmp_path / "2", world=2)
    check_alike(answers, watched(tmp_path / "1"))


def measured(count):
    model = model_of("counted", fsdp=True)
    x, y = samples(count)
    seen = []

    class Seen(Callback):
        def on_test_batch_end(self, batch, logs=None):
            seen.append(batch)

    figures = model.evaluate((x, y), batch_size=4, verbose=0, callbacks=[Seen()])
    listed = [(x[i : i + 4], y[i : i + 4]) for i in range(0, count, 4)]
    again = model.evaluate(listed, verbose=0)
    outputs = model.predict(x, batch_size=4, verbose=0)
    assert all(torch.is_tensor(p) and hasattr(p, "full_tensor") for p in model.net.parameters())
    return figures, again, outputs, len(seen)


@pytest.mark.parametrize("count", [1, 5, 26])
def test_it_is_measured_as_in_one_process_whoever_has_no_batch(three, count):
    model = model_of("counted")
    x, y = samples(count)
    expected = model.evaluate((x, y), verbose=0)
    for figures, again, outputs, _ in three.run(measured, count):
        assert figures == pytest.approx(expected, rel=1e-10, nan_ok=True)
        assert again == pytest.approx(expected, rel=1e-10, nan_ok=True)
        assert torch.allclose(outputs, model.predict(x, verbose=0), **FLOAT64)


def fit(folder, world=1, cut=None, bare=False, **options):
    model = model_of("adam", fsdp=True)
    callbacks = [] if bare else [EarlyStopping(patience=9), EMA(0.9)]
    given = {"ckpt_path": folder, "callbacks": callbacks, "batch_size": 12 // world}
    ended = fit_or_cut(model, samples(), samples(VALIDATED), cut, **given, **options)
    return outcome(model, Path(folder).parent, model.history.frame) if ended else None


@pytest.mark.parametrize("after", [2, 7])
def test_it_goes_on_with_the_same_bits(two, tmp_path, after):
    whole = two.run(fit, tmp_path / "whole", 2)
    assert two.run(fit, tmp_path / "cut", 2, after) == [None, None]
    resumed = two.run(fit, tmp_path / "cut", 2, resume=True)
    for (weights, table), (expected, figures) in zip(resumed, whole, strict=True):
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
        assert repr(table) == repr(figures)


def test_any_number_of_processes_can_go_on(two, three, tmp_path):
    expected = fit(tmp_path / "one")
    assert two.run(fit, tmp_path / "cut", 2, 7) == [None, None]
    for count, cluster in ((3, three), (1, None)):
        folder = tmp_path / f"by {count}" / "run"
        shutil.copytree(tmp_path / "cut", folder)
        if cluster is None:
            answers = [going_on_elsewhere(fit, folder)]
        else:
            answers = cluster.run(going_on_elsewhere, fit, folder, count)
        check_alike(answers, expected)


def test_a_checkpoint_is_safetensors_that_one_process_can_read_whole(two, tmp_path):
    (weights, _), _ = two.run(fit, tmp_path / "run", 2, bare=True, epochs=1)
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    names = {path.name for path in (newest / "shards").iterdir()}
    assert {name[:11] for name in names} == {"shard-00001", "shard-00002"}
    assert {path.suffix for path in newest.rglob("*") if path.is_file()} == {
        ".json",
        ".safetensors",
    }
    parts = Checkpoint(newest).read()
    assert all(torch.equal(parts["model"][name], value) for name, value in weights.items())
    moments = parts["optimizer"]["state"]
    assert [tuple(m["exp_avg"].shape) for m in moments.values()] == [
        tuple(p.shape) for p in Net().parameters() if p is not None
    ][: len(moments)]


def resumed_in_vain(folder):
    with pytest.raises((CheckpointCorruptedError, UnsafeCheckpointError)) as caught:
        fit(folder, 2, resume=True)
    return str(caught.value)


@pytest.mark.parametrize("harm", ["flip", "remove", "link"])
def test_a_broken_shard_is_told_before_anything_changes(two, tmp_path, harm):
    two.run(fit, tmp_path / "run", 2, epochs=1, keep=1)
    (shard, *_) = (tmp_path / "run" / "checkpoints").glob("step-*/shards/shard-00002*")
    content = shard.read_bytes()
    shard.unlink()
    if harm == "flip":
        shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        shard.symlink_to(tmp_path / "elsewhere")
    told = two.run(resumed_in_vain, tmp_path / "run")
    assert all(shard.name in message for message in told)


def refusals():
    told = []
    lazy = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.Linear(3, 3))
    for net, options in ((lazy, {}), (Net(), {"mixed_precision": "fp16"})):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at
            KerasModel(net, "cross_entropy", fsdp=True).fit(samples(), verbose=0, **options)
        told.append(str(caught.value))
    return told


def test_what_cannot_be_sharded_is_refused(two):
    for lazy, half in two.run(refusals):
        assert "0.weight, 0.bias get their shapes only from the first batch" in lazy
        assert "use 'bf16'" in half


def in_half(folder):
    model = KerasModel(Net().float(), "cross_entropy", {"acc": "acc"}, "adamw", fsdp=True)
    x, y = samples()
    data = x.float(), y
    frame = model.fit(data, data, epochs=2, mixed_precision="bf16", seed=1, verbose=0)
    return outcome(model, folder, frame)[1]


def test_half_precision_is_that_of_one_process_but_for_rounding(two, tmp_path):
    expected = in_half(tmp_path)
    for table in two.run(in_half, tmp_path):
        assert table["train_loss"] == pytest.approx(expected["train_loss"], rel=0.1)


def test_fsdp_is_told_what_it_is_not():
    with pytest.raises(TypeError, match="fsdp is 'full'; expected True, False, an accelerate"):
        KerasModel(nn.Linear(2, 1), "mse", fsdp="full")


def configured():
    told = []
    before = dict(os.environ)
    try:
        for version in ("1", "2"):
            os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": version}
            model = model_of()
            try:
                model.evaluate(samples(), verbose=0)
                told.append(is_sharded(model.net))
            except RankError as error:
                told.append(str(error))
        whole = model_of(fsdp=False)
        whole.evaluate(samples(), verbose=0)
        told.append(is_sharded(whole.net))
    finally:
        os.environ.clear()
        os.environ.update(before)
    return told


def test_accelerates_configuration_is_followed(two):
    for old, new, refused in two.run(configured):
        assert old.startswith("FSDP 1 is requested, but fitorch shards nets with FSDP2")
        assert (new, refused) == (True, False)


class Centers(nn.Module):
    def __init__(self):
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, y_pred, y_true):
        return (y_pred - self.centers).square().mean()


def with_a_loss_that_learns():
    model = KerasModel(Net(), Centers(), None, "sgd", fsdp=True)
    with pytest.raises(
        ValueError, match="which the optimizer of a sharded net cannot train"
    ) as caught:
        model.fit(samples(), verbose=0)
    return str(caught.value)


def test_a_loss_with_parameters_is_refused(two):
    assert all("move them into the net" in each for each in two.run(with_a_loss_that_learns))


@pytest.mark.slow
def test_fit_ddp_returns_whole_weights(tmp_path):
    expected, _ = trained(tmp_path)
    model = model_of(fsdp=True)
    options = {"epochs": 3, "batch_size": 6, "seed": 3, "verbose": 0}
    model.fit_ddp(2, samples(), samples(VALIDATED), **options)
    assert not is_sharded(model.net)
    for name, value in model.net.state_dict().items():
        assert torch.allclose(value, expected[name], **FLOAT64)
    model.fit(samples(), epochs=1, verbose=0)


def told_differently(folder):
    """Fit where the second process finds a better file than the first, and another time."""
    if torch.distributed.get_rank():
        best_weights.metadata_of = lambda _path: {"monitor": "train_loss", "value": "-1.0"}
        model_checkpoint.time = SimpleNamespace(monotonic=lambda: 0.0)
    try:
        model = model_of(fsdp=True)
        each = ModelCheckpoint(folder / "each" / "{epoch}", every_minutes=1e-9)
        model.fit(samples(), epochs=2, batch_size=6, verbose=0, ckpt_path=folder, callbacks=[each])
    finally:
        best_weights.metadata_of, model_checkpoint.time = metadata_of, time
    return model.history.best["epoch"], sorted(path.name for path in (folder / "each").iterdir())


def test_what_processes_see_apart_is_decided_by_the_main_one(two, tmp_path):
    assert two.run(told_differently, tmp_path) == [(2, ["1", "2"])] * 2
    told = metadata_of(tmp_path / "best.safetensors")
    assert (told["epoch"], told["monitor"]) == ("2", "train_loss")


@pytest.mark.parametrize(
    ("act", "codes"),
    [
        pytest.param("raise", [1, 1], marks=pytest.mark.slow),
        ("SIGKILL", [1, -9]),
        ("SIGTERM", [143, 143]),
    ],
)
def test_whatever_ends_one_process_ends_all_and_nothing_is_lost(forks, tmp_path, act, codes):
    event = {"act": act, "place": "batch", "rank": 1, "update": 4}
    kept = {"save_every_n_steps": 1, "ckpt_path": str(tmp_path / "run")}
    launched = forks.start(tmp_path, fsdp=True, fit=kept, event=event)
    first, second = launched.wait()
    assert launched.codes == codes
    if act == "SIGTERM":
        assert (first["error"], second["error"]) == ("Preempted", "Preempted")
        assert first["updates"] == second["updates"] in (4, 5)
    else:
        assert first["error"] == "RankError"
        told = "LookupError: the seventeenth sheep" if act == "raise" else "1 of 2 vanished"
        assert told in first["message"]
    resumed = forks.run(tmp_path, fsdp=True, fit={**kept, "resume": True})
    kept["ckpt_path"] = str(tmp_path / "whole" / "run")
    whole = forks.run(tmp_path / "whole", fsdp=True, fit=kept)
    for own, expected in zip(resumed, whole, strict=True):
        assert own["error"] is None
        assert (own["digest"], own["history"]) == (expected["digest"], expected["history"])
