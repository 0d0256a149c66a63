"""The net as it is seen through a model: callable, with parameters, weights in files, a device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fitorch.losses import Objective

from .placement import Placement
from .processes import Processes
from .weights import file_of, load_weights, plain_state, save_weights

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .summary import Summary


class NetFace:
    """What a model passes on to its net.

    Args:
        net: The module.
        objective: Its loss, which goes where the net goes.
        channels_last: Keep images, and weights of convolutions, in channels-last memory.
    """

    def __init__(
        self, net: nn.Module, objective: Objective, *, channels_last: bool = False
    ) -> None:
        self.net = net
        self.objective = objective
        self.channels_last = channels_last
        self._placement: Placement | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what makes the model, without what belongs to this process."""
        return {**vars(self), "_placement": None, "run": None}

    def save_ckpt(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
        """Write the net's weights to `path`, replaced only once all is written.

        Args:
            path: A file: safetensors, or torch's format for `.pt`, `.pth` and `.bin`; or a folder,
                which gets a `best.safetensors`. Both load in plain torch, without fitorch.
            metadata: Strings to keep in a safetensors file.

        Returns:
            The file. Where the loss has parameters of its own, they are beside it:
            `best.loss.safetensors`. Of several processes the main one writes.
        """
        states = {"net": plain_state(self.net), "loss": self.objective.module.state_dict()}
        return self.save_states(states, path, metadata)

    def save_states(
        self, states: Mapping[str, Any], path: str | Path, metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Write weights as `save_ckpt` does, given as state dicts of "net" and "loss"."""
        if not self.is_main_process:
            return file_of(path)
        file = save_weights(states["net"], path, metadata)
        if self._loss_learns:
            save_weights(states["loss"], _beside(file), metadata)
        return file

    def load_ckpt(self, path: str | Path) -> Path:
        """Load weights that `save_ckpt`, `fit(ckpt_path=...)` or `torch.save` wrote.

        Parameters of the loss, where it has some, come from the file beside it.

        Raises:
            FileNotFoundError: There is no such file.
            RuntimeError: Names or shapes differ from the net's.
        """
        file = load_weights(self.net, path)
        if self._loss_learns:
            self._load_loss(_beside(file))
        return file

    def _load_loss(self, file: Path) -> None:
        if file.is_file():
            load_weights(self.objective.module, file)
        else:
            warnings.warn(
                f"there are no parameters of the loss at {file}; it keeps those it has",
                stacklevel=3,
            )

    @property
    def _loss_learns(self) -> bool:
        parameters = self.objective.named_parameters(self.net)
        return any(parameter.requires_grad for _, parameter in parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the net."""
        return self.net(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the net."""
        return self.net(*args, **kwargs)

    def summary(self, features: Any = None, **how: Any) -> Summary:
        """Show the net's layers: what each gives for a batch, parameters, memory.

        Args:
            features: A batch of features, or a DataLoader or Dataset, whose first batch is taken.
            how: What else `fitorch.summary` takes: `input_shape=(3, 32, 32)`, `input_dtype`,
                `batch_size`, `depth`, `verbose`.

        Returns:
            The table: `str` is its text, a notebook shows it as it is.

        Raises:
            ShapeError: A layer rejects the shape of what it gets; the layers up to it are printed.
        """
        from .summary import summary

        return summary(self.net, features, **how)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Give the net's parameters."""
        return self.net.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Give the net's parameters with their names."""
        return self.net.named_parameters()

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that writes and prints; the only one is."""
        return Processes().main

    @property
    def accelerator(self) -> Accelerator:
        """Accelerate's object that placed the net."""
        return self.placement.accelerator

    @property
    def placement(self) -> Placement:
        """Where the net lies; the first use moves it to what accelerate finds best."""
        return self.place() if self._placement is None else self._placement

    def place(self, mixed_precision: str | None = None, cpu: bool = False) -> Placement:
        """Move net and loss to a device, and choose a precision.

        Args:
            mixed_precision: "no", "fp16" or "bf16"; None as accelerate is configured.
            cpu: Stay on the CPU whatever there is.
        """
        self._placement = Placement(mixed_precision, cpu, channels_last=self.channels_last)
        self._placement.place(self.net)
        self.objective.to(self._placement.device)
        return self._placement


def _beside(file: Path) -> Path:
    """Return the file for the loss' own parameters: best.loss.safetensors."""
    return file.with_name(f"{file.stem}.loss{file.suffix}")
