"""RNG state of loaders, samplers and datasets with their own generators and counters."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import Sampler

from .plain_attributes import ChangedAttributes
from .reader_state import has_state, load_reader
from .workers import attributes_of

AnyGenerator: TypeAlias = (
    torch.Generator | random.Random | np.random.Generator | np.random.RandomState
)

RngStates = list[Any]  # for each owner, the states of its generators and its plain values

GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)

_PLAIN_TYPES = (bool, int, float, str)


def capture_generators(owners: Sequence[Any], *, ask: bool = True) -> RngStates:
    """Return the state that determines the owners' next numbers, without the global generators.

    These are the states of all generators in their attributes, and in the attributes of those
    objects; for samplers, also plain values, such as a counted epoch. If an owner has a
    `state_dict`, it is used instead.

    Args:
        owners: The objects.
        ask: Whether to ask for states of their own; otherwise they stay as they are when the
            states are restored.
    """
    return [_capture(owner) if ask or not has_state(owner) else {} for owner in owners]


def restore_generators(owners: Sequence[Any], states: RngStates, *, load: bool = True) -> None:
    """Restore what `capture_generators` returned, in owners of the same construction.

    Args:
        owners: The objects.
        states: Their states.
        load: Whether to load states of their own; without it, a reader gets another one.
    """
    for owner, state in zip(owners, states, strict=True):
        # A `state_dict` of its own takes precedence over the attributes.
        if "own" in state and load:
            load_reader(owner, state["own"])
        if "changes" in state and isinstance(owner, GeneratorHolder) and owner.changes:
            owner.changes.load_state_dict(state["changes"])
        if "generators" not in state:
            continue
        for generator, rng_state in zip(_generators(owner), state["generators"], strict=True):
            _set_generator_state(generator, rng_state)
        vars(owner).update(state["values"])


def owners_of(loader: object) -> list[Any]:
    """Return the objects that determine the order of a loader: its generator and its samplers."""
    generator = getattr(loader, "generator", None)
    owners: list[Any] = [] if generator is None else [GeneratorHolder(generator)]
    # A batch sampler contains the sampler, and samplers may wrap others.
    pending = [getattr(loader, name, None) for name in ("batch_sampler", "sampler")]
    while pending:
        thing = pending.pop(0)
        if not isinstance(thing, Sampler) and not _iterates_itself(thing):
            continue
        # A loader refers to its sampler twice, directly and through the batch sampler.
        if not any(thing is other for other in owners):
            owners.append(thing)
            pending += [value for value in vars(thing).values() if isinstance(value, Sampler)]
    return owners


@contextmanager
def undisturbed_owners(owners: Sequence[Any]) -> Iterator[None]:
    """Restore on exit the state that `capture_generators` returns for the owners."""
    states = copy.deepcopy(capture_generators(owners))
    try:
        yield
    finally:
        restore_generators(owners, states)


@contextmanager
def undisturbed_order(loader: Any) -> Iterator[None]:
    """Restore on exit what determines the order of data: generators, counters and the epoch.

    These are the generators of a loader, its samplers, its collate function and its dataset, or of
    the data itself; the counters of samplers; and the epoch of a dataset with `set_epoch`. A
    position that a reader keeps is not restored: few of them can be asked for it at any time.
    """
    data = getattr(loader, "dataset", loader)
    owners = [GeneratorHolder(each) if has_state(each) else each for each in owners_of(loader)]
    owners += [GeneratorHolder(data), *holders_of(getattr(loader, "collate_fn", None))]
    epoch = getattr(data, "epoch", None)
    try:
        with undisturbed_owners(owners):
            yield
    finally:
        if isinstance(epoch, int):
            set_epoch(epoch, data)


class GeneratorHolder:
    """Wrapper for an object of which only the generators determine an order.

    Args:
        thing: A generator, or an object with generators in its attributes.
        changes: The attributes of the object that are part of the state, too; None for none.
    """

    def __init__(self, thing: object, changes: ChangedAttributes | None = None) -> None:
        self.thing, self.changes = thing, changes


def holders_of(thing: object) -> list[GeneratorHolder]:
    """Return a holder of an object if there are generators in it, as in a collate function's."""
    return [GeneratorHolder(thing)] if next(_generators(GeneratorHolder(thing)), None) else []


def _iterates_itself(thing: object) -> bool:
    """Return whether an object is an instance with its own `__iter__`, as samplers are."""
    is_instance = hasattr(thing, "__dict__") and not isinstance(thing, type)
    return is_instance and callable(getattr(thing, "__iter__", None))


def _capture(owner: Any) -> dict[str, Any]:
    # Asking for a state may draw: torchdata's nodes begin a pass for it.
    generators = [_generator_state(generator) for generator in _generators(owner)]
    changes = owner.changes if isinstance(owner, GeneratorHolder) else None
    if changes:
        return {"generators": generators, "values": {}, "changes": changes.state_dict()}
    if has_state(owner):
        # The generator of a sampler inside need not be part of it.
        # A copy: a reader may return the object that it changes.
        reader: Any = owner
        return {"own": copy.deepcopy(reader.state_dict()), "generators": generators, "values": {}}
    # Only samplers count: attributes of a dataset are data, not a position.
    counts = isinstance(owner, Sampler) or _iterates_itself(owner)
    values = vars(owner) if counts else {}
    return {
        "generators": generators,
        "values": {name: value for name, value in values.items() if type(value) in _PLAIN_TYPES},
    }


def _generators(owner: object) -> Iterator[AnyGenerator]:
    """Yield each generator of an owner once, in an order that depends on attributes alone."""
    # A generator may be in several attributes, but it has one state.
    seen: set[int] = set()
    for value, _ in attributes_of(owner):
        if isinstance(value, GENERATORS) and id(value) not in seen:
            seen.add(id(value))
            yield value


def _generator_state(generator: AnyGenerator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.bit_generator.state


def _set_generator_state(generator: AnyGenerator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state


def set_epoch(pass_index: int, *things: object) -> None:
    """Call `set_epoch` of samplers that shuffle by the epoch, such as DistributedSampler."""
    for thing in things:
        setter = getattr(thing, "set_epoch", None)
        if callable(setter):
            setter(pass_index)
