"""Every figure of a history is that of the whole epoch, whatever the batches were."""

import copy
import math
import tracemalloc

import pytest
import torch
import torchmetrics
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel
from fitorch.callbacks import Callback

SAMPLES = 101
BATCH_SIZES = pytest.mark.parametrize("batch_size", [1, 7, 50, SAMPLES])


def still(parameters):
    """An optimizer that changes nothing."""
    return torch.optim.SGD(parameters, lr=0.0)


def binary(samples=SAMPLES):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, 2, generator=generator)
    return x, (x.sum(1, keepdim=True) + torch.randn(samples, 1, generator=generator) > 0).float()


def classes(samples=SAMPLES):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(samples, 2, generator=generator), torch.randint(
        4, (samples,), generator=generator
    )


def linear(outputs=1):
    torch.manual_seed(5)
    return nn.Linear(2, outputs)


def figures(net, loss_fn, data, metrics=None, batch_size=7, **options):
    """Fit and validate on the same data with weights that stay; return the epoch's row."""
    model = KerasModel(net, loss_fn, metrics, still)
    frame = model.fit(data, data, epochs=1, batch_size=batch_size, verbose=0, **options)
    return frame.iloc[0]


def exact(value):
    number = value.item() if isinstance(value, torch.Tensor) else value
    return pytest.approx(number, rel=1e-5)  # sums in float32, over other batches


@BATCH_SIZES
def test_loss_is_the_mean_over_all_samples(batch_size):
    x, y = binary()
    net = linear()
    row = figures(net, nn.BCEWithLogitsLoss(), (x, y), batch_size=batch_size)
    expected = nn.functional.binary_cross_entropy_with_logits(net(x), y)
    assert row["train_loss"] == exact(expected)
    assert row["val_loss"] == exact(expected)


@BATCH_SIZES
def test_loss_is_exact_to_the_last_bits_in_float64(batch_size):
    x, y = (tensor.double() for tensor in binary())
    net = linear().double()
    row = figures(net, nn.MSELoss(), (x, y), batch_size=batch_size)
    expected = nn.functional.mse_loss(net(x), y).item()
    assert row["train_loss"] == pytest.approx(expected, rel=1e-12)
    assert row["val_loss"] == pytest.approx(expected, rel=1e-12)


@BATCH_SIZES
def test_accuracy_and_auc_are_those_of_scikit_learn(batch_size):
    x, y = binary()
    net = linear()
    metrics = {"acc": "acc", "auc": "auc"}
    row = figures(net, "bce_with_logits", (x, y), metrics, batch_size)
    scores = net(x).detach().squeeze(1).numpy()
    for stage in ("train", "val"):
        assert row[f"{stage}_acc"] == exact(accuracy_score(y.squeeze(1), scores > 0))
        assert row[f"{stage}_auc"] == exact(roc_auc_score(y.squeeze(1), scores))


@BATCH_SIZES
def test_torchmetrics_see_every_sample_once(batch_size):
    x, y = classes()
    net = linear(4)
    metrics = {
        "f1": torchmetrics.classification.MulticlassF1Score(4),
        "f1s": torchmetrics.classification.MulticlassF1Score(4, average="none"),
    }
    row = figures(net, "cross_entropy", (x, y), metrics, batch_size)
    expected = torchmetrics.functional.classification.multiclass_f1_score(net(x), y, 4)
    each = torchmetrics.functional.classification.multiclass_f1_score(net(x), y, 4, average="none")
    for stage in ("train", "val"):
        assert row[f"{stage}_f1"] == exact(expected)
        assert [row[f"{stage}_f1s_{i}"] for i in range(4)] == [exact(value) for value in each]


@BATCH_SIZES
def test_a_mean_squared_error_metric_is_the_loss(batch_size):
    x, y = binary()
    net = linear()
    row = figures(net, "mse", (x, y), {"mse": torchmetrics.MeanSquaredError()}, batch_size)
    expected = nn.functional.mse_loss(net(x), y)
    assert row["train_mse"] == exact(expected)
    assert row["val_mse"] == exact(expected)


@BATCH_SIZES
def test_a_function_is_averaged_by_samples(batch_size):
    x, y = binary()
    net = linear()

    def mean_error(y_pred, y_true):
        return (y_pred - y_true).abs().mean()

    row = figures(net, "mse", (x, y), {"error": mean_error}, batch_size)
    assert row["train_error"] == exact(mean_error(net(x), y))
    assert row["val_error"] == exact(mean_error(net(x), y))


@BATCH_SIZES
def test_loss_with_sample_weights_is_the_weighted_mean(batch_size):
    x, y = binary()
    weight = torch.linspace(0, 5, SAMPLES)
    net = linear()
    row = figures(net, nn.MSELoss(), (x, y, weight), batch_size=batch_size)
    losses = (net(x) - y).square().squeeze(1)
    expected = (losses * weight).sum() / weight.sum()
    assert row["train_loss"] == exact(expected)
    assert row["val_loss"] == exact(expected)


def test_class_weights_count_in_training_alone():
    x, y = classes()
    net = linear(4)
    row = figures(net, nn.CrossEntropyLoss(), (x, y), class_weight={0: 3.0, 2: 0.0})
    weights = torch.tensor([3.0, 1.0, 0.0, 1.0])
    assert row["train_loss"] == exact(nn.functional.cross_entropy(net(x), y, weights))
    assert row["val_loss"] == exact(nn.functional.cross_entropy(net(x), y))


@BATCH_SIZES
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_of_a_weighted_cross_entropy_is_torchs_own_mean(batch_size, weighted):
    x, y = classes()
    net = linear(4)
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([0.1, 1.0, 2.0, 7.0]))
    data = (x, y, torch.ones(SAMPLES)) if weighted else (x, y)
    row = figures(net, loss_fn, data, batch_size=batch_size)
    assert row["train_loss"] == exact(loss_fn(net(x), y))
    assert row["val_loss"] == exact(loss_fn(net(x), y))


@pytest.mark.parametrize("batch_size", [7, 50, SAMPLES])
@pytest.mark.parametrize("ignore_index", [-100, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_ignored_targets_do_not_count(batch_size, ignore_index, weighted):
    x, y = classes()
    y[torch.arange(0, SAMPLES, 3)] = ignore_index
    net = linear(4)
    loss_fn = nn.CrossEntropyLoss(ignore_index=ignore_index)
    data = (x, y, torch.ones(SAMPLES)) if weighted else (x, y)
    row = figures(net, loss_fn, data, batch_size=batch_size)
    assert row["train_loss"] == exact(loss_fn(net(x), y))
    assert row["val_loss"] == exact(loss_fn(net(x), y))


def test_a_validation_batch_of_ignored_targets_counts_nothing():
    x, y = classes(12)
    y[4:8] = -100
    loss_fn = nn.CrossEntropyLoss()
    net = linear(4)
    scores = KerasModel(net, loss_fn).evaluate((x, y), batch_size=4, verbose=0)
    assert scores["val_loss"] == exact(loss_fn(net(x), y))


@pytest.mark.parametrize("batch_size", [3, 10])
def test_every_pixel_counts_alike(batch_size):
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(10, 3, 4, 4, generator=generator)
    y = torch.randint(5, (10, 4, 4), generator=generator)
    y[:3, :2] = -100
    net = nn.Conv2d(3, 5, 1)
    loss_fn = nn.CrossEntropyLoss()
    row = figures(net, loss_fn, (x, y), {"acc": "acc"}, batch_size)
    assert row["val_loss"] == exact(loss_fn(net(x), y))
    assert row["train_loss"] == exact(loss_fn(net(x), y))
    assert row["val_acc"] == exact((net(x).argmax(1) == y)[y != -100].float().mean())


@BATCH_SIZES
def test_a_summed_loss_is_reported_per_sample(batch_size):
    x, y = binary()
    net = linear()
    row = figures(net, nn.MSELoss(reduction="sum"), (x, y), batch_size=batch_size)
    assert row["train_loss"] == exact(nn.functional.mse_loss(net(x), y))
    assert row["val_loss"] == exact(nn.functional.mse_loss(net(x), y))


@pytest.mark.parametrize("steps", [1, 2, 4, 200])
def test_accumulation_does_not_change_the_reported_loss(steps):
    x, y = binary()
    net = linear()
    row = figures(net, nn.MSELoss(), (x, y), gradient_accumulation_steps=steps)
    assert row["train_loss"] == exact(nn.functional.mse_loss(net(x), y))


def test_training_loss_is_the_mean_of_the_losses_before_each_update():
    x, y = binary()
    net, twin = linear(), linear()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5)
    expected = []
    for _ in range(3):
        total = 0.0
        for features, target in DataLoader(TensorDataset(x, y), 7):
            loss = nn.functional.mse_loss(twin(features), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(target)
        expected.append(total / SAMPLES)
    model = KerasModel(net, "mse", optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    frame = model.fit((x, y), epochs=3, batch_size=7, shuffle=False, verbose=0)
    assert frame["train_loss"].tolist() == pytest.approx(expected, rel=1e-12)


def test_logged_rate_is_the_one_that_the_epoch_used():
    model = KerasModel(
        linear(),
        "mse",
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        lr_scheduler=lambda o: lr_scheduler.StepLR(o, 1, 0.1),
    )
    frame = model.fit(binary(), epochs=4, verbose=0)
    assert frame["lr"].tolist() == pytest.approx([1.0, 0.1, 0.01, 0.001])


def test_logged_rate_of_a_schedule_per_update_is_that_of_the_last_update():
    rates = torch.optim.SGD(linear().parameters(), lr=1.0)
    schedule = lr_scheduler.OneCycleLR(rates, 1.0, total_steps=8)
    expected = []
    for update in range(8):
        if update % 2:
            expected.append(rates.param_groups[0]["lr"])
        rates.step()
        schedule.step()
    model = KerasModel(
        linear(),
        "mse",
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        lr_scheduler=lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=8),
    )
    frame = model.fit(binary(), epochs=4, batch_size=60, verbose=0)
    assert frame["lr"].tolist() == pytest.approx(expected)


def test_every_parameter_group_has_its_rate():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    groups = [{"params": net[0].parameters(), "lr": 0.5}, {"params": net[1].parameters()}]
    model = KerasModel(net, "mse", optimizer=torch.optim.SGD(groups, lr=0.25))
    frame = model.fit(binary(), epochs=1, verbose=0)
    assert list(frame) == ["epoch", "train_loss", "lr", "lr_1", "seconds"]
    assert frame.iloc[0][["lr", "lr_1"]].tolist() == [0.5, 0.25]


def test_history_is_rectangular_with_the_same_columns_from_the_first_row_on():
    columns = []

    class Look(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            columns.append(list(self.model.history.frame))

    x, y = binary()
    model = KerasModel(linear(), "bce_with_logits", {"acc": "acc"}, still)
    frame = model.fit((x, y), (x, y), epochs=5, validation_freq=2, callbacks=[Look()], verbose=0)
    names = ["epoch", "train_loss", "train_acc", "lr", "val_loss", "val_acc", "seconds"]
    assert list(frame) == names
    assert columns == [[], names, names, names, names]
    assert frame["val_loss"].isna().tolist() == [True, False, True, False, True]
    assert frame["val_acc"].isna().tolist() == [True, False, True, False, True]
    assert not frame["train_loss"].isna().any()


def test_epochs_count_on_over_two_fits():
    model = KerasModel(linear(), "mse")
    model.fit(binary(), epochs=2, verbose=0)
    frame = model.fit(binary(), epochs=3, verbose=0)
    assert frame["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert frame["epoch"].dtype == "int64"
    assert len(model.history) == 5


def test_a_second_fit_keeps_the_optimizers_state():
    model = KerasModel(linear(), "mse", optimizer="adam")
    model.fit(binary(), epochs=2, batch_size=SAMPLES, verbose=0)
    model.fit(binary(), epochs=3, batch_size=SAMPLES, verbose=0)
    assert {int(state["step"]) for state in model.optimizer.state.values()} == {5}


def test_loading_weights_adds_no_epoch(tmp_path):
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model = KerasModel(net, "mse", optimizer="adam")
    model.fit(binary(), epochs=2, verbose=0)
    model.save_ckpt(tmp_path / "net.pt")
    before = copy.deepcopy(net.state_dict())
    model.load_ckpt(tmp_path / "net.pt")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    frame = model.fit(binary(), epochs=1, batch_size=SAMPLES, verbose=0)
    assert frame["epoch"].tolist() == [1, 2, 3]
    assert frame["lr"].eq(frame["lr"].iloc[0]).all()
    assert net[1].num_batches_tracked == before["1.num_batches_tracked"] + 1


@pytest.mark.parametrize("hook", ["on_epoch_end", "on_train_batch_end", "on_test_end"])
def test_evaluating_inside_a_callback_disturbs_nothing(hook):
    x, y = binary()
    data = DataLoader(TensorDataset(x, y), 12, shuffle=True)

    def evaluate(self, *_):
        self.model.evaluate((x[:13], y[:13]), batch_size=5, verbose=0)
        self.model.predict(x[:9], verbose=0)

    frames, nets = [], []
    for callbacks in ([], [type("Evaluates", (Callback,), {hook: evaluate})()]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        model = KerasModel(net, "bce_with_logits", {"auc": "auc", "acc": "acc"}, "adam")
        frames.append(model.fit(data, data, epochs=3, callbacks=callbacks, seed=1, verbose=0))
        nets.append(net)
    figures = [frame.drop(columns="seconds") for frame in frames]
    assert figures[0].equals(figures[1])
    for name, value in nets[0].state_dict().items():
        assert torch.equal(value, nets[1].state_dict()[name])


def test_evaluate_gives_the_figures_that_fit_gave():
    x, y = binary()
    model = KerasModel(linear(), "bce_with_logits", {"auc": "auc", "acc": "acc"}, "adam")
    frame = model.fit((x, y), (x, y), epochs=2, verbose=0)
    scores = model.evaluate((x, y), verbose=0)
    assert scores == frame.iloc[-1][list(scores)].to_dict()
    assert list(scores) == ["val_loss", "val_auc", "val_acc"]


def test_figures_begin_anew_with_each_epoch():
    x, y = binary()
    model = KerasModel(linear(), "bce_with_logits", {"auc": "auc", "acc": "acc"}, still)
    frame = model.fit((x, y), (x, y), epochs=3, shuffle=False, verbose=0)
    figures = frame.drop(columns=["epoch", "seconds"])
    assert figures.nunique().eq(1).all()


def test_training_and_validation_do_not_share_a_metric():
    x, y = binary()
    metric = torchmetrics.MeanSquaredError()
    net = linear()
    model = KerasModel(net, "mse", {"mse": metric}, still)
    row = model.fit((x, y), (x[:11], y[:11]), epochs=1, verbose=0).iloc[0]
    assert row["train_mse"] == exact(nn.functional.mse_loss(net(x), y))
    assert row["val_mse"] == exact(nn.functional.mse_loss(net(x[:11]), y[:11]))
    assert metric.total == 0


def test_bfloat16_trains_with_outputs_in_float32():
    seen = []

    def loss_fn(y_pred, y_true):
        seen.append(y_pred.dtype)
        return nn.functional.mse_loss(y_pred, y_true)

    inner = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 8), nn.Linear(8, 1)

        def forward(self, x):
            hidden = self.first(x)
            inner.append(hidden.dtype)
            return self.second(hidden)

    model = KerasModel(Net(), loss_fn, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    frame = model.fit(binary(), epochs=5, mixed_precision="bf16", cpu=True, verbose=0)
    assert set(inner) == {torch.bfloat16}
    assert set(seen) == {torch.float32}
    assert model.net.first.weight.dtype == torch.float32
    assert frame["train_loss"].iloc[-1] < frame["train_loss"].iloc[0]
    assert model.predict(binary()[0], verbose=0).dtype == torch.float32


def test_settings_change_from_fit_to_fit():
    dtypes = []

    class Net(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            dtypes.append(y.dtype)
            return y

    model = KerasModel(Net(2, 1), "mse")
    plain = {"epochs": 1, "batch_size": SAMPLES, "verbose": 0}
    model.fit(binary(), mixed_precision="bf16", cpu=True, **plain)
    model.fit(binary(), **plain)
    model.fit(binary(), mixed_precision="no", gradient_accumulation_steps=2, **plain)
    frame = model.fit(binary(), mixed_precision="bf16", **plain)
    bf16, fp32 = torch.bfloat16, torch.float32
    assert dtypes == [bf16, fp32, fp32, bf16]
    assert frame["epoch"].tolist() == [1, 2, 3, 4]


def test_a_net_that_gives_nan_in_validation_is_told():
    x, y = binary()
    model = KerasModel(linear(), "mse", {"auc": "auc"}, still)
    with pytest.warns(UserWarning, match="val_auc is NaN because a class") as told:
        frame = model.fit((x, y), (x * math.nan, y), epochs=3, verbose=0)
    assert len(told) == 1  # once a fit
    assert math.isnan(frame["val_loss"][0])
    assert math.isnan(frame["val_auc"][0])


@pytest.mark.slow
def test_history_stays_small_over_thousands_of_epochs():
    x, y = binary(8)
    model = KerasModel(linear(), "mse", {"mae": lambda p, t: (p - t).abs().mean()}, still)
    run = {"verbose": 0, "batch_size": 8}
    model.fit((x, y), (x, y), epochs=50, **run)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    model.fit((x, y), (x, y), epochs=1000, **run)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(model.history) == 1050
    assert grown / 1000 < 250  # bytes an epoch; 7 columns of 8 bytes, and room to grow


def test_figures_are_python_floats_in_the_logs_of_an_epoch():
    kinds = []

    class Look(Callback):
        def on_epoch_end(self, epoch, logs=None):
            kinds.extend(type(value) for value in logs.values())

    x, y = binary()
    KerasModel(linear(), "mse", {"auc": "auc"}).fit(
        (x, y), (x, y), epochs=1, callbacks=[Look()], verbose=0
    )
    assert set(kinds) == {float}
