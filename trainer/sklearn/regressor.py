"""A net for regression, as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import check_array, column_or_1d

from . import parameters as estimator
from .base import KerasEstimator


class KerasRegressor(RegressorMixin, KerasEstimator):  # type: ignore[misc]
    """A net for regression, as a scikit-learn estimator.

    Args:
        net: As for `KerasClassifier`; `n_outputs` is the number of targets.
        loss_fn: As for `KerasModel`; None is the mean squared error.
        metrics_dict: As for `KerasClassifier`, like all other arguments.

    Attributes:
        n_outputs_: The number of targets.
        n_features_in_: The length of dimension 1 of the features.
        feature_names_in_: The columns of a DataFrame.
        model_: The `KerasModel`.
        history_: The DataFrame of all epochs.

    Raises:
        TypeError: A parameter is unknown.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> x = np.linspace(-1, 1, 64)[:, None]
        >>> line = KerasRegressor(nn.Linear(1, 1), optimizer="sgd", optimizer__lr=0.1, epochs=50)
        >>> print(f"{line.fit(x, 3 * x[:, 0] + 1).predict([[2.0]])[0]:.1f}")
        7.0
    """

    n_outputs_: int

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> KerasRegressor:
        """Train for one more epoch on this data, without validation.

        Args:
            X: The features.
            y: The targets.
            sample_weight: The weight of each sample, (N,).

        Returns:
            This estimator.
        """
        self._train_one_epoch(X, y, sample_weight)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the prediction for each sample: (N,), or (N, C) if `y` had two dimensions.

        Args:
            X: The features.
        """
        outputs = self._outputs(X).numpy()
        return np.asarray(outputs.reshape(len(outputs), *self._target_shape))

    def __sklearn_tags__(self) -> Any:
        """Return the capabilities of the estimator."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _check_targets(self, y: Any) -> np.ndarray:
        y = check_array(y, ensure_2d=False, dtype="numeric", estimator=self, input_name="y")
        # For more dimensions this raises scikit-learn's own error.
        return np.asarray(y, np.float64) if y.ndim <= 2 else column_or_1d(y)

    def _learn(self, y: np.ndarray) -> int:
        # Predictions have the form of the targets: (N,) or (N, C).
        self._target_shape = y.shape[1:]
        self.n_outputs_ = y.shape[1] if y.ndim == 2 else 1
        return self.n_outputs_

    def _targets(self, y: np.ndarray) -> np.ndarray:
        return estimator.number_targets(self._output_shape, y)

    def _weights(self, y: np.ndarray) -> None:
        return None

    def _loss(self) -> str:
        return "mse"
