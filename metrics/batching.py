"""Metric batching: updates of the metrics of one output, with several batches at once if exact."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fitorch.signatures import takes_targets_first

from .adapters import takes_weights, update_module
from .batch_buffer import BatchBuffer
from .calls import report_order
from .epochwise import WholeEpoch
from .merge import merge
from .named import NamedMetric
from .probabilities import Probabilities
from .results import result_of
from .soft import SoftTargets
from .state import clone_state, load_state, state_of
from .targets import Prepared, TargetForm, logits_of, update_counted
from .unread import Rows, Unread

_MAX_BATCHES = 64  # the number of batches concatenated for additive metrics

_MAX_ELEMENTS = 1 << 21  # of pending predictions, which end the batch sooner (8 MB of float32)

_ADDITIVE = ("torchmetrics.classification.", "torchmetrics.regression.", "fitorch.metrics.")

_HALF_DTYPES = (torch.float16, torch.bfloat16)


class MetricError(ValueError):
    """A metric failed; the message has its name, and the shapes or the result."""


class ResultError(MetricError):
    """The result of a metric is not a number, and has no numbers."""


class OutputMetrics:
    """The metrics of one output.

    Args:
        output: The keys that lead to the output; () is the net's whole output.
        metrics: Maps names to metrics.
        form: How predictions and targets of the output are read.
    """

    def __init__(
        self,
        output: tuple[Any, ...],
        metrics: dict[str, Any],
        form: TargetForm | None = None,
    ) -> None:
        self.metrics = metrics
        self._output = output
        self._form = form or TargetForm()
        self._readers = {name: _reader(metric) for name, metric in metrics.items()}
        # Signatures are inspected once, because that is slow.
        self._weighted = {name for name, metric in metrics.items() if takes_weights(metric)}
        self._targets_first = {
            name
            for name, metric in metrics.items()
            if self._readers[name] == "raw" and takes_targets_first(metric.update)
        }
        for name in self._targets_first:
            report_order(metrics[name])
        self._joined = [name for name, metric in metrics.items() if _is_additive(metric)]
        self._one_by_one = [name for name, metric in metrics.items() if not _is_additive(metric)]
        self._pending: list[tuple[Any, Any, Any]] = []
        self._buffers = [BatchBuffer(_MAX_BATCHES, _MAX_ELEMENTS // _MAX_BATCHES) for _ in range(3)]
        self._pending_elements = 0
        self._limit = 1  # the first batch is not held back, so that errors surface early

    def update(self, y_pred: Any, y_true: Any, weight: Any) -> None:
        """Add a batch.

        Raises:
            MetricError: A metric fails on the batch.
        """
        for key in self._output:
            y_pred = self._select(y_pred, key, "the net's output")
            if not isinstance(y_true, Tensor):  # one tensor belongs to every output
                y_true = self._select(y_true, key, "the targets")
            weight = weight[key] if isinstance(weight, (Mapping, list, tuple)) else weight
        if isinstance(y_true, Tensor) and y_true.dtype in _HALF_DTYPES:
            # Metrics add up in the dtype of what they get; sums in half precision would round.
            y_true = y_true.float()
        if self._one_by_one:
            # These metrics may average over their calls, so each call gets one batch.
            self._update_metrics(self._one_by_one, y_pred, y_true, weight)
        if self._joined:
            if not isinstance(y_pred, Tensor):
                y_pred = logits_of(y_pred)  # these metrics compare tensors
            self._pending.append(self._copy_for_later(y_pred, y_true, weight))
            self._pending_elements += (
                y_pred.numel() if isinstance(y_pred, Tensor) else _MAX_ELEMENTS
            )
            # This depends on the numbers of batches and elements alone, so that a resumed fit joins
            # the same batches.
            if len(self._pending) >= self._limit or self._pending_elements >= _MAX_ELEMENTS:
                self.flush()
                self._limit = _MAX_BATCHES

    def _copy_for_later(self, y_pred: Any, y_true: Any, weight: Any) -> tuple[Any, Any, Any]:
        """Return the batch in a form that can be kept for `_MAX_BATCHES` steps."""
        if self._limit == 1:
            # Flushed at once; but metrics that keep what they get must have a copy, since the net
            # or the loader may use the same memory for the next batch.
            return _copied(y_pred), _copied(y_true), _copied(weight)
        pred_buffer, true_buffer, weight_buffer = self._buffers
        weight = weight if weight is None else weight_buffer.keep(weight)
        return pred_buffer.keep(y_pred), true_buffer.keep(y_true), weight

    def unread(self) -> dict[str, Unread[Any]]:
        """Return the result of each metric, whose numbers on a device have not been read.

        Pending batches stay pending. How batches are concatenated depends on their number alone,
        not on when a callback reads a value, so that the bits do not depend on readers.

        Raises:
            MetricError: A metric fails.
        """
        # The state is cloned, because the updates below change the metrics' tensors in place.
        before = clone_state(self.state_dict()) if self._pending else None
        self.flush()
        try:
            return {name: self._result_of(name) for name in self.metrics}
        finally:
            if before is not None:
                # The metrics are left as they were before the value was read.
                self.load_state_dict(before)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the metrics, and the pending batches.

        Pending batches are not flushed: an early flush would change the order of summation, and
        thereby the bits.
        """
        states = {name: state_of(metric) for name, metric in self.metrics.items()}
        pending = [list(batch) for batch in self._pending]
        return {"metrics": states, "pending": pending, "limit": self._limit}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states and the pending batches."""
        for name, metric_state in state["metrics"].items():
            load_state(self.metrics[name], metric_state)
        self._pending = [(y_pred, y_true, weight) for y_pred, y_true, weight in state["pending"]]
        self._pending_elements = sum(y_pred.numel() for y_pred, _, _ in self._pending)
        self._limit = state["limit"]

    def merge(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Replace the states by the union of the states of `parts`.

        Args:
            parts: The metrics of several processes, by name.

        Raises:
            MetricError: A metric cannot be merged.
        """
        for name in self.metrics:
            self._merge_metric(name, [part[name] for part in parts])

    def reset(self) -> None:
        """Discard all batches."""
        self._clear_pending()
        for metric in self.metrics.values():
            metric.reset()

    def flush(self) -> None:
        """Update the additive metrics with the pending batches."""
        # All metrics get the same joined batch.
        for batch in _concatenate(self._pending):
            self._update_metrics(self._joined, *batch)
        self._clear_pending()

    def _clear_pending(self) -> None:
        self._pending.clear()
        self._pending_elements = 0
        for buffer in self._buffers:
            buffer.clear()

    def _select(self, tree: Any, key: Any, what: str) -> Any:
        if isinstance(key, str) and not isinstance(tree, (Tensor, Mapping)) and hasattr(tree, key):
            return detached(getattr(tree, key))  # a field of a named tuple or a dataclass
        parts: Any = tree
        try:
            return parts[key]
        except (KeyError, IndexError, TypeError) as error:
            contents = list(tree) if isinstance(tree, Mapping) else _describe_tensors(tree)
            message = (
                f"metrics {list(self.metrics)} need output {key!r}, but it is not in {what}: "
                f"{contents}"
            )
            raise MetricError(message) from error

    def _update_metrics(self, names: list[str], y_pred: Any, y_true: Any, weight: Any) -> None:
        prepared: Prepared | None = None  # once for all metrics
        for name in names:
            reader = self._readers[name]
            try:
                if reader in ("raw", "logits"):
                    whole = Prepared(y_pred if reader == "raw" else logits_of(y_pred), y_true)
                else:
                    prepared = prepared or self._form.prepare(logits_of(y_pred), y_true)
                    whole = prepared
                self._update_metric(name, reader, whole, weight if name in self._weighted else None)
            except Exception as error:
                message = (
                    f"metric {name!r} failed on predictions {_describe_tensors(y_pred)} and "
                    f"targets {_describe_tensors(y_true)}: {error}{_squeezed(y_pred, y_true)}"
                )
                raise MetricError(message) from error

    def _update_metric(self, name: str, reader: str, batch: Prepared, weight: Any) -> None:
        metric, (y_pred, y_true, counted) = self.metrics[name], batch
        if reader == "counts":
            metric.update(y_pred, y_true, sample_weight=weight, counted=counted)
        elif reader == "weighs":
            y_true = self._form.class_numbers(y_pred, y_true)
            update_counted(metric, Prepared(y_pred, y_true, counted), weight, weighted=True)
        else:
            if name in self._targets_first:
                y_pred, y_true = y_true, y_pred
            weights = {} if weight is None else {"sample_weight": weight}
            metric.update(y_pred, y_true, **weights)

    def _result_of(self, name: str) -> Unread[Any]:
        with _named_error(name):
            result = result_of(self.metrics[name])

        def finish(rows: Rows) -> Any:
            with _named_error(name):
                return result.finish(rows)

        return Unread(result.tensors, finish)

    def _merge_metric(self, name: str, parts: list[Any]) -> None:
        try:
            merge(self.metrics[name], parts)
        except Exception as error:
            message = f"metric {name!r} cannot be merged: {error}"
            raise MetricError(message) from error


@contextmanager
def _named_error(name: str) -> Iterator[None]:
    """Raise errors of a metric's computation with its name."""
    try:
        yield
    except Exception as error:
        message = f"metric {name!r} cannot be computed: {error}"
        raise MetricError(message) from error


def _is_additive(metric: Any) -> bool:
    """Return whether concatenated batches give the same result as the batches one by one."""
    inner = getattr(metric, "batchable", metric)  # a bool, or the metric that an adapter wraps
    if isinstance(inner, bool):
        return inner
    if type(inner).__name__ == "MetricCollection":
        return all(map(_is_additive, inner.values()))
    return type(inner).__module__.startswith(_ADDITIVE)


def _concatenate(pending: list[tuple[Any, Any, Any]]) -> list[tuple[Any, Any, Any]]:
    """Return the batches concatenated to one, if they are tensors that differ in length alone."""
    tensors = all(isinstance(part, Tensor) for batch in pending for part in batch[:2])
    # A single batch needs no copy.
    if len(pending) < 2 or not tensors:
        return pending
    # Predictions of other sizes, as of sequences, cannot be joined, nor those without a batch
    # dimension.
    shapes = {(y_pred.dim(), y_pred.shape[1:], y_true.shape[1:]) for y_pred, y_true, _ in pending}
    if len(shapes) > 1 or not all(y_pred.dim() and y_true.dim() for y_pred, y_true, _ in pending):
        return pending
    y_pred, y_true, weight = zip(*pending, strict=True)
    weighted = all(isinstance(part, Tensor) for part in weight)
    # Some batches have weights and some do not.
    if not weighted and any(part is not None for part in weight):
        return pending
    return [(torch.cat(y_pred), torch.cat(y_true), torch.cat(weight) if weighted else None)]


def detached(output: Any) -> Any:
    """Return an output of the same form without its graph and with at least 32 bits."""
    if isinstance(output, Tensor):
        tensor = output.detach()
        return tensor.float() if tensor.dtype in _HALF_DTYPES else tensor
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*map(detached, output))
    if isinstance(output, (tuple, list)):
        values = [detached(value) for value in output]
        return tuple(values) if type(output) is tuple else values
    if type(output) is dict:
        return {key: detached(value) for key, value in output.items()}
    return _detached_object(output)


def _detached_object(output: Any) -> Any:
    """Return a shallow copy of an object or a mapping with its tensors detached."""
    tensors = {k: v for k, v in getattr(output, "__dict__", {}).items() if isinstance(v, Tensor)}
    items = dict(output) if isinstance(output, Mapping) else {}
    if not (tensors or items):
        return output
    try:
        new: Any = copy.copy(output)
        vars(new).update({name: detached(value) for name, value in tensors.items()})
        for key, value in items.items():
            new[key] = detached(value)  # a ModelOutput sets its attribute too
    except TypeError:  # a mapping that cannot be changed
        return {key: detached(value) for key, value in items.items()}
    return new


def _reader(metric: Any) -> str:
    """Return how a metric reads a batch.

    "raw" metrics, which belong to users, get the net's output unchanged, and "logits" metrics its
    logits as they are. All others get tensors in the form of classification:
    "counts" also which targets count, "weighs" a weight of 0 for targets that do not count.
    """
    if isinstance(metric, (NamedMetric, Probabilities, SoftTargets)):
        return "counts"
    if isinstance(metric, WholeEpoch):
        return "raw"
    module = update_module(metric)
    if module.startswith("fitorch.metrics.") and takes_weights(metric):
        return "weighs"
    if module.startswith("torchmetrics.text."):
        return "logits"  # Perplexity takes (N, T, C), and leaves out targets by itself
    return "tensors" if module.startswith("torchmetrics.") else "raw"


def _copied(part: Any) -> Any:
    return part.clone() if isinstance(part, Tensor) else part


def _squeezed(y_pred: Any, y_true: Any) -> str:
    """Return a hint, for messages, if a `.squeeze()` has removed the batch dimension."""
    tensors = isinstance(y_pred, Tensor) and isinstance(y_true, Tensor)
    if not tensors or not y_true.dim() or len(y_true) != 1 or (y_pred.dim() and len(y_pred) == 1):
        return ""
    return (
        "; the output for one sample has no batch dimension, so end the net with .squeeze(-1) "
        "instead of .squeeze()"
    )


def _describe_tensors(tree: Any) -> str:
    if isinstance(tree, Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')} {tuple(tree.shape)}"
    if isinstance(tree, Mapping):
        return (
            "{"
            + ", ".join(f"{key!r}: {_describe_tensors(part)}" for key, part in tree.items())
            + "}"
        )
    if isinstance(tree, (tuple, list)):
        return "(" + ", ".join(map(_describe_tensors, tree)) + ")"
    return type(tree).__name__
