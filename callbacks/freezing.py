"""Which parameters train in which epoch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from fitorch.checks import check_count
from fitorch.internals.torch import NormBase
from fitorch.losses.selection import predicate
from fitorch.nets.modes import training_modes
from fitorch.nets.state import plain_name

from .base import Callback, Logs
from .learning_rate import groups_of

Chosen = str | Sequence[str] | Callable[[str, nn.Parameter], bool]


class Freezing(Callback):
    """What `Freeze` and `GradualUnfreeze` have in common: parameters that don't train for a while.

    Args:
        batch_norm: Whether batch norm whose parameters are frozen keeps its statistics too, by
            being in eval mode.
    """

    frees: ClassVar[bool]  # whether parameters that were frozen before train too

    def __init__(self, *, batch_norm: bool) -> None:
        self.batch_norm = batch_norm
        self._before: list[tuple[nn.Parameter, bool]] = []
        self._norms: list[tuple[nn.Module, set[int]]] = []
        self._stilled: list[nn.Module] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Find the parameters.

        Raises:
            ValueError: A pattern matches nothing.
        """
        net = self.model.net
        self.choose(net)
        self._before = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
        self._norms = list(_norms(net)) if self.batch_norm else []
        self._modes = training_modes(net)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Freeze what is frozen in this epoch, and free the rest."""
        frozen = {id(p) for p, _ in self._before if self.is_frozen(id(p), epoch)}
        for parameter, before in self._before:
            able = parameter.is_floating_point() or parameter.is_complex()
            trains = id(parameter) not in frozen and (before or self.frees)
            parameter.requires_grad_(able and trains)
        if self._norms:
            self._still(frozen)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Leave all parameters as they were before."""
        for parameter, before in self._before:
            parameter.requires_grad_(before)
        self._before = []
        self._release()

    def choose(self, net: nn.Module) -> None:
        """Find the parameters that this is about."""
        raise NotImplementedError

    def is_frozen(self, parameter: int, epoch: int) -> bool:
        """Say whether this freezes a parameter, given by its id, in an epoch."""
        raise NotImplementedError

    def _still(self, frozen: set[int]) -> None:
        """Put batch norm of frozen parameters alone into eval mode."""
        if not self.model.net.training:  # it trains all the same
            self._modes.restore()
        self._release()
        for norm, parameters in self._norms:
            if norm.training and parameters and parameters <= frozen:
                norm.eval()
                self._stilled.append(norm)

    def _release(self) -> None:
        for norm in self._stilled:
            norm.train()
        self._stilled = []


class Freeze(Freezing):
    """Keep parameters as they are, for all of a fit or until an epoch.

    At the end each parameter is again as it was before the fit. Optimizer groups stay as they are:
    a frozen parameter has no gradient, and is neither updated nor decayed.

    Args:
        pattern: The name of a parameter or module (`"backbone"`), a glob pattern
            (`"*.bias"`), a list of these, or a predicate `(name, parameter) -> bool`.
        until: The first epoch, counted from 0 over all fits, in which they train; None is never.
        batch_norm: Whether batch norm whose parameters are frozen keeps its statistics too, by
            being in eval mode.

    Raises:
        ValueError: `until` is negative, or the pattern matches nothing, which is told before
            training.
        TypeError: `pattern` or `until` is no such thing.
    """

    frees = False

    def __init__(
        self, pattern: Chosen, until: int | None = None, *, batch_norm: bool = True
    ) -> None:
        super().__init__(batch_norm=batch_norm)
        predicate(pattern, "pattern")
        self.pattern = pattern
        check_count("until", until, least=0, optional=True)
        self.until = until
        self._chosen: set[int] = set()

    def choose(self, net: nn.Module) -> None:
        """Find the parameters to freeze."""
        self._chosen = find(net, self.pattern, "Freeze")

    def is_frozen(self, parameter: int, epoch: int) -> bool:
        """Say whether this freezes a parameter, given by its id, in an epoch."""
        return parameter in self._chosen and (self.until is None or epoch < self.until)


class GradualUnfreeze(Freezing):
    """Train a few parameters of the net at first, and more from epoch to epoch.

    At the end each parameter is again as it was before the fit. Parameters of the loss train from
    the first.

    Args:
        schedule: Epoch, counted from 0 over all fits, to what trains from then on, in addition to
            what did before: as `{0: "head", 3: "layer4", 6: ["layer3", "layer2"]}`. Names, patterns
            and predicates are those of `Freeze`; what nothing names stays frozen.
        batch_norm: Whether batch norm whose parameters are frozen keeps its statistics too, by
            being in eval mode.

    Raises:
        ValueError: Epoch 0 is missing or one is negative; a pattern matches nothing, or what the
            optimizer does not hold, which is told before training.
        TypeError: `schedule` is no such mapping.

    Source: Howard & Ruder, 2018, Universal language model fine-tuning for text classification,
    section 3.3, arXiv 1801.06146.
    """

    frees = True

    def __init__(self, schedule: Mapping[int, Chosen], *, batch_norm: bool = True) -> None:
        super().__init__(batch_norm=batch_norm)
        given: Any = schedule
        if not isinstance(given, Mapping):
            message = f"schedule is {schedule!r}; expected epochs and names, as {{0: 'head'}}"
            raise TypeError(message)
        for epoch, pattern in schedule.items():
            check_count("an epoch of the schedule", epoch, least=0)
            predicate(pattern, f"the schedule's pattern for epoch {epoch}")
        if 0 not in schedule:
            message = (
                f"the schedule names the epochs {sorted(schedule)}; expected 0 among them, for "
                "what trains from the first"
            )
            raise ValueError(message)
        self.schedule = dict(schedule)
        self._since: dict[int, int] = {}  # the first epoch of each parameter that is named

    def choose(self, net: nn.Module) -> None:
        """Find since when each parameter trains."""
        self._since = {}
        for epoch in sorted(self.schedule, reverse=True):
            found = find(net, self.schedule[epoch], f"GradualUnfreeze, for epoch {epoch},")
            self._since |= dict.fromkeys(found, epoch)
        held = {id(p) for group in groups_of(self.model) for p in group["params"]}
        for name, parameter in net.named_parameters():
            if id(parameter) in self._since and id(parameter) not in held:
                message = (
                    f"GradualUnfreeze names {name!r}, which the optimizer does not hold; build the "
                    "optimizer of all parameters, frozen or not: net.parameters()"
                )
                raise ValueError(message)

    def is_frozen(self, parameter: int, epoch: int) -> bool:
        """Say whether this freezes a parameter, given by its id, in an epoch."""
        return epoch < self._since.get(parameter, math.inf)


def find(net: nn.Module, chosen: Any, who: str) -> set[int]:
    """Return the ids of the parameters that are chosen, shared ones by any of their names.

    Raises:
        ValueError: A pattern matches nothing; the message tells what is closest.
    """
    named = [(plain_name(n), p) for n, p in net.named_parameters(remove_duplicate=False)]
    found: set[int] = set()
    for each in chosen if chosen and isinstance(chosen, (list, tuple)) else [chosen]:
        matches = predicate(each, "pattern")
        matched = {id(parameter) for name, parameter in named if matches(name, parameter)}
        if not matched:
            raise ValueError(_unmatched(each, net, [name for name, _ in named], who))
        found |= matched
    return found


def _unmatched(pattern: Any, net: nn.Module, names: list[str], who: str) -> str:
    listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    kind = type(net).__name__
    if not isinstance(pattern, str):
        return f"{who} chooses none of the parameters of {kind}: {listed or 'it has none'}"
    modules = [plain_name(name) for name, _ in net.named_modules() if name]
    close = difflib.get_close_matches(pattern.rstrip("*").rstrip("."), [*modules, *names], n=2)
    hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
    return f"{who} finds nothing named {pattern!r}{hint} in {kind}, whose parameters are {listed}"


def _norms(net: nn.Module) -> Iterable[tuple[nn.Module, set[int]]]:
    """Give each norm with statistics, and its parameters, or those around it where it has none."""
    modules = dict(net.named_modules())
    for path, module in modules.items():
        if isinstance(module, NormBase):
            around = path
            while around and not any(True for _ in modules[around].parameters()):
                around = around.rpartition(".")[0]
            yield module, {id(parameter) for parameter in modules[around].parameters()}
