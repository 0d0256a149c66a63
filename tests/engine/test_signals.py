"""Ctrl-C as a user does it: SIGINT to a script, and to its terminal."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback
from fitorch.engine.signals import SignalHandler
from fitorch.environment import in_notebook

SCRIPT = """
import signal, sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from fitorch import KerasModel
from fitorch.callbacks import Callback

class Slow(Dataset):
    def __len__(self): return 40
    def __getitem__(self, i):
        time.sleep(0.002)
        return torch.full((2,), float(i)), torch.ones(1)

class Ready(Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            print("READY", flush=True)

if __name__ == "__main__":
    workers = int(sys.argv[1])
    loader = DataLoader(Slow(), batch_size=4, num_workers=workers)
    net = nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.0))
    net.eval()
    model = KerasModel(net, "mse", optimizer=torch.optim.SGD(net.parameters(), 1e-5))
    try:
        model.fit(loader, loader, epochs=500, patience=400, callbacks=[Ready()], verbose=0)
    except KeyboardInterrupt:
        frame = model.history.frame
        best = model.history.best
        score = model.evaluate(loader, verbose=0)["val_loss"]
        print("rows", len(frame), flush=True)
        print("whole", not frame.isna().any().any(), flush=True)
        print("best", abs(score - best["val_loss"]) < 1e-9, flush=True)
        print("mode", net.training, net[1].training, flush=True)
        print("handler", signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
        raise
"""


def run(tmp_path, workers, send):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(path), str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "READY\n", process.stderr.read()
        time.sleep(0.05)
        send(process)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return dict(line.split(maxsplit=1) for line in out.splitlines()), err, process.returncode


def to_process(process):
    os.kill(process.pid, signal.SIGINT)


def to_group(process):
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize(
    ("workers", "send"), [(0, to_process), pytest.param(2, to_group, marks=pytest.mark.slow)]
)
def test_ctrl_c_keeps_history_and_best_weights_and_raises(tmp_path, workers, send):
    found, err, code = run(tmp_path, workers, send)
    assert int(found["rows"]) >= 2
    assert found["whole"] == "True"
    assert found["best"] == "True"
    assert found["mode"] == "False False"
    assert found["handler"] == "True"
    assert "KeyboardInterrupt" in err
    assert code != 0


def tiny_model():
    return KerasModel(nn.Linear(2, 1), "mse")


class Interrupting(Callback):
    """Sends SIGINT to itself in a batch of the second epoch."""

    def __init__(self):
        self.batches_after = 0
        self.sent = False

    def on_train_batch_begin(self, batch, logs=None):
        self.batches_after += self.sent
        if len(self.model.history) == 1 and batch == 1 and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)


def test_the_running_step_is_finished_and_no_further_one_begun():
    model, callback = tiny_model(), Interrupting()
    with pytest.raises(KeyboardInterrupt):
        model.fit((torch.randn(64, 2), torch.randn(64, 1)), callbacks=[callback], verbose=0)
    assert callback.batches_after == 0
    assert model.progress.updates == 2 + 2
    assert list(model.history.frame["epoch"]) == [1]


def test_fit_goes_on_after_an_interrupt():
    model = tiny_model()
    data = (torch.randn(64, 2), torch.randn(64, 1))
    with pytest.raises(KeyboardInterrupt):
        model.fit(data, callbacks=[Interrupting()], verbose=0)
    frame = model.fit(data, epochs=2, verbose=0)
    assert list(frame["epoch"]) == [1, 2, 3]


def test_a_notebooks_fit_returns_what_it_has(monkeypatch):
    monkeypatch.setattr("fitorch.model.in_notebook", lambda: True)
    data = (torch.randn(64, 2), torch.randn(64, 1))
    frame = tiny_model().fit(data, callbacks=[Interrupting()], verbose=0)
    assert list(frame["epoch"]) == [1]


def test_a_script_is_no_notebook():
    assert not in_notebook()


def test_shells_of_jupyter_vs_code_and_colab_are_notebooks(monkeypatch):
    interactive = type("InteractiveShell", (), {})
    jupyter = type("ZMQInteractiveShell", (interactive,), {})  # VS Code's kernel has it too
    colab = type("Shell", (jupyter,), {"__module__": "google.colab._shell"})
    terminal = type("TerminalInteractiveShell", (interactive,), {})
    other = type("Shell", (interactive,), {})
    for kind, expected in [(jupyter, True), (colab, True), (terminal, False), (other, False)]:
        ipython = SimpleNamespace(get_ipython=kind)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        assert in_notebook() is expected, kind


def test_a_users_own_handler_is_left_alone():
    calls = []
    previous = signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    try:
        data = (torch.randn(64, 2), torch.randn(64, 1))
        frame = tiny_model().fit(data, epochs=3, callbacks=[Interrupting()], verbose=0)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert calls == [1]
    assert len(frame) == 3


def test_a_second_ctrl_c_within_a_second_is_the_first_one_sent_twice(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("fitorch.engine.signals.time.monotonic", lambda: now[0])
    with SignalHandler(tiny_model()) as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        now[0] = 0.5
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        now[0] = 1.5
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_fit_works_outside_the_main_thread():
    frames = []
    data = (torch.randn(64, 2), torch.randn(64, 1))
    thread = threading.Thread(
        target=lambda: frames.append(tiny_model().fit(data, epochs=1, verbose=0))
    )
    thread.start()
    thread.join(60)
    assert len(frames[0]) == 1


def test_ctrl_c_at_a_terminal_leaves_a_tidy_screen(tmp_path):
    pexpect = pytest.importorskip("pexpect")
    path = tmp_path / "script.py"
    path.write_text(
        textwrap.dedent("""
        import torch
        from torch import nn
        from fitorch import KerasModel

        data = (torch.randn(4000, 2), torch.randn(4000, 1))
        KerasModel(nn.Linear(2, 1), "mse").fit(data, epochs=10_000)
        """)
    )
    environment = {k: v for k, v in os.environ.items() if k != "CI"} | {"TERM": "xterm"}
    child = pexpect.spawn(
        sys.executable, [str(path)], env=environment, dimensions=(30, 80), timeout=60
    )
    child.expect("train_loss")
    time.sleep(0.5)
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    text = child.before.decode()
    assert "stopped after epoch" in text
    assert text.rstrip().endswith("KeyboardInterrupt: training was interrupted")
    assert child.exitstatus != 0 or child.signalstatus == signal.SIGINT
