"""Recomputation of batch norm statistics, for averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import swa_utils

from fitorch.internals.torch import BatchNorm

if TYPE_CHECKING:
    from fitorch.data.sources import Source

    from .trained_model import TrainedModel

_NAME = "SWA's data"  # for messages


def batch_norms_of(net: nn.Module) -> list[BatchNorm]:
    """Return the batch norms with running statistics, without those frozen in eval mode."""
    return [
        module
        for module in net.modules()
        if isinstance(module, BatchNorm)
        and module.running_mean is not None
        and (module.training or not net.training)
    ]


def recompute_statistics(
    model: TrainedModel, norms: list[BatchNorm], data: Any, batch_size: int | None
) -> None:
    """Compute batch norm statistics as means over the batches of `data`.

    The modes of the net and the random number generators do not change. If an error occurs, the
    statistics are restored. A last batch of one sample, which does not have a variance, is left
    out.

    Args:
        model: The model.
        norms: The batch norms of the model whose statistics to compute.
        data: Anything that `predict` takes.
        batch_size: The number of samples in a batch; None if `data` consists of batches.
    """
    from fitorch.data.epochs import one_pass, reading
    from fitorch.randomness import undisturbed_randomness

    # update_bn changes statistics and momentum of the norms in place.
    before = [(copy.deepcopy(norm.state_dict()), norm.momentum) for norm in norms]
    source = model.placement.send(source_of(model, data, batch_size))
    try:
        # The pass may draw random numbers, which the fit must not notice.
        with undisturbed_randomness():
            passed = reading(one_pass(source), _NAME, "", partial(source.samples_in, 0))
            batches = ([batch] for batch in _without_last_sample(passed))
            swa_utils.update_bn(batches, _BatchNormForward(model, norms))
    except BaseException:
        for norm, (state, momentum) in zip(norms, before, strict=True):
            norm.load_state_dict(state)
            norm.momentum = momentum
        raise
    finally:
        source.close()


def source_of(model: TrainedModel, data: Any, batch_size: int | None) -> Source:
    """Return a source for data that batch norm statistics are computed on.

    Raises:
        TypeError: `data` has an unsupported type.
        ValueError: `data` is empty, or does not consist of batches if `batch_size` is None.
    """
    from fitorch.data.sources import Batching, as_source
    from fitorch.nets.precision import floating_dtype

    floating = floating_dtype(model.net.parameters())
    return as_source(data, _NAME, Batching(batch_size, False, 0, floating, "auto"))


def _without_last_sample(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches without those of one sample that follow a larger batch."""
    from fitorch.tree import sample_count

    seen_larger = False
    for batch in batches:
        # BatchNorm raises an error for a batch of one sample, as for the rest of a pass.
        if sample_count(batch) > 1 or not seen_larger:
            yield batch
        seen_larger = seen_larger or sample_count(batch) > 1


class _BatchNormForward(nn.Module):
    """Module for `torch.optim.swa_utils.update_bn`: the batch norms, and a forward pass."""

    def __init__(self, model: TrainedModel, norms: list[BatchNorm]) -> None:
        super().__init__()
        # update_bn resets the norms that it finds in this module, so only these are in it.
        self.norms = nn.ModuleList(norms)
        spec = model.measurement_spec()
        net, cast, hook = spec.net, spec.placement.cast, spec.forward
        self._takes_batch = hook is not None
        # In a tuple, so that it does not become a submodule whose norms would be reset as well.
        self._net = (net,)
        self._call_features: Callable[[Any], Any] | None = None
        self._call: Callable[..., Any] = cast(net) if hook is None else partial(cast(hook), net)

    def forward(self, batch: Any) -> None:
        from fitorch.nets.calls import choose_call
        from fitorch.nets.forward import features_of

        if self._takes_batch:
            self._call(batch)
        else:
            features = features_of(batch)
            if self._call_features is None:
                self._call_features = choose_call(self._call, features, self._net[0])
            self._call_features(features)
