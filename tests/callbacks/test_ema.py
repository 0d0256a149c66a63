"""EMA, beside torch.optim.swa_utils in loops written by hand."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn, optim
from torch.optim import swa_utils
from torch.utils.data import DataLoader, TensorDataset

from averages import (
    LOADER,
    Fails,
    Look,
    X,
    Y,
    assert_weights,
    is_same,
    make_model,
    make_net,
    train,
    weights,
)
from fitorch import KerasModel
from fitorch.callbacks import (
    EMA,
    BestWeights,
    Callback,
    CallbackList,
    EarlyStopping,
)
from fitorch.engine.steps import compiled_region as region
from fitorch.losses import term
from tolerances import FORWARD
from versions import since_torch


def by_hand(epochs=3, decay=0.9, every=1, window=1, net=None):
    """The trained net and torch's average of it."""
    net = net or make_net()
    optimizer = optim.SGD(net.parameters(), 0.1, 0.9)
    average = swa_utils.AveragedModel(
        net, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True
    )
    updates = 0
    for _ in range(epochs):
        batches = list(LOADER)
        for first in range(0, len(batches), window):
            group = batches[first : first + window]
            optimizer.zero_grad()
            for x, y in group:
                (nn.functional.mse_loss(net(x), y) / len(group)).backward()
            optimizer.step()
            updates += 1
            if updates % every == 0:
                average.update_parameters(net)
    return net, average.module


@pytest.mark.parametrize(("every", "window"), [(1, 1), (3, 1), (1, 2), (1, 3)])
def test_the_net_ends_with_torchs_exponential_mean(every, window):
    model = make_model()
    ema = EMA(0.9, warmup=False, every=every)
    train(model, [ema], gradient_accumulation_steps=window)
    _, average = by_hand(every=every, window=window)
    tolerance = {} if window == 1 else {"rtol": 1e-5, "atol": 1e-6}
    assert_weights(model.net, average, **tolerance)


def test_the_warm_up_forgets_the_first_weights_soon():
    look = Look("on_train_batch_end")
    model = make_model()
    train(model, [EMA(0.3), look])
    mean = look.seen["on_train_batch_end"][0]
    for t, now in enumerate(look.seen["on_train_batch_end"][1:], start=1):
        decay = min(0.3, (1 + t) / (10 + t))
        mean = {name: decay * mean[name] + (1 - decay) * now[name] for name in mean}
    assert_weights(model.net, mean, rtol=1e-5, atol=1e-6)


def test_training_does_not_change():
    look, bare = Look("on_train_batch_end"), Look("on_train_batch_end")
    train(make_model(), [EMA(0.9), look], val=(X, Y))
    train(make_model(), [bare], val=(X, Y))
    pairs = zip(look.seen["on_train_batch_end"], bare.seen["on_train_batch_end"], strict=True)
    for ours, theirs in pairs:
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_validation_measures_the_mean():
    frame = train(make_model(), [EMA(0.9, warmup=False)], val=(X, Y))
    for epoch in range(3):
        _, average = by_hand(epochs=epoch + 1)
        expected = nn.functional.mse_loss(average.eval()(X), Y).item()
        assert frame["val_loss"][epoch] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("val", [None, (X, Y), {"a": (X, Y), "b": (X, Y)}])
def test_others_see_the_mean_until_the_next_epoch(val):
    look = Look("on_epoch_begin", "on_test_end", "on_epoch_end", "on_train_end")
    train(make_model(), [look, EMA(0.9, warmup=False)], val=val)
    for epoch in range(3):
        trained, average = by_hand(epochs=epoch + 1)
        assert is_same(average, look.seen["on_epoch_end"][epoch])
        if val is not None:
            assert is_same(average, look.seen["on_test_end"][epoch * (1 + isinstance(val, dict))])
        if epoch < 2:
            assert is_same(trained, look.seen["on_epoch_begin"][epoch + 1])
    assert is_same(by_hand()[1], look.seen["on_train_end"][0])


@pytest.mark.parametrize("own", [False, True])
def test_the_best_epochs_mean_is_kept_and_restored(tmp_path, own):
    class Rigged(EMA):
        """Decides, before all others look, which epoch is best."""

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            logs["val_loss"] = [3.0, 1.0, 2.0][epoch]

    model, ema = make_model(), Rigged(0.9, warmup=False)
    if own:
        train(model, [BestWeights(folder=tmp_path), ema], val=(X, Y))
    else:
        train(model, [ema], val=(X, Y), patience=9, ckpt_path=tmp_path)
    _, average = by_hand(epochs=2)
    assert_weights(model.net, average)
    stored = load_file(tmp_path / "best.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in weights(average).items())


def test_best_weights_by_a_training_figure_are_means_too():
    model = make_model()
    train(model, [EMA(0.9, warmup=False)], patience=9, monitor="train_loss", mode="max")
    assert_weights(model.net, by_hand(epochs=1)[1])


def test_parameters_stay_the_same_objects_and_tied_ones_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.head = nn.Linear(3, 1)

        def forward(self, x):
            return self.head(self.second(self.first(x)))

    model = make_model(Tied())
    before = list(model.net.parameters())
    train(model, [EMA(0.9)], val=(X, Y))
    assert all(a is b for a, b in zip(before, model.net.parameters(), strict=True))
    assert model.net.second.weight is model.net.first.weight


@pytest.mark.parametrize(
    ("event", "after"),
    [
        ("on_train_batch_end", 0),
        ("on_train_batch_end", 1),
        ("on_train_batch_end", 9),
        ("on_test_begin", 1),
        ("on_test_batch_end", 0),
        ("on_epoch_end", 0),
        ("on_epoch_end", 2),
        ("on_epoch_begin", 2),
    ],
)
def test_after_an_error_the_net_holds_the_mean_of_all_updates(event, after):
    model, ema = make_model(), EMA(0.9, warmup=False)
    look = Look("on_train_batch_end")
    with pytest.raises(ArithmeticError):
        train(model, [look, Fails(event, after), ema], val=(X, Y))
    mean = swa_utils.get_ema_multi_avg_fn(0.9)
    seen = look.seen["on_train_batch_end"]
    expected = {name: value.clone() for name, value in seen[0].items()}
    for now in seen[1:]:
        mean(list(expected.values()), list(now.values()), None)
    assert_weights(model.net, expected)


def test_an_error_before_the_first_update_changes_nothing():
    model = make_model()
    before = weights(model.net)
    with pytest.raises(ArithmeticError):
        train(model, [EMA(), Fails("on_train_begin")])
    assert_weights(model.net, before)
    with pytest.raises(ArithmeticError):
        train(model, [EMA(), Fails("on_epoch_begin")])
    assert_weights(model.net, before)


def trained_on():
    """A model whose net holds other weights than its EMA's means, and these."""
    model, ema = make_model(), EMA(0.9, warmup=False)
    train(model, [ema])
    means = copy.deepcopy(model.net)
    nn.init.ones_(model.net[0].weight)
    return model, ema, means


def test_evaluate_and_predict_use_the_mean_and_put_the_weights_back():
    model, ema, means = trained_on()
    before = weights(model.net)
    expected = means.eval()(X)
    predicted = model.predict(X, verbose=0, callbacks=[ema])
    torch.testing.assert_close(predicted, expected, **FORWARD)
    assert_weights(model.net, before)
    loss = model.evaluate((X, Y), verbose=0, callbacks=[ema])["val_loss"]
    assert loss == pytest.approx(nn.functional.mse_loss(expected, Y).item(), rel=1e-5)
    assert_weights(model.net, before)
    model.evaluate({"a": (X, Y), "b": (X, Y)}, verbose=0, callbacks=[ema])
    assert_weights(model.net, before)
    assert not torch.allclose(model.predict(X, verbose=0), expected, **FORWARD)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("when", ["begin", "batch_begin", "batch_end", "end"])
@pytest.mark.parametrize("verb", ["test", "predict"])
def test_the_weights_come_back_after_an_error(verb, when, order):
    model, ema, _ = trained_on()
    before = weights(model.net)
    callbacks = [ema, Fails(f"on_{verb}_{when}")][::order]
    passes = {"test": model.evaluate, "predict": model.predict}
    with pytest.raises(ArithmeticError):
        passes[verb]((X, Y), verbose=0, callbacks=callbacks)
    assert_weights(model.net, before)


def test_a_context_has_the_mean_in_the_net():
    model, ema, means = trained_on()
    before = weights(model.net)
    with ema.applied() as nothing, ema.applied(model):
        assert nothing is None
        assert_weights(model.net, means)
    assert_weights(model.net, before)
    with pytest.raises(ArithmeticError), ema.applied():
        raise ArithmeticError
    assert_weights(model.net, before)


def test_the_mean_serves_another_net_of_the_same_form():
    _, ema, means = trained_on()
    other = make_model(make_net())
    before = weights(other.net)
    with ema.applied(other):
        assert_weights(other.net, means)
    assert_weights(other.net, before)
    context = ema.applied(make_model(nn.Sequential(nn.Linear(3, 4))))
    with pytest.raises(ValueError, match=r"'net.0.weight' of shape \(8, 3\), but the model has"):
        context.__enter__()


def test_without_a_mean_evaluate_tells_so():
    with pytest.raises(RuntimeError, match="not averaged any weights yet; pass it to fit"):
        make_model().evaluate((X, Y), verbose=0, callbacks=[EMA()])


@pytest.mark.parametrize("event", ["on_train_batch_end", "on_epoch_end", "on_epoch_begin"])
@pytest.mark.parametrize("data", [(X, Y), {"a": (X, Y), "b": (X, Y)}])
def test_an_evaluation_within_a_fit_disturbs_nothing(event, data):
    class Evaluates(Callback):
        def evaluate(self, *_):
            before = weights(self.model.net)
            self.model.evaluate(data, verbose=0, callbacks=[ema])
            self.model.predict(X, verbose=0, callbacks=[ema])
            assert_weights(self.model.net, before)

    evaluates, ema = Evaluates(), EMA(0.9, warmup=False)
    setattr(evaluates, event, evaluates.evaluate)
    model, look = make_model(), Look("on_test_end")
    frame = train(model, [ema, look, evaluates], val=(X, Y))
    assert_weights(model.net, by_hand()[1])
    alone = train(make_model(), [EMA(0.9, warmup=False)], val=(X, Y))
    assert frame["val_loss"].equals(alone["val_loss"])


def test_a_second_fit_begins_with_the_mean_and_averages_anew():
    model, ema = make_model(), EMA(0.9, warmup=False)
    train(model, [ema], epochs=1)
    between = weights(model.net)
    look = Look("on_train_begin", "on_train_batch_end")
    train(model, [ema, look], epochs=1)
    assert all(torch.equal(look.seen["on_train_begin"][0][n], between[n]) for n in between)
    assert ema.state_dict()["count"] == 4


def test_a_loss_with_parameters_is_averaged_too():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_scale = nn.Parameter(torch.zeros(()))

        def forward(self, y_pred, y_true):
            return (y_pred - y_true).square().mean() * self.log_scale.exp() - self.log_scale

    loss, seen = Scaled(), []

    class LookAtLoss(Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(loss.log_scale.item())

    model = KerasModel(make_net(), term(loss), optimizer=lambda p: optim.SGD(p, 0.05))
    train(model, [EMA(0.5, warmup=False), LookAtLoss()], epochs=2)
    mean = seen[0]
    for now in seen[1:]:
        mean = 0.5 * mean + 0.5 * now
    assert loss.log_scale.item() == pytest.approx(mean, rel=1e-5)


def test_masks_and_caches_are_left_alone():
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)
            self.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
            self.register_buffer("cache", torch.zeros(1), persistent=False)

        def forward(self, x):
            self.cache = self.cache + 1
            return super().forward(x)

    model = make_model(Masked())
    train(model, [EMA(0.9)], val=(X, Y))
    assert not model.net.mask.isnan().any()
    assert model.net.cache.item() == 3 * 4 + 3  # batches in training and validation


def test_half_precision_is_averaged_in_single():
    class Fill(Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.optimizer.param_groups[0]["lr"] = 0.0

        def on_train_batch_end(self, batch, logs=None):
            self.model.net.bias.data.fill_(1.0)

    net = nn.Linear(3, 1).to(torch.bfloat16)
    nn.init.zeros_(net.bias)
    model = KerasModel(net, "mae", optimizer=optim.SGD(net.parameters(), 0.0))
    ema = EMA(0.999, warmup=False)
    data = DataLoader(TensorDataset(X.bfloat16(), Y.bfloat16()), batch_size=1)
    train(model, [ema, Fill()], data=data, epochs=2)
    # the mean of a 0 and of 63 ones; steps of 0.001 would be lost among 8 bits
    assert ema.state_dict()["means"]["net.bias"].item() == pytest.approx(1 - 0.999**63, rel=1e-3)
    assert net.bias.dtype == torch.bfloat16


def test_a_buffer_that_is_replaced_keeps_its_average():
    class Renewed(Callback):
        """Replaces a buffer by another tensor, as code that is not in place does."""

        def on_train_batch_end(self, batch, logs=None):
            net = self.model.net
            net[1].running_mean = net[1].running_mean.clone()

    model = make_model()
    train(model, [EMA(0.9, warmup=False), Renewed()])
    assert_weights(model.net, by_hand()[1])


@pytest.mark.slow
@since_torch("2.13")
def test_with_a_compiled_step(monkeypatch):
    monkeypatch.setattr(region, "_BACKEND", "aot_eager")
    torch._dynamo.reset()
    net = make_net(nn.ReLU())
    model = make_model(net, jit_compile=True)
    frame = train(model, [EMA(0.9, warmup=False)], val=(X, Y))
    assert model.compilation.region is not None
    assert not model.compilation.refused
    _, average = by_hand(net=make_net(nn.ReLU()))
    assert_weights(model.net, average, rtol=1e-5, atol=1e-6)
    expected = nn.functional.mse_loss(average(X), Y).item()
    assert frame["val_loss"][2] == pytest.approx(expected, rel=1e-4)


def test_with_channels_last():
    def run(**options):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1)
        )
        model = KerasModel(net, "mse", optimizer=lambda p: optim.SGD(p, 0.01), **options)
        images = torch.randn(16, 2, 4, 4, generator=torch.Generator().manual_seed(1))
        data = DataLoader(TensorDataset(images, Y[:16]), batch_size=4)
        train(model, [EMA(0.9)], data=data, val=(images, Y[:16]))
        return net

    net = run(channels_last=True)
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert_weights(net, run(), rtol=1e-4, atol=1e-5)


def test_in_a_loop_of_ones_own():
    model, ema = make_model(), EMA(0.9, warmup=False)
    callbacks = CallbackList([ema, EarlyStopping("loss", restore_best_weights=True)], model)
    callbacks.on_train_begin()
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        for number, (x, y) in enumerate(LOADER):
            model.optimizer.zero_grad()
            nn.functional.mse_loss(model.net(x), y).backward()
            model.optimizer.step()
            model.progress.updates += 1
            callbacks.on_train_batch_end(number)
        callbacks.on_epoch_end(epoch, {"loss": float(epoch)})
    callbacks.on_train_end()
    assert_weights(model.net, by_hand(epochs=1)[1])
