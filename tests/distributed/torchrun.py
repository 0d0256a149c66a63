"""Scripts under torchrun, as people start them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from distributed.forks import outcomes

SCRIPT = Path(__file__).with_name("scripts") / "train.py"
PATIENCE = 90  # seconds for a start on a busy machine, and a fit


class Torchrun:
    """A launcher at work, and what it starts.

    Attributes:
        seconds: How long it took.
        code: What it ended with.
        printed: What all of them printed.
    """

    def __init__(self, folder, count=2, *arguments, **options):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.count = folder, count
        told = folder / "options.json"
        told.write_text(json.dumps({**options, "folder": str(folder)}))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(count), *arguments, str(SCRIPT), str(told)]
        self.output = (folder / "printed").open("w+")
        self.process = subprocess.Popen(
            command,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def wait(self):
        """Return the outcomes once the launcher has ended; nothing of it is left."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            if time.monotonic() > end:
                self.end()
                raise TimeoutError(self.text())
            time.sleep(0.02)
        self.ended, self.code, self.printed = time.time(), self.process.returncode, self.text()
        left = self.left()
        self.end()
        assert left == []
        return outcomes(self.folder, self.count)

    def text(self):
        return (self.folder / "printed").read_text()

    def left(self):
        """Return the command lines of processes that were started, and run."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            line = " ".join(process.info["cmdline"] or [])
            if str(self.folder) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(line)
        return found

    def end(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.output.close()

    def until_trained(self):
        """Wait until every process has begun to train."""
        end = time.monotonic() + PATIENCE
        while not all((self.folder / f"began-{n}").exists() for n in range(self.count)):
            if time.monotonic() > end or self.process.poll() is not None:
                self.end()
                raise TimeoutError(self.text())
            time.sleep(0.02)


def run(folder, count=2, *arguments, **options):
    """Return a launcher that has ended, and what became of its processes."""
    launcher = Torchrun(folder, count, *arguments, **options)
    return launcher, launcher.wait()
