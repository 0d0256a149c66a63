"""Estimators: scikit-learn's own checks, and its own models as what is true."""

import importlib
import pickle
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris, make_classification, make_regression
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.estimator_checks import estimator_checks_generator
from torch import nn

from fitorch import DataError, KerasModel
from fitorch.callbacks import LambdaCallback
from fitorch.losses import L2
from fitorch.sklearn import KerasClassifier, KerasRegressor
from tolerances import FLOAT32

WIDE = torch.float64  # scikit-learn's checks want the same to seven digits from other batches


def mlp(n_features, n_outputs, hidden=16, dtype=None):
    return nn.Sequential(
        nn.Linear(n_features, hidden, dtype=dtype),
        nn.ReLU(),
        nn.Linear(hidden, n_outputs, dtype=dtype),
    )


def wide_mlp(n_features, n_outputs):
    return mlp(n_features, n_outputs, dtype=WIDE)


def one_logit(n_features):
    return nn.Sequential(nn.Linear(n_features, 1))


def linear(n_features, n_outputs):
    return nn.Linear(n_features, n_outputs, dtype=WIDE)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.02)


CHECKED = {"optimizer": adam, "epochs": 20, "batch_size": 512, "random_state": 0}
EXPECTED_TO_FAIL = {
    "check_do_not_raise_errors_in_init_or_set_params": "it passes a keyword named as the ** of the "
    "constructor, and a keyword that is for nobody is refused at once",
}


def checks():
    """Give all of scikit-learn's checks, by names that are the same in each process of pytest."""
    for kind in (KerasClassifier, KerasRegressor):
        for estimator, check in estimator_checks_generator(kind(wide_mlp, **CHECKED)):
            name = check.func.__name__
            reason = EXPECTED_TO_FAIL.get(name)
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            yield pytest.param(estimator, check, id=f"{kind.__name__}-{name}", marks=marks)


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_scikit_learns_check_holds(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def iris():
    x, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(x), y


def quick(net=mlp, **parameters):
    chosen = {"optimizer": "adam", "optimizer__lr": 0.02, "epochs": 3, "random_state": 0}
    return KerasClassifier(net, **{**chosen, **parameters})


def test_the_weights_are_those_of_a_model_by_hand(iris):
    x, y = iris
    found = quick(batch_size=20).fit(x, y)
    torch.manual_seed(0)
    net = mlp(4, 3)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02, fused=True)
    model = KerasModel(net, "cross_entropy", optimizer=optimizer)
    model.fit((x, y), epochs=3, batch_size=20, seed=0, verbose=0)
    for ours, true in zip(found.model_.net.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, true)
    assert found.history_["train_loss"].tolist() == model.history.frame["train_loss"].tolist()


def test_a_linear_net_becomes_logistic_regression():
    x, y = make_classification(200, 4, random_state=0)
    x = StandardScaler().fit_transform(x)
    true = LogisticRegression(C=1.0, tol=1e-10).fit(x, y)
    # Theirs is C * sum of losses + 1/2 |w|^2: ours its mean, with L2 / (C * N).
    found = KerasClassifier(
        lambda n_features: nn.Linear(n_features, 1, dtype=WIDE),
        nn.BCEWithLogitsLoss() + (1 / 200) * L2(),
        optimizer=lambda p: torch.optim.SGD(p, lr=2.0, momentum=0.9),
        epochs=600,
        batch_size=200,
    ).fit(x, y)
    assert np.allclose(found.model_.net.weight.detach(), true.coef_, atol=1e-5)
    assert np.allclose(found.predict_proba(x), true.predict_proba(x), atol=1e-5)
    assert np.allclose(found.decision_function(x), true.decision_function(x), atol=1e-4)
    assert (found.predict(x) == true.predict(x)).all()


@pytest.mark.parametrize("targets", [1, 3])
def test_a_linear_net_becomes_least_squares(targets):
    x, y = make_regression(100, 3, n_targets=targets, noise=1.0, random_state=0)
    true = LinearRegression().fit(x, y)
    found = KerasRegressor(
        linear, optimizer="sgd", optimizer__lr=0.3 * targets, epochs=150, batch_size=100
    ).fit(x, y)
    assert np.allclose(found.model_.net.weight.detach(), np.atleast_2d(true.coef_), rtol=1e-6)
    assert found.predict(x).shape == y.shape
    assert np.allclose(found.predict(x), true.predict(x))
    assert found.score(x, y) == pytest.approx(r2_score(y, true.predict(x)))
    assert found.n_outputs_ == targets


def test_a_linear_net_with_a_penalty_becomes_ridge():
    x, y = make_regression(100, 3, noise=1.0, random_state=0)
    true = Ridge(alpha=10.0).fit(x, y)  # |y - xw|^2 + 10 |w|^2: ours is a mean, and L2 halves
    found = KerasRegressor(
        linear,
        nn.MSELoss() + (2 * 10.0 / 100) * L2(),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.3),
        epochs=150,
        batch_size=100,
    ).fit(x, y)
    assert np.allclose(found.model_.net.weight.detach(), true.coef_, rtol=1e-6)


def test_sample_weights_are_those_of_least_squares():
    x, y = make_regression(100, 3, noise=20.0, random_state=0)
    weight = np.random.default_rng(0).uniform(0.1, 3.0, 100)
    true = LinearRegression().fit(x, y, weight)
    found = KerasRegressor(
        linear, optimizer="sgd", optimizer__lr=0.3, epochs=150, batch_size=100
    ).fit(x, y, sample_weight=weight)
    assert np.allclose(found.model_.net.weight.detach(), true.coef_, rtol=1e-5)


@pytest.mark.parametrize("chosen", ["balanced", {"no": 1.0, "yes": 5.0}])
def test_class_weights_go_by_label(chosen):
    x, numbers = make_classification(200, 4, weights=[0.8], random_state=0)
    y = np.array(["no", "yes"])[numbers]
    true = LogisticRegression(C=np.inf, class_weight=chosen, tol=1e-10).fit(x, y)
    found = KerasClassifier(
        lambda n_features, n_outputs: nn.Linear(n_features, n_outputs, dtype=WIDE),
        optimizer="sgd",
        optimizer__lr=2.0,
        optimizer__momentum=0.9,
        epochs=200,
        batch_size=200,
        class_weight=chosen,
    ).fit(x, y)
    weights = compute_class_weight(chosen, classes=np.array(["no", "yes"]), y=y)
    assert weights[1] > 2 * weights[0]
    assert np.allclose(found.predict_proba(x), true.predict_proba(x), atol=1e-3)
    assert (found.predict(x) == true.predict(x)).mean() > 0.99


@pytest.mark.parametrize(
    ("net", "loss_fn"),
    [
        (one_logit, None),
        (lambda n_features: nn.Sequential(nn.Linear(n_features, 1), nn.Flatten(0)), None),
        (lambda n_features: nn.Sequential(nn.Linear(n_features, 1), nn.Sigmoid()), "bce"),
        (lambda n_features: nn.Linear(n_features, 2), None),
        (lambda n_features: nn.Sequential(nn.Linear(n_features, 2), nn.LogSoftmax(1)), "nll"),
    ],
    ids=["a logit", "a flat logit", "a probability", "two logits", "two log-probabilities"],
)
def test_two_classes_may_be_told_in_any_way(net, loss_fn):
    x, y = load_breast_cancer(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    y = np.array(["benign", "malignant"])[1 - y]
    found = quick(net, loss_fn=loss_fn, epochs=5).fit(x, y)
    probability = found.predict_proba(x)
    assert found.classes_.tolist() == ["benign", "malignant"]
    assert np.allclose(probability.sum(1), 1)
    assert found.score(x, y) == accuracy_score(y, found.classes_[probability.argmax(1)]) > 0.95
    with np.errstate(divide="ignore"):  # sigmoids that are 1 in 32 bits
        log_odds = np.log(probability[:, 1]) - np.log(probability[:, 0])
    assert np.allclose(found.decision_function(x), log_odds, atol=1e-3)


def test_parameters_survive_clone_and_set_params():
    estimator = quick(net__hidden=8, fit__gradient_accumulation_steps=2)
    copied = clone(estimator).set_params(net__hidden=5, epochs=2)
    assert estimator.get_params()["net__hidden"] == 8
    assert copied.get_params() == {**estimator.get_params(), "net__hidden": 5, "epochs": 2}
    x, y = load_iris(return_X_y=True)
    assert copied.fit(x, y).model_.net[0].out_features == 5
    assert "net__hidden=8" in repr(estimator)


def test_a_module_is_copied_for_each_fit(iris):
    net = mlp(4, 3)
    before = [p.clone() for p in net.parameters()]
    first = quick(net).fit(*iris)
    again = first.predict_proba(iris[0])
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
    assert np.array_equal(first.fit(*iris).predict_proba(iris[0]), again)


def test_callbacks_losses_and_metrics_are_copied_for_each_fit(iris):
    seen = []
    told = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    loss = nn.CrossEntropyLoss()
    estimator = quick(loss_fn=loss, callbacks=[told], metrics_dict={"acc": "acc"}).fit(*iris)
    assert seen == [0, 1, 2]
    assert estimator.model_.objective.losses[0].loss_fn is not loss
    assert estimator.callbacks == [told]
    assert "train_acc" in estimator.history_


def test_several_partial_fits_are_one_fit(iris):
    whole = quick(epochs=3).fit(*iris)
    parts = quick()
    for _ in range(3):
        parts.partial_fit(*iris)
    assert parts.history_["epoch"].tolist() == [1, 2, 3]
    assert np.array_equal(parts.predict_proba(iris[0]), whole.predict_proba(iris[0]))


def test_partial_fit_knows_classes_that_come_later(iris):
    x, y = iris
    estimator = quick().partial_fit(x[:100], y[:100], classes=[0, 1, 2])
    estimator.partial_fit(x[100:], y[100:])
    assert estimator.predict_proba(x).shape == (150, 3)
    with pytest.raises(ValueError, match=r"y has 2, .* classes \[0, 1\]; pass all to the first"):
        quick().partial_fit(x[:100], y[:100]).partial_fit(x, y)
    with pytest.raises(ValueError, match="needs all labels"):
        quick(class_weight="balanced").partial_fit(x, y)


def test_partial_fit_of_a_regressor_goes_on():
    x, y = make_regression(100, 3, random_state=0)
    estimator = KerasRegressor(linear, optimizer="sgd", optimizer__lr=0.05)
    scores = [estimator.partial_fit(x, y).score(x, y) for _ in range(3)]
    assert scores == sorted(scores)
    assert estimator.history_["epoch"].tolist() == [1, 2, 3]


def test_validation_is_drawn_with_each_class_in_its_share(iris):
    x, y = iris  # in the order of classes: the last fifth is all of one
    estimator = quick(validation_split=0.2, patience=2, metrics_dict={"acc": "acc"}).fit(x, y)
    torch.manual_seed(0)
    model = KerasModel(mlp(4, 3), "cross_entropy", {"acc": "acc"}, adam)
    parts = train_test_split(x, y, test_size=0.2, stratify=y, random_state=0)
    model.fit((parts[0], parts[2]), (parts[1], parts[3]), epochs=3, seed=0, verbose=0)
    for name in ("val_loss", "val_acc"):
        assert np.allclose(estimator.history_[name], model.history.frame[name], rtol=1e-5)


def test_works_in_pipelines_searches_and_cross_validation():
    x, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), quick(epochs=8))
    grid = {"kerasclassifier__net__hidden": [1, 16], "kerasclassifier__optimizer__lr": [0.03]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(x, y)
    assert search.best_params_["kerasclassifier__net__hidden"] == 16
    assert search.best_score_ > 0.85
    scores = cross_val_score(search.best_estimator_, x, y, cv=2)
    assert scores.mean() == pytest.approx(search.best_score_)


@pytest.mark.slow
def test_a_search_in_two_processes_finds_the_same():
    x, y = load_iris(return_X_y=True)
    grid = {"net__hidden": [2, 16]}
    found = [GridSearchCV(quick(), grid, cv=2, n_jobs=jobs).fit(x, y) for jobs in (1, 2)]
    alone, together = (search.cv_results_["mean_test_score"].tolist() for search in found)
    assert alone == together


@pytest.mark.parametrize("way", ["pickle", "joblib"])
def test_a_fitted_estimator_can_be_kept(way, iris, tmp_path):
    estimator = quick(validation_split=0.2, metrics_dict={"acc": "acc"}).fit(*iris)
    if way == "pickle":
        kept = pickle.loads(pickle.dumps(estimator))
    else:
        joblib.dump(estimator, tmp_path / "estimator.joblib")
        kept = joblib.load(tmp_path / "estimator.joblib")
    assert np.array_equal(kept.predict_proba(iris[0]), estimator.predict_proba(iris[0]))
    assert kept.history_.equals(estimator.history_)
    kept.partial_fit(*iris)
    estimator.partial_fit(*iris)
    assert np.array_equal(kept.predict_proba(iris[0]), estimator.predict_proba(iris[0]))


def test_takes_dataframes_and_knows_their_columns():
    data = load_iris(as_frame=True)
    y = data.target.map(dict(enumerate(data.target_names)))
    estimator = quick().fit(data.data, y)
    assert estimator.feature_names_in_.tolist() == list(data.data)
    assert set(estimator.predict(data.data)) <= {"setosa", "versicolor", "virginica"}
    with pytest.raises(ValueError, match="feature names"):
        estimator.predict(data.data[data.data.columns[::-1]])


@pytest.mark.parametrize(("kind", "given"), [(None, np.float32), (torch.float64, np.float64)])
def test_features_get_the_nets_precision(kind, given, iris):
    x, y = iris
    wide, narrow = (quick(net__dtype=kind).fit(x.astype(t), y) for t in (np.float64, np.float32))
    assert wide.model_.net[0].weight.dtype == (kind or torch.float32)
    assert np.allclose(wide.predict_proba(x), narrow.predict_proba(x), atol=1e-5)
    assert np.array_equal(wide._features(x, wide.model_.net), x.astype(given))


def test_images_and_whole_numbers_can_be_features():
    x = np.random.default_rng(0).integers(0, 5, (40, 3))
    y = x[:, 0] > 2
    words = KerasClassifier(
        lambda n_outputs: nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, n_outputs)),
        optimizer="adam",
        optimizer__lr=0.1,
        dtype="int64",
    ).fit(x, y)
    assert words.score(x, y) > 0.9
    images = np.random.default_rng(0).normal(size=(40, 1, 4, 4))
    pixels = KerasRegressor(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 4), nn.Flatten(), nn.Linear(2, 1))
    )
    assert pixels.fit(images, images[:, 0, 0, 0]).predict(images).shape == (40,)


def test_without_a_random_state_torchs_generator_governs(iris):
    def probabilities():
        torch.manual_seed(5)
        return quick(random_state=None).fit(*iris).predict_proba(iris[0])

    assert np.array_equal(probabilities(), probabilities())
    drawn = [quick(random_state=np.random.RandomState(s)).fit(*iris) for s in (1, 1, 2)]
    first, same, other = (e.predict_proba(iris[0]) for e in drawn)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_random_state_leaves_the_global_generators_alone(iris):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    quick().fit(*iris)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"hidden": 3}, TypeError, "'hidden'; arguments for the net begin with net__"),
        ({"net": 3}, TypeError, "net is 3; expected a function or class"),
        (
            {"net": mlp(4, 3), "net__hidden": 3},
            TypeError,
            "so net__hidden has no effect",
        ),
        ({"net": lambda: 3}, TypeError, "net is a int; expected a torch.nn.Module"),
        ({"net": one_logit}, DataError, "returns 1 outputs for 3 classes, expected 3"),
        ({"net": nn.Identity()}, DataError, "returns 4 outputs for 3 classes"),
        ({"net": lambda: nn.LSTM(4, 3)}, DataError, "needs a tensor of shape"),
        ({"optimizer": "adm"}, ValueError, "did you mean 'adam'"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)])}, TypeError, "optimizer__lr=0.01"),
        ({"fit__loss": 3}, TypeError, r"fit\(\) has no argument 'loss'"),
    ],
)
def test_what_is_wrong_is_told_before_training(change, error, told, iris):
    with pytest.raises(error, match=told):
        quick(**change).fit(*iris)


def test_a_regressor_tells_how_many_outputs_it_needs():
    with pytest.raises(DataError, match="returns 1 outputs for 2 targets"):
        KerasRegressor(one_logit).fit(np.ones((4, 3)), np.ones((4, 2)))


def test_without_scikit_learn_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    for name in [name for name in sys.modules if name.startswith("fitorch.sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        importlib.import_module("fitorch.sklearn")


def test_predictions_of_frames_are_those_of_arrays(iris):
    x, y = iris
    estimator = quick().fit(pd.DataFrame(x, columns=list("abcd")), pd.Series(y))
    assert np.allclose(
        estimator.predict_proba(pd.DataFrame(x, columns=list("abcd"))),
        quick().fit(x, y).predict_proba(x),
        **FLOAT32,  # columns lie apart in a frame, so other kernels may multiply them
    )
