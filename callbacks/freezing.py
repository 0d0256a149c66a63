"""Freezing callbacks: parameters that do not train, or do not train until an epoch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from fitorch.checks import check_count, check_flag, plain
from fitorch.internals.torch import NormBase
from fitorch.losses.selection import predicate
from fitorch.nets.modes import TrainingModes
from fitorch.nets.state import plain_name

from .base import Callback, Logs
from .learning_rate import groups_of

Selection = str | Sequence[str] | Callable[[str, nn.Parameter], bool]


class Freezing(Callback):
    """Base class of `Freeze` and `GradualUnfreeze`.

    Args:
        batch_norm: Whether batch norm layers with frozen parameters are in eval mode, so that their
            statistics are frozen too.
    """

    unfreezes: ClassVar[bool]  # whether it also unfreezes parameters that were frozen before a fit

    def __init__(self, *, batch_norm: bool) -> None:
        self.batch_norm = check_flag("batch_norm", batch_norm)
        self._original_flags: list[tuple[nn.Parameter, bool]] = []
        self._norms: list[tuple[nn.Module, set[int]]] = []
        self._norms_in_eval: list[nn.Module] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Find the parameters.

        Raises:
            ValueError: A pattern does not match any parameter.
        """
        net = self.model.net
        self.select(net)
        # The flags of all parameters are recorded, because GradualUnfreeze also unfreezes others.
        self._original_flags = [
            (parameter, parameter.requires_grad) for parameter in net.parameters()
        ]
        self._norms = list(_norms_with_parameters(net)) if self.batch_norm else []
        self._modes = TrainingModes(net)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Freeze the parameters that do not train in this epoch, and unfreeze the others."""
        # Parameters are compared by id: `==` compares their elements.
        frozen = {id(p) for p, _ in self._original_flags if self.is_frozen(id(p), epoch)}
        for parameter, before in self._original_flags:
            # Only floating-point and complex tensors can require a gradient.
            trainable = parameter.is_floating_point() or parameter.is_complex()
            trains = id(parameter) not in frozen and (before or self.unfreezes)
            parameter.requires_grad_(trainable and trains)
        if self._norms:
            self._set_norm_modes(frozen)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Restore the `requires_grad` of all parameters."""
        for parameter, before in self._original_flags:
            parameter.requires_grad_(before)
        # Nothing keeps the parameters alive after the fit.
        self._original_flags = []
        self._restore_norm_modes()

    def select(self, net: nn.Module) -> None:
        """Find the parameters to freeze or to unfreeze."""
        raise NotImplementedError

    def is_frozen(self, parameter: int, epoch: int) -> bool:
        """Return whether a parameter is frozen in an epoch.

        Args:
            parameter: The id of the parameter.
            epoch: The epoch, counted from 0 over all fits.
        """
        raise NotImplementedError

    def _set_norm_modes(self, frozen: set[int]) -> None:
        """Put batch norm layers whose parameters are all frozen into eval mode, and no others."""
        if not self.model.net.training:  # a callback left the net in eval mode
            self._modes.apply()
        self._restore_norm_modes()
        for norm, parameters in self._norms:
            # Norms that the user has put into eval mode are not recorded, so they stay there.
            if norm.training and parameters and parameters <= frozen:
                norm.eval()
                self._norms_in_eval.append(norm)

    def _restore_norm_modes(self) -> None:
        for norm in self._norms_in_eval:
            norm.train()
        self._norms_in_eval = []


class Freeze(Freezing):
    """Freeze parameters for a whole fit, or until an epoch.

    At the end, each parameter has the `requires_grad` that it had before the fit. The optimizer's
    groups do not change: a frozen parameter does not have a gradient, and is neither updated nor
    decayed.

    Args:
        pattern: The name of a parameter or module (`"backbone"`), a glob pattern
            (`"*.bias"`), a list of these, or a predicate `(name, parameter) -> bool`.
        until: The first epoch, counted from 0 over all fits, in which they train; None is never.
        batch_norm: Whether batch norm layers with frozen parameters are in eval mode, so that their
            statistics are frozen too.

    Raises:
        ValueError: `until` is negative. Before training: the pattern does not match any parameter.
        TypeError: `pattern` or `until` has a wrong type.
    """

    unfreezes = False

    def __init__(
        self, pattern: Selection, until: int | None = None, *, batch_norm: bool = True
    ) -> None:
        super().__init__(batch_norm=batch_norm)
        predicate(pattern, "pattern")
        self.pattern = pattern
        self.until = check_count("until", until, least=0, optional=True)
        self._selected: set[int] = set()

    def select(self, net: nn.Module) -> None:
        """Find the parameters to freeze."""
        self._selected = find_parameters(net, self.pattern, "Freeze")

    def is_frozen(self, parameter: int, epoch: int) -> bool:
        """Return whether a parameter is frozen in an epoch.

        Args:
            parameter: The id of the parameter.
            epoch: The epoch, counted from 0 over all fits.
        """
        return parameter in self._selected and (self.until is None or epoch < self.until)


class GradualUnfreeze(Freezing):
    """Train a part of the net's parameters at first, and more in later epochs.

    At the end, each parameter has the `requires_grad` that it had before the fit. Parameters of the
    loss train in all epochs.

    Args:
        schedule: Maps epochs, counted from 0 over all fits, to the parameters that train from that
            epoch on, in addition to earlier ones: `{0: "head", 3: "layer4", 6: ["layer3",
            "layer2"]}`. Names, patterns and predicates are those of `Freeze`. All other parameters
            stay frozen.
        batch_norm: Whether batch norm layers with frozen parameters are in eval mode, so that their
            statistics are frozen too.

    Raises:
        ValueError: Epoch 0 is missing, or an epoch is negative. Before training: a pattern does not
            match any parameter, or the optimizer does not have a parameter.
        TypeError: `schedule` is not such a mapping.

    Source: Howard & Ruder, 2018, Universal language model fine-tuning for text classification,
    section 3.3, arXiv 1801.06146.
    """

    unfreezes = True

    def __init__(self, schedule: Mapping[int, Selection], *, batch_norm: bool = True) -> None:
        super().__init__(batch_norm=batch_norm)
        mapping: Any = schedule
        if not isinstance(mapping, Mapping):
            message = f"schedule is {schedule!r}; expected a dict of epochs to names, {{0: 'head'}}"
            raise TypeError(message)
        for epoch, pattern in schedule.items():
            check_count("an epoch of the schedule", epoch, least=0)
            predicate(pattern, f"the schedule's pattern for epoch {epoch}")
        if 0 not in schedule:
            message = (
                f"the schedule has the epochs {sorted(schedule)}, but not 0; add the parameters "
                "that train from the first epoch"
            )
            raise ValueError(message)
        self.schedule = {int(plain(epoch)): pattern for epoch, pattern in schedule.items()}
        self._first_epochs: dict[int, int] = {}  # of each selected parameter, by id

    def select(self, net: nn.Module) -> None:
        """Find the first epoch of each parameter."""
        self._first_epochs = {}
        # Epochs are visited from late to early, so that the earliest one of a parameter stays.
        for epoch in sorted(self.schedule, reverse=True):
            selected = find_parameters(
                net, self.schedule[epoch], f"GradualUnfreeze, for epoch {epoch},"
            )
            self._first_epochs |= dict.fromkeys(selected, epoch)
        optimized = {id(p) for group in groups_of(self.model) for p in group["params"]}
        for name, parameter in net.named_parameters():
            if id(parameter) in self._first_epochs and id(parameter) not in optimized:
                message = (
                    f"GradualUnfreeze names {name!r}, which the optimizer does not have; build the "
                    "optimizer from all parameters, frozen or not: net.parameters()"
                )
                raise ValueError(message)

    def is_frozen(self, parameter: int, epoch: int) -> bool:
        """Return whether a parameter is frozen in an epoch.

        Args:
            parameter: The id of the parameter.
            epoch: The epoch, counted from 0 over all fits.
        """
        return epoch < self._first_epochs.get(parameter, math.inf)


def find_parameters(net: nn.Module, selection: Any, who: str) -> set[int]:
    """Return the ids of the selected parameters; shared ones match by any of their names.

    Args:
        net: The net.
        selection: A pattern, a list of patterns, or a predicate.
        who: The callback, for messages.

    Raises:
        ValueError: A pattern does not match any parameter.
    """
    # A tied weight has several names, and a pattern may match any of them.
    named = [(plain_name(n), p) for n, p in net.named_parameters(remove_duplicate=False)]
    selected: set[int] = set()
    is_list = selection and isinstance(selection, (list, tuple))
    for pattern in selection if is_list else [selection]:
        matches = predicate(pattern, "pattern")
        matched = {id(parameter) for name, parameter in named if matches(name, parameter)}
        if not matched:
            raise ValueError(_no_match_message(pattern, net, [name for name, _ in named], who))
        selected |= matched
    return selected


def _no_match_message(pattern: Any, net: nn.Module, names: list[str], who: str) -> str:
    listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    net_type = type(net).__name__
    if not isinstance(pattern, str):
        return f"{who} selects none of the parameters of {net_type}: {listed or 'it has none'}"
    modules = [plain_name(name) for name, _ in net.named_modules() if name]
    close = difflib.get_close_matches(pattern.rstrip("*").rstrip("."), [*modules, *names], n=2)
    hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
    return (
        f"{who} finds nothing named {pattern!r}{hint} in {net_type}, whose parameters are {listed}"
    )


def _norms_with_parameters(net: nn.Module) -> Iterable[tuple[nn.Module, set[int]]]:
    """Yield each norm with running statistics, and the ids of its parameters.

    For a norm without parameters, these are the parameters of the closest module around it that has
    some.
    """
    modules = dict(net.named_modules())
    for path, module in modules.items():
        if isinstance(module, NormBase):
            owner = path
            while owner and not any(True for _ in modules[owner].parameters()):
                owner = owner.rpartition(".")[0]
            yield module, {id(parameter) for parameter in modules[owner].parameters()}
