"""A net for classification, as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from torch import nn

from fitorch.data.arrays import is_sparse
from fitorch.model import KerasModel
from fitorch.optim.optimizers import OptimizerLike

from . import parameters as estimator
from .base import Factory, KerasEstimator

# Losses of torch for targets of 0 and 1. Others would train without an error: the soft margin, for
# example, expects -1 and 1.
_BINARY = (nn.BCELoss, nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)


class KerasClassifier(ClassifierMixin, KerasEstimator):  # type: ignore[misc]
    """A net for classification, as a scikit-learn estimator.

    Args:
        net: A function or class that returns a net, called with `n_features` and `n_outputs` (the
            number of classes, or of labels) if it has such parameters, and with arguments that are
            passed here as `net__hidden=32`. Or a module, which is copied for each fit with its
            weights. For two classes the net may return one or two logits.
        loss_fn: As for `KerasModel`; a module is copied for each fit. None is the cross entropy of
            logits, for one logit the binary one.
        metrics_dict: As for `KerasModel`.
        optimizer: A name, a class (with arguments such as `optimizer__lr=0.01`), a function
            `params -> Optimizer`, or None for Adam. Not an instance, because each fit has a new
            net.
        lr_scheduler: A function `optimizer -> scheduler`, or None.
        epochs: As for `KerasModel.fit`, like the following arguments.
        batch_size: The number of samples in a batch, also for predictions.
        shuffle: Whether to draw a new order for each epoch.
        patience: Stop after so many epochs without improvement.
        validation_split: The fraction for validation, drawn at random and stratified by class, as
            scikit-learn's estimators do.
        monitor: The metric that decides which epoch is best; without validation `train_loss`.
        mode: "min", "max" or "auto".
        callbacks: Objects with Keras' hooks; they are copied for each fit.
        class_weight: The weight of each class in the training loss, by the label in `y`; or
            "balanced" for weights inversely proportional to the frequency of the class.
        clip_grad_norm: Scale gradients down to this 2-norm.
        max_time: Stop after so many seconds.
        mixed_precision: "no", "fp16" or "bf16".
        device: As for `KerasModel`: "cuda:1", "cpu"; None lets accelerate choose.
        cpu: Whether to train on the CPU even if there is a GPU.
        dtype: The type of features; None is the net's precision, also for integers. A net whose
            first layer is an embedding needs "int64".
        verbose: 0 silent, 1 a live line, 2 a line per epoch.
        random_state: An int that determines initial weights, order and all other random numbers, as
            `torch.manual_seed(s)` before the net is built and `fit(seed=s)`; a RandomState; or None
            for torch's global generator.
        prefixed: Arguments with the prefixes `net__`, `optimizer__` and `fit__` (for other
            arguments of `KerasModel.fit`).

    Attributes:
        classes_: The labels, sorted; for several labels per sample, the numbers of the columns.
        n_features_in_: The length of dimension 1 of the features.
        feature_names_in_: The columns of a DataFrame.
        model_: The `KerasModel`.
        history_: The DataFrame of all epochs.

    Raises:
        TypeError: A parameter is unknown.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> from torch import nn
        >>> def mlp(n_features, n_outputs, hidden=16):
        ...     return nn.Sequential(
        ...         nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, n_outputs)
        ...     )
        >>> net = KerasClassifier(mlp, optimizer="adam", optimizer__lr=0.01, random_state=0)
        >>> pipeline = make_pipeline(StandardScaler(), net)
        >>> pipeline.fit(*load_iris(return_X_y=True)).score(*load_iris(return_X_y=True)) > 0.9
        True
    """

    classes_: np.ndarray

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
        class_weight: Mapping[Any, float] | str | None = None,
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
        super().__init__(
            net,
            loss_fn,
            metrics_dict,
            optimizer,
            lr_scheduler,
            epochs=epochs,
            batch_size=batch_size,
            shuffle=shuffle,
            patience=patience,
            validation_split=validation_split,
            monitor=monitor,
            mode=mode,
            callbacks=callbacks,
            clip_grad_norm=clip_grad_norm,
            max_time=max_time,
            mixed_precision=mixed_precision,
            device=device,
            cpu=cpu,
            dtype=dtype,
            verbose=verbose,
            random_state=random_state,
            **prefixed,
        )
        self.class_weight = class_weight

    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: Any = None,
        sample_weight: Any = None,
    ) -> KerasClassifier:
        """Train for one more epoch, on this data alone and without validation.

        Args:
            X: The features.
            y: The labels.
            classes: All labels; the first call needs them if `y` does not contain all.
            sample_weight: The weight of each sample, (N,).

        Returns:
            This estimator.

        Raises:
            ValueError: A label is not in `classes`, or `class_weight` is "balanced".
        """
        if self.class_weight == "balanced":
            message = (
                "class_weight='balanced' needs all labels, which partial_fit does not have; pass "
                "weights by class"
            )
            raise ValueError(message)
        self._train_one_epoch(X, y, sample_weight, classes)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each sample, (N,); for several labels 0 or 1 (N, C).

        Args:
            X: The features.
        """
        scores = self.decision_function(X)
        if self._has_labels:
            return (scores > 0).astype(np.int64)
        # One score per sample is that of the second class.
        codes = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)
        return np.asarray(self.classes_[codes])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, (N, C), in the order of `classes_`.

        For several labels, each column is a probability of its own. It is the softmax or sigmoid
        of the net's outputs, unless the loss expects probabilities.

        Args:
            X: The features.
        """
        outputs, kind = self._outputs(X), self.model_.objective.prediction_kind()
        if self._has_labels:
            return estimator.label_probabilities(outputs, kind).numpy()
        return estimator.probabilities(outputs, kind).numpy()

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the logit of each class, (N, C); for two classes that of the second, (N,).

        Args:
            X: The features.
        """
        outputs, kind = self._outputs(X), self.model_.objective.prediction_kind()
        if self._has_labels:
            return estimator.label_decisions(outputs, kind).numpy()
        return estimator.decisions(outputs, kind).numpy()

    def __sklearn_tags__(self) -> Any:
        """Return the capabilities of the estimator."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _check_targets(self, y: Any) -> np.ndarray:
        # Labels may be text; check_array would convert them to numbers.
        as_it_is: Any = None
        y = check_array(
            y, ensure_2d=False, dtype=as_it_is, accept_sparse=True, estimator=self, input_name="y"
        )
        if type_of_target(y, input_name="y") == "multilabel-indicator":
            return _labels(y)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        return np.asarray(y)

    def _check_model(self, model: KerasModel) -> None:
        for term in model.objective.losses if self._is_binary else ():
            loss = term.loss_fn
            if type(loss).__module__.startswith("torch.nn.") and not isinstance(loss, _BINARY):
                message = (
                    f"{type(loss).__name__} does not fit targets of 0 and 1 that are predicted by "
                    "one logit each; use loss_fn='bce_with_logits', which is the default, or "
                    "KerasRegressor for numbers"
                )
                raise ValueError(message)

    @property
    def _is_binary(self) -> bool:
        """Whether each output of the net is compared with 0 or 1."""
        return self._has_labels or self._output_shape in ((), (1,))

    def _learn(self, y: np.ndarray) -> int:
        self._has_labels = np.ndim(y) == 2
        if self._has_labels:
            return self._learn_labels(y.shape[1])
        # The labels are sorted: the codes below are positions in them.
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            message = f"y has one class, {self.classes_[0]!r}; a classifier needs two or more"
            raise ValueError(message)
        return len(self.classes_)

    def _learn_labels(self, labels: int) -> int:
        """Check the parameters for several labels per sample, and return their number."""
        if self.class_weight is not None:
            message = (
                f"class_weight={self.class_weight!r} needs one class per sample, but y has "
                f"{labels} labels; pass sample_weight, or a loss with pos_weight"
            )
            raise ValueError(message)
        self.classes_ = np.arange(labels)
        return labels

    def _targets(self, y: np.ndarray) -> np.ndarray:
        if (y.ndim == 2) != self._has_labels:
            expected = "0/1 columns, one per label" if self._has_labels else "one class per sample"
            message = f"y has shape {y.shape}, but the net was built for {expected}; call fit"
            raise ValueError(message)
        if self._has_labels:
            return estimator.number_targets(self._output_shape, y.astype(np.float64))
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            message = (
                f"y has {unknown.tolist()[0]!r}, which is not one of the classes "
                f"{self.classes_.tolist()}; pass all to the first partial_fit: classes=..."
            )
            raise ValueError(message)
        codes = np.searchsorted(self.classes_, y)
        return estimator.class_targets(self._output_shape, codes, len(self.classes_))

    def _weights(self, y: np.ndarray) -> dict[int, float] | None:
        if self.class_weight is None:
            return None
        weights = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        return dict(enumerate(weights.tolist()))

    def _loss(self) -> str:
        return "bce_with_logits" if self._is_binary else "cross_entropy"


def _labels(y: Any) -> np.ndarray:
    """Return the targets of several labels as 0 and 1.

    Raises:
        ValueError: There is another value.
    """
    y = np.asarray(y.toarray() if is_sparse(y) else y)
    # scikit-learn takes any two values for labels.
    other = np.setdiff1d(y, [0, 1])
    if len(other):
        message = (
            f"y of shape {y.shape} has the value {other[0]}; expected 0/1 columns, one per label"
        )
        raise ValueError(message)
    return np.asarray(y, np.int64)
