"""Epoch iterator: the batches of each epoch, from passes over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from fitorch.distributed.processes import Processes
from fitorch.errors import DataError, annotate
from fitorch.internals.torch import worker_error
from fitorch.randomness import (
    draw_seed,
    random_state,
    seed_everything,
    set_random_state,
    undisturbed_randomness,
)

from .rank_split import padded
from .reader_state import same_state
from .rereading import Mark
from .rng_state import capture_generators, restore_generators
from .sources import Source

_RAGGED_HINT = (
    "; the samples differ in shape: pass DataLoader(collate_fn=...) that pads them, as "
    "torch.nn.utils.rnn.pad_sequence does; if they are batches, pass batch_size=None"
)


def opened(source: Source, processes: Processes, steps: int | None) -> Iterator[Any]:
    """Return the batches of a pass in an order that is the same in every process.

    Args:
        source: The source of the batches.
        processes: The processes that share the data.
        steps: The number of rounds, each with at most one batch for a process; None for all.
    """
    # Only user samplers draw from the global generators; an `Order` has its own seed.
    if processes.is_distributed and source.order_owners:
        seed_everything(processes.broadcast(draw_seed()))
    return one_pass(source, steps)


def one_pass(source: Source, steps: int | None = None) -> Iterator[Any]:
    """Yield the batches of a pass, which begins when the first one is requested.

    Args:
        source: The source of the batches.
        steps: The number of rounds, each with at most one batch for a process; None for all.
    """
    # The rounds are counted before those without a batch are left out: all processes read as many.
    for batch in islice(source.batches(0), steps):
        if batch is not None:
            yield batch


class EpochIterator:
    """Training batches, epoch by epoch.

    An epoch is one pass over the source. With `steps_per_epoch`, it is that many batches, and the
    next epoch continues where this one ended.

    Args:
        source: The source of the batches.
        steps_per_epoch: The number of batches per epoch; None is a whole pass.
        pass_index: The first pass, counted from 0.
        position: The number of batches of that pass that were used before.
        processes: The processes that share the data.
    """

    def __init__(
        self,
        source: Source,
        steps_per_epoch: int | None = None,
        pass_index: int = 0,
        position: int = 0,
        processes: Processes | None = None,
    ) -> None:
        self.source = source
        self.steps_per_epoch = steps_per_epoch
        self.pass_index = pass_index
        self.position = position
        self._processes = processes or Processes()
        self.behind = 0  # units used with another number of processes: see `PassLength`
        self.taken = 0  # batches of the current epoch that were used
        self.remembers = False  # whether to record the state at the beginning of each pass
        self._begun: dict[str, Any] | None = None
        self._own: Any = None  # the state of a stateful loader
        self._mark: Mark | None = None  # of the last batch before an interruption
        self._complete = False  # whether all batches of the pass were read
        self._opened = False  # whether a pass has been opened
        self._batches: Iterator[Any] | None = None

    @property
    def steps(self) -> int | None:
        """The number of batches per epoch, None if it is unknown."""
        return self.steps_per_epoch or self.source.steps

    def refresh(self) -> None:
        """Look at the data again if the next batch is the first one of a pass."""
        if not self.position and not self.behind:
            self.source.refresh()

    def epoch(self) -> Iterator[Any]:
        """Yield the batches of the epoch, or the rest of them.

        Raises:
            DataError: The source is exhausted.
        """
        while self.taken != self.steps_per_epoch:
            for batch in self._pass():
                # The batch is counted before it is used: a checkpoint after it starts with the next
                # one.
                self.position += 1
                self.taken += 1
                yield batch
                # The epoch ends before the next batch is read, which belongs to the next epoch.
                if self.taken == self.steps_per_epoch:
                    return
            if not self.position and not self.behind:
                raise DataError(self._exhausted())
            # From here on, as in the validation, a resumed fit asks the reader for the next pass.
            self._complete = True
            if self.steps_per_epoch is None:
                return
            self._begin_pass()

    def end_epoch(self) -> None:
        """Record the epoch as completed: all its batches have been used for training."""
        self.source.verify()
        # The count ends only here: during the validation, a checkpoint must still contain it.
        self.taken = 0
        if self.steps_per_epoch is None:
            self._begin_pass()

    def _begin_pass(self) -> None:
        self.pass_index, self.position, self.behind = self.pass_index + 1, 0, 0
        self._batches, self._complete = None, False

    def close(self) -> None:
        """Discard the iterator, and end worker processes."""
        self._batches = None
        self.source.close()

    def _pass(self) -> Iterator[Any]:
        """Return the iterator of the current pass, a new one if an epoch is a whole pass."""
        if self._complete:
            return iter(())
        # With `steps_per_epoch`, a pass continues over several epochs with the same iterator.
        if self._batches is None or self.steps_per_epoch is None:
            self._batches = self._padded(self._open())
        return self._batches

    def _padded(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Return as many batches as on all processes: None if the last round has none here."""
        rounds = self.source.pass_length.rounds(self.behind)
        if not self._processes.is_distributed or rounds is None:
            return batches
        return padded(batches, rounds - self.position)

    def _open(self) -> Iterator[Any]:
        """Return the batches of a new pass, or the rest of a resumed pass in the same order."""
        source, owners = self.source, self.source.order_owners
        self._opened, source.remembers = True, self.remembers
        if not self.position and not self.behind:
            if self._processes.is_distributed:
                return self._open_together()
            # The state is recorded before the order is drawn, so that a resumed fit draws the same.
            if self.remembers and owners:
                self._begun = {"random": random_state(), "order": capture_generators(owners)}
            return source.batches(self.pass_index)
        # A resumed pass draws its order from the state at its beginning; generators that reading
        # draws from must stay as they were at the checkpoint.
        reading = capture_generators(source.reading_owners)
        with undisturbed_randomness():
            if self._begun is not None:
                # The position of the global generators at the checkpoint is restored at the end of
                # the block.
                set_random_state(self._begun["random"])
                restore_generators(owners, self._begun["order"], load=self._own is None)
            if self._own is not None:
                source.rewind(self._own)
            source.expect(self._mark)
            batches = source.batches(self.pass_index, self.position, self.behind)
        # The state is used once: later passes start at their beginning.
        self._own = None
        restore_generators(source.reading_owners, reading)
        return batches

    def _open_together(self) -> Iterator[Any]:
        """Return the batches of a new pass in the order that the main process draws."""
        source, owners = self.source, self.source.order_owners
        if not owners:
            return source.batches(self.pass_index)
        # Every process captures, but only the state of the main one counts.
        begun = {"random": random_state(), "order": capture_generators(owners)}
        self._begun = begun = self._processes.broadcast(begun)  # synchronizes the processes
        if self._processes.is_main:
            return source.batches(self.pass_index)
        with undisturbed_randomness():
            # The draw of the other processes must not move their own generators.
            set_random_state(begun["random"])
            restore_generators(owners, begun["order"])
            return source.batches(self.pass_index)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that determines the order, apart from the counters and the seed."""
        source = self.source
        # Each process has ended the same number of rounds, but not the same reader.
        ended = source.exhausted and not self._processes.is_distributed
        complete = self._complete or (bool(self.position) and ended)
        inside = bool(self.position) and not complete
        if complete or (not self.position and not self.behind):
            # Between two passes, the next pass begins with the current states.
            # Some readers can no longer load a state once they were asked for one.
            states = capture_generators(source.order_owners, ask=self._opened)
            begun: dict[str, Any] | None = {"order": states}
        else:
            begun = self._begun
        # A stateful loader stores its position; with several processes, batches are skipped
        # instead.
        marked, inside = inside, inside and not self._processes.is_distributed
        # Before a resumed pass is opened, the reader is not where the pass is.
        unopened = self._batches is None
        mark = self._mark if unopened else source.mark()
        own = {
            "own": (self._own if unopened else self._position_state()) if inside else None,
            "mark": mark if marked else None,
            "by_share": source.by_share,
            "complete": complete,
        }
        reading = capture_generators(source.reading_owners)
        return {"begun": begun, "reading": reading, "behind": self.behind, **own}

    def _position_state(self) -> Any:
        """Return the state of a reader that holds its position, None to read batches again."""
        reader = self.source.stateful
        if reader is None:
            return None
        state = reader.state_dict()
        begun = [] if self._begun is None else self._begun["order"]
        # A reader that is at its beginning again after some batches has ended, or counts none.
        return None if any(same_state(state, one.get("own")) for one in begun) else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state; the counters must be restored before."""
        source, begun, self.behind = self.source, state["begun"], state["behind"]
        self._mark = state.get("mark")  # older checkpoints have none
        self._complete = state.get("complete", False)
        if not self._complete and (self.position or self.behind):
            self._begun, self._own = begun, state["own"]
        elif begun is not None:
            restore_generators(source.order_owners, begun["order"])
        restore_generators(source.reading_owners, state["reading"])
        # The iterator of the old position is discarded.
        self._batches = None

    def _exhausted(self) -> str:
        if self.pass_index == 0:
            return "train_data is empty: the training data has no batches"
        return (
            f"train_data has no batches in pass {self.pass_index + 1}; a generator yields its "
            "batches only once: pass a DataLoader, an object with __iter__, or steps_per_epoch"
        )


def reading(
    batches: Iterable[Any], name: str, where: str, samples_in: Callable[[int], list[int]]
) -> Iterator[Any]:
    """Yield `batches`; an error in reading gets a note with the data, the batch and the worker.

    If a worker's error has a type that torch cannot construct, torch raises a RuntimeError with its
    text; it gets the original type as its cause.

    Args:
        batches: The batches.
        name: The name of the data.
        where: The text before "batch 3" in the note.
        samples_in: Returns the sample numbers of a batch, if they are known.
    """
    iterator, number = iter(batches), 0
    while True:
        try:
            batch = next(iterator)
        # Within a generator, this exception would become a RuntimeError.
        except StopIteration:
            return
        except Exception as error:
            samples = samples_in(number)
            one_of = f", one of the samples {samples}" if samples else ""
            hint = _RAGGED_HINT if _is_ragged(error) else ""
            worker, original = worker_error(error)
            by = f" in worker {worker}" if worker else ""
            annotate(error, f"while reading {where}batch {number + 1} of {name}{by}{one_of}{hint}")
            if original is not None:
                raise error from original
            raise
        yield batch
        number += 1


def _is_ragged(error: Exception) -> bool:
    """Return whether samples of different shapes could not become a batch."""
    text = str(error)
    return "equal size" in text and ("stack expects" in text or "each element in list" in text)
