"""Figures in TensorBoard, wandb, MLflow: read back with the libraries' own readers."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import accelerate.tracking
import pytest
import torch
import yaml
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback, CallbackList, TensorBoardCallback, Tracker, WandbCallback
from fitorch.callbacks.logs import BatchLogs

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def model_of():
    torch.manual_seed(0)
    return KerasModel(nn.Linear(3, 1), "mse", {"mae": "mae"}, torch.optim.SGD)


def fit(model, *callbacks, epochs=2, **options):
    chosen = {"batch_size": 5, "verbose": 0} | options
    return model.fit((X, Y), (X, Y), epochs=epochs, callbacks=list(callbacks), **chosen)


class Memory(accelerate.tracking.GeneralTracker):
    """Keeps in memory what it is told."""

    name = "memory"
    requires_logging_directory = False
    runs: list["Memory"]

    def __init__(self, project, **options):
        super().__init__()
        self.project, self.options = project, options
        self.config, self.logged, self.finished = None, [], False
        self.runs.append(self)

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **kwargs):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def runs(monkeypatch):
    """The runs of a tracker that is registered with accelerate, as a user's own may be."""
    monkeypatch.setattr(Memory, "runs", [], raising=False)
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "memory", Memory)
    return Memory.runs


class Adds(Callback):
    """Adds figures, and things that are none, to the logs."""

    def on_epoch_end(self, epoch, logs=None):
        logs.update(extra=epoch / 2, tensor=torch.tensor(0.5), several=[1, 2], words="none")


def test_figures_of_epochs_have_their_number_from_1_as_step(runs):
    frame = fit(model_of(), Adds(), Tracker("memory", "mine", color="red"), epochs=3)
    (run,) = runs
    assert (run.project, run.options, run.finished) == ("mine", {"color": "red"}, True)
    assert [step for step, _ in run.logged] == [1, 2, 3]
    names = ["train_loss", "train_mae", "val_loss", "val_mae", "lr"]
    for row, (_, values) in zip(frame.to_dict("records"), run.logged, strict=True):
        expected = {name: row[name] for name in names}
        assert values == {**expected, "extra": (row["epoch"] - 1) / 2, "tensor": 0.5}


def test_the_configuration_is_what_the_fit_knows(runs):
    fit(model_of(), Tracker("memory"))
    facts = {"net": "Linear", "parameters": 4, "optimizer": "SGD", "lr": 0.001}
    assert runs[0].config == {"epochs": 2, "steps": 4, "batch_size": 5, **facts}


def test_the_parameters_of_a_lazy_net_are_not_counted(runs):
    model = KerasModel(nn.Sequential(nn.LazyLinear(1)), "mse", optimizer=torch.optim.SGD)
    fit(model, Tracker("memory"))
    assert "parameters" not in runs[0].config


def test_a_configuration_of_ones_own_is_made_plain(runs):
    config = {"n": 1, "flag": True, "rate": torch.tensor(0.5), "shape": (1, 2), "nothing": None}
    fit(model_of(), Tracker("memory", config=config))
    expected = {"n": 1, "flag": True, "rate": 0.5, "shape": "(1, 2)", "nothing": "None"}
    assert runs[0].config == expected


def test_running_figures_are_sent_every_so_many_batches(runs):
    fit(model_of(), Tracker("memory", every_n_steps=3))
    steps = [(step, min(values)) for step, values in runs[0].logged]
    assert steps == [(3, "batch_train_loss"), (1, "lr"), (6, "batch_train_loss"), (2, "lr")]
    assert runs[0].logged[0][1].keys() == {"batch_train_loss", "batch_train_mae"}


def test_running_figures_are_read_only_then_also_in_a_loop_of_ones_own(runs):
    reads = []
    logs = BatchLogs("train_", lambda: reads.append(len(reads)) or {"train_loss": 0.5})
    callbacks = CallbackList([Tracker("memory", every_n_steps=10)], epochs=1)
    callbacks.on_train_begin()
    for batch in range(25):
        callbacks.on_train_batch_end(batch, logs)
    callbacks.on_train_end()
    assert len(reads) == 2
    assert runs[0].logged == [(10, {"batch_train_loss": 0.5}), (20, {"batch_train_loss": 0.5})]
    assert (runs[0].config, runs[0].finished) == ({"epochs": 1}, True)


def test_the_batch_size_is_kept_where_it_is_known(runs):
    callbacks = CallbackList([Tracker("memory")], epochs=1, batch_size=64)
    callbacks.on_train_begin()
    callbacks.on_train_end()
    assert runs[0].config == {"epochs": 1, "batch_size": 64}


class Fails(Callback):
    """Ends the fit with an error."""

    def on_epoch_end(self, epoch, logs=None):
        message = "broken"
        raise RuntimeError(message)


def test_the_run_ends_after_an_error_too(runs):
    tracker = Tracker("memory")
    with pytest.raises(RuntimeError, match="broken"):
        fit(model_of(), tracker, Fails())
    assert runs[0].finished
    assert tracker.tracker is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", r"'tensorbord' \(did you mean 'tensorboard'\?\); expected one of"),
        ("notebook", "unknown tracker 'notebook'; expected one of aim, clearml, comet_ml, dvclive"),
    ],
)
def test_an_unknown_tracker_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        Tracker(name)


def test_a_library_that_is_missing_is_told_before_training(monkeypatch):
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    with pytest.raises(ImportError, match="tensorboard is not installed; `pip install tensorboard"):
        TensorBoardCallback()
    with pytest.raises(ImportError, match="pip install comet_ml"):
        Tracker("comet")
    model = model_of()
    with pytest.raises(ImportError, match="pip install wandb"):
        fit(model, wandb=True)
    assert len(model.history) == 0


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="every_n_steps is 0; expected a number >= 1"):
        Tracker("tensorboard", every_n_steps=0)
    with pytest.raises(ValueError, match="log_weight_freq is 0; expected a number of epochs"):
        TensorBoardCallback(log_weight_freq=0)
    with pytest.raises(TypeError, match="wandb is 3; expected True, a project's name, or None"):
        fit(model_of(), wandb=3)


def folders(path):
    """The folders of TensorBoard runs, but for those that keep the configuration."""
    return sorted(file.parent for file in path.glob("*/*/events.out.*"))


def scalars(folder):
    """Figures of a run, as TensorBoard reads them: name to [(step, value)]."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(folder)).Reload()
    return {
        name: sorted((event.step, event.value) for event in events.Scalars(name))
        for name in events.Tags()["scalars"]
    }


@pytest.fixture
def tensorboard():
    pytest.importorskip("tensorboard")


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_reads_what_the_history_holds(tmp_path):
    frame = fit(model_of(), TensorBoardCallback(tmp_path, "mine"), epochs=3)
    (folder,) = folders(tmp_path)
    assert folder.parent == tmp_path / "mine"
    found = scalars(folder)
    assert found.keys() == {*frame} - {"epoch", "seconds"}
    for name, events in found.items():
        assert [step for step, _ in events] == [1, 2, 3]
        assert [value for _, value in events] == pytest.approx(frame[name].tolist())
    (config,) = folder.glob("*/hparams.yml")
    assert yaml.safe_load(config.read_text())["optimizer"] == "SGD"


@pytest.mark.usefixtures("tensorboard")
def test_a_second_fit_goes_on_and_another_model_gets_a_run_of_its_own(tmp_path):
    callback, model = Tracker("tensorboard", logging_dir=tmp_path, every_n_steps=4), model_of()
    fit(model, callback)
    fit(model, callback, epochs=1)
    (first,) = set(folders(tmp_path))
    found = scalars(first)
    assert [step for step, _ in found["val_loss"]] == [1, 2, 3]
    assert [step for step, _ in found["batch_train_loss"]] == [4, 8, 12]
    fit(model_of(), callback)
    fit(model, callback, epochs=1, initial_epoch=0)
    assert len(set(folders(tmp_path))) == 3
    assert scalars(first) == found


@pytest.mark.usefixtures("tensorboard")
def test_a_callback_whose_state_was_put_back_goes_on_in_its_run(tmp_path):
    first, second = (Tracker("tensorboard", logging_dir=tmp_path) for _ in range(2))
    fit(model_of(), first)
    second.load_state_dict(first.state_dict())
    model = model_of()
    fit(model)
    fit(model, second)
    (folder,) = set(folders(tmp_path))
    assert [step for step, _ in scalars(folder)["lr"]] == [1, 2, 3, 4]


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_shows_histograms_of_the_weights(tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = model_of()
    with torch.no_grad():
        model.net.bias.fill_(float("inf"))  # which TensorBoard takes for an error
        model.net.weight.copy_(torch.tensor([[1.0, 2.0, 4.0]]))
    callback = TensorBoardCallback(tmp_path, log_weight=True, log_weight_freq=2)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch in range(5):
        callback.on_epoch_end(epoch, {"train_loss": 1.0})
    callback.on_train_end()
    (folder,) = folders(tmp_path)
    events = loader.EventAccumulator(str(folder), {"histograms": 0}).Reload()
    assert events.Tags()["histograms"] == ["weight"]
    seen = [(event.step, event.histogram_value) for event in events.Histograms("weight")]
    assert [step for step, _ in seen] == [2, 4]
    assert (seen[0][1].min, seen[0][1].max, seen[0][1].sum) == (1.0, 4.0, 7.0)


# wandb and MLflow work in a process of their own: they start others, and change it for good.
SCRIPT = Path(__file__).parent / "tracked_elsewhere.py"
QUIET = {
    "WANDB_MODE": "offline",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """What wandb and MLflow hold of fits in another process, as far as they are installed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    script = shutil.copy(SCRIPT, folder)  # wandb keeps code that lies where the program runs
    libraries = [name for name in ("wandb", "mlflow") if find_spec(name) is not None]
    places = {"HOME": str(folder), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    done = subprocess.run(
        [sys.executable, str(script), *libraries],
        cwd=folder,
        env={**os.environ, **places, **QUIET},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture
def wandb_runs(elsewhere):
    pytest.importorskip("google.protobuf")
    if "wandb" not in elsewhere:
        pytest.skip("wandb is not installed")
    return elsewhere["wandb"]


@pytest.mark.slow
@pytest.mark.xdist_group("trackers")
def test_wandb_holds_the_history_with_the_epoch_as_step(wandb_runs):
    first, second = wandb_runs["two fits"]["runs"]
    frame = wandb_runs["two fits"]["frame"]
    assert (first["project"], first["id"]) == ("mine", second["id"])
    rows = [*first["rows"], *second["rows"]]
    assert [row["_step"] for row in rows] == [1, 2, 3]
    for name in ("train_loss", "train_mae", "val_loss", "val_mae", "lr"):
        assert [row[name] for row in rows] == pytest.approx(frame[name])
    assert first["config"] == {"n": 3, "odd": "(1, 2)"}
    assert second["config"] == {}


@pytest.mark.slow
@pytest.mark.xdist_group("trackers")
def test_wandb_shows_figures_of_batches_over_an_axis_of_their_own(wandb_runs):
    (run,) = wandb_runs["batches"]["runs"]
    axes = run["axes"]
    assert (axes["batch_train_loss"], axes["val_loss"]) == ("batch", "epoch")
    rows = run["rows"]
    assert [row["batch"] for row in rows if "batch" in row] == [2, 4, 6, 8]
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 2]
    assert [row["_step"] for row in rows] == list(range(6))  # none was dropped


@pytest.mark.slow
@pytest.mark.xdist_group("trackers")
def test_wandb_gets_the_best_weights_of_this_fit(wandb_runs):
    (run,) = wandb_runs["weights"]["runs"]
    assert run["project"] == "another"
    assert run["artifacts"] == {"checkpoint": ["best.safetensors"]}
    assert wandb_runs["old weights"]["runs"][0]["artifacts"] == {}


@pytest.mark.slow
@pytest.mark.xdist_group("trackers")
def test_wandb_learns_name_and_code(wandb_runs):
    (run,) = wandb_runs["old weights"]["runs"]
    assert run["name"] == "my run"
    assert run["code"] == "code/tracked_elsewhere.py"
    assert wandb_runs["batches"]["runs"][0]["code"] is None


@pytest.mark.slow
@pytest.mark.xdist_group("trackers")
def test_wandb_learns_how_a_fit_ended(wandb_runs):
    exits = {name: [run["exit"] for run in found["runs"]] for name, found in wandb_runs.items()}
    assert exits["two fits"] == [0, 0]
    assert exits["after an error"] == exits["old weights"] == [1]
    assert exits["after ctrl c"] == [255]  # as where Ctrl-C ends a script of wandb's
    assert exits["open run"] == [0]


@pytest.mark.slow
@pytest.mark.xdist_group("trackers")
def test_a_run_of_wandb_that_was_open_stays_open(wandb_runs):
    (run,) = wandb_runs["open run"]["runs"]
    assert wandb_runs["open run"]["was open"]
    assert [row["_step"] for row in run["rows"]] == [1, 2, 3]
    assert run["rows"][-1]["mine"] == 7


@pytest.mark.slow
@pytest.mark.xdist_group("trackers")
def test_mlflow_holds_the_history_with_the_epoch_as_step(elsewhere):
    if "mlflow" not in elsewhere:
        pytest.skip("mlflow is not installed")
    found = elsewhere["mlflow"]
    assert [run["status"] for run in found["runs"]] == ["FINISHED", "FINISHED"]
    both, other = found["runs"]
    assert other["val_loss"][0][0] == 1
    assert [step for step, _ in both["val_loss"]] == [1, 2, 3]
    assert [value for _, value in both["val_loss"]] == pytest.approx(found["frame"]["val_loss"])
    assert [step for step, _ in both["batch_train_loss"]] == [4, 8, 12]
    assert both["params"]["optimizer"] == "SGD"


@pytest.mark.slow
@pytest.mark.xdist_group("trackers")
def test_mlflow_learns_how_a_fit_ended(elsewhere):
    if "mlflow" not in elsewhere:
        pytest.skip("mlflow is not installed")
    assert elsewhere["mlflow"]["ended"] == {
        "error": "FAILED",
        "ctrl-c": "KILLED",
        "while another error is handled": "FINISHED",
        "child": "FAILED",
        "parent goes on": True,
        "parent": "FINISHED",
    }


def test_callbacks_of_torchkeras_have_its_arguments():
    pytest.importorskip("wandb")
    callback = WandbCallback("project", {"a": 1}, "name", False, False)
    assert callback.options == {"name": "name", "save_code": False}
    assert (callback.project, callback.config, callback.save_ckpt) == ("project", {"a": 1}, False)
