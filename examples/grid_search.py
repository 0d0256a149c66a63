"""Search for a net's width and learning rate, as scikit-learn does with any estimator."""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from fitorch.sklearn import KerasClassifier


def mlp(n_features, hidden=16):
    """Return a net with one logit for two classes."""
    return nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, 1))


if __name__ == "__main__":  # n_jobs=2 would start processes that import this file
    torch.set_num_threads(1)  # such nets are too small for more
    data = load_breast_cancer(as_frame=True)
    y = data.target.map({0: "malignant", 1: "benign"})
    x_train, x_test, y_train, y_test = train_test_split(
        data.data, y, test_size=0.3, stratify=y, random_state=0
    )

    net = KerasClassifier(
        mlp,
        optimizer="adamw",
        epochs=10,
        validation_split=0.2,
        patience=3,
        class_weight="balanced",
        random_state=0,
    )
    pipeline = make_pipeline(StandardScaler(), net)
    grid = {
        "kerasclassifier__net__hidden": [4, 32],
        "kerasclassifier__optimizer__lr": [0.001, 0.01],
    }
    search = GridSearchCV(pipeline, grid, scoring="roc_auc", cv=3).fit(x_train, y_train)

    for name, value in search.best_params_.items():
        print(f"{name.removeprefix('kerasclassifier__')}: {value}")
    print(f"area under the ROC curve in cross-validation: {search.best_score_:.4f}")
    print(f"on the test set: {search.score(x_test, y_test):.4f}")
