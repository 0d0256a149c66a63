"""Processes that stay, and call functions together: starting new ones takes seconds."""

import contextlib
import os
import pickle
import select
import struct
import subprocess
import sys
import tempfile
import time

import cloudpickle
from torch.distributed import TCPStore

_PATIENCE = 120  # seconds for a call, before all processes are ended


class Cluster:
    """`count` processes of one group, on gloo."""

    def __init__(self, count):
        self.count = count
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the processes
        self.processes = [self._start(rank) for rank in range(count)]

    def _start(self, rank):
        told = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": self.count,
            "LOCAL_WORLD_SIZE": self.count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": self.store.port,
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": 0,
            "OMP_NUM_THREADS": 1,
        }
        return subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **{name: str(value) for name, value in told.items()}},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,  # so that nobody takes it for a worker of a fit
        )

    def run(self, function, *args, **options):
        """Return what the function returned in each process; raise what it raised in the first."""
        called = {each.__module__ for each in (function, *args) if callable(each)}
        for module in (__package__, *called):  # the processes can't import them
            cloudpickle.register_pickle_by_value(sys.modules[module])
        packed = cloudpickle.dumps((function, args, options))
        for process in self.processes:
            _send(process.stdin, packed)
        end = time.monotonic() + _PATIENCE
        answers = [pickle.loads(self._answer(process, end)) for process in self.processes]
        for rank, (error, _) in enumerate(answers):
            if error is not None:
                self.close()  # one of them may have left the group
                error.add_note(f"in process {rank}")
                raise error
        return [result for _, result in answers]

    def _answer(self, process, end):
        ready, _, _ = select.select([process.stdout], [], [], max(0, end - time.monotonic()))
        if not ready:
            self.errors.seek(0)
            message = f"no answer: {self.errors.read()[-3000:].decode(errors='replace')}"
            self.close()
            raise TimeoutError(message)
        return _receive(process.stdout)

    def close(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()
        self.errors.close()


def _send(stream, packed):
    stream.write(struct.pack("q", len(packed)) + packed)
    stream.flush()


def _receive(stream):
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    return stream.read(*struct.unpack("q", head))


def serve():
    """Call what comes, until nothing does."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed must not get between the answers
    import torch

    import fitorch  # noqa: F401 - before the first call, which is timed

    torch.set_num_threads(1)
    while True:
        try:
            packed = _receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            function, args, options = pickle.loads(packed)
            answer = (None, function(*args, **options))
        except BaseException as error:
            answer = (error, None)
        try:
            packed = cloudpickle.dumps(answer)
        except Exception as error:
            packed = cloudpickle.dumps((RuntimeError(f"{answer[0]!r}: {error}"), None))
        _send(answers, packed)


if __name__ == "__main__":
    serve()
