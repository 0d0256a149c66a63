"""What a user of torchkeras expects of each name: it works, or the error has the name to use."""

import importlib
import inspect
import re

import matplotlib.pyplot as plt
import pytest
import torch
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy as TorchAccuracy

import fitorch
from fitorch import KerasModel
from fitorch.callbacks import (
    EpochCheckpoint,
    TensorBoardCallback,
    VisDisplay,
    WandbCallback,
)
from fitorch.metrics import AUC, IOU, KS, Accuracy, Precision, Recall
from tolerances import FORWARD


@pytest.fixture
def loaders():
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    y = (x.sum(1, keepdim=True) + 0.3 * torch.randn(200, 1) > 0).float()
    train, val = TensorDataset(x[:150], y[:150]), TensorDataset(x[150:], y[150:])
    return DataLoader(train, batch_size=50, shuffle=True), DataLoader(val, batch_size=20)


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    return KerasModel(net, nn.BCEWithLogitsLoss(), {"auc": AUC(), "acc": TorchAccuracy("binary")})


def names_of(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_keras_model_takes_torchkeras_arguments_in_their_order():
    theirs = ["net", "loss_fn", "metrics_dict", "optimizer", "lr_scheduler"]
    assert names_of(KerasModel.__init__)[:5] == theirs


def test_the_optimizer_is_adam_with_3e_4_unless_given(model):
    assert type(model.optimizer) is torch.optim.Adam
    assert model.optimizer.param_groups[0]["lr"] == 3e-4


def test_fit_takes_torchkeras_arguments_in_their_order():
    theirs = [
        "train_data",
        "val_data",
        "epochs",
        "ckpt_path",
        "patience",
        "monitor",
        "mode",
        "callbacks",
        "plot",
        "wandb",
    ]
    ours = names_of(KerasModel.fit)
    assert ours[:10] == theirs
    assert {"mixed_precision", "cpu", "gradient_accumulation_steps"} <= set(ours)


def test_all_of_fits_arguments_work_together(model, loaders, tmp_path):
    train, val = loaders
    path = tmp_path / "checkpoint"
    frame = model.fit(
        train,
        val,
        3,
        str(path),
        5,
        "val_auc",
        "max",
        [],
        False,
        False,
        mixed_precision="no",
        cpu=True,
        gradient_accumulation_steps=1,
    )
    figures = ["loss", "auc", "acc"]
    trained, validated = [f"train_{name}" for name in figures], [f"val_{name}" for name in figures]
    assert list(frame)[:-1] == ["epoch", *trained, "lr", *validated]
    assert frame["epoch"].tolist() == [1, 2, 3]
    assert model.evaluate(val, verbose=0)["val_auc"] == pytest.approx(frame["val_auc"].max())
    twin = KerasModel(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)))
    twin.load_ckpt(str(path))
    assert torch.equal(twin.net[0].weight, model.net[0].weight)


def test_without_val_data_train_loss_is_watched(model, loaders):
    frame = model.fit(loaders[0], epochs=2, patience=1, verbose=0)
    assert not any(name.startswith("val_") for name in frame)
    assert model.history.monitor == "train_loss"


def test_patience_none_never_stops(model, loaders):
    model.optimizer.param_groups[0]["lr"] = 0.0
    assert len(model.fit(*loaders, epochs=8, patience=None, verbose=0)) == 8


def test_what_notebooks_read_of_a_model_is_there(model, loaders):
    model.fit(*loaders, epochs=2, verbose=0)
    x = loaders[1].dataset.tensors[0]
    assert torch.equal(model.forward(x), model.net(x))
    assert torch.equal(model(x), model.net.cpu()(x))
    assert len(model.history.history["val_auc"]) == 2
    assert model.accelerator.is_local_main_process
    assert isinstance(model.optimizer, torch.optim.Optimizer)
    assert len([*model.parameters()]) == 4


def test_evaluate_gives_val_names_and_predict_all_rows_in_order(model, loaders):
    assert list(model.evaluate(loaders[1], verbose=0)) == ["val_loss", "val_auc", "val_acc"]
    x = loaders[1].dataset.tensors[0]
    assert torch.allclose(model.predict(loaders[1], verbose=0), model.net(x), **FORWARD)


def test_weights_are_a_plain_state_dict_and_fit_goes_on_without_an_epoch_0(
    model, loaders, tmp_path
):
    model.fit(*loaders, epochs=2, verbose=0)
    model.save_ckpt(str(tmp_path / "net.pt"))
    state = torch.load(tmp_path / "net.pt", weights_only=True)
    assert list(state) == list(model.net.state_dict())
    model.load_ckpt(str(tmp_path / "net.pt"))
    model.from_scratch = False  # torchkeras scripts set it; there is no row of epoch 0
    assert model.fit(*loaders, epochs=1, verbose=0)["epoch"].tolist() == [1, 2, 3]


def test_plot_metric_takes_what_fit_returned(model, loaders):
    dfhistory = model.fit(*loaders, epochs=2, verbose=0)
    figure = fitorch.plot_metric(dfhistory, "auc")
    assert len(figure.axes[0].lines) >= 2
    plt.close("all")


def test_ddp_methods_take_the_number_of_processes_first():
    """That they work is shown in tests/distributed."""
    assert names_of(KerasModel.fit_ddp)[:3] == ["num_processes", "train_data", "val_data"]
    assert names_of(KerasModel.evaluate_ddp)[:2] == ["num_processes", "val_data"]


@pytest.mark.parametrize(
    ("metric", "truth"),
    [
        (Accuracy, lambda y, p: accuracy_score(y, p > 0)),
        (Precision, lambda y, p: precision_score(y, p > 0)),
        (Recall, lambda y, p: recall_score(y, p > 0)),
        (AUC, roc_auc_score),
        (KS, lambda y, p: max(abs((p[y == 1] <= t).mean() - (p[y == 0] <= t).mean()) for t in p)),
    ],
)
def test_metrics_take_logits_and_reset(metric, truth):
    torch.manual_seed(1)
    logits, targets = torch.randn(90, 1), torch.randint(0, 2, (90, 1)).float()
    made = metric()
    for rows in torch.arange(90).split(25):
        made(logits[rows], targets[rows])  # as a StepRunner calls them
    expected = truth(targets.flatten().numpy(), logits.flatten().numpy())
    assert made.compute().item() == pytest.approx(expected, abs=1e-6)
    made.reset()
    made.update(logits[:10], targets[:10])
    first = truth(targets[:10].flatten().numpy(), logits[:10].flatten().numpy())
    assert made.compute().item() == pytest.approx(first, abs=1e-6)


def test_iou_takes_the_number_of_classes():
    made = IOU(num_classes=1)
    made.update(torch.tensor([[[[5.0, -5.0], [5.0, 5.0]]]]), torch.tensor([[[[1.0, 0], [0, 1]]]]))
    assert made.compute().item() == pytest.approx(2 / 3)


def test_nothing_predicted_positive_has_a_precision_of_0():
    made = Precision()
    made.update(torch.full((4, 1), -3.0), torch.tensor([[0.0], [1], [1], [0]]))
    assert made.compute().item() == 0.0


def test_vlog_shows_a_loop_of_ones_own(tmp_path, capsys):
    log = fitorch.VLog(2, "val_loss", "min", save_path=str(tmp_path / "history.png"), bar=False)
    log.log_start()
    for loss in (0.5, 0.4):
        log.log_step({"train_loss": loss})
        log.log_step({"val_loss": loss}, training=False)
        log.log_epoch({"train_loss": loss, "val_loss": loss})
    frame = log.log_end()
    assert frame["val_loss"].tolist() == [0.5, 0.4]
    assert (tmp_path / "history.png").is_file()


CALLBACKS = {
    EpochCheckpoint: ["ckpt_dir", "save_freq", "max_ckpt"],
    TensorBoardCallback: ["save_dir", "model_name", "log_weight", "log_weight_freq"],
    VisDisplay: ["display_fn", "model", "init_display", "dis_period"],
    WandbCallback: ["project", "config", "name", "save_ckpt", "save_code"],
}


@pytest.mark.parametrize("callback", CALLBACKS)
def test_callbacks_take_torchkeras_arguments_in_their_order(callback):
    """That they work is shown in tests/callbacks."""
    assert names_of(callback.__init__)[: len(CALLBACKS[callback])] == CALLBACKS[callback]


def test_objects_with_the_four_hooks_are_called(model, loaders):
    calls = []

    class Watcher:
        def on_fit_start(self, model):
            calls.append("start")

        def on_train_epoch_end(self, model):
            calls.append("trained")

        def on_validation_epoch_end(self, model):
            calls.append("validated")

        def on_fit_end(self, model):
            calls.append("end")

    model.fit(*loaders, epochs=2, callbacks=[Watcher()], verbose=0)
    assert calls == ["start", *["trained", "validated"] * 2, "end"]


@pytest.mark.parametrize("how", ["features", "shape", "several"])
def test_summary_takes_each_of_torchkeras_forms(how, model, capsys):
    net, x = model.net, torch.randn(3, 4)
    if how == "features":
        table = fitorch.summary(net, x)
    elif how == "shape":
        table = fitorch.summary(net, input_shape=(4,), input_dtype=torch.FloatTensor, batch_size=-1)
    else:
        table = fitorch.summary(net, input_data_args=[x])
    assert "49" in capsys.readouterr().out
    assert isinstance(str(table), str)
    assert table.total_params == 49


def test_shared_layers_are_counted_once(model):
    shared = nn.Linear(4, 4)
    table = fitorch.summary(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(2, 4), verbose=0)
    assert table.total_params == 20


def test_seeds_are_set(loaders):
    fitorch.seed_everything(42)
    first = torch.rand(3)
    fitorch.seed_everything(42)
    assert torch.equal(torch.rand(3), first)


def test_messages_tell_device_best_epoch_and_why_it_stopped(model, loaders, capsys):
    model.optimizer.param_groups[0]["lr"] = 0.0
    model.fit(*loaders, epochs=9, patience=2, monitor="val_auc", mode="max", verbose=2)
    said = capsys.readouterr().out
    assert re.search(r"on (cpu|cuda|mps)", said)
    assert "best epoch 1: val_auc" in said
    assert "val_auc did not improve for 2 epochs" in said


# names that fitorch has not


ELSEWHERE = {
    "EpochRunner": "KerasModel.EpochRunner",
    "HugModel": "KerasModel",
    "LightModel": "KerasModel",
    "StepRunner": "KerasModel.StepRunner",
    "VisMetric": "fit",
    "VisProgress": "fit",
    "chat": "install torchkeras too",
    "colorful": "print",
    "delete_object": "torch.cuda.empty_cache",
    "kerascallbacks": "fitorch.callbacks",
    "kerasmodel": "from fitorch import KerasModel",
    "plots": "plot_metric",
    "printlog": "print",
    "soup": "SWA",
    "tabular": "install torchkeras too",
    "tools": "VLog",
    "utils": "seed_everything",
    "vision": "install torchkeras too",
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_that_is_elsewhere_is_told(name):
    with pytest.raises(ImportError, match=ELSEWHERE[name]):
        getattr(fitorch, name)
    with pytest.raises(ImportError, match=ELSEWHERE[name]):
        exec(f"from fitorch import {name}")


@pytest.mark.parametrize("name", [name for name in ELSEWHERE if name.islower()])
def test_a_module_that_is_elsewhere_is_told(name):
    with pytest.raises(ModuleNotFoundError, match=ELSEWHERE[name]):
        importlib.import_module(f"fitorch.{name}")
    with pytest.raises(ModuleNotFoundError, match=ELSEWHERE[name]):
        exec(f"from fitorch.{name} import anything")


@pytest.mark.parametrize("name", ["metrics", "callbacks", "losses", "summary", "vlog"])
def test_modules_by_torchkeras_names_are_there(name):
    assert importlib.import_module(f"fitorch.{name}")


def test_a_module_that_nobody_has_is_not_found_as_ever():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'fitorch\.nothing'"):
        importlib.import_module("fitorch.nothing")
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from fitorch import nothing")


PEERS = {
    # ours: what torchkeras 2, Keras, Poutyne, Lightning, skorch and Hugging Face call it
    "train_data": [
        "dl_train",
        "x",
        "y",
        "train_generator",
        "train_dataloaders",
        "X",
        "train_dataset",
    ],
    "val_data": [
        "dl_val",
        "validation_data",
        "valid_generator",
        "val_dataloaders",
        "train_split",
        "eval_dataset",
    ],
    "loss_fn": ["loss_func", "loss", "loss_function", "criterion", "compute_loss_func"],
    "gradient_accumulation_steps": ["batches_per_step", "accumulate_grad_batches"],
    "clip_grad_norm": ["max_grad_norm", "gradient_clip_val"],
    "epochs": ["max_epochs", "num_epochs", "num_train_epochs"],
    "verbose": ["quiet", "log_step_freq"],
}


@pytest.mark.parametrize(
    ("ours", "theirs"), [(ours, theirs) for ours in PEERS for theirs in PEERS[ours]]
)
def test_fit_tells_our_name_for_each_peers(ours, theirs, model, loaders):
    with pytest.raises(TypeError, match=rf"fit\(\) has no argument '{theirs}'; use .*{ours}"):
        model.fit(loaders[0], **{theirs: 1})


@pytest.mark.parametrize("theirs", PEERS["loss_fn"])
def test_keras_model_tells_our_name_for_the_loss(theirs):
    with pytest.raises(TypeError, match=f"'{theirs}'; use loss_fn"):
        KerasModel(nn.Linear(1, 1), **{theirs: nn.MSELoss()})


def test_evaluate_tells_our_name_for_quiet(model, loaders):
    with pytest.raises(TypeError, match="'quiet'; use verbose=0"):
        model.evaluate(loaders[1], quiet=True)


# torchkeras 2


class Old(fitorch.Model):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 1)

    def forward(self, x):
        return torch.sigmoid(self.fc(x))


def share_right(y_pred, y_true):
    return ((y_pred > 0.5) == y_true.bool()).float().mean()


@pytest.fixture(params=["subclass", "wrapped"])
def old(request):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    made = Old() if request.param == "subclass" else fitorch.Model(net)
    made.compile(loss_func=nn.BCELoss(), metrics_dict={"accuracy": share_right})
    return made


def test_the_old_model_fits_with_epochs_first_and_columns_without_epoch(old, loaders):
    frame = old.fit(3, dl_train=loaders[0], dl_val=loaders[1], log_step_freq=30)
    assert list(frame) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert len(frame) == 3
    assert old.history["val_loss"] == frame["val_loss"].tolist()


def test_the_old_model_needs_no_validation_data(old, loaders):
    assert list(old.fit(2, loaders[0], verbose=0)) == ["loss", "accuracy"]


def test_the_old_model_has_adam_with_1e_3_unless_given(old):
    assert old._trainer().optimizer.param_groups[0]["lr"] == 1e-3


def test_the_old_model_evaluates_and_predicts_one_tensor(old, loaders):
    old.fit(2, loaders[0], verbose=0)
    x, y = loaders[1].dataset.tensors
    with torch.no_grad():
        outputs = old(x)
    assert torch.allclose(old.predict(loaders[1], verbose=0), outputs, **FORWARD)
    assert old.evaluate(loaders[1], verbose=0) == pytest.approx(
        {
            "val_loss": nn.functional.binary_cross_entropy(outputs, y).item(),
            "val_accuracy": share_right(outputs, y).item(),
        },
        rel=1e-5,
    )
    features = DataLoader(TensorDataset(x), batch_size=20)
    assert torch.allclose(old.predict(features, verbose=0), outputs, **FORWARD)


def test_the_old_model_is_the_module_that_it_trains(old, loaders):
    assert isinstance(old, nn.Module)
    before = [parameter.detach().clone() for parameter in old.parameters()]
    assert len(before) == 2
    old.fit(2, loaders[0], verbose=0)
    assert not any(map(torch.equal, before, old.parameters()))
    assert len(old.state_dict()) == 2


def test_the_old_models_summary_takes_a_shape(old, capsys):
    table = old.summary(input_shape=(4,), input_dtype=torch.FloatTensor, batch_size=-1)
    assert table.total_params == 5
    assert "Linear" in capsys.readouterr().out


def test_the_old_model_says_what_is_missing(loaders):
    with pytest.raises(RuntimeError, match=r"call compile\(loss_func=\.\.\.\) before Old"):
        Old().fit(1, loaders[0])
    with pytest.raises(NotImplementedError, match="has no forward"):
        fitorch.Model()(torch.ones(1, 4))
    with pytest.raises(ValueError, match="this machine has"):
        Old().compile(nn.BCELoss(), device="cuda:99")
    made = Old()
    made.compile(nn.BCELoss(), device="cpu")
    with pytest.raises(ValueError, match="log_step_freq"):
        made.fit(1, loaders[0], log_step_freq=0)
