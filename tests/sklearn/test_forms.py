"""Sparse features, several labels, tables, and parameters set between two partial fits."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_multilabel_classification
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from torch import nn

from fitorch import DataError
from fitorch.losses import L2
from fitorch.sklearn import KerasClassifier, KerasRegressor


def linear(n_features, n_outputs):
    return nn.Linear(n_features, n_outputs, dtype=torch.float64)


def mlp(n_features, n_outputs, hidden=4):
    return nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, n_outputs))


def with_sigmoid(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, n_outputs), nn.Sigmoid())


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def halving(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


def quick(net=mlp, kind=KerasClassifier, **parameters):
    return kind(net, **{"epochs": 3, "batch_size": 16, "random_state": 0, **parameters})


def sparse_numbers(rows=60):
    generator = np.random.default_rng(0)
    x = generator.random((rows, 9)) * (generator.random((rows, 9)) < 0.3)
    return x, np.arange(rows) % 3


# Sparse features


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "coo_array", "lil_matrix"])
@pytest.mark.parametrize("kind", [KerasClassifier, KerasRegressor])
@pytest.mark.parametrize("split", [0.0, 0.2])
def test_sparse_features_have_the_bits_of_dense_ones(form, kind, split):
    dense, y = sparse_numbers()
    sparse = getattr(scipy.sparse, form)(dense)
    weight = np.linspace(0.1, 2, len(y))
    found, true = (
        quick(kind=kind, validation_split=split).fit(x, y, sample_weight=weight)
        for x in (sparse, dense)
    )
    for ours, theirs in zip(
        found.model_.net.parameters(), true.model_.net.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    for x in (dense, sparse):
        assert (found.predict(x) == true.predict(dense)).all()
        assert found.score(x, y) == true.score(dense, y)
    found.partial_fit(sparse, y)
    true.partial_fit(dense, y)
    assert (found.predict(sparse) == true.predict(dense)).all()


def test_sparse_features_never_become_dense_as_a_whole(monkeypatch):
    rows = []
    for kind in (scipy.sparse.csr_matrix, scipy.sparse.csr_array):

        def counted(self, *args, dense=kind.toarray, **options):
            rows.append(self.shape[0])
            return dense(self, *args, **options)

        monkeypatch.setattr(kind, "toarray", counted)
    dense, y = sparse_numbers()
    estimator = quick(validation_split=0.3).fit(scipy.sparse.csr_matrix(dense), y)
    estimator.predict_proba(scipy.sparse.csr_matrix(dense))
    assert rows
    assert max(rows) == 16


def test_encoders_with_sparse_output_stand_before_a_net():
    frame = pd.DataFrame({"city": ["Rome", "Oslo", "Bonn"] * 20, "size": np.arange(60.0)})
    y = (frame["city"] == "Rome").to_numpy()
    encoder = make_column_transformer((OneHotEncoder(), ["city"]), sparse_threshold=1.0)
    net = quick(linear, optimizer="adam", optimizer__lr=0.1, epochs=20)
    assert make_pipeline(encoder, net).fit(frame, y).score(frame, y) == 1
    texts = ["good film", "bad film", "good", "bad"] * 10
    counts = make_pipeline(CountVectorizer(dtype=np.int64), clone(net))
    assert counts.fit(texts, [1, 0, 1, 0] * 10).score(texts, [1, 0, 1, 0] * 10) == 1


# Several labels


def labelled(rows=80, labels=3):
    x, y = make_multilabel_classification(rows, 4, n_classes=labels, random_state=0)
    return (x - x.mean(0)) / x.std(0), y


def test_a_linear_net_of_several_labels_becomes_a_logistic_regression_of_each():
    x, y = labelled()
    true = OneVsRestClassifier(LogisticRegression(C=1.0, tol=1e-10)).fit(x, y)
    found = KerasClassifier(
        linear,
        # Theirs is the sum over labels of C * sum of losses + 1/2 |w|^2: ours, over C * N * labels.
        nn.BCEWithLogitsLoss() + (1 / y.size) * L2(),
        optimizer=lambda p: torch.optim.SGD(p, lr=5.0, momentum=0.9),
        epochs=800,
        batch_size=80,
    ).fit(x, y)
    assert np.allclose(found.predict_proba(x), true.predict_proba(x), atol=1e-5)
    assert np.allclose(found.decision_function(x), true.decision_function(x), atol=1e-4)
    assert (found.predict(x) == true.predict(x)).all()
    assert found.score(x, y) == accuracy_score(y, true.predict(x))
    assert found.classes_.tolist() == [0, 1, 2]


def test_weights_of_samples_count_for_all_their_labels():
    x, y = labelled()
    weight = np.arange(80) % 3
    found = quick(linear, optimizer=sgd, batch_size=200, epochs=5, shuffle=False)
    twice = clone(found).fit(np.repeat(x, weight, 0), np.repeat(y, weight, 0))
    found.fit(x, y, sample_weight=weight)
    assert np.allclose(found.predict_proba(x), twice.predict_proba(x), rtol=1e-12)


LABELS = {
    "int": lambda y: y,
    "bool": lambda y: y.astype(bool),
    "float": lambda y: y.astype(float),
    "list": lambda y: y.tolist(),
    "csr": scipy.sparse.csr_matrix,
    "coo": scipy.sparse.coo_array,
    "pandas": lambda y: pd.DataFrame(y, columns=list("abc")),
    "polars": lambda y: pl.DataFrame(y, schema=["a", "b", "c"]),
}


@pytest.mark.parametrize("form", LABELS.values(), ids=LABELS)
def test_several_labels_may_have_any_form(form):
    x, y = labelled()
    expected = quick(optimizer="adam").fit(x, y).predict_proba(x)
    assert (quick(optimizer="adam").fit(x, form(y)).predict_proba(x) == expected).all()


def test_a_net_may_return_the_probabilities_of_labels():
    x, y = labelled()
    found = quick(with_sigmoid, loss_fn="bce").fit(x, y)
    outputs = found.model_.predict(x.astype("float32"), verbose=0).double().numpy()
    assert np.allclose(found.predict_proba(x), outputs)
    assert (found.predict(x) == (outputs > 0.5)).all()


def test_several_labels_work_in_searches_and_with_validation():
    x, y = labelled()
    net = quick(metrics_dict={"acc": "acc"}, validation_split=0.25, patience=5)
    assert "val_acc" in net.fit(x, y).history_
    assert np.isfinite(cross_val_score(net, x, y, cv=3)).all()
    search = GridSearchCV(net, {"net__hidden": [2, 3]}, cv=2).fit(x, y)
    assert pickle.loads(pickle.dumps(search)).predict(x).shape == y.shape


def test_several_labels_are_learned_further():
    x, y = labelled()
    whole = quick(epochs=1).partial_fit(x, y).partial_fit(x, y, classes=[0, 1, 2])
    assert whole.predict(x).shape == y.shape
    with pytest.raises(ValueError, match="was built for 0/1 columns, one per label; call fit"):
        whole.partial_fit(x, y[:, 0])
    with pytest.raises(ValueError, match="4 targets"):
        whole.partial_fit(x, np.hstack([y, y[:, :1]]))
    single = quick(epochs=1).partial_fit(x, y[:, 0])
    with pytest.raises(ValueError, match="was built for one class per sample; call fit"):
        single.partial_fit(x, y)


@pytest.mark.parametrize(
    ("change", "targets", "said"),
    [
        ({"class_weight": "balanced"}, lambda y: y, "class_weight='balanced' needs one class per"),
        ({"class_weight": {0: 2.0}}, lambda y: y, "needs one class per sample, but y has 3 labels"),
        ({"loss_fn": "cross_entropy"}, lambda y: y, "CrossEntropyLoss does not fit targets of 0"),
        ({"loss_fn": nn.CrossEntropyLoss()}, lambda y: y, "use loss_fn='bce_with_logits'"),
        ({"loss_fn": "mse"}, lambda y: y, "MSELoss does not fit targets of 0 and 1"),
        ({"loss_fn": "soft_margin"}, lambda y: y, "SoftMarginLoss does not fit"),
        ({"loss_fn": nn.functional.l1_loss}, lambda y: y, "L1Loss does not fit"),
        ({"loss_fn": "mse", "net": nn.Linear(4, 1)}, lambda y: y[:, 0], "MSELoss does not fit"),
        ({"loss_fn": "hinge_embedding", "net": nn.Linear(4, 1)}, lambda y: y[:, 0], "or Keras"),
        ({}, lambda y: y + 1, r"y of shape \(80, 3\) has the value 2; expected 0/1 columns"),
        ({}, lambda y: y * 2 - 1, "has the value -1; expected 0/1 columns"),
        ({}, lambda y: y + np.arange(3), "y should be a 1d array"),
        ({"net": nn.Linear(4, 2)}, lambda y: y, "returns 2 outputs for 3 targets"),
    ],
)
def test_labels_that_do_not_fit_are_refused(change, targets, said):
    x, y = labelled()
    with pytest.raises(ValueError, match=said):
        quick(**change).fit(x, targets(y))


# Tables


@pytest.mark.parametrize("library", [pd, pl])
def test_other_columns_than_in_fit_are_refused(library):
    x, y = labelled()
    columns = dict(zip("abcd", x.T, strict=True))
    frame = library.DataFrame(columns)
    fitted = pickle.loads(pickle.dumps(quick().fit(frame, y)))
    assert fitted.feature_names_in_.tolist() == list("abcd")
    assert (fitted.predict(frame) == quick().fit(x, y).predict(x)).all()
    for other in (frame[["b", "a", "c", "d"]], frame[["a", "b", "c"]]):
        for verb in (fitted.predict, fitted.predict_proba, lambda z: fitted.score(z, y)):
            with pytest.raises(ValueError, match="feature names"):
                verb(other)
        with pytest.raises(ValueError, match="feature names"):
            fitted.partial_fit(other, y)


def test_masked_values_are_refused():
    x, y = labelled()
    masked = np.ma.masked_greater(x, 1.5)
    with pytest.raises(DataError, match="X is a masked array with masked values"):
        quick().fit(masked, y)
    with pytest.raises(DataError, match="y is a masked array with masked values"):
        quick().fit(x, np.ma.masked_equal(y[:, 0], 1))
    with pytest.raises(DataError, match="X is a masked array with masked values"):
        quick().fit(x, y).predict(masked)


@pytest.mark.parametrize("library", [pd, pl])
def test_missing_values_are_refused(library):
    frame = library.DataFrame({"a": [1.0, None, 2.0, 3.0], "b": [1, 2, 3, 4]})
    with pytest.raises(ValueError, match="NaN"):
        quick().fit(frame, [0, 1, 0, 1])


# Parameters that are set between two partial fits


def two_classes():
    x, y = labelled()
    return x.astype("float32"), y[:, 0]


def by_hand(rates, x, y, make=torch.optim.SGD, name="lr", **options):
    """Return the weights after a step with the whole data at each rate."""
    torch.manual_seed(0)
    net = mlp(4, 2)
    optimizer = make(net.parameters(), **{name: rates[0], **options})
    for rate in rates:
        optimizer.param_groups[0][name] = rate
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(torch.tensor(x)), torch.tensor(y)).backward()
        optimizer.step()
    return torch.cat([weight.detach().reshape(-1) for weight in net.parameters()])


@pytest.mark.parametrize(
    ("optimizer", "make", "name", "values", "options"),
    [
        ("sgd", torch.optim.SGD, "lr", [0.5, 0.1, 0.02], {"momentum": 0.9}),
        ("sgd", torch.optim.SGD, "weight_decay", [0.1, 0.0, 0.3], {"lr": 0.1}),
        ("sgd", torch.optim.SGD, "momentum", [0.5, 0.9, 0.1], {"lr": 0.1}),
        ("adam", torch.optim.Adam, "lr", [0.01, 0.1], {}),
        ("adam", torch.optim.Adam, "betas", [(0.9, 0.99), (0.5, 0.9)], {"lr": 0.1}),
        (torch.optim.AdamW, torch.optim.AdamW, "lr", [0.01, 0.1], {}),
        (None, torch.optim.Adam, "lr", [3e-4, 0.1], {}),
    ],
)
def test_options_of_the_optimizer_are_followed(optimizer, make, name, values, options):
    x, y = two_classes()
    chosen = {f"optimizer__{key}": value for key, value in options.items()}
    if optimizer is not None:
        chosen[f"optimizer__{name}"] = values[0]
    estimator = quick(optimizer=optimizer, batch_size=80, **chosen).partial_fit(x, y)
    for value in values[1:]:
        estimator = pickle.loads(pickle.dumps(estimator))
        estimator.set_params(**{f"optimizer__{name}": value}).partial_fit(x, y)
    found = torch.cat([w.detach().reshape(-1) for w in estimator.model_.net.parameters()])
    true = by_hand(values, x, y, make, name, **options)
    assert torch.allclose(found, true, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net", linear),
        ("net__hidden", 9),
        ("loss_fn", "cross_entropy"),
        ("metrics_dict", {"acc": "acc"}),
        ("optimizer", "adam"),
        ("lr_scheduler", halving),
        ("device", "cpu"),
    ],
)
def test_a_part_of_the_model_cannot_change(name, value):
    x, y = two_classes()
    estimator = quick(optimizer="sgd", optimizer__lr=0.1).fit(x, y)
    before = [weight.clone() for weight in estimator.model_.net.parameters()]
    with pytest.raises(ValueError, match=f"{name} changed after the net was built.*call fit"):
        estimator.set_params(**{name: value}).partial_fit(x, y)
    assert all(map(torch.equal, before, estimator.model_.net.parameters()))
    if name not in ("net", "device"):
        estimator.fit(x, y).partial_fit(x, y)


@pytest.mark.parametrize(
    ("start", "change", "said"),
    [
        ({}, {"optimizer__momentum": 0.9}, "the state of the optimizer depends on it"),
        ({"optimizer": "adam"}, {"optimizer__amsgrad": True}, "the state of the optimizer depends"),
        ({"lr_scheduler": halving}, {"optimizer__lr": 0.3}, "lr_scheduler sets the rate"),
        ({}, {"optimizer__lr": -1.0}, "Invalid learning rate"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(start, change, said):
    x, y = two_classes()
    estimator = quick(**{"optimizer": "sgd", "optimizer__lr": 0.1, **start}).fit(x, y)
    with pytest.raises(ValueError, match=said):
        estimator.set_params(**change).partial_fit(x, y)
    assert estimator.model_.optimizer.param_groups[0]["lr"] != -1.0


def test_an_option_of_a_users_function_cannot_be_followed():
    def make(parameters, rate):
        return torch.optim.SGD(parameters, lr=2 * rate)

    x, y = two_classes()
    estimator = quick(optimizer=make, optimizer__rate=0.1).fit(x, y)
    estimator.partial_fit(x, y)
    with pytest.raises(ValueError, match=r"optimizer__rate cannot change .* does not keep it"):
        estimator.set_params(optimizer__rate=0.2).partial_fit(x, y)


def test_settings_of_training_are_followed_as_before():
    x, y = two_classes()
    estimator = quick(optimizer="sgd", optimizer__lr=0.1).fit(x, y)
    updates = estimator.model_.updates
    estimator.set_params(batch_size=40, epochs=7, optimizer__lr=0.1).partial_fit(x, y)
    assert estimator.model_.updates - updates == 2
