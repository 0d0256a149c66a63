"""The outputs of a prediction: on their device for a while, then on the host, many at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from fitorch.devices.accelerators import is_host
from fitorch.devices.copies import to_host
from fitorch.tree import map_leaves

from .joining import BatchOutput

_PENDING = 2**26  # bytes that outputs may take on a device

_LEAVES = (Tensor, np.ndarray)


class OutputBuffer:
    """Keeps copies of outputs, and waits for the device once for many batches."""

    def __init__(self) -> None:
        self._outputs: list[BatchOutput] = []
        self._pending: list[int] = []  # the outputs that are on a device
        self._bytes = 0

    def keep(self, output: BatchOutput) -> Any:
        """Keep a copy, which is returned: net or loader may use the memory for the next batch."""
        before = self._bytes
        copied = map_leaves(self._copied, output.output, _LEAVES)
        if self._bytes > before:
            self._pending.append(len(self._outputs))
        self._outputs.append(output._replace(output=copied))
        if self._bytes > _PENDING:
            self._fetch()
        return copied

    def all(self) -> list[BatchOutput]:
        """Return all outputs, on the host."""
        self._fetch()
        return self._outputs

    def _copied(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf.copy()
        # A net that differentiates within its forward pass may return a graph.
        tensor = leaf.detach().clone()
        if not is_host(tensor):
            self._bytes += tensor.numel() * tensor.element_size()
        return tensor

    def _fetch(self) -> None:
        outputs = on_host([self._outputs[number].output for number in self._pending])
        for number, output in zip(self._pending, outputs, strict=True):
            self._outputs[number] = self._outputs[number]._replace(output=output)
        self._pending, self._bytes = [], 0


class OutputLogs(Mapping[str, Any]):
    """Keras' logs of a prediction: the last output as "outputs", copied when it is read."""

    def __init__(self) -> None:
        self._output: Any = None

    def set(self, output: Any) -> None:
        """Set the output of the last batch."""
        self._output = output

    def __getitem__(self, name: str) -> Any:
        if name != "outputs" or self._output is None:
            raise KeyError(name)
        # This waits for the device, but only for a callback that looks.
        self._output = on_host(self._output)
        return self._output

    def __iter__(self) -> Iterator[str]:
        return iter(() if self._output is None else ("outputs",))

    def __len__(self) -> int:
        return 0 if self._output is None else 1


def on_host(tree: Any) -> Any:
    """Return a tree with its tensors in host memory, copied from a device together."""
    found: list[Tensor] = []
    map_leaves(found.append, tree, Tensor)
    copies = iter(to_host(found))
    return map_leaves(lambda _: next(copies), tree, Tensor)
