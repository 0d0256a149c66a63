import pytest
import torch
from sklearn import metrics as sk

from fitorch.metrics import MetricError, MetricSet, get
from fitorch.metrics.registry import METRICS
from fitorch.metrics.task import Task, infer_task

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(90, generator=GENERATOR)
BITS = (torch.rand(90, generator=GENERATOR) < 0.4).float()
SCORES = torch.randn(90, 6, generator=GENERATOR)
NUMBERS = torch.randint(6, (90,), generator=GENERATOR)
LABELS = (torch.rand(90, 3, generator=GENERATOR) < 0.4).float()
TAGS = torch.randn(90, 3, generator=GENERATOR)
VALUES = torch.rand(90, generator=GENERATOR) + 0.1
GUESSES = torch.rand(90, generator=GENERATOR) + 0.1


def binary(function, **options):
    return lambda: function(BITS, LOGITS > 0, **options)


def classes(function, **options):
    return lambda: function(NUMBERS, SCORES.argmax(1), **options)


def labels(function, **options):
    return lambda: function(LABELS, TAGS > 0, **options)


EXPECTED = {
    ("acc", "binary"): binary(sk.accuracy_score),
    ("acc", "multiclass"): classes(sk.accuracy_score),
    ("acc", "multilabel"): lambda: sk.accuracy_score(LABELS.flatten(), TAGS.flatten() > 0),
    ("ap", "binary"): lambda: sk.average_precision_score(BITS, LOGITS),
    ("auc", "binary"): lambda: sk.roc_auc_score(BITS, LOGITS),
    ("auc", "multiclass"): lambda: sk.roc_auc_score(NUMBERS, SCORES.softmax(1), multi_class="ovr"),
    ("auc", "multilabel"): lambda: sk.roc_auc_score(LABELS, TAGS),
    ("balanced_accuracy", "multiclass"): classes(sk.balanced_accuracy_score),
    ("f1", "binary"): binary(sk.f1_score),
    ("f1", "multiclass"): classes(sk.f1_score, average="macro"),
    ("f1", "multilabel"): labels(sk.f1_score, average="macro"),
    ("iou", "binary"): binary(sk.jaccard_score),
    ("iou", "multiclass"): classes(sk.jaccard_score, average="macro"),
    ("kappa", "multiclass"): classes(sk.cohen_kappa_score),
    ("mcc", "binary"): binary(sk.matthews_corrcoef),
    ("mcc", "multiclass"): classes(sk.matthews_corrcoef),
    ("precision", "binary"): binary(sk.precision_score),
    ("precision", "multiclass"): classes(sk.precision_score, average="macro"),
    ("recall", "binary"): binary(sk.recall_score),
    ("recall", "multilabel"): labels(sk.recall_score, average="macro"),
    ("specificity", "binary"): binary(sk.recall_score, pos_label=0),
    ("top5_acc", "multiclass"): lambda: sk.top_k_accuracy_score(NUMBERS, SCORES, k=5),
    ("mae", "regression"): lambda: sk.mean_absolute_error(VALUES, GUESSES),
    ("mape", "regression"): lambda: sk.mean_absolute_percentage_error(VALUES, GUESSES),
    ("mse", "regression"): lambda: sk.mean_squared_error(VALUES, GUESSES),
    ("msle", "regression"): lambda: sk.mean_squared_log_error(VALUES, GUESSES),
    ("r2", "regression"): lambda: sk.r2_score(VALUES, GUESSES),
    ("rmse", "regression"): lambda: sk.root_mean_squared_error(VALUES, GUESSES),
}
DATA = {
    "binary": (LOGITS, BITS),
    "multiclass": (SCORES, NUMBERS),
    "multilabel": (TAGS, LABELS),
    "regression": (GUESSES, VALUES),
}
SIZES = pytest.mark.parametrize("size", [1, 7, 64, 90])


def over_batches(metrics, data, size, scale=None):
    metric_set = MetricSet(metrics, CPU, lambda output: scale)
    for pair in zip(*(column.split(size) for column in data), strict=True):
        metric_set.update(*pair)
    return metric_set.compute()


@SIZES
@pytest.mark.parametrize(("name", "kind"), EXPECTED, ids=lambda value: value)
def test_a_name_gives_scikit_learns_figure_for_any_batch_size(name, kind, size):
    expected = pytest.approx(float(EXPECTED[name, kind]()), rel=1e-4)  # torch adds up in float32
    scales = (None, "logits") if kind != "regression" else (None,)
    for scale in scales:
        assert over_batches({name: name}, DATA[kind], size, scale)[name] == expected


def test_every_name_is_compared():
    synonyms = {"accuracy", "auroc", "average_precision", "ks"}  # ks with scipy, in its own file
    assert {name for name, _ in EXPECTED} | synonyms == set(METRICS)


@SIZES
@pytest.mark.parametrize("name", ["acc", "f1", "precision", "mcc", "auc"])
def test_probabilities_give_the_same_as_their_logits(name, size):
    expected = pytest.approx(float(EXPECTED[name, "binary"]()), rel=1e-5)
    data = LOGITS.sigmoid(), BITS
    assert over_batches({name: name}, data, size, "probabilities")[name] == expected
    assert over_batches({name: name}, data, size, None)[name] == expected


def test_columns_and_rows_give_the_same():
    columns = LOGITS.unsqueeze(1), BITS.unsqueeze(1)
    for name in ("acc", "f1", "auc", "ks"):
        row = over_batches({name: name}, DATA["binary"], 7)[name]
        assert over_batches({name: name}, columns, 7)[name] == row


def test_a_probability_for_each_class_is_a_target_where_the_loss_says_classes():
    one_hot = torch.nn.functional.one_hot(NUMBERS).float()
    value = over_batches({"f1": "f1"}, (SCORES, one_hot), 7, "class_logits")["f1"]
    assert value == pytest.approx(EXPECTED["f1", "multiclass"](), rel=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_the_direction_is_known_before_the_first_batch(name):
    assert get(name).higher_is_better is (name not in {"mae", "mape", "mse", "msle", "rmse"})


@pytest.mark.parametrize(
    ("data", "scale", "task"),
    [
        (DATA["binary"], None, Task("binary")),
        (DATA["multiclass"], None, Task("multiclass", 6)),
        (DATA["multilabel"], None, Task("multilabel", 3)),
        (DATA["regression"], None, Task("regression")),
        ((torch.randn(4, 3, 8, 8), torch.ones(4, 8, 8).long()), None, Task("multiclass", 3)),
        ((torch.randn(4, 1, 8, 8), torch.ones(4, 1, 8, 8)), None, Task("binary")),
        ((TAGS, LABELS), "class_logits", Task("multiclass", 3)),
    ],
)
def test_the_task_is_told_from_a_batch(data, scale, task):
    assert infer_task(*data, scale) == task


def test_tasks_are_stated():
    metric_set = MetricSet({"acc": "acc", "f1": "f1", "own": lambda p, t: 0.0}, CPU)
    assert metric_set.tasks == {}
    metric_set.update(SCORES, NUMBERS)
    assert metric_set.tasks == {"acc": "multiclass, 6 classes", "f1": "multiclass, 6 classes"}


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("acc", "regression", "accuracy is not defined for .*: regression"),
        ("f1", "regression", "F1Score is not defined for .*: regression"),
        ("ks", "multiclass", "ks is not defined for .*: multiclass, 6 classes"),
        ("kappa", "multilabel", "CohenKappa is not defined for .*: multilabel, 3 labels"),
        ("top5_acc", "binary", "Accuracy is not defined for .*: binary"),
    ],
)
def test_a_metric_that_does_not_go_with_the_task_is_refused(name, kind, words):
    with pytest.raises(MetricError, match=f"metric 'm' failed on predictions float32.*{words}"):
        over_batches({"m": name}, DATA[kind], 90)


def test_a_task_that_cant_be_told_is_refused():
    with pytest.raises(
        MetricError, match=r"cannot infer the task from .* \(90, 6\) and .* \(90, 3\)"
    ):
        over_batches({"m": "f1"}, (SCORES, LABELS), 90)


def test_an_unknown_name_lists_the_closest_and_all():
    with pytest.raises(ValueError, match=r"'acuracy' \(did you mean 'accuracy'\?\).*acc, accuracy"):
        get("acuracy")
