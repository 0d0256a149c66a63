"""Start several processes from a notebook or a plain script, and return their result."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

import cloudpickle
from torch.distributed import TCPStore  # type: ignore[attr-defined] # public, but untyped

from fitorch.checks import check_count
from fitorch.devices.accelerators import accelerators
from fitorch.environment import in_notebook
from fitorch.errors import RankError, annotate

PAYLOAD, RESULT = "payload", "result"

_FORWARDED_INTERRUPTS = 2  # the second one aborts training; a third kills the processes

_OUTPUT_TIMEOUT = 5.0  # seconds for the last output of a process that has ended

_POLL_INTERVAL = 0.05  # seconds

_GRACE = 10.0  # seconds for the other processes to end after one has failed


def launch(function: Callable[..., Any], arguments: Mapping[str, Any], count: int) -> Any:
    """Call a function in several new processes, and return the result of rank 0.

    The processes are new interpreters, which do not run the caller's script again. Function and
    arguments are copied to them, including classes and functions of a script or a notebook.

    Args:
        function: The function to call.
        arguments: Its arguments by name.
        count: The number of processes.

    Raises:
        TypeError: An argument cannot be copied to another process; the message contains its name.
        RankError: A process vanished, or this process is already one of several.
        Exception: The error of a process.
    """
    _check_devices(count)
    with tempfile.TemporaryDirectory(prefix="fitorch-") as name:
        folder = Path(name)
        # The payload is a file, because the pipe serves to notice the end of this process.
        folder.joinpath(PAYLOAD).write_bytes(_pickled_call(function, arguments))
        # Port 0 lets the store choose a free port and listen on it at once, so that no other
        # program can take it before the processes connect.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        with _started(folder, count, store.port) as processes:
            _wait(processes)
        # This comes before the result: rank 0 may have written one although another rank failed.
        _raise_failure(folder, processes)
        return pickle.loads(folder.joinpath(RESULT).read_bytes())


def _check_devices(count: int) -> None:
    check_count("num_processes", count)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        message = (
            "this process is already one of several, but fit_ddp and evaluate_ddp start new ones; "
            "call fit and evaluate, or start the script with python"
        )
        raise RankError(message)
    devices = len(accelerators())
    if devices and count > devices:
        message = f"num_processes={count}, but there are {devices} devices, one for each process"
        raise ValueError(message)


def _pickled_call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> bytes:
    try:
        return cloudpickle.dumps((function, dict(arguments), sys.path))  # type: ignore[no-any-return]
    except Exception as error:
        wrong = [name for name, value in arguments.items() if not _can_be_copied(value)]
        listed = ", ".join(f"{name} ({type(arguments[name]).__name__})" for name in wrong)
        message = (
            f"{listed or 'the arguments'} cannot be copied to another process: {error}; start the "
            "script with torchrun instead, which copies nothing"
        )
        raise TypeError(message) from error


def _can_be_copied(value: object) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True


@contextmanager
def _started(folder: Path, count: int, port: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the processes; at the end, kill those that still run and print their last output.

    Each process reads a pipe from this one, and ends when the pipe is closed: so none survives
    this process.
    """
    piped = in_notebook()
    processes: list[subprocess.Popen[bytes]] = []
    readers: list[threading.Thread] = []
    try:
        for rank in range(count):
            process = subprocess.Popen(
                [sys.executable, "-m", "fitorch.distributed.worker", str(folder)],
                env={**os.environ, **_rank_environment(rank, count, port)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if piped else None,
                stderr=subprocess.STDOUT if piped else None,
                # In a notebook, Ctrl-C must reach the processes through `_send` alone.
                start_new_session=piped,
            )
            processes.append(process)
            if process.stdout is not None:
                reader = threading.Thread(target=_forward, args=(process.stdout,), daemon=True)
                reader.start()
                readers.append(reader)
        yield processes
    finally:
        for process in processes:
            # After a regular end this does nothing: the processes have exited.
            process.kill()
            process.wait()
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
        for reader in readers:
            reader.join(_OUTPUT_TIMEOUT)


def _rank_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Return the environment variables of a rank, those that torchrun sets."""
    # The processes share the cores; with the default, each would start a thread per core.
    threads = max(1, (os.cpu_count() or 1) // count)
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",  # torch before 2.5 requires it
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        # The processes import fitorch before they receive `sys.path` with the payload.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


def _forward(output: IO[bytes]) -> None:
    """Copy the output of a process to `sys.stdout`, which the notebook shows."""
    with output:
        for line in output:
            sys.stdout.write(line.decode(errors="replace"))
    sys.stdout.flush()


def _wait(processes: list[subprocess.Popen[bytes]]) -> None:
    """Wait until all processes have ended, or until some seconds after one has failed.

    Signals to this process are forwarded to the processes, which honor them.
    """
    failed_at: float | None = None
    with _signals_forwarded(processes):
        while any(process.poll() is None for process in processes):
            time.sleep(_POLL_INTERVAL)
            # The others get some seconds to raise their own errors, which name the cause.
            if failed_at is None and any(process.poll() for process in processes):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > _GRACE:
                return


@contextmanager
def _signals_forwarded(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Forward Ctrl-C and SIGTERM to the processes; a third Ctrl-C raises KeyboardInterrupt."""
    interrupts = 0

    def forward(number: int, _frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > _FORWARDED_INTERRUPTS:
            raise KeyboardInterrupt
        _send(processes, number)

    before: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    in_main_thread = threading.current_thread() is threading.main_thread()
    replaced = [n for n in before if in_main_thread and signal.getsignal(n) is before[n]]
    try:
        for number in replaced:
            signal.signal(number, forward)
        yield
    finally:
        for number in replaced:
            signal.signal(number, before[number])


def _send(processes: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            # A terminal has sent Ctrl-C to the processes as well; they ignore the duplicate.
            process.send_signal(number)


def _raise_failure(folder: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """Raise the error that ended the processes: the cause, not the lost contact it led to."""
    failures = []  # (whether it is lost contact, rank, error, traceback)
    for rank, process in enumerate(processes):
        file = folder / f"error-{rank}"
        if file.is_file():
            error, text = pickle.loads(file.read_bytes())
            failures.append((isinstance(error, RankError), rank, error, text))
        elif process.returncode:
            code = process.returncode
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            lost = RankError(f"process {rank} of {len(processes)} vanished ({how})")
            failures.append((False, rank, lost, ""))
    if not failures:
        return
    # A rank that lost contact is only a consequence: all other failures come first.
    _, rank, error, text = min(failures, key=lambda failure: failure[:2])
    if text:
        annotate(error, f"in process {rank} of {len(processes)}:\n{text}")
    raise error
