"""Fits that wandb and MLflow track, and what they hold afterwards, as JSON: see test_tracker."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback, Tracker, WandbCallback

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
_BLOCK, _HEAD = 32768, 7  # of the files that wandb writes, in the form of LevelDB's log
_LAST = (1, 4)  # kinds of a piece with which a record ends


def fit(model=None, callbacks=(), epochs=2, **options):
    torch.manual_seed(0)
    model = model or KerasModel(nn.Linear(3, 1), "mse", {"mae": "mae"}, torch.optim.SGD)
    chosen = {"batch_size": 5, "verbose": 0} | options
    model.fit((X, Y), (X, Y), epochs=epochs, callbacks=list(callbacks), **chosen)
    return model


def frame_of(model):
    return model.history.frame.to_dict("list")


class Ends(Callback):
    """Ends the fit with an error."""

    def __init__(self, error):
        self.error = error

    def on_epoch_end(self, epoch, logs=None):
        raise self.error


def fails(tracker, error):
    """Fit until an error ends it."""
    raised = None
    try:
        fit(callbacks=[tracker, Ends(error)])
    except BaseException as found:
        raised = found
    assert raised is error


def two_fits():
    callback = Tracker("wandb", "mine", config={"n": 3, "odd": (1, 2)})
    model = fit(callbacks=[callback])
    return {"frame": frame_of(fit(model, [callback], epochs=1))}


def batches():
    fit(callbacks=[Tracker("wandb", every_n_steps=2)])
    return {}


def weights():
    fit(wandb="another", ckpt_path="weights")
    return {}


def old_weights():
    """A fit that ends before it writes weights, into a folder where some are."""

    class Stops(WandbCallback):
        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            message = "stopped"
            raise RuntimeError(message)

    try:
        fit(callbacks=[Stops(name="my run")], ckpt_path="weights")
    except RuntimeError:
        return {}
    return {"failed": "nothing was raised"}


def after_an_error():
    fails(Tracker("wandb"), RuntimeError("broken"))
    return {}


def after_ctrl_c():
    fails(Tracker("wandb"), KeyboardInterrupt())
    return {}


def open_run():
    import wandb

    run = wandb.init(project="open", settings={"silent": True})
    fit(callbacks=[Tracker("wandb")])
    was_open = wandb.run is run
    run.log({"mine": 7}, step=3)
    run.finish()
    return {"was open": was_open}


def tracked_by_wandb():
    import wandb

    found, files = {}, {}
    scenes = (two_fits, batches, weights, old_weights, after_an_error, after_ctrl_c, open_run)
    for scene in scenes:
        before = set(Path("wandb").glob("offline-run-*/run-*.wandb"))
        name = scene.__name__.replace("_", " ")
        found[name] = scene()
        files[name] = set(Path("wandb").glob("offline-run-*/run-*.wandb")) - before
    wandb.teardown()  # so that the files are whole
    for name, paths in files.items():
        found[name]["runs"] = sorted(map(read, paths), key=first_step)
    return found


def first_step(run):
    return min((row["_step"] for row in run["rows"]), default=0)


def read(path):
    run = {"rows": [], "config": {}, "axes": {}, "artifacts": {}, "code": None, "exit": None}
    for record in records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            made = record.run
            run |= {"id": made.run_id, "project": made.project, "name": made.display_name}
            own = {item.key: json.loads(item.value_json) for item in made.config.update}
            run["code"] = own.get("_wandb", {}).get("code_path", run["code"])
        elif kind == "history":
            run["rows"].append(
                {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
            )
        elif kind == "config":
            run["config"] |= {
                item.key: json.loads(item.value_json) for item in record.config.update
            }
        elif kind == "exit":
            run["exit"] = record.exit.exit_code
        elif kind == "metric":
            run["axes"][record.metric.name] = record.metric.step_metric
        elif kind == "artifact" and record.artifact.type == "model":
            contents = record.artifact.manifest.contents
            run["artifacts"][record.artifact.name] = [entry.path for entry in contents]
    run["config"].pop("_wandb", None)
    return run


def records(data):
    """Give the records of a file; `wandb sync` reads them alike."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, parts = _HEAD, b""  # the file's own header is as long as that of a piece
    while at + _HEAD <= len(data):
        if _BLOCK - at % _BLOCK < _HEAD:
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + _HEAD : at + _HEAD + length]
        at += _HEAD + length
        if kind in _LAST:
            yield Record.FromString(parts)
            parts = b""


def tracked_by_mlflow():
    import mlflow

    callback = Tracker("mlflow", "mine", every_n_steps=4)
    model = fit(callbacks=[callback])
    fit(model, [callback], epochs=1)
    fit(callbacks=[callback], epochs=1)
    client = mlflow.MlflowClient()
    runs = []
    for run in mlflow.search_runs(
        experiment_names=["mine"], output_format="list", order_by=["start_time"]
    ):
        histories = {
            name: [
                (each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)
            ]
            for name in run.data.metrics
        }
        runs.append({"status": run.info.status, "params": run.data.params, **histories})
    return {"frame": frame_of(model), "runs": runs, "ended": ended_by_mlflow()}


def ended_by_mlflow():
    """How runs of MLflow stand after what ended their fits."""
    import mlflow

    def last_status():
        return mlflow.last_active_run().info.status

    found = {}
    for name, error in (("error", RuntimeError("broken")), ("ctrl-c", KeyboardInterrupt())):
        fails(Tracker("mlflow", "ended"), error)
        found[name] = last_status()
    try:
        raise RuntimeError
    except RuntimeError:  # a fit that tries again
        fit(callbacks=[Tracker("mlflow", "ended")], epochs=1)
        found["while another error is handled"] = last_status()
    mlflow.set_experiment("ended")
    child = Tracker("mlflow", "ended", nested_run=True)
    with mlflow.start_run() as parent:
        fails(child, RuntimeError("broken"))
        found["child"] = mlflow.get_run(child.state_dict()["run"]).info.status
        found["parent goes on"] = mlflow.active_run() is not None
    found["parent"] = mlflow.get_run(parent.info.run_id).info.status
    return found


if __name__ == "__main__":
    known = {"wandb": tracked_by_wandb, "mlflow": tracked_by_mlflow}
    print(json.dumps({name: known[name]() for name in sys.argv[1:]}))  # noqa: T201 - the result
