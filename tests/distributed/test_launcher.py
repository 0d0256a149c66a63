"""fit_ddp and evaluate_ddp start processes of their own, and bring home what they made."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import cloudpickle
import nbformat
import psutil
import pytest
import torch
from nbclient import NotebookClient
from torch import nn

from fitorch import KerasModel, RankError
from fitorch.callbacks import Callback
from fitorch.distributed import launcher as launching
from fitorch.errors import Preempted
from tolerances import FLOAT64

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # as what a script defines


@pytest.fixture
def quick(forks, monkeypatch):
    """Have the processes forked, which takes a tenth of the time of new interpreters."""
    # In the launcher alone: a fit asks git for the revision by a process of its own.
    forking = SimpleNamespace(**{**vars(subprocess), "Popen": forks.popen})
    monkeypatch.setattr(launching, "subprocess", forking)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def data(count=50):
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1)).double()
    return x, x[:, :1]


def make(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)).double()
    net[1].eval()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    return KerasModel(net, "mse", {"mae": "mae"}, optimizer, lr_scheduler=schedule, **options)


def fitted(model, processes=1, epochs=2, **options):
    options = {"batch_size": 10 // processes, "seed": 1, "verbose": 0} | options
    if processes == 1:
        return model.fit(data(), data(), epochs, **options)
    return model.fit_ddp(processes, data(), data(), epochs=epochs, **options)


class Freeze(Callback):
    """Keeps statistics of batches out, which differ between processes."""

    def on_train_batch_begin(self, batch, logs=None):
        self.model.net[1].eval()


class Act(Callback):
    """Does something in one process, at the end of an epoch."""

    def __init__(self, act, epoch=0, rank=1):
        self.act, self.epoch, self.rank = act, epoch, rank

    def on_epoch_end(self, epoch, logs=None):
        if os.environ.get("RANK") == str(self.rank) and epoch == self.epoch:
            if self.act == "raise":
                message = "the seventeenth sheep"
                raise LookupError(message)
            os.kill(os.getpid(), signal.SIGKILL)


def assert_alike(model, other):
    for name, value in model.net.state_dict().items():
        assert torch.allclose(value, other.net.state_dict()[name], **FLOAT64), name
    own, expected = (m.optimizer.state_dict() for m in (model, other))
    assert own["param_groups"] == expected["param_groups"]
    for number, state in own["state"].items():
        for name, value in state.items():
            assert torch.allclose(value, expected["state"][number][name], **FLOAT64)
    assert model.lr_scheduler.state_dict() == other.lr_scheduler.state_dict()
    assert model.progress == other.progress
    columns = ["epoch", "lr", "train_loss", "train_mae", "val_loss", "val_mae"]
    frame, table = model.history.frame[columns], other.history.frame[columns]
    assert frame.to_numpy() == pytest.approx(table.to_numpy(), rel=1e-6)  # torchmetrics' sums


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_what_was_trained_comes_home_and_goes_on(processes):
    model, other = make(), make()
    size = {"batch_size": 30 // processes}
    frame = fitted(model, processes, callbacks=[Freeze()], **size)
    fitted(other, callbacks=[Freeze()], batch_size=30)
    assert frame is not None
    assert len(frame) == 2
    assert_alike(model, other)
    for each in (model, other):
        fitted(each, callbacks=[Freeze()])
    assert list(model.history.frame["epoch"]) == [1, 2, 3, 4]
    assert_alike(model, other)


@pytest.mark.usefixtures("quick")
def test_figures_are_those_of_one_process():
    model = make()
    expected = model.evaluate(data(23), batch_size=4, verbose=0)
    found = model.evaluate_ddp(2, data(23), batch_size=4, verbose=0)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.usefixtures("quick")
def test_an_error_of_a_process_is_raised_here_with_its_traceback():
    with pytest.raises(LookupError, match="the seventeenth sheep") as caught:
        fitted(make(), 2, callbacks=[Act("raise")])
    note = "\n".join(caught.value.__notes__)
    assert "in process 1 of 2:\nTraceback" in note
    assert "in on_epoch_end\n    raise LookupError(message)" in note


@pytest.mark.usefixtures("quick")
def test_a_process_that_is_killed_is_named_and_the_fit_can_go_on(tmp_path):
    whole, model = make(), make()
    fitted(whole, 2, 4, ckpt_path=str(tmp_path / "whole"))
    with pytest.raises(RankError, match=r"process 1 of 2 vanished \(SIGKILL\)"):
        fitted(model, 2, 4, ckpt_path=str(tmp_path / "run"), callbacks=[Act("kill", 2)])
    fitted(model, 2, 4, ckpt_path=str(tmp_path / "run"), resume=True, callbacks=[Act("kill", 9)])
    for name, value in whole.net.state_dict().items():
        assert torch.equal(model.net.state_dict()[name], value), name
    assert list(model.history.frame["epoch"]) == [1, 2, 3, 4]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Preempted)]
)
def test_a_signal_to_the_parent_ends_all(tmp_path, number, kind):
    model, folder = make(), tmp_path / "run"
    begun = lambda: (folder / "checkpoints").is_dir()  # noqa: E731

    def send():
        while not begun():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(kind, match="is saved in"):
        fitted(model, 2, 3000, ckpt_path=str(folder))
    sender.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("count", "kind"), [(0, ValueError), (-1, ValueError), ("2", TypeError), (True, TypeError)]
)
def test_a_number_of_processes_that_is_none_is_refused(count, kind):
    with pytest.raises(kind, match="num_processes"):
        make().fit_ddp(count, data())
    with pytest.raises(kind, match="num_processes"):
        make().evaluate_ddp(count, data())


def test_more_processes_than_devices_are_refused(monkeypatch):
    one = [torch.device("cuda", 0)]
    monkeypatch.setattr("fitorch.distributed.launcher.accelerators", lambda: one)
    with pytest.raises(ValueError, match="num_processes=2, but there are 1 devices"):
        fitted(make(), 2)


def test_what_can_not_be_copied_is_named():
    callback = Callback()
    callback.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"callbacks \(list\) cannot be copied.*torchrun"):
        fitted(make(), 2, callbacks=[callback])
    with pytest.raises(TypeError, match=r"train_data \(generator\) cannot be copied"):
        make().fit_ddp(2, (each for each in [data()]))


def test_one_of_several_processes_starts_no_others(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RankError, match="this process is already one of several"):
        fitted(make(), 2)


SCRIPT = """
import os, sys
import torch
from torch import nn
from torchmetrics import Metric
import beside
from fitorch import KerasModel
from fitorch.callbacks import Callback

print("the script runs", flush=True)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def forward(self, x):
        return self.layer(x)

class Count(Metric):
    def __init__(self):
        super().__init__()
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, y_pred, y_true):
        self.count += len(y_pred)

    def compute(self):
        return self.count

class Say(Callback):
    def on_train_end(self, logs=None):
        os.write(1, f"{os.environ['RANK']} in {os.getcwd()} has {beside.NUMBER}\\n".encode())

x = torch.randn(21, 4)
loss = lambda y_pred, y_true: ((y_pred - y_true) ** 2).mean()
model = KerasModel(Net(), loss, {"count": Count()}, "adam")
frame = model.fit_ddp(2, (x, x[:, :1]), (x, x[:, :1]), epochs=2, verbose=0, callbacks=[Say()])
print(frame["val_count"].tolist(), model.updates)
"""


@pytest.mark.slow
def test_a_plain_script_starts_processes_and_is_not_run_again(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("NUMBER = 17")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines.count("the script runs") == 1
    where = (tmp_path / "elsewhere").resolve()
    assert {f"{rank} in {where} has 17" for rank in (0, 1)} <= {*lines}
    assert lines[-1] == "[21.0, 21.0] 2"


CELLS = [
    """
    import os, signal, threading, time
    import torch
    from fitorch import KerasModel
    from fitorch.callbacks import Callback

    class Say(Callback):
        def on_epoch_end(self, epoch, logs=None):
            if self.params["epochs"] == 1:
                os.write(1, f"said by {os.environ['RANK']}\\n".encode())
                return
            open("begun", "w").close()
            time.sleep(0.1)

    x = torch.randn(20, 4)
    model = KerasModel(torch.nn.Linear(4, 1), "mse", optimizer="adam")
    frame = model.fit_ddp(2, (x, x[:, :1]), epochs=1, verbose=0, callbacks=[Say()])
    print("epochs", list(frame["epoch"]))
    """,
    """
    import psutil
    def interrupt():
        while not os.path.exists("begun"):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    frame = model.fit_ddp(2, (x, x[:, :1]), epochs=1000, verbose=0, callbacks=[Say()])
    print("stopped", 1 <= len(frame) < 1000, "left", len(psutil.Process().children()))
    """,
]


@pytest.mark.slow
def test_a_notebook_starts_processes_shows_what_they_print_and_ends_them(tmp_path):
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    first, second = (
        "".join(o.get("text", "") for o in cell["outputs"]) for cell in notebook["cells"]
    )
    assert sorted(first.splitlines()) == ["epochs [1]", "said by 0", "said by 1"]
    assert second.splitlines()[-1] == "stopped True left 0"


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    (tmp_path / "beside.py").write_text("NUMBER = 17")
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.replace("epochs=2", f"epochs=10**6, ckpt_path={str(tmp_path / 'run')!r}")
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoints").is_dir() and time.monotonic() < end:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(children, timeout=15)
    assert len(children) == 2
    assert left == []
