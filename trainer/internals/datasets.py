"""Private names of Hugging Face's datasets: the stages of a stream."""

from __future__ import annotations


def has_shuffle_buffer(stream: object) -> bool:
    """Return whether a stream of Hugging Face shuffles through a buffer, which its state lacks.

    If a release names its stages otherwise, a resumed stream continues with an empty buffer, as its
    documentation says.
    """
    stage, seen = getattr(stream, "_ex_iterable", None), 0
    while stage is not None and seen < 100:
        if "BufferShuffled" in type(stage).__name__:
            return True
        stage, seen = getattr(stage, "ex_iterable", None), seen + 1
    return False


def missing() -> list[str]:
    """Return the private names above that the installed datasets does not have."""
    from datasets import Dataset

    stream = Dataset.from_dict({"x": [1, 2]}).to_iterable_dataset().shuffle(seed=0, buffer_size=2)
    return [] if has_shuffle_buffer(stream) else ["IterableDataset._ex_iterable"]
