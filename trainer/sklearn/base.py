"""The base of classifier and regressor: parameters, checks of data, a model for each fit."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from fitorch.checks import plain
from fitorch.data.arrays import is_sparse
from fitorch.data.tables import unmasked
from fitorch.model import KerasModel
from fitorch.nets.precision import floating_dtype
from fitorch.optim.optimizers import OptimizerLike

from . import continuing
from . import parameters as estimator

if TYPE_CHECKING:
    import pandas as pd


Factory = nn.Module | Callable[..., nn.Module]

_PASSED_ON = (
    "batch_size",
    "shuffle",
    "clip_grad_norm",
    "max_time",
    "mixed_precision",
    "cpu",
    "verbose",
)


class KerasEstimator(BaseEstimator):  # type: ignore[misc]
    """A net with the settings of its training; see `KerasClassifier` for the arguments."""

    n_features_in_: int
    model_: KerasModel
    _built: dict[str, Any]  # the parameters from which the model was built
    _random_state: Any  # that of the present seed

    def __init__(  # noqa: PLR0913 - scikit-learn reads the signature
        self,
        net: Factory,
        loss_fn: Any = None,
        metrics_dict: Mapping[str, Any] | None = None,
        optimizer: OptimizerLike = None,
        lr_scheduler: Any = None,
        *,
        epochs: int = 10,
        batch_size: int = 32,
        shuffle: bool = True,
        patience: int | None = None,
        validation_split: float = 0.0,
        monitor: str = "val_loss",
        mode: str = "auto",
        callbacks: Sequence[Any] | None = None,
        clip_grad_norm: float | None = None,
        max_time: timedelta | float | str | None = None,
        mixed_precision: str | None = None,
        device: str | int | torch.device | None = None,
        cpu: bool = False,
        dtype: Any = None,
        verbose: int | str = 0,
        random_state: int | np.random.RandomState | None = None,
        **prefixed: Any,
    ) -> None:
        estimator.check_prefixes(prefixed, type(self).__name__)
        # This only assigns: scikit-learn clones an estimator by its parameters, which must be
        # unchanged.
        self.net = net
        self.loss_fn = loss_fn
        self.metrics_dict = metrics_dict
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.epochs = epochs
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.patience = patience
        self.validation_split = validation_split
        self.monitor = monitor
        self.mode = mode
        self.callbacks = callbacks
        self.clip_grad_norm = clip_grad_norm
        self.max_time = max_time
        self.mixed_precision = mixed_precision
        self.device = device
        self.cpu = cpu
        self.dtype = dtype
        self.verbose = verbose
        self.random_state = random_state
        # The parameters become attributes, so that get_params and clone see them.
        self.__dict__.update(prefixed)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return all parameters by name, including those for net and optimizer.

        Args:
            deep: Whether to include the parameters of estimators among the parameters.
        """
        own = vars(self).items()
        chosen = {name: value for name, value in own if name.startswith(estimator.PREFIXES)}
        return {**super().get_params(deep=deep), **chosen}

    def set_params(self, **params: Any) -> KerasEstimator:
        """Set parameters by name, as `epochs=20` or `net__hidden=64`; return this estimator."""
        chosen = {n: v for n, v in params.items() if n.startswith(estimator.PREFIXES)}
        # Other names are checked by scikit-learn.
        super().set_params(**{n: v for n, v in params.items() if n not in chosen})
        self.__dict__.update(chosen)
        return self

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> KerasEstimator:
        """Train a new net.

        Args:
            X: The features, (N, n_features), or with more dimensions; an array, a DataFrame, or a
                sparse matrix, which becomes dense batch by batch.
            y: The targets.
            sample_weight: The weight of each sample, (N,).

        Returns:
            This estimator.

        Raises:
            ValueError: Features or targets are not valid; a DataError if they do not match the net.
        """
        X, y = self._checked(X, y, reset=True)
        self._build(X, y)
        train, val = self._split(self._data(X, y, sample_weight), y)
        monitoring = {name: getattr(self, name) for name in ("patience", "monitor", "mode")}
        self._train(train, y, val_data=val, epochs=self.epochs, **monitoring)
        return self

    @property
    def history_(self) -> pd.DataFrame:
        """The metrics of each epoch."""
        check_is_fitted(self, "model_")
        return self.model_.history.frame

    @abstractmethod
    def _check_targets(self, y: Any) -> np.ndarray:
        """Return targets as an array, or raise an error if they are not valid."""

    @abstractmethod
    def _learn(self, y: np.ndarray) -> int:
        """Set the attributes that depend on the targets; return the number of outputs."""

    @abstractmethod
    def _targets(self, y: np.ndarray) -> np.ndarray:
        """Return targets in the form that matches the net's outputs."""

    @abstractmethod
    def _weights(self, y: np.ndarray) -> dict[int, float] | None:
        """Return the weights of classes by their indices."""

    @abstractmethod
    def _loss(self) -> str:
        """Return the default loss."""

    def _train_one_epoch(self, X: Any, y: Any, weight: Any, classes: Any = None) -> None:
        """Train one more epoch, of a new net at the first call.

        Raises:
            ValueError: A parameter was changed that needs a new net.
        """
        # The model tells whether partial_fit was called before.
        first = not hasattr(self, "model_")
        X, y = self._checked(X, y, reset=first)
        if first:
            # Of several labels, the targets have a column for each, whatever occurs.
            self._build(X, y if classes is None or y.ndim == 2 else classes)
        else:
            self._follow_parameters()
        self._train(tuple(self._data(X, y, weight)), y, epochs=1)

    def _follow_parameters(self) -> None:
        """Follow parameters that were set since the last `partial_fit`."""
        built = continuing.built_from(vars(self))
        continuing.apply_changes(self.model_, self._built, built)
        self._built = built
        if self.random_state is not self._random_state:
            self._seed, self._random_state = _seed_of(self.random_state), self.random_state

    def _checked(self, X: Any, y: Any, *, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        if y is None:
            message = f"{type(self).__name__} requires y to be passed, but the target y is None"
            raise ValueError(message)
        # scikit-learn would drop the masks of arrays.
        X, y = _unmasked(X, "X"), _unmasked(y, "y")
        X = validate_data(self, X, reset=reset, allow_nd=True, accept_sparse="csr")
        y = self._check_targets(y)
        check_consistent_length(X, y)
        return X, y

    def _build(self, X: np.ndarray, targets: np.ndarray) -> None:
        """Build a net and a model for the data."""
        sizes = {"n_features": self.n_features_in_, "n_outputs": self._learn(targets)}
        own = vars(self)
        self._seed, self._random_state = _seed_of(self.random_state), self.random_state
        # Weights, then order and dropout follow from the seed, as documented for `random_state`.
        with estimator.seeded(self._seed):
            net = estimator.make_net(self.net, sizes, estimator.prefixed(own, "net__"))
            few: Any = X[:2]
            few = few.toarray() if is_sparse(few) else few
            self._output_shape = estimator.output_shape(net, self._features(few, net))
            options = estimator.prefixed(own, "optimizer__")
            model = KerasModel(
                net,
                # A fit must not change the parameters of the estimator.
                copy.deepcopy(self._loss() if self.loss_fn is None else self.loss_fn),
                copy.deepcopy(self.metrics_dict),
                estimator.optimizer_for(net, self.optimizer, options),
                self.lr_scheduler,
                device=self.device,
            )
            self._check_model(model)
            self.model_, self._built = model, continuing.built_from(own)

    def _check_model(self, model: KerasModel) -> None:
        """Raise an error if the loss does not fit the targets."""

    def __sklearn_tags__(self) -> Any:
        """Return the capabilities of the estimator."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _features(self, X: np.ndarray, net: nn.Module) -> np.ndarray:
        wide = floating_dtype(net.parameters()) == torch.float64
        return X.astype(self.dtype or (np.float64 if wide else np.float32), copy=False)

    def _data(self, X: np.ndarray, y: np.ndarray, weight: Any) -> list[np.ndarray]:
        data = [self._features(X, self.model_.net), self._targets(y)]
        return data if weight is None else [*data, _check_sample_weight(weight, X)]

    def _split(self, data: list[np.ndarray], y: np.ndarray) -> tuple[Any, Any]:
        """Return training and validation data."""
        if not self.validation_split:
            return tuple(data), None
        parts = train_test_split(
            *data,
            test_size=self.validation_split,
            # Of several labels, most combinations are too rare.
            stratify=y if is_classifier(self) and y.ndim == 1 else None,
            # The seed is the same, so that equal estimators split alike.
            random_state=self._seed,
        )
        # train_test_split returns (train, test) for each array in turn.
        return tuple(parts[::2]), tuple(parts[1::2])

    def _train(self, train: tuple[np.ndarray, ...], y: np.ndarray, **options: Any) -> None:
        chosen = {name: getattr(self, name) for name in _PASSED_ON}
        chosen |= {"seed": self._seed, "class_weight": self._weights(y), "plot": False}
        # The callbacks are copied, because they have a state.
        chosen |= {"callbacks": copy.deepcopy(self.callbacks), **options}
        # The user's own arguments of fit take precedence.
        self.model_.fit(train, **{**chosen, **estimator.prefixed(vars(self), "fit__")})

    def _outputs(self, X: Any) -> Tensor:
        """Return the net's outputs."""
        check_is_fitted(self, "model_")
        X = _unmasked(X, "X")
        X = validate_data(self, X, reset=False, allow_nd=True, accept_sparse="csr")
        features = self._features(X, self.model_.net)
        outputs: Tensor = self.model_.predict(features, batch_size=self.batch_size, verbose=0)
        return outputs


def _unmasked(value: Any, name: str) -> Any:
    return unmasked(value, name) if isinstance(value, np.ma.MaskedArray) else value


def _seed_of(random_state: int | np.random.RandomState | None) -> int | None:
    """Return an int as it is, a draw from a RandomState, or None for torch's global generator."""
    random_state = plain(random_state)
    if random_state is None or isinstance(random_state, int):
        return random_state
    return int(check_random_state(random_state).randint(2**31 - 1))
