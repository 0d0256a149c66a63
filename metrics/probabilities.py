"""Metrics of probabilities, for nets that return logits or probabilities."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.internals.torchmetrics import is_metric, updates_of

from .adapters import takes_weights, update_module
from .merge import merge, without_sync
from .results import result_of
from .state import load_state, moved, state_of
from .targets import Prepared, update_counted
from .task import PredictionKind, outside_unit_interval, to_probabilities
from .unread import Unread, known, together

_TAKES_PROBABILITIES = ("Binary", "Multiclass", "Multilabel")


class Probabilities:
    """A metric that gets its predictions converted to probabilities, and the targets that count.

    Metrics of torchmetrics guess in each update whether predictions are logits, so that their value
    can depend on how samples are batched. This class decides it once, by the objective. If the
    objective does not know, two copies of the metric are updated, one for logits and one for
    probabilities; `compute` reads the latter if all predictions of the epoch lie in [0, 1]. Metrics
    inside of a wrapper, a collection or a composition are converted for as well.

    Args:
        metric: The metric.
        scale: The kind of predictions, None if it is unknown.
    """

    def __init__(self, metric: Any, scale: PredictionKind) -> None:
        self.metric = without_sync(metric)
        self.batchable = metric  # batches may be concatenated if the metric is additive
        self.higher_is_better = getattr(metric, "higher_is_better", None)
        self._scale: PredictionKind = scale or "logits"
        # A second copy is updated in the same way, because the kind shows only at the end.
        self._as_is = None if scale else copy.deepcopy(metric)
        self._outside: Tensor | None = None
        self._weighted = takes_weights(metric)
        modules = list(metric.modules()) if isinstance(metric, nn.Module) else []
        # An `ignore_index` of the user's decides alone which targets are left out.
        self._leaves_out = any(getattr(m, "ignore_index", None) is not None for m in modules)
        self._by_itself = any(map(_needs_all_targets, modules))
        # Other metrics beside those of probabilities get the predictions as they are.
        converted = [_is_converted(member) for member in _members(metric)]
        self._mixed = any(converted) and not all(converted)
        if self._mixed:
            _convert_members(self.metric, partial(_probabilities, scale=self._scale))
            if self._as_is is not None:
                _convert_members(self._as_is, _clamped)

    def update(
        self,
        preds: Any,
        target: Any,
        sample_weight: Tensor | None = None,
        counted: Tensor | None = None,
    ) -> None:
        """Add a batch, with sample weights if the metric supports them.

        Args:
            preds: The predictions.
            target: The targets.
            sample_weight: A weight for each sample, or None.
            counted: Which targets count; None if all of them do.
        """
        counted = None if self._leaves_out else counted
        if counted is not None and self._by_itself:
            for metric in filter(None, (self.metric, self._as_is)):
                _leave_out_by_itself(metric)
        if self._as_is is not None:
            # Stays on the device: reading it in each update would synchronize.
            outside = _outside(preds, counted)
            self._outside = outside if self._outside is None else self._outside | outside
            # The copy must accept logits too, until they have shown that it is not needed.
            clamped = preds if self._mixed else _clamped(preds, target)
            self._update(self._as_is, Prepared(clamped, target, counted), sample_weight)
        if not self._mixed:
            preds = _probabilities(preds, target, scale=self._scale)
        self._update(self.metric, Prepared(preds, target, counted), sample_weight)

    def _update(self, metric: Any, prepared: Prepared, weight: Tensor | None) -> None:
        update_counted(
            metric,
            prepared,
            weight if self._weighted else None,
            weighted=self._weighted,
            by_itself=self._by_itself,
        )

    def to(self, device: torch.device) -> Probabilities:
        """Move the metric to a device."""
        self.metric = moved(self.metric, device)
        self._as_is = None if self._as_is is None else moved(self._as_is, device)
        return self

    def compute(self) -> Any:
        """Return the value over all batches, NaN if no target counted."""
        return self.unread().read()

    def unread(self) -> Unread[Any]:
        """Return what `compute` returns; metrics of torchmetrics may read when it is computed."""
        if updates_of(self.metric) == 0:
            return known(math.nan)
        if self._as_is is None or self._outside is None:
            return result_of(self.metric)
        outside = Unread([self._outside], lambda rows: bool(rows[0][0]))
        if not is_own(self.metric):
            # This waits for the device: the metric itself will, and only one of them is computed.
            return result_of(self.metric if outside.read() else self._as_is)
        both = together([outside, result_of(self.metric), result_of(self._as_is)])
        return both.then(lambda results: results[1] if results[0] else results[2])

    def reset(self) -> None:
        """Discard all batches."""
        self._outside = None
        for metric in (self.metric, self._as_is):
            if metric is not None:
                metric.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both copies."""
        as_is = None if self._as_is is None else state_of(self._as_is)
        return {"metric": state_of(self.metric), "as_is": as_is, "outside": self._outside}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states of both copies."""
        load_state(self.metric, state["metric"])
        if self._as_is is not None:
            load_state(self._as_is, state["as_is"])
        self._outside = state["outside"]

    def merge(self, parts: Sequence[Probabilities]) -> None:
        """Replace the state by the union of the states of `parts`."""
        merge(self.metric, [part.metric for part in parts])
        if self._as_is is not None:
            merge(self._as_is, [part._as_is for part in parts])
            flags = [part._outside for part in parts if part._outside is not None]
            # One logit in any process decides for all.
            self._outside = torch.stack(flags).any() if flags else None


def is_own(metric: Any) -> bool:
    """Return whether a metric is one of fitorch, which computes without reading from a device."""
    return type(metric).__module__.startswith("fitorch.metrics.")


def wants_probabilities(metric: Any) -> bool:
    """Return whether a metric of torchmetrics classifies, or contains metrics that do."""
    return any(map(_is_converted, _members(metric)))


def _members(metric: Any) -> Iterator[Any]:
    """Yield the metrics that get the arguments of a metric as they are, through containers.

    Wrappers, collections and compositions of torchmetrics pass their arguments on; metrics of users
    may change them first, and so may transformers of inputs.
    """
    name = type(metric).__name__
    if not isinstance(metric, nn.Module) or _is_converted(metric):
        yield metric
    elif name in ("ModuleList", "ModuleDict") or _passes_on(metric):
        for child in metric.children():
            if is_metric(child) or isinstance(child, (nn.ModuleList, nn.ModuleDict)):
                yield from _members(child)
    else:
        yield metric


def _passes_on(metric: Any) -> bool:
    if not update_module(metric).startswith("torchmetrics."):
        return False
    name = type(metric).__name__
    transforms = name.endswith("InputTransformer") or name in ("FeatureShare", "MetricTracker")
    has_members = any(
        is_metric(child) or isinstance(child, (nn.ModuleList, nn.ModuleDict))
        for child in metric.children()
    )
    return has_members and not transforms


def _is_converted(metric: Any) -> bool:
    """Return whether a metric, perhaps of a subclass, updates as torchmetrics' classification."""
    is_ours = update_module(metric).startswith("torchmetrics.")
    return is_ours and any(
        kind.__module__.startswith("torchmetrics.classification.")
        and kind.__name__.startswith(_TAKES_PROBABILITIES)
        for kind in type(metric).__mro__
    )


def _convert_members(metric: Any, convert: Any) -> None:
    for member in _members(metric):
        if _is_converted(member):
            member.update = partial(_update_converted, member.update, convert)


def _update_converted(update: Any, convert: Any, preds: Any, target: Any, **options: Any) -> None:
    update(convert(preds, target), target, **options)


def _probabilities(preds: Any, target: Any, *, scale: PredictionKind) -> Any:
    if isinstance(preds, Mapping):  # of a MultitaskWrapper
        return {k: _probabilities(part, target[k], scale=scale) for k, part in preds.items()}
    return to_probabilities(preds, target, scale) if isinstance(preds, Tensor) else preds


def _clamped(preds: Any, _target: Any) -> Any:
    if isinstance(preds, Mapping):
        return {key: _clamped(part, None) for key, part in preds.items()}
    floating = isinstance(preds, Tensor) and preds.is_floating_point()
    return preds.clamp(0, 1) if floating else preds


def _outside(preds: Any, counted: Tensor | None) -> Tensor:
    if isinstance(preds, Mapping):
        return torch.stack([_outside(part, None) for part in preds.values()]).any()
    if not isinstance(preds, Tensor):
        return torch.tensor(False)
    if counted is not None:
        # Predictions for targets that do not count are no evidence.
        by_class = preds.dim() == counted.dim() + 1
        mask = counted.unsqueeze(1) if by_class else counted.reshape(preds.shape)
        preds = preds.where(mask, 0)
    return outside_unit_interval(preds)


def _needs_all_targets(module: Any) -> bool:
    """Return whether a metric of torchmetrics needs whole samples, so it leaves out targets."""
    labels = any(kind.__name__.startswith("Multilabel") for kind in type(module).__mro__)
    return labels or getattr(module, "multidim_average", None) == "samplewise"


def _leave_out_by_itself(metric: Any) -> None:
    for module in metric.modules():
        if hasattr(module, "ignore_index") and module.ignore_index is None:
            module.ignore_index = -100
