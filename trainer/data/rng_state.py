"""Random generators and counters that loaders, samplers and datasets hold themselves."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from .workers import held_by

Streams = list[Any]  # for each owner the states of its generators, and its plain values

_GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)

_PLAIN = (bool, int, float, str)


def capture_generators(owners: Sequence[Any]) -> Streams:
    """Return what the owners' next numbers depend on, beside the global generators.

    It is the states of all generators in their attributes, and in those of the objects there; of
    samplers also plain values, such as an epoch that they count. What has a `state_dict` of its own
    tells by that.
    """
    return [_captured(owner) for owner in owners]


def restore_generators(owners: Sequence[Any], streams: Streams) -> None:
    """Put back what `capture` returned, into owners that were built alike."""
    for owner, state in zip(owners, streams, strict=True):
        if "own" in state:
            owner.load_state_dict(state["own"])
            continue
        for generator, each in zip(_generators(owner), state["generators"], strict=True):
            _set(generator, each)
        vars(owner).update(state["values"])


def owners_of(loader: Any) -> list[Any]:
    """Return who decides the order of a loader's samples: the loader, and its samplers."""
    own = getattr(loader, "generator", None)
    found: list[Any] = [] if own is None else [Held(own)]
    waiting = [getattr(loader, name, None) for name in ("batch_sampler", "sampler")]
    while waiting:
        thing = waiting.pop(0)
        if not isinstance(thing, Sampler) and not _iterates_itself(thing):
            continue
        if not any(thing is other for other in found):
            found.append(thing)
            waiting += [value for value in vars(thing).values() if isinstance(value, Sampler)]
    return found


class Held:
    """What holds generators, and nothing else that decides an order.

    Args:
        thing: A generator, or an object with generators in its attributes.
    """

    def __init__(self, thing: Any) -> None:
        self.thing = thing


def stateful(loader: Any) -> Any:
    """Return who knows where in a pass it is: a loader, or its dataset, with a state; else None.

    The dataset of worker processes is another copy, and does not know.
    """
    dataset = getattr(loader, "dataset", None) if not getattr(loader, "num_workers", 0) else None
    return next(filter(has_state, (loader, dataset)), None)


def has_state(thing: Any) -> bool:
    """Say whether something has a state of its own."""
    return all(callable(getattr(thing, name, None)) for name in ("state_dict", "load_state_dict"))


def _iterates_itself(thing: Any) -> bool:
    """Say whether it is a sampler of a user's own class."""
    own = hasattr(thing, "__dict__") and not isinstance(thing, type)
    return own and callable(getattr(thing, "__iter__", None))


def _captured(owner: Any) -> dict[str, Any]:
    if callable(getattr(owner, "load_state_dict", None)):
        return {"own": owner.state_dict()}
    counts = isinstance(owner, Sampler) or _iterates_itself(owner)
    values = vars(owner) if counts else {}
    return {
        "generators": [_get(generator) for generator in _generators(owner)],
        "values": {name: value for name, value in values.items() if type(value) in _PLAIN},
    }


def _generators(owner: Any) -> Iterator[Any]:
    """Give each generator that is held, once, in an order that depends on attributes alone."""
    seen: set[int] = set()
    for value, _ in held_by(owner):
        if isinstance(value, _GENERATORS) and id(value) not in seen:
            seen.add(id(value))
            yield value


def _get(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.bit_generator.state


def _set(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state


def set_epoch(pass_index: int, *things: Any) -> None:
    """Tell samplers that shuffle by the epoch's number, as DistributedSampler, which one it is."""
    for thing in things:
        receive = getattr(thing, "set_epoch", None)
        if callable(receive):
            receive(pass_index)
