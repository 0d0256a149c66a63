"""Pictures of predictions; truth is scikit-learn, and plain sums."""

import math
import pickle

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import auc, confusion_matrix, r2_score, roc_auc_score, roc_curve
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel, plot_metric
from fitorch.metrics import AUC

torch.manual_seed(0)
X = torch.randn(230, 4)
NOISE = torch.randn(230)
BINARY = (X[:, 0] + NOISE > 0.3).float()
CLASSES = (X[:, :3] + 0.7 * torch.randn(230, 3)).argmax(1)
VALUES = X @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.3 * NOISE


def linear(outputs, *after, seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, outputs), *after)


def binary_model(loss_fn="bce_with_logits", *after):
    return KerasModel(linear(1, *after, nn.Flatten(0)), loss_fn)


def class_model(loss_fn="cross_entropy"):
    return KerasModel(linear(3), loss_fn)


def value_model(outputs=1):
    return KerasModel(linear(outputs, *([nn.Flatten(0)] if outputs == 1 else [])), "mse")


def matrix(figure):
    return np.asarray(figure.axes[0].get_images()[0].get_array())


def curves(figure):
    """Return each curve of a ROC picture, by its label."""
    lines = figure.axes[0].get_lines()
    return {line.get_label(): line.get_xydata() for line in lines if line.get_label() != "chance"}


def assert_is_curve(points, positive, scores, weight=None):
    """Check corners of a curve: they are points of scikit-learn's, and hold the same area."""
    expected = roc_curve(positive, scores, sample_weight=weight, drop_intermediate=False)
    every = np.stack(expected[:2], 1)
    assert np.abs(points[:, None] - every[None]).max(2).min(1).max() < 1e-6
    assert auc(*points.T) == pytest.approx(auc(*expected[:2]), abs=1e-6)
    assert len(points) < len(every)


def output(model):
    return model.predict(X, verbose=0)


@pytest.mark.parametrize("batch_size", [1, 32, 1000])
def test_the_confusion_matrix_of_two_classes_is_that_of_scikit_learn(batch_size):
    model = binary_model()
    figure = model.plot_confusion_matrix((X, BINARY), batch_size=batch_size)
    expected = confusion_matrix(BINARY, output(model) > 0)
    assert (matrix(figure) == expected).all()
    right = expected.trace()
    assert figure.axes[0].get_title(loc="left") == f"{right} of 230 right ({right / 230:.1%})"


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_the_confusion_matrix_of_several_classes_is_that_of_scikit_learn(batch_size):
    model = class_model()
    figure = model.plot_confusion_matrix((X, CLASSES), batch_size=batch_size)
    assert (matrix(figure) == confusion_matrix(CLASSES, output(model).argmax(1))).all()


@pytest.mark.parametrize("normalize", ["true", "pred", "all"])
def test_shares_are_those_of_scikit_learn(normalize):
    model = class_model()
    figure = model.plot_confusion_matrix((X, CLASSES), normalize=normalize)
    expected = confusion_matrix(CLASSES, output(model).argmax(1), normalize=normalize)
    assert np.allclose(matrix(figure), expected)
    assert figure.axes[0].texts[0].get_text() == f"{expected[0, 0]:.2f}"


def test_what_predictions_are_is_told_by_the_loss():
    logits, probabilities = binary_model(), binary_model("bce", nn.Sigmoid())
    figures = [model.plot_confusion_matrix((X, BINARY)) for model in (logits, probabilities)]
    assert (matrix(figures[0]) == matrix(figures[1])).all()


def test_a_loss_of_ones_own_leaves_it_to_the_whole_data():
    model = binary_model(lambda y_pred, y_true: (y_pred.sigmoid() - y_true).square().mean())
    figure = model.plot_confusion_matrix((X, BINARY), batch_size=1)
    assert (matrix(figure) == confusion_matrix(BINARY, output(model) > 0)).all()


def test_classes_that_the_loss_ignores_are_left_out():
    targets = CLASSES.clone()
    targets[::3] = -1
    model = class_model(nn.CrossEntropyLoss(ignore_index=-1))
    counted = targets >= 0
    expected = confusion_matrix(targets[counted], output(model).argmax(1)[counted])
    assert (matrix(model.plot_confusion_matrix((X, targets))) == expected).all()
    area = roc_auc_score(targets[counted] == 2, output(model).softmax(1)[counted, 2])
    assert f"2: AUC = {area:.4f}" in curves(model.plot_roc((X, targets)))


def test_pixels_are_counted_one_by_one():
    model = KerasModel(nn.Conv2d(2, 3, 1), "cross_entropy")
    x, y = torch.randn(5, 2, 4, 4), torch.randint(3, (5, 4, 4))
    prediction = model.predict(x, verbose=0).argmax(1)
    expected = confusion_matrix(y.flatten(), prediction.flatten())
    assert (matrix(model.plot_confusion_matrix((x, y), batch_size=2)) == expected).all()
    weights = torch.rand(5)
    scores = model.predict(x, verbose=0).double().softmax(1)[:, 1].flatten()
    area = roc_auc_score(y.flatten() == 1, scores, sample_weight=weights.repeat_interleave(16))
    assert f"1: AUC = {area:.4f}" in curves(model.plot_roc((x, y, weights), batch_size=2))


@pytest.mark.parametrize("loss_fn", ["bce_with_logits", "bce", None])
def test_the_roc_curve_of_two_classes_is_that_of_scikit_learn(loss_fn):
    after = [nn.Sigmoid()] if loss_fn == "bce" else []
    model = binary_model(loss_fn or (lambda y_pred, y_true: (y_pred - y_true).abs().mean()), *after)
    ((label, points),) = curves(model.plot_roc((X, BINARY))).items()
    assert label == f"AUC = {roc_auc_score(BINARY, output(model)):.4f}"
    assert_is_curve(points, BINARY, output(model))


def test_the_area_is_that_of_our_metric():
    model = KerasModel(linear(1, nn.Flatten(0)), "bce_with_logits", {"auc": AUC()})
    scores = model.evaluate((X, BINARY), verbose=0)
    assert list(curves(model.plot_roc((X, BINARY)))) == [f"AUC = {scores['val_auc']:.4f}"]


def test_sample_weights_count_in_the_roc_curve():
    model, weights = binary_model(), torch.rand(230)
    ((label, points),) = curves(model.plot_roc((X, BINARY, weights), batch_size=9)).items()
    area = roc_auc_score(BINARY, output(model), sample_weight=weights)
    assert label == f"AUC = {area:.4f}"
    assert_is_curve(points, BINARY, output(model), weights)


def test_each_class_has_a_roc_curve_against_the_rest():
    model = class_model()
    found = curves(model.plot_roc((X, CLASSES), labels=["ant", "bee", "cat"]))
    probabilities = output(model).double().softmax(1)
    for number, (label, points) in enumerate(found.items()):
        area = roc_auc_score(number == CLASSES, probabilities[:, number])
        assert label == f"{['ant', 'bee', 'cat'][number]}: AUC = {area:.4f}"
        assert_is_curve(points, number == CLASSES, probabilities[:, number])


def test_each_label_has_a_roc_curve():
    y = torch.stack([BINARY, 1 - BINARY, (CLASSES > 0).float()], 1)
    model = KerasModel(linear(3), "bce_with_logits")
    expected = [
        f"{number}: AUC = {roc_auc_score(y[:, number], output(model)[:, number]):.4f}"
        for number in range(3)
    ]
    assert list(curves(model.plot_roc((X, y)))) == expected


def test_a_class_without_samples_says_so_in_the_legend():
    found = curves(class_model().plot_roc((X, CLASSES.clamp(max=1))))
    assert "2: no positive samples" in found
    assert found["2: no positive samples"].shape == (0, 2)


def test_many_curves_share_a_line_of_the_legend():
    model = KerasModel(linear(20), "cross_entropy")
    figure = model.plot_roc((X, torch.arange(230) % 20))
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(labels) == 14
    assert labels[-2:] == ["and 8 more", "chance"]


def test_curves_are_told_apart_without_colour():
    figure = KerasModel(linear(6), "cross_entropy").plot_roc((X, torch.arange(230) % 6))
    lines = [line for line in figure.axes[0].get_lines() if "AUC" in str(line.get_label())]
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 6


def test_residuals_are_predictions_minus_targets():
    model = value_model()
    figure = model.plot_residuals((X, VALUES), batch_size=50)
    scatter, histogram = figure.axes
    points = np.asarray(scatter.collections[0].get_offsets())
    assert np.allclose(points, np.stack([VALUES, output(model)], 1))
    assert scatter.get_title(loc="left") == f"R² = {r2_score(VALUES, output(model)):.4f}"
    residuals = output(model) - VALUES
    heights = [bar.get_height() for bar in histogram.patches]
    expected, _ = np.histogram(residuals.double(), bins=len(heights))
    assert heights == expected.tolist()
    label = f"mean {residuals.mean():.3g}, deviation {residuals.std(correction=0):.3g}"
    assert [text.get_text() for text in histogram.get_legend().get_texts()] == [label]


def test_several_targets_have_a_row_each():
    y = torch.stack([VALUES, VALUES.square()], 1)
    model = value_model(2)
    figure = model.plot_residuals((X, y), labels=["a", "b"])
    titles = [axes.get_title(loc="left") for axes in figure.axes[::2]]
    expected = r2_score(y, output(model), multioutput="raw_values")
    assert titles == [f"a: R² = {expected[0]:.4f}", f"b: R² = {expected[1]:.4f}"]


def test_of_many_samples_some_are_drawn():
    x = torch.randn(50_000, 4)
    figure = value_model().plot_residuals((x, x[:, 0]), batch_size=10_000)
    axes = figure.axes[0]
    assert len(axes.collections[0].get_offsets()) <= 20_000
    assert axes.get_legend().get_texts()[0].get_text() == "every 3th of 50,000 samples"


def test_the_probability_of_a_class_is_no_value():
    model = KerasModel(linear(1, nn.Flatten(0)), "mse")
    assert model.plot_residuals((X, BINARY)).axes  # a regression on 0 and 1


LOADER = DataLoader(TensorDataset(X, CLASSES), batch_size=16, shuffle=True)


@pytest.mark.parametrize(
    "data",
    [
        LOADER,
        TensorDataset(X, CLASSES),
        (X.numpy(), CLASSES.numpy()),
        (pd.DataFrame(X.numpy()), pd.Series(CLASSES.numpy())),
        list(zip(X.split(70), CLASSES.split(70), strict=True)),
    ],
    ids=["loader", "dataset", "arrays", "frames", "batches"],
)
def test_every_kind_of_data_is_taken(data):
    model = class_model()
    expected = confusion_matrix(CLASSES, output(model).argmax(1))
    assert (matrix(model.plot_confusion_matrix(data)) == expected).all()
    assert len(curves(model.plot_roc(data))) == 3


def test_hugging_face_batches_are_taken():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = linear(3)

        def forward(self, x, labels=None):
            logits = self.linear(x)
            loss = nn.functional.cross_entropy(logits, labels)
            return type("Output", (dict,), {"loss": loss, "logits": logits})()

    model = KerasModel(Net())
    batches = [{"x": X[:100], "labels": CLASSES[:100]}, {"x": X[100:], "labels": CLASSES[100:]}]
    expected = confusion_matrix(CLASSES, linear(3)(X).argmax(1))
    assert (matrix(model.plot_confusion_matrix(batches, batch_size=None)) == expected).all()


def test_one_of_several_outputs_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.sex, self.age = linear(1, nn.Flatten(0)), linear(1, nn.Flatten(0), seed=2)

        def forward(self, x):
            return {"sex": self.sex(x), "age": self.age(x)}

    model = KerasModel(Net(), {"sex": "bce_with_logits", "age": "mse"})
    data = (X, {"sex": BINARY, "age": VALUES})
    expected = confusion_matrix(BINARY, output(model)["sex"] > 0)
    assert (matrix(model.plot_confusion_matrix(data, output="sex")) == expected).all()
    assert model.plot_residuals(data, output="age").axes
    with pytest.raises(ValueError, match=r"plot_roc compares one tensor .* select one with "):
        model.plot_roc(data)
    with pytest.raises(ValueError, match="output 'size' does not exist"):
        model.plot_roc(data, output="size")


@pytest.mark.parametrize(
    ("picture", "model", "y", "text"),
    [
        ("plot_roc", value_model, VALUES, "this one is regression: .* use plot_residuals"),
        ("plot_roc", value_model, VALUES.sigmoid(), "this one is regression: .* plot_residuals"),
        ("plot_confusion_matrix", value_model, VALUES, "this one is regression"),
        ("plot_residuals", class_model, CLASSES, "this one is multiclass, 3 classes: .* plot_roc"),
        ("plot_residuals", binary_model, BINARY, "this one is binary"),
        (
            "plot_confusion_matrix",
            lambda: KerasModel(linear(3), "bce_with_logits"),
            nn.functional.one_hot(CLASSES).float(),
            "this one is multilabel, 3 labels: .* use plot_roc",
        ),
        ("plot_roc", lambda: KerasModel(linear(3), "mse"), VALUES, "this one is regression"),
        ("plot_residuals", lambda: KerasModel(linear(3), "mse"), VALUES, "one prediction per"),
        ("plot_roc", lambda: KerasModel(linear(3), "mse"), VALUES[:, None, None], "cannot infer"),
    ],
)
def test_a_picture_that_does_not_fit_the_problem_names_the_one_that_does(picture, model, y, text):
    with pytest.raises(ValueError, match=text):
        getattr(model(), picture)((X, y))


def test_wrong_arguments_say_what_was_expected():
    model = class_model()
    with pytest.raises(ValueError, match="labels has 2 names, but there are 3 classes"):
        model.plot_roc((X, CLASSES), labels=["a", "b"])
    with pytest.raises(ValueError, match="normalize='rows'; expected one of"):
        model.plot_confusion_matrix((X, CLASSES), normalize="rows")
    with pytest.raises(TypeError, match="batchsize"):
        model.plot_confusion_matrix((X, CLASSES), batchsize=3)
    with pytest.raises(ValueError, match="up to 6 targets, but the data has 7"):
        value_model(7).plot_residuals((X, torch.randn(230, 7)))
    with pytest.raises(ValueError, match="predictions contain NaN"):
        binary_model().plot_roc((X * math.nan, BINARY))


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_pictures_are_saved_in_the_format_of_their_name(tmp_path, suffix):
    for number, (picture, model, y) in enumerate(
        [
            ("plot_roc", binary_model(), BINARY),
            ("plot_confusion_matrix", class_model(), CLASSES),
            ("plot_residuals", value_model(), VALUES),
        ]
    ):
        path = tmp_path / "deep" / f"{number}.{suffix}"
        getattr(model, picture)((X, y), path=path)
        assert path.stat().st_size > 1000


def test_nothing_of_matplotlib_or_the_model_is_disturbed():
    import matplotlib.pyplot as plt

    mpl.get_backend()
    model = class_model()
    model.net.train()
    settings, state, shown = dict(mpl.rcParams), torch.get_rng_state(), plt.get_fignums()
    figure = model.plot_confusion_matrix((X, CLASSES))
    model.plot_roc((X, CLASSES))
    value_model_state = torch.get_rng_state()
    assert plt.get_fignums() == shown
    assert dict(mpl.rcParams) == settings
    assert torch.equal(value_model_state, state)
    assert model.net.training
    assert figure._repr_png_()[:4] == b"\x89PNG"  # what a notebook shows
    assert pickle.loads(pickle.dumps(figure)).axes


@pytest.mark.parametrize("classes", [2, 40])
def test_labels_and_numbers_do_not_overlap(classes):
    model = KerasModel(linear(classes), "cross_entropy")
    figure = model.plot_confusion_matrix((X, torch.arange(230) % classes))
    axes = figure.axes[0]
    assert len(axes.texts) == (classes**2 if classes <= 30 else 0)
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def frame(**columns):
    return pd.DataFrame({"epoch": [1, 2, 3], **columns})


HISTORY = frame(
    train_loss=[3.0, 2.0, 1.0],
    train_auc=[0.5, 0.6, 0.7],
    lr=[0.1, 0.1, 0.1],
    val_loss=[3.0, 1.0, 2.0],
    val_auc=[0.5, 0.9, 0.8],
)


def drawn(figure):
    (axes,) = figure.axes
    return {line.get_label(): line.get_ydata().tolist() for line in axes.get_lines()}


@pytest.mark.parametrize("metric", ["auc", "val_auc", "train_auc"])
def test_a_metric_is_drawn_over_the_epochs_and_the_best_is_starred(metric):
    assert drawn(plot_metric(HISTORY, metric)) == {
        "train": [0.5, 0.6, 0.7],
        "validation": [0.5, 0.9, 0.8],
        "best: 0.9 in epoch 2": [0.9],
    }


def test_of_a_loss_the_least_is_best():
    assert drawn(plot_metric(HISTORY, "loss"))["best: 1 in epoch 2"] == [1.0]
    mae = frame(train_mae=[3.0, 2.0, 2.5])
    assert drawn(plot_metric(mae, "mae"))["best: 2 in epoch 2"] == [2.0]


def test_of_a_metric_of_ones_own_the_user_says_what_is_best():
    own = frame(train_gap=[3.0, 2.0, math.nan])
    assert list(drawn(plot_metric(own, "gap"))) == ["train"]
    assert drawn(plot_metric(own, "gap", mode="max"))["best: 3 in epoch 1"] == [3.0]


def test_several_validation_sets_have_a_line_each():
    sets = frame(train_auc=[0.1] * 3, val_a_auc=[0.2, 0.3, 0.1], val_b_auc=[0.4] * 3)
    assert list(drawn(plot_metric(sets, "auc"))) == ["train", "a", "b", "best: 0.3 in epoch 2"]
    outputs = frame(train_auc=[0.1] * 3, train_sex_auc=[0.1] * 3, val_auc=[0.2] * 3)
    outputs["val_sex_auc"] = 0.5
    assert list(drawn(plot_metric(outputs, "auc")))[:2] == ["train", "validation"]
    assert "best: 0.5 in epoch 1" in drawn(plot_metric(outputs, "sex_auc", mode="max"))


def test_what_fit_returns_is_drawn(tmp_path):
    model = KerasModel(linear(1, nn.Flatten(0)), "bce_with_logits", {"auc": "auc"})
    history = model.fit((X, BINARY), (X, BINARY), epochs=3, verbose=0)
    plot_metric(history, "auc", path=tmp_path / "auc.png")
    assert (tmp_path / "auc.png").stat().st_size > 1000


def test_what_cant_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"no metric 'acc'; it has \['loss', 'auc'\]"):
        plot_metric(HISTORY, "acc")
    with pytest.raises(TypeError, match="dfhistory is a dict; expected the DataFrame"):
        plot_metric({"epoch": [1]}, "auc")
    with pytest.raises(ValueError, match="mode='best'; expected one of"):
        plot_metric(HISTORY, "auc", mode="best")
