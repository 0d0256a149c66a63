"""What a failed assertion of a device may mean: a class number or an index out of range."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

from torch import Tensor

from fitorch.tree import leaves

_ASSERTION = "device-side assert"

_SECONDS = 10.0  # for reading targets again


def assertion_hint(error: BaseException, step: Any) -> str:
    """Return the range of the classes that were trained on, if an assertion of a device failed.

    Such an error says neither which operation failed nor in which batch, and no tensor on the
    device can be read after it. So the targets are read from the user's Dataset again.
    """
    if _ASSERTION not in str(error):
        return ""
    hint = "a class number or an index is out of range; fit(cpu=True) names the batch"
    found = [(int(target.min()), int(target.max()), sample) for target, sample in _classes(step)]
    if not found:
        return f"; {hint}"
    low, high = min(found), max(found, key=lambda each: each[1])
    return (
        f"; {hint}: the targets so far are classes from {low[0]} (sample {low[2]}) to {high[1]} "
        f"(sample {high[2]})"
    )


def _classes(step: Any) -> Iterator[tuple[Tensor, int]]:
    """Yield the class numbers of the samples of the epoch so far, each with its sample number."""
    run: Any = getattr(getattr(step, "model", None), "run", None)
    dataset: Any = None if run is None else getattr(run.iterator.source, "loader", None)
    if run is None or not hasattr(dataset, "__getitem__"):
        return
    iterator, end = run.iterator, perf_counter() + _SECONDS
    for position in range(iterator.position):
        for sample in iterator.source.samples_in(iterator.pass_index, position):
            item = dataset[sample]
            pair = isinstance(item, (tuple, list)) and len(item) in (2, 3)
            for target in leaves(item[1]) if pair else ():
                if target.numel() and not (target.is_floating_point() or target.is_complex()):
                    yield target, sample
            if perf_counter() > end:
                return
