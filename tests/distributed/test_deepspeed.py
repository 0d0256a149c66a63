"""Training that DeepSpeed spreads over processes, against one process that has all of it."""

import copy
import importlib.util
import json
import os
import pickle
import shutil
import sys

import pytest
import torch
from accelerate.utils import DeepSpeedPlugin
from distributed.cuts import Cut, fit_or_cut, going_on_elsewhere
from torch import nn

from fitorch import KerasModel, NonFiniteError, RankError
from fitorch.callbacks import EMA, Callback, EarlyStopping, GradientNorm
from fitorch.checkpoint import Checkpoint
from fitorch.losses import L1, L2
from tolerances import FLOAT32

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)
SAMPLES, VALIDATED = 50, 13
# The last batch has two samples: normalized, they are nearly 1 and -1 whatever the net, and so its
# gradient cancels but for rounding, which is as large as 2e-5 in float32, all that DeepSpeed has.
NORMED = {"rtol": 1e-3, "atol": 1e-3}
HALF = {"rtol": 1e-2, "atol": 1e-3}  # bf16's unit in the last place is 4e-3


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.into, self.inner, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.norm = nn.Identity()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.out(self.norm(torch.tanh(self.inner(self.into(x) * self.scale))))


def samples(count=SAMPLES):
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    return x, x[:, :3].argmax(1)


def zero(stage=2, **settings):
    """Return a configuration of DeepSpeed, which is kept from compiling for a minute."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return {"zero_optimization": {"stage": stage, **settings}}


def momentum(parameters):
    return torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=1e-3)


def model_of(kind="plain", seed=0, deepspeed=False, **options):
    net, loss = Net(seed), nn.CrossEntropyLoss(ignore_index=2 if kind == "ignoring" else -100)
    if kind == "normed":
        net.norm = nn.BatchNorm1d(5)
    if kind == "penalized":
        loss = loss + 1e-2 * L2() + 1e-3 * L1()
    optimizer = "adam" if kind == "adam" else momentum
    return KerasModel(net, loss, {"acc": "acc"}, optimizer, deepspeed=deepspeed, **options)


def outcome(model, frame):
    """Return the weights, the figures, and the optimizer's state where it is."""
    table = {name: list(frame[name]) for name in frame if name != "seconds"}
    weights = {name: value.clone() for name, value in model.net.state_dict().items()}
    return weights, table, copy.deepcopy(model.optimizer.state_dict()["state"])


def rank():
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def trained(kind="plain", world=1, settings=None, weights=False, **options):
    deepspeed = False if world == 1 else zero(**(settings or {}))
    model = model_of(kind, rank(), deepspeed)
    x, y = samples()
    data = (x, y, torch.linspace(0, 2, SAMPLES)) if weights else (x, y)
    options = {"batch_size": 12 // world, "seed": 3, "verbose": 0} | options
    for epochs in (2, 1):  # the second fit goes on with the state of the first
        model.fit(data, samples(VALIDATED), epochs=epochs, **options)
    return outcome(model, model.history.frame)


def check_alike(answers, expected, tolerance=FLOAT32):
    weights, table, state = expected
    for number, (own, figures, kept) in enumerate(answers):
        assert figures.keys() == table.keys()
        for name, values in table.items():
            assert figures[name] == pytest.approx(values, rel=tolerance["rtol"], abs=1e-7), name
        for name, value in weights.items():
            assert torch.allclose(own[name], value, **tolerance), name
        if number:
            continue
        assert kept.keys() == state.keys()
        for key, each in state.items():
            assert kept[key].keys() == each.keys()
            for name, value in each.items():
                assert torch.allclose(kept[key][name], value, **tolerance), (key, name)


CASES = {
    "plain": {},
    "adam": {"clip_grad_norm": 0.1},
    "ignoring": {"gradient_accumulation_steps": 2},
    "penalized": {"class_weight": {0: 1.0, 1: 3.0}, "gradient_accumulation_steps": 2},
    "normed": {"weights": True, "sync_batchnorm": True},
}


@pytest.mark.parametrize(("stage", "kind"), [(1, "penalized"), *((2, kind) for kind in CASES)])
def test_it_is_trained_as_in_one_process(three, stage, kind):
    answers = three.run(trained, kind, 3, {"stage": stage}, **CASES[kind])
    check_alike(answers, trained(kind, **CASES[kind]), NORMED if kind == "normed" else FLOAT32)


def test_the_optimizers_state_can_lie_on_the_cpu(two):
    settings = {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    answers = two.run(trained, "adam", 2, settings, clip_grad_norm=0.1)
    check_alike(answers, trained("adam", clip_grad_norm=0.1))


def clipped_as_configured():
    model = model_of("adam", deepspeed=zero() | {"gradient_clipping": 0.1})
    model.fit(samples(), epochs=3, batch_size=6, seed=3, verbose=0)
    return outcome(model, model.history.frame)


def test_clipping_can_be_left_to_the_configuration(two):
    model = model_of("adam")
    model.fit(samples(), epochs=3, batch_size=12, seed=3, verbose=0, clip_grad_norm=0.1)
    check_alike(two.run(clipped_as_configured), outcome(model, model.history.frame))


def counted_apart(world=1):
    model = KerasModel(
        Net(),
        {"one": nn.CrossEntropyLoss(ignore_index=0), "other": nn.CrossEntropyLoss(ignore_index=1)},
        None,
        momentum,
        forward=lambda net, batch: ({"one": net(batch[0]), "other": net(-batch[0])}, both(batch)),
        deepspeed=False if world == 1 else zero(),
    )
    model.fit(samples(), epochs=2, batch_size=12 // world, seed=3, verbose=0)
    return outcome(model, model.history.frame)


def both(batch):
    return {"one": batch[1], "other": batch[1]}


def test_terms_that_count_apart_are_joined(two):
    check_alike(two.run(counted_apart, 2), counted_apart())


class Held(Callback):
    """Note how many numbers the optimizer keeps in this process."""

    def on_train_batch_end(self, batch, logs=None):
        state = self.model.run.state.update.zero_optimizer.engine.optimizer.optimizer.state
        self.numbers = sum(
            value.numel() for each in state.values() for value in each.values() if value.dim()
        )


def held():
    model, counted = model_of("adam", deepspeed=zero()), Held()
    model.fit(samples(), epochs=1, verbose=0, callbacks=[counted])
    return counted.numbers, sum(p.numel() for p in model.net.parameters())


def test_each_process_keeps_its_part_of_the_state(three):
    for numbers, parameters in three.run(held):
        assert 2 * parameters / 3 <= numbers <= 2 * (parameters / 3 + 6)


class Freed(Callback):
    """Freeze a layer in some epochs."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.net.inner.requires_grad_(epoch in (1, 3))


class Clamped(Callback):
    def on_train_batch_end(self, batch, logs=None):
        for parameter in self.model.net.parameters():
            parameter.data.clamp_(-0.4, 0.4)


def watched(folder, world=1):
    model = model_of("adam", deepspeed=False if world == 1 else zero())
    model.lr_scheduler = torch.optim.lr_scheduler.StepLR(model.optimizer, 3, 0.9)
    folder = folder / str(world)
    frame = model.fit(
        samples(),
        samples(VALIDATED),
        epochs=6,
        batch_size=12 // world,
        seed=3,
        verbose=0,
        ckpt_path=folder,
        scheduler_step="update",
        callbacks=[Freed(), Clamped(), EMA(0.9), EarlyStopping(patience=1)],
    )
    return outcome(model, frame)


def test_callbacks_see_and_change_what_they_do_in_one_process(two, tmp_path):
    check_alike(two.run(watched, tmp_path, 2), watched(tmp_path))


def fit(folder, world=1, cut=None, spread=True, **options):
    model = model_of("adam", deepspeed=zero() if spread and world > 1 else False)
    callbacks = [EarlyStopping(patience=9), EMA(0.9)]
    given = {"ckpt_path": folder, "callbacks": callbacks, "batch_size": 12 // world}
    ended = fit_or_cut(model, samples(), samples(VALIDATED), cut, **given, **options)
    return outcome(model, model.history.frame) if ended else None


@pytest.mark.parametrize("after", [2, 7])
def test_it_goes_on_with_the_same_bits(two, tmp_path, after):
    whole = two.run(fit, tmp_path / "whole", 2)
    assert two.run(fit, tmp_path / "cut", 2, after) == [None, None]
    resumed = two.run(fit, tmp_path / "cut", 2, resume=True)
    for (weights, table, _), (expected, figures, _) in zip(resumed, whole, strict=True):
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
        assert repr(table) == repr(figures)


def test_any_number_of_processes_can_go_on_with_or_without_deepspeed(two, three, tmp_path):
    expected = fit(tmp_path / "one")
    assert two.run(fit, tmp_path / "cut", 2, 7) == [None, None]
    for name in ("spread", "whole", "alone"):
        shutil.copytree(tmp_path / "cut", tmp_path / name)
    check_alike(three.run(going_on_elsewhere, fit, tmp_path / "spread", 3), expected)
    whole = three.run(going_on_elsewhere, fit, tmp_path / "whole", 3, spread=False)
    check_alike(whole, expected)
    check_alike([going_on_elsewhere(fit, tmp_path / "alone")], expected)


def test_deepspeed_goes_on_with_what_one_process_began(two, tmp_path):
    expected = fit(tmp_path / "one")
    fit(tmp_path / "cut", 1, 7)
    check_alike(two.run(going_on_elsewhere, fit, tmp_path / "cut", 2), expected)


def rates_found(world=1):
    model = model_of("adam", deepspeed=zero() if world > 1 else False)
    frame = model.find_lr(samples(), start=1e-3, steps=20, batch_size=12 // world, seed=0)
    return list(frame["loss"]), {name: p.clone() for name, p in model.net.state_dict().items()}


def test_find_lr_tries_the_rates_of_one_process(two):
    losses, weights = rates_found()
    for found, kept in two.run(rates_found, 2):
        assert found == pytest.approx(losses, rel=1e-3)
        assert all(torch.equal(kept[name], weights[name]) for name in weights)


def test_a_checkpoint_is_an_ordinary_one(two, tmp_path):
    two.run(fit, tmp_path / "run", 2, epochs=1)
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    moments = Checkpoint(newest).read()["optimizer"]["state"]
    shapes = [tuple(p.shape) for p in Net().parameters()]
    assert [tuple(each["exp_avg"].shape) for each in moments.values()] == shapes


def left_behind():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    model = KerasModel(net, "cross_entropy", None, "sgd", deepspeed=zero())
    model.fit(samples(), epochs=1, verbose=0)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    if rank() == 0:  # by hand: a hook of DeepSpeed would wait for the other process
        x, y = samples()
        nn.functional.cross_entropy(net(x), y).backward()
        nn.functional.cross_entropy(copied(x), y).backward()
        both = zip(net.parameters(), copied.parameters(), strict=True)
        assert all(torch.equal(own.grad, other.grad) for own, other in both)
    assert not any(vars(parameter) for parameter in net.parameters())
    return model.evaluate(samples(), verbose=0), [p.sum().item() for p in copied.parameters()]


def test_the_net_is_an_ordinary_one_afterwards(two):
    first, second = two.run(left_behind)
    assert first == second


class Rooted(nn.Module):
    """A loss that is finite, with a gradient that is not."""

    def forward(self, y_pred, y_true):
        return (y_pred * 0).sum(1).sqrt().mean() + nn.functional.cross_entropy(y_pred, y_true)


def without_end():
    model = KerasModel(Net(), Rooted(), None, momentum, deepspeed=zero())
    with pytest.raises(NonFiniteError) as caught:
        model.fit(samples(), epochs=1, verbose=0)
    return str(caught.value), all(bool(p.isfinite().all()) for p in model.net.parameters())


def test_gradients_that_are_not_finite_are_told(two):
    for message, finite in two.run(without_end):
        assert "the gradients' norm is inf" in message
        assert "epoch 1, training batch 1" in message
        assert finite


def refusals():
    lazy = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.Linear(3, 3))
    told, half, bare = [], zero() | {"bf16": {"enabled": True}}, Net()
    bare.scale = nn.Parameter(torch.tensor(1.0))
    for net, optimizer, settings, options in (
        (Net(), "sgd", zero(stage=3), {}),
        (lazy, "sgd", zero(), {}),
        (Net().double(), "sgd", zero(), {}),
        (bare, "sgd", zero(), {}),
        (Net(), torch.optim.Adagrad, zero(), {}),
        (Net(), "sgd", zero(), {"mixed_precision": "fp16"}),
        (Net(), "sgd", half, {}),
        (Net(), "sgd", zero(), {"clip_grad_value": 0.5}),
        (Net(), "sgd", zero(), {"callbacks": [GradientNorm()]}),
        (Net(), "sgd", zero() | {"train_batch_size": 64}, {}),
        (Net(), "sgd", zero() | {"optimizer": {"type": "AdamW"}}, {}),
        (Net(), "sgd", zero() | {"scheduler": {"type": "WarmupLR"}}, {}),
        (Net(), "sgd", zero() | {"gradient_accumulation_steps": 4}, {}),
        (Net(), "sgd", zero() | {"gradient_clipping": 0.5}, {"clip_grad_norm": 1.0}),
    ):
        x, y = samples()
        data = (x.double(), y) if isinstance(net, Net) and net.scale.dtype.itemsize > 4 else (x, y)
        model = KerasModel(net, "cross_entropy", None, optimizer, deepspeed=settings)
        with pytest.raises((ValueError, RankError)) as caught:
            model.fit(data, verbose=0, **options)
        told.append(str(caught.value))
    return told


def test_what_deepspeed_cannot_do_is_refused(two):
    expected = (
        "ZeRO-3 is requested, but fitorch supports zero_stage 1 and 2",
        "0.weight, 0.bias get their shapes only from the first batch, but DeepSpeed needs them",
        "(torch.float64)",
        "scale are scalars without a dimension, which DeepSpeed cannot send",
        "Adagrad does not work with DeepSpeed",
        "mixed_precision is 'fp16', which fitorch does not support with DeepSpeed; use 'bf16'",
        "has bf16 enabled, but mixed_precision is 'no'",
        "clip_grad_value=0.5 does not work with DeepSpeed",
        "GradientNorm cannot read gradients that DeepSpeed partitions",
        "has train_batch_size: 64; write 'auto' there, and pass fit(batch_size=...)",
        "a section 'optimizer'; remove it, and pass KerasModel(optimizer=...)",
        "a section 'scheduler'; remove it, and pass KerasModel(lr_scheduler=...)",
        "gradient_accumulation_steps: 4, but the fit has gradient_accumulation_steps=1",
        "gradient_clipping: 0.5, but the fit has clip_grad_norm=1.0",
    )
    for told in two.run(refusals):
        for message, part in zip(told, expected, strict=True):
            assert part in message


def test_deepspeed_is_told_what_it_is_not():
    with pytest.raises(TypeError, match="deepspeed is 2; expected True, False, DeepSpeed's"):
        KerasModel(nn.Linear(2, 1), "mse", deepspeed=2)
    with pytest.raises(ValueError, match="fsdp and deepspeed cannot be used together"):
        KerasModel(nn.Linear(2, 1), "mse", deepspeed=True, fsdp=True)


def without_deepspeed():
    model = model_of(deepspeed=True)
    path, sys.modules["deepspeed"] = sys.modules.pop("deepspeed", None), None
    try:
        with pytest.raises(ImportError, match="run pip install deepspeed, or pass"):
            model.fit(samples(), verbose=0)
    finally:
        del sys.modules["deepspeed"]
        if path is not None:
            sys.modules["deepspeed"] = path


def test_a_missing_package_is_told(two):
    two.run(without_deepspeed)


def configured(folder):
    """Return where a net is placed, by each way to ask for DeepSpeed."""
    zero()
    told, before = [], dict(os.environ)
    file = folder / f"{rank()}.json"
    file.write_text(json.dumps(zero(1) | {"gradient_accumulation_steps": "auto"}))
    try:
        for given, environment in (
            (None, {}),
            (None, {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}),
            (None, {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}),
            (None, {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}),
            (False, {}),
            (True, {}),
            (str(file), {}),
            (DeepSpeedPlugin(zero_stage=1), {}),
        ):
            os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", **environment}
            model = model_of(deepspeed=given)
            model.fit(samples(), epochs=1, verbose=0)
            told.append(str(model.placement))
            os.environ.clear()
            os.environ.update(before)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return told


def test_every_way_to_ask_for_it_is_heard(two, tmp_path):
    expected = [f"cpu, DeepSpeed's ZeRO-{n} over 2 processes" for n in (2, 1, 1, 0, 0, 2, 1, 1)]
    expected[3] = expected[4] = "cpu, 2 processes"
    assert two.run(configured, tmp_path) == [expected] * 2


def in_half(spread):
    model = model_of("adam", deepspeed=zero() if spread else False)
    half = {"mixed_precision": "bf16", "seed": 1, "batch_size": 6}
    model.fit(samples(), samples(), epochs=2, verbose=0, **half)
    return outcome(model, model.history.frame)


def test_half_precision_is_that_of_processes_without_it(two):
    check_alike(two.run(in_half, True), two.run(in_half, False)[0], HALF)


def failed():
    model = model_of(deepspeed=zero())
    model.fit(samples(), epochs=1, verbose=0)
    with (
        pytest.raises(ZeroDivisionError),
        pytest.warns(UserWarning, match="lost the state of the optimizer"),
    ):
        model.fit(samples(), epochs=2, verbose=0, callbacks=[Cut(3)])
    model.fit(samples(), epochs=1, verbose=0)
    return outcome(model, model.history.frame)[0]


def test_a_state_that_goes_with_an_error_is_told(two):
    first, second = two.run(failed)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_fit_ddp_returns_weights_and_state():
    expected = trained("adam")
    model = model_of("adam", deepspeed=True)
    options = {"batch_size": 6, "seed": 3, "verbose": 0}
    for epochs in (2, 1):
        model.fit_ddp(2, samples(), samples(VALIDATED), epochs=epochs, **options)
    check_alike([outcome(model, model.history.frame)], expected)
    model.fit(samples(), epochs=1, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize(("act", "codes"), [("raise", [1, 1]), ("SIGKILL", [1, -9])])
def test_whatever_ends_one_process_ends_all_and_nothing_is_lost(forks, tmp_path, act, codes):
    event = {"act": act, "place": "batch", "rank": 1, "update": 4}
    kept = {"save_every_n_steps": 1, "ckpt_path": str(tmp_path / "run")}
    launched = forks.start(tmp_path, deepspeed=True, fit=kept, event=event)
    first, _ = launched.wait()
    assert launched.codes == codes
    assert first["error"] == "RankError"
    told = "LookupError: the seventeenth sheep" if act == "raise" else "1 of 2 vanished"
    assert told in first["message"]
    resumed = forks.run(tmp_path, deepspeed=True, fit={**kept, "resume": True})
    kept["ckpt_path"] = str(tmp_path / "whole" / "run")
    whole = forks.run(tmp_path / "whole", deepspeed=True, fit=kept)
    for own, expected in zip(resumed, whole, strict=True):
        assert own["error"] is None
        assert (own["digest"], own["history"]) == (expected["digest"], expected["history"])
