"""Nets as scikit-learn estimators, for pipelines, searches and cross-validation."""

from __future__ import annotations

try:
    from .classifier import KerasClassifier
    from .regressor import KerasRegressor
except ImportError as error:
    message = f"fitorch.sklearn needs scikit-learn 1.6 or later, pip install scikit-learn: {error}"
    raise ImportError(message) from error

__all__ = ["KerasClassifier", "KerasRegressor"]
