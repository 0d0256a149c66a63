"""Start several processes from a notebook or a plain script, and bring home what they made."""

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
from typing import IO, Any

import cloudpickle
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined] # public, but untyped

from fitorch.checks import check_count
from fitorch.environment import in_notebook
from fitorch.errors import RankError, annotate

PAYLOAD, RESULT = "payload", "result"

_INTERRUPTIONS = 2  # that are passed on: the second one aborts; a third ends all at once

_PATIENCE = 5.0  # seconds for the last output of a process that has ended

_PAUSE = 0.05  # seconds between two looks at the processes

_GRACE = 10.0  # seconds that the others have to end by themselves, once one has failed


def launch(function: Callable[..., Any], arguments: Mapping[str, Any], count: int) -> Any:
    """Call a function in several new processes; return what it returned in the main one.

    The processes are new interpreters, which do not run the caller's script again. Everything is
    copied to them, classes and functions of a script or a notebook included.

    Args:
        function: What to call.
        arguments: Its arguments by name.
        count: How many processes.

    Raises:
        TypeError: An argument can't be copied to another process; it names the argument.
        RankError: A process vanished, or several are at work already.
        Exception: What a process raised.
    """
    _check_devices(count)
    with tempfile.TemporaryDirectory(prefix="fitorch-") as name:
        folder = Path(name)
        folder.joinpath(PAYLOAD).write_bytes(_pickled_call(function, arguments))
        # The port is found by whoever listens on it, so that nobody else can take it.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        with _started(folder, count, store.port) as processes:
            _wait(processes)
        _raise_failure(folder, processes)
        return pickle.loads(folder.joinpath(RESULT).read_bytes())


def _check_devices(count: int) -> None:
    check_count("num_processes", count)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        message = (
            "this is one of several processes already; fit_ddp and evaluate_ddp start their own: "
            "call fit and evaluate here, or start the script with python"
        )
        raise RankError(message)
    devices = torch.cuda.device_count()
    if devices and count > devices:
        message = f"num_processes={count}, but there are {devices} devices, one for each process"
        raise ValueError(message)


def _pickled_call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> bytes:
    try:
        return cloudpickle.dumps((function, dict(arguments), sys.path))  # type: ignore[no-any-return]
    except Exception as error:
        wrong = [name for name, value in arguments.items() if not _can_be_copied(value)]
        given = ", ".join(f"{name} ({type(arguments[name]).__name__})" for name in wrong)
        message = (
            f"{given or 'the arguments'} can't be copied to another process: {error}; start the "
            "script with torchrun instead, where nothing is copied"
        )
        raise TypeError(message) from error


def _can_be_copied(value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True


@contextmanager
def _started(folder: Path, count: int, port: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the processes; none is left at the end, and all is shown that they have printed.

    Each reads a pipe, whose end tells it that this process is gone.
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
            process.kill()
            process.wait()
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
        for reader in readers:
            reader.join(_PATIENCE)


def _rank_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Return what tells a process which one it is, as torchrun does."""
    threads = max(1, (os.cpu_count() or 1) // count)
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",  # which torch before 2.5 asks for
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


def _forward(output: IO[bytes]) -> None:
    """Print what a process prints where the notebook shows it."""
    with output:
        for line in output:
            sys.stdout.write(line.decode(errors="replace"))
    sys.stdout.flush()


def _wait(processes: list[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended; once one has failed, the others have a moment to do so.

    Signals to this process are passed on, and what they ask for is done there.
    """
    failed: float | None = None
    with _signals_told(processes):
        while any(process.poll() is None for process in processes):
            time.sleep(_PAUSE)
            if failed is None and any(process.poll() for process in processes):
                failed = time.monotonic()
            if failed is not None and time.monotonic() - failed > _GRACE:
                return


@contextmanager
def _signals_told(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM on, wherever they come; too many Ctrl-C end the waiting."""
    interruptions = 0

    def tell(number: int, _frame: Any) -> None:
        nonlocal interruptions
        interruptions += number == signal.SIGINT
        if interruptions > _INTERRUPTIONS:
            raise KeyboardInterrupt
        _tell(processes, number)

    before: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in before if main and signal.getsignal(number) is before[number]]
    try:
        for number in ours:
            signal.signal(number, tell)
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _tell(processes: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            process.send_signal(number)  # from a terminal it came there too, and counts once


def _raise_failure(folder: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """Raise what ended the processes: the first cause, not what followed from it."""
    found = []
    for rank, process in enumerate(processes):
        file = folder / f"error-{rank}"
        if file.is_file():
            error, text = pickle.loads(file.read_bytes())
            found.append((isinstance(error, RankError), rank, error, text))
        elif process.returncode:
            code = process.returncode
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            lost = RankError(f"process {rank} of {len(processes)} vanished ({how})")
            found.append((False, rank, lost, ""))
    if not found:
        return
    _, rank, error, text = min(found, key=lambda each: each[:2])
    if text:
        annotate(error, f"in process {rank} of {len(processes)}:\n{text}")
    raise error
