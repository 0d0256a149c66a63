"""Private names of Hugging Face's datasets: the stages of a stream."""

from __future__ import annotations


def has_shuffle_buffer(stream: object) -> bool:
    """Return whether a stream of Hugging Face shuffles through a buffer, which its state lacks.

    If a release names its stages otherwise, a resumed stream continues with an empty buffer, as its
    documentation says.
    """
    pending, seen = [getattr(stream, "_ex_iterable", None)], 0
    while pending and seen < 1000:
        stage, seen = pending.pop(), seen + 1
        if "BufferShuffled" in type(stage).__name__:
            return True
        # Streams that are interleaved or concatenated have several sources.
        sources = [getattr(stage, "ex_iterable", None), *getattr(stage, "ex_iterables", ())]
        pending += [source for source in sources if source is not None]
    return False


def missing() -> list[str]:
    """Return the private names above that the installed datasets does not have."""
    from datasets import Dataset, concatenate_datasets, interleave_datasets

    stream = Dataset.from_dict({"x": [1, 2]}).to_iterable_dataset().shuffle(seed=0, buffer_size=2)
    streams = {
        "IterableDataset._ex_iterable": stream,
        "interleaved ex_iterables": interleave_datasets([stream, stream]),
        "concatenated ex_iterables": concatenate_datasets([stream, stream]),
    }
    return [name for name, stream in streams.items() if not has_shuffle_buffer(stream)]
