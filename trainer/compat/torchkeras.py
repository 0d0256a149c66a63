"""Model: the API of torchkeras 2, for scripts that subclass it. New code uses KerasModel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fitorch.checks import check_count
from fitorch.model import KerasModel
from fitorch.summary import Summary, summary

if TYPE_CHECKING:
    import pandas as pd


class Model(nn.Module):
    """A module with the `compile`, `fit`, `evaluate` and `predict` of torchkeras 2.

    Subclass it and define `forward`, or wrap a module: `Model(net)`. A `KerasModel` does the work.
    Metrics are exact means over the samples; torchkeras averages batches.

    Args:
        net: The module to call, unless a subclass defines `forward`.

    Example:
        >>> import torch
        >>> x = torch.randn(64, 2)
        >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x[:, :1]), 16)
        >>> model = Model(torch.nn.Linear(2, 1))
        >>> model.compile(loss_func=torch.nn.MSELoss())
        >>> frame = model.fit(2, loader, loader, verbose=0)
        >>> list(frame)
        ['loss', 'val_loss']
    """

    _keras: KerasModel | None = None

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Any) -> Any:
        """Call the net; a subclass may override this.

        Raises:
            NotImplementedError: There is no net, and no subclass overrides `forward`.
        """
        if self.net is None:
            message = f"{type(self).__name__} has no forward; define it, or pass Model(net)"
            raise NotImplementedError(message)
        return self.net(x)

    def compile(
        self,
        loss_func: Any,
        optimizer: torch.optim.Optimizer | None = None,
        metrics_dict: Mapping[str, Callable[[Any, Any], Any]] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Set loss, optimizer and metrics.

        Args:
            loss_func: Maps `(y_pred, y_true)` to a scalar.
            optimizer: Over the model's parameters; None is `Adam(lr=1e-3)`.
            metrics_dict: Functions `(y_pred, y_true) -> scalar` by name, or as for `KerasModel`.
            device: As for `KerasModel`; None lets accelerate choose.

        Raises:
            ValueError: This machine does not have the device.
        """
        if optimizer is None:
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        self._keras = KerasModel(self, loss_func, metrics_dict, optimizer, device=device)
        self._keras.place()

    @property
    def history(self) -> dict[str, list[float]]:
        """Each column of the history as a list."""
        return {str(name): list(values) for name, values in self._frame().items()}

    def fit(
        self, epochs: int, dl_train: Any, dl_val: Any = None, log_step_freq: int = 1, **options: Any
    ) -> pd.DataFrame:
        """Train; return the history of all fits since `compile`, one row per epoch.

        Args:
            epochs: The number of epochs.
            dl_train: The training data: a DataLoader, or other data that `KerasModel.fit` takes.
            dl_val: The validation data, or None.
            log_step_freq: Accepted for old scripts and ignored: the clock updates the live line.
            options: Other arguments of `KerasModel.fit`.

        Returns:
            The columns loss, <metric>, val_loss and val_<metric>.
        """
        check_count("log_step_freq", log_step_freq)
        self._trainer().fit(dl_train, dl_val, epochs, **options)
        return self._frame()

    def evaluate(self, dl_val: Any, **options: Any) -> dict[str, float]:
        """Return `val_loss` and `val_<metric>` over the data."""
        return self._trainer().evaluate(dl_val, **options)

    def predict(self, dl: Any, **options: Any) -> Tensor:
        """Return the outputs for the first element of each batch, as one tensor on the CPU."""
        output: Tensor = self._trainer().predict(dl, **options)
        return output

    def summary(self, input_shape: Any, input_dtype: Any = None, batch_size: int = -1) -> Summary:
        """Show the layers for inputs of a shape, without its batch dimension; see `summary`."""
        return summary(
            self, input_shape=input_shape, input_dtype=input_dtype, batch_size=batch_size
        )

    def _trainer(self) -> KerasModel:
        if self._keras is None:
            message = f"call compile(loss_func=...) before {type(self).__name__} trains or measures"
            raise RuntimeError(message)
        return self._keras

    def _frame(self) -> pd.DataFrame:
        frame = self._trainer().history.frame
        frame = frame.drop(columns=["epoch", "lr", "seconds"], errors="ignore")
        return frame.rename(columns=lambda name: name.removeprefix("train_"))
