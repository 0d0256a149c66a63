"""The net as it is seen through a model: callable, with parameters, weights in files, a device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from fitorch.losses import Objective

from .placement import Placement
from .processes import Processes
from .sharding import follow
from .shards import joined
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
        fsdp: Whether to spread the net over processes; see `KerasModel`.
        deepspeed: Whether DeepSpeed spreads what training needs; see `KerasModel`.
    """

    optimizer: Optimizer | None = None
    ckpt_path: str | Path | None = None

    def __init__(
        self,
        net: nn.Module,
        objective: Objective,
        *,
        channels_last: bool = False,
        fsdp: Any = None,
        deepspeed: Any = None,
    ) -> None:
        self.net = net
        self.objective = objective
        self.channels_last = channels_last
        self.fsdp, self.deepspeed = fsdp, deepspeed
        self._placement: Placement | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what makes the model, without what belongs to this process."""
        return {**vars(self), "_placement": None, "run": None}

    def save_ckpt(
        self, ckpt_path: str | Path | None = None, metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Write the net's weights to a file, replaced only once all is written.

        Args:
            ckpt_path: A file: safetensors, or torch's format for `.pt`, `.pth` and `.bin`; or a
                folder, which gets a `best.safetensors`. Both load in plain torch, without fitorch.
                None is the folder of the last fit.
            metadata: Strings to keep in a safetensors file.

        Returns:
            The file. Where the loss has parameters of its own, they are beside it:
            `best.loss.safetensors`. Of several processes the main one writes.

        Raises:
            ValueError: There is no path, and no fit had one.
        """
        path = self._path_or_last(ckpt_path)
        states = {"net": plain_state(self.net), "loss": self.objective.module.state_dict()}
        return self.save_states(states, path, metadata)

    def save_states(
        self, states: Mapping[str, Any], path: str | Path, metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Write weights as `save_ckpt` does, given as state dicts of "net" and "loss"."""
        main = self.is_main_process
        states = {name: joined(state, keep=main) for name, state in states.items()}
        if not main:
            return file_of(path)
        file = save_weights(states["net"], path, metadata)
        if self._loss_learns:
            save_weights(states["loss"], _beside(file), metadata)
        return file

    def load_ckpt(self, ckpt_path: str | Path | None = None) -> Path:
        """Load weights that `save_ckpt`, `fit(ckpt_path=...)` or `torch.save` wrote.

        Parameters of the loss, where it has some, come from the file beside it.

        Args:
            ckpt_path: The file, or a folder with a `best.safetensors`; None is the folder of the
                last fit.

        Raises:
            ValueError: There is no path, and no fit had one.
            FileNotFoundError: There is no such file.
            RuntimeError: Names or shapes differ from the net's.
        """
        file = load_weights(self.net, self._path_or_last(ckpt_path))
        if self._loss_learns:
            self._load_loss(_beside(file))
        return file

    def _path_or_last(self, path: str | Path | None) -> str | Path:
        last = self.ckpt_path if path is None else path
        if last is None:
            message = "there is no path, and no fit of this model had a ckpt_path; pass one"
            raise ValueError(message)
        return last

    def _load_loss(self, file: Path) -> None:
        if file.is_file():
            load_weights(self.objective.module, file)
        else:
            warnings.warn(
                f"there are no parameters of the loss at {file}; it keeps those it has",
                stacklevel=3,
            )

    def _check_shardable(self) -> None:
        """Refuse a loss with parameters where the net is spread.

        Raises:
            ValueError: It has some; an optimizer can't mix them with those of a sharded net.
        """
        if self._loss_learns:
            message = (
                f"{self.objective.name} has parameters of its own, which a sharded net's optimizer "
                "can't train beside it; move them into the net, or pass fsdp=False"
            )
            raise ValueError(message)

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

    def export(self, path: str | Path, features: Any = None) -> Path:
        """Write the net to a file that runs without its code, for any number of samples.

        It is followed through one batch, in eval mode and on the CPU; modes and device are as
        before afterwards. The file is replaced only once all is written.

        Args:
            path: A file. `.pt2` is torch's own (`torch.export.load(path).module()(x)`), `.onnx`
                runs anywhere (needs onnx and onnxscript), `.safetensors` holds the weights alone,
                as `save_ckpt` writes them.
            features: A batch of features as the net takes them: a tensor, an array, a tuple or list
                for several inputs, a mapping for named ones; or a DataLoader or Dataset, whose
                first batch is taken. Weights need none.

        Returns:
            The file. Of several processes the main one writes.

        Raises:
            ValueError: The suffix is none of these, or there are no features.
            ImportError: A package is missing; it says which.
            ExportError: The net can't be followed, as where its code looks at values; a
                RuntimeError that says why.
        """
        from .exporting import export

        return export(self, path, features)

    def card(self: Any) -> dict[str, Any]:
        """Return what a model card needs: net, objective, figures, data, settings, versions.

        Returns:
            Plain values that json takes: net, parameters, trainable_parameters, loss, metrics,
            optimizer, epochs, best (monitor, mode, epoch, value, figures) and seed; after a fit of
            this process also data, settings, environment (versions, device), git (commit, branch,
            changed), trained (when it began, UTC), seconds, status, reason and weights_of_epoch.
        """
        from .card import card

        return card(self)

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
        self._placement = Placement(
            mixed_precision,
            cpu,
            channels_last=self.channels_last,
            fsdp=self.fsdp,
            deepspeed=self.deepspeed,
        )
        if self._placement.sharding is not None:
            self._check_shardable()
        follow(self.optimizer, self._placement.place(self.net))
        self.objective.to(self._placement.device)
        return self._placement


def _beside(file: Path) -> Path:
    """Return the file for the loss' own parameters: best.loss.safetensors."""
    return file.with_name(f"{file.stem}.loss{file.suffix}")
