"""Processes that train together, started in a moment: forks of one that has imported all.

Run as a script it is their parent, which reads a request per line. For each it forks a launcher,
which does as torchrun does: it keeps the addresses, starts the processes, and, as soon as one has
failed, tells the others to end.
"""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
PATIENCE = 60  # seconds for any fit; longer is a hang


class Parent:
    """Starts processes."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # so that nobody takes it for a worker of a fit
            text=True,
        )

    def start(self, folder, count=2, **options):
        """Begin a fit of `count` processes; see scripts/train.py for the options."""
        folder.mkdir(parents=True, exist_ok=True)
        for file in [*folder.glob("outcome-*"), *folder.glob("began-*"), folder / "codes.json"]:
            file.unlink(missing_ok=True)
        request = {"count": count, **options, "folder": str(folder)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return Launched(folder, count, int(self.process.stdout.readline()))

    def popen(self, command, env, **_):
        """Begin a process of fitorch.launching; what has the face of a Popen."""
        folder = Path(tempfile.mkdtemp(prefix="fitorch-fork-"))
        request = {"folder": str(folder), "launched": command[-1], "environment": env}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        self.process.stdout.readline()
        return Forked(folder)

    def run(self, folder, count=2, **options):
        """Do a fit; return what became of it."""
        return self.start(folder, count, **options).wait()

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


class Launched:
    """Processes at work.

    Attributes:
        codes: How each ended.
    """

    def __init__(self, folder, count, group):
        self.folder, self.count, self.group = folder, count, group
        self.codes = None

    def pid(self, rank):
        """Return the number of a process that has begun to train."""
        self._until(lambda: (self.folder / f"began-{rank}").exists())
        return int((self.folder / f"began-{rank}").read_text())

    def _until(self, happened):
        end = time.monotonic() + PATIENCE
        while not happened():
            if time.monotonic() > end:
                os.killpg(self.group, signal.SIGKILL)
                raise TimeoutError(self.printed())
            time.sleep(0.01)

    def wait(self):
        """Return the outcomes once all have ended."""
        self._until(lambda: (self.folder / "codes.json").exists())
        self.codes = json.loads((self.folder / "codes.json").read_text())
        return outcomes(self.folder, self.count)

    def printed(self, rank=None):
        """Return what a process has printed, or all."""
        ranks = range(self.count) if rank is None else [rank]
        return "\n".join((self.folder / f"printed-{n}").read_text() for n in ranks)


class Forked:
    """A process of fitorch.launching that was not started anew, but forked."""

    stdin = stdout = None

    def __init__(self, folder):
        self.folder, self.returncode = folder, None
        while not (folder / "pid").exists():
            time.sleep(0.005)
        self.pid = int((folder / "pid").read_text())

    def poll(self):
        if self.returncode is None and (self.folder / "codes.json").exists():
            (self.returncode,) = json.loads((self.folder / "codes.json").read_text())
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def wait(self):
        while self.poll() is None:
            time.sleep(0.005)
        shutil.rmtree(self.folder)


def outcomes(folder, count):
    """Return what each process has left, None where it had no time to."""
    files = [folder / f"outcome-{rank}.json" for rank in range(count)]
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


def be_launcher(request):
    """Start processes, wait for them, and leave their exit codes."""
    os.setsid()
    if "launched" in request:
        be_launching(request)
    from torch.distributed import TCPStore

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is told to the processes as well
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    folder, count = Path(request["folder"]), request["count"]
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    running, codes = {}, {}
    for rank in range(count):
        child = os.fork()
        if not child:
            be_process(rank, count, store.port, folder, request)
        running[child] = rank
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            time.sleep(0.01)
            continue
        code = os.waitstatus_to_exitcode(status)
        codes[running.pop(child)] = code
        if code and request.get("ends others", True):
            time.sleep(0.1)
            for other in running:
                os.kill(other, signal.SIGTERM)
    leave(folder / "codes.json", [codes[rank] for rank in range(count)])
    os._exit(0)


def be_launching(request):
    """Start one process of fitorch.launching."""
    folder = Path(request["folder"])
    child = os.fork()
    if not child:
        os.environ.update(request["environment"])
        from fitorch.distributed import worker as launched

        launched.end_with_parent = lambda: None
        sys.path.pop(0)
        code = launched.main(Path(request["launched"]))
        end(code)
    leave(folder / "pid", child)
    leave(folder / "codes.json", [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])])
    os._exit(0)


def leave(file, thing):
    """Write a file that is whole as soon as it is there."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(thing))
    part.rename(file)


def end(code):
    """End without what the parent wanted to do at the end."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def be_process(rank, count, port, folder, request):
    """Train, as one of the processes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    told |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": 0}
    told |= request.get("environment", {})
    os.environ.update({name: str(value) for name, value in told.items()})
    printed = os.open(folder / f"printed-{rank}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    import train  # pyright: ignore[reportMissingImports]

    code = 1
    try:
        train.main(request)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        end(code)


def be_parent():
    """Fork a launcher for each request."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(HERE / "scripts"))
    for name in ("accelerate", "pandas", "psutil", "torch._dynamo", "torchmetrics"):
        importlib.import_module(name)  # whatever would be imported by each process anew
    import torch
    import train  # noqa: F401  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("deepspeed"):
            importlib.import_module("deepspeed")  # three seconds, for who needs it
        child = os.fork()
        if not child:
            be_launcher(request)
        print(child, file=answers, flush=True)
        while os.waitpid(-1, os.WNOHANG)[0] if _has_children() else False:
            pass


def _has_children():
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    be_parent()
