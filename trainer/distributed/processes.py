"""The processes that train together, and what they tell each other."""

from __future__ import annotations

import atexit
import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle
import torch
from torch import distributed, nn

from fitorch.errors import RankError
from fitorch.randomness import derive_seed

from .dtensor import is_split
from .failures import (
    FailureStore,
    await_error_reports,
    end_at_once,
    is_transport_error,
    report_to_launcher,
)

_MEGATRON = "ACCELERATE_USE_MEGATRON_LM"

_ROW = 4096  # bytes of what is gathered at once

_REST = 0.05  # seconds

_calls = 0  # of `together`, so far; the same in every process


class Processes:
    """The processes that were launched together; alone, where there is but one.

    What is gathered or sent is pickled. Every process must make the same calls in the same order.

    Attributes:
        rank: The number of this one, from 0.
        count: How many there are.
    """

    def __init__(self) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if together else 0
        self.world_size = distributed.get_world_size() if together else 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and draws."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1

    def rank_seed(self, seed: int, *labels: int | str) -> int:
        """Return a seed that differs between processes; that of the main one is the only one's."""
        return derive_seed(seed, *labels, *([self.rank] if self.rank else []))

    def gather(self, part: Any) -> list[Any]:
        """Return what each process passed, in their order."""
        if not self.is_distributed:
            return [part]
        return [pickle.loads(each) for each in _exchanged(_pickled(part), self.world_size)]

    def gather_to_main(self, part: Any) -> list[Any] | None:
        """Return what each process passed, in their order, to the main one; None to the others."""
        if not self.is_distributed:
            return [part]
        parts: list[Any] | None = [None] * self.world_size if self.is_main else None
        distributed.gather_object(_pickled(part), parts)
        return None if parts is None else [pickle.loads(each) for each in parts]

    def broadcast(self, thing: Any) -> Any:
        """Return what the main process passed."""
        if not self.is_distributed:
            return thing
        things = [_pickled(thing) if self.is_main else b""]
        distributed.broadcast_object_list(things)
        return pickle.loads(things[0])

    @torch.no_grad()
    def broadcast_module(self, module: nn.Module, *, parameters: bool = True) -> None:
        """Give a module's buffers, and its parameters, the values that they have in the main one.

        What is split stays: of that each process has a part of its own.

        Args:
            module: It has the same parts everywhere.
            parameters: Whether parameters too.
        """
        if not self.is_distributed:
            return
        tensors = [*module.buffers(), *(module.parameters() if parameters else ())]
        for tensor in tensors:
            if not is_split(tensor):
                distributed.broadcast(tensor.data, 0)

    def require_equal(self, facts: dict[str, Any]) -> None:
        """Refuse to begin where processes were asked for different things.

        Args:
            facts: What must be the same.

        Raises:
            RankError: It tells what differs, and the value in each process.
        """
        if not self.is_distributed:
            return
        everywhere = self.gather(facts)
        apart = [
            f"  {name}: "
            + ", ".join(f"{each.get(name)!r} in process {n}" for n, each in enumerate(everywhere))
            for name in facts
            if any(each.get(name) != facts[name] for each in everywhere)
        ]
        # A name that differs for anybody must be told by everybody, or the others would wait.
        if any(self.gather(bool(apart))):
            listed = "\n".join(apart[:10]) or "  see the other processes"
            message = f"the {self.world_size} processes were asked for different fits:\n{listed}"
            raise RankError(message)


def _exchanged(own: bytes, count: int) -> list[bytes]:
    """Return what each process has to say, in one message where nobody says much, else in two."""
    rows = _rows(own, _ROW, count)
    lengths = [int.from_bytes(row[:8], "little") for row in rows]
    if max(lengths) > _ROW - 8:
        rows = _rows(own, max(lengths) + 8, count)
    return [row[8 : 8 + length] for row, length in zip(rows, lengths, strict=True)]


def _rows(own: bytes, size: int, count: int) -> list[bytes]:
    """Return a row of so many bytes of each process: a length, and as much as there is room for."""
    on_cuda = distributed.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")
    told = (len(own).to_bytes(8, "little") + own)[:size].ljust(size, b"\0")
    row = torch.frombuffer(bytearray(told), dtype=torch.uint8).to(device)
    rows = [torch.empty_like(row) for _ in range(count)]
    distributed.all_gather(rows, row)
    return [each.cpu().numpy().tobytes() for each in rows]


def _pickled(thing: Any) -> bytes:
    """Pickle something, with classes and functions of a notebook in it."""
    return cloudpickle.dumps(thing)  # type: ignore[no-any-return]


@contextmanager
def together(
    processes: Processes, where: str, place: Callable[[], str] | None = None
) -> Iterator[None]:
    """Fail together: an error in one process ends the call in all, each with its message.

    Where all fail, as with a wrong argument, or a Ctrl-C that all have heard of, each keeps its
    error, and they can go on. Where one fails, it tells the others and leaves, which ends whatever
    they wait for.

    Args:
        processes: The processes.
        where: What they are at, as "fit".
        place: Tells how far this process has come, or None.

    Raises:
        RankError: Another process failed or vanished; the message tells which and why.
    """
    global _calls
    if not processes.is_distributed:
        yield
        return
    if not distributed.is_initialized():
        message = (
            f"{where}: after an error this process has left the others; start all of them anew"
        )
        raise RankError(message)
    _calls += 1
    store = FailureStore(processes.rank, processes.world_size, _calls)
    try:
        yield
    except BaseException as error:
        await_error_reports()
        if is_transport_error(error):
            leave()  # which tells those who wait for this one
            reached = "" if place is None else f"; this process was at {place()}"
            lost = RankError(store.diagnose(where, error) + reached)
            report_to_launcher(lost)
            raise lost from error
        store.publish(error)
        report_to_launcher(error)
        if store.all_failed():
            end_at_once()
        else:
            leave()
        raise


def leave() -> None:
    """Let go of the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def leave_at_exit() -> None:
    """Let go of the others when Python ends, which torch warns of where nobody does."""
    atexit.unregister(_leave_at_rest)
    atexit.register(_leave_at_rest)


def _leave_at_rest() -> None:
    """Leave once gloo's threads have come to rest.

    They may still hold a tensor of the last message, and would let go of it in a Python that is no
    more: then the process aborts, though all is done (2 of 15 did so, without the pause).
    """
    if distributed.is_initialized():
        time.sleep(_REST)
    leave()


def check_launch() -> None:
    """Refuse a launch of several processes that turns out to be of one, or of another kind.

    Raises:
        RankError: It tells how to launch several on CPUs, or that it is configured for
            what fitorch does not run.
    """
    if os.environ.get(_MEGATRON, "false").lower() in ("true", "1"):
        message = (
            f"accelerate is configured for Megatron-LM ({_MEGATRON}={os.environ[_MEGATRON]}), "
            "which fitorch does not run; run accelerate config again and choose FSDP with version "
            "2, or DeepSpeed"
        )
        raise RankError(message)
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if launched and "WORLD_SIZE" not in os.environ:
        message = (
            "accelerate was asked to launch several processes, but this is the only one: on CPUs "
            "it starts one. Use torchrun --nproc_per_node 2 script.py, or "
            "model.fit_ddp(num_processes=2, ...)"
        )
        raise RankError(message)
