"""The processes that train together, and the collectives between them."""

from __future__ import annotations

import atexit
import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn

from fitorch.devices.accelerators import default_device
from fitorch.devices.messages import packed, unpacked
from fitorch.errors import RankError
from fitorch.internals.torch import object_device
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

_ROW = 4096  # bytes that each process sends in the first message of a gather

_GLOO_PAUSE = 0.05  # seconds

_calls = 0  # the number of calls of `together`, the same in all processes


class Processes:
    """The processes that were launched together, or this process alone.

    Values that are gathered or broadcast are pickled; their tensors arrive in the host's memory.
    All processes must make the same calls in the same order, or they wait for each other.

    Attributes:
        rank: The rank of this process, from 0.
        world_size: The number of processes.
    """

    def __init__(self) -> None:
        in_group = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if in_group else 0
        self.world_size = distributed.get_world_size() if in_group else 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints: rank 0."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are several processes."""
        return self.world_size > 1

    def rank_seed(self, seed: int, *labels: int | str) -> int:
        """Return a seed that differs between processes; rank 0 has the seed of a single process."""
        return derive_seed(seed, *labels, *([self.rank] if self.rank else []))

    def gather(self, part: object) -> list[Any]:
        """Gather the values of all processes, in the order of the ranks."""
        if not self.is_distributed:
            return [part]
        # All processes wait here for the slowest one.
        return [unpacked(row) for row in _exchanged(packed(part), self.world_size)]

    def gather_to_main(self, part: object) -> list[Any] | None:
        """Gather the values of all processes on rank 0; return None in the others."""
        if not self.is_distributed:
            return [part]
        parts: list[Any] | None = [None] * self.world_size if self.is_main else None
        # The others wait until rank 0 has received their parts.
        distributed.gather_object(packed(part), parts)
        return None if parts is None else [unpacked(row) for row in parts]

    def broadcast(self, value: object) -> Any:
        """Return the value of rank 0."""
        if not self.is_distributed:
            return value
        values = [packed(value) if self.is_main else b""]
        # The others wait for rank 0.
        distributed.broadcast_object_list(values)
        return unpacked(values[0])

    @torch.no_grad()
    def broadcast_module(self, module: nn.Module, *, parameters: bool = True) -> None:
        """Broadcast buffers and parameters of a module from rank 0.

        Sharded tensors are left out: each process holds another part of them.

        Args:
            module: The module, with the same parameters and buffers in all processes.
            parameters: Whether to broadcast parameters too.
        """
        if not self.is_distributed:
            return
        tensors = [*module.buffers(), *(module.parameters() if parameters else ())]
        for tensor in tensors:
            if not is_split(tensor):
                # The processes wait for rank 0, in the order of registration, which is the same in
                # all.
                distributed.broadcast(tensor.data, 0)

    def require_equal(self, facts: dict[str, Any]) -> None:
        """Check that all processes pass the same values.

        Args:
            facts: The values that must be equal, by name.

        Raises:
            RankError: Values differ; the message contains those of each process.
        """
        if not self.is_distributed:
            return
        gathered = self.gather(facts)
        different = [
            f"  {name}: "
            + ", ".join(f"{other.get(name)!r} in process {n}" for n, other in enumerate(gathered))
            for name in facts
            if any(other.get(name) != facts[name] for other in gathered)
        ]
        # A process whose own names all agree may still miss a name of another one. It must raise
        # an error too, or it would wait for the others in the next collective.
        if any(self.gather(bool(different))):
            listed = "\n".join(different[:10]) or "  see the other processes"
            message = f"the {self.world_size} processes have different settings:\n{listed}"
            raise RankError(message)


def _exchanged(data: bytes, count: int) -> list[bytes]:
    """Return the bytes of each process: in one message if all are short, otherwise in two."""
    rows = _rows(data, _ROW, count)
    lengths = [int.from_bytes(row[:8], "little") for row in rows]
    if max(lengths) > _ROW - 8:  # known to all processes, so all send the second message
        rows = _rows(data, max(lengths) + 8, count)
    return [row[8 : 8 + length] for row, length in zip(rows, lengths, strict=True)]


def _rows(data: bytes, size: int, count: int) -> list[bytes]:
    """Gather a row of `size` bytes from each process: a length, and as much data as fits."""
    device = object_device(default_device())
    content = (len(data).to_bytes(8, "little") + data)[:size].ljust(size, b"\0")
    # A group that was made elsewhere may send tensors of devices only, as those of NCCL.
    row = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)
    rows = [torch.empty_like(row) for _ in range(count)]
    distributed.all_gather(rows, row)
    # On a GPU this waits for the device.
    return [row.cpu().numpy().tobytes() for row in rows]


@contextmanager
def together(
    processes: Processes, where: str, place: Callable[[], str] | None = None
) -> Iterator[None]:
    """Run a call that ends in all processes if one of them fails, with the same message.

    If all processes fail, as for a wrong argument or Ctrl-C, each raises its own error, and the
    group remains usable. If only some fail, each records its error in the failure store and leaves
    the group, which ends the collectives that the others wait in.

    Args:
        processes: The processes.
        where: The name of the call, as "fit".
        place: Returns the current position in training for the message, or None.

    Raises:
        RankError: Another process failed or vanished; the message contains its rank and its error.
    """
    global _calls
    if not processes.is_distributed:
        yield
        return
    if not distributed.is_initialized():
        message = f"{where}: this process left the group after an error; restart all processes"
        raise RankError(message)
    _calls += 1
    store = FailureStore(processes.rank, processes.world_size, _calls)
    try:
        yield
    except BaseException as error:
        # A launcher may send SIGTERM at any moment now; this process must raise its error first.
        await_error_reports()
        if is_transport_error(error):
            leave()  # ends the collectives of processes that still wait for this one
            reached = "" if place is None else f"; this process was at {place()}"
            lost = RankError(store.diagnose(where, error) + reached)
            report_to_launcher(lost)
            raise lost from error
        # Published before leaving: the others read it as soon as their collectives end.
        store.publish(error)
        report_to_launcher(error)
        # This waits some seconds for the errors of the others.
        if store.all_failed():
            # All failed alike, so none waits in a collective, and the group remains usable.
            end_at_once()
        else:
            leave()
        raise


def leave() -> None:
    """Leave the process group."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
        # The nets of earlier fits may hold the group in reference cycles. Its connections, in which
        # the other processes wait, close once nothing holds it.
        gc.collect()


def leave_at_exit() -> None:
    """Leave the process group when Python exits; torch would warn if it still existed."""
    # Registered only once, however many placements this process makes.
    atexit.unregister(_pause_and_leave)
    atexit.register(_pause_and_leave)


def _pause_and_leave() -> None:
    """Leave the process group after a pause for gloo's threads.

    A thread may still hold a tensor of the last message. If it releases the tensor after Python
    has shut down, the process aborts, although all work is done (2 of 15 did without the pause).
    """
    if distributed.is_initialized():
        time.sleep(_GLOO_PAUSE)
    leave()


def check_launch() -> None:
    """Check how accelerate has launched this process.

    Raises:
        RankError: accelerate is configured for Megatron-LM, or has started only one of several
            processes, as it does on CPUs.
    """
    if os.environ.get(_MEGATRON, "false").lower() in ("true", "1"):
        message = (
            f"accelerate is configured for Megatron-LM ({_MEGATRON}={os.environ[_MEGATRON]}), "
            "which fitorch does not support; run accelerate config again and choose FSDP with "
            "version 2, or DeepSpeed"
        )
        raise RankError(message)
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if launched and "WORLD_SIZE" not in os.environ:
        message = (
            "accelerate launch starts only one process on CPUs; use torchrun --nproc_per_node 2 "
            "script.py, or model.fit_ddp(num_processes=2, ...)"
        )
        raise RankError(message)
