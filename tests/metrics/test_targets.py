"""Targets that the loss ignores, class axes, soft targets: figures of the whole epoch at once."""

import copy

import pytest
import torch
import torchmetrics
from sklearn import metrics as sk
from torchmetrics import classification
from torchmetrics.wrappers import MinMaxMetric

from fitorch.metrics import AUC, IOU, Accuracy, MetricError, MetricSet, Precision, Recall
from fitorch.metrics.targets import TargetForm

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(7)
N, T, C = 40, 5, 4
LOGITS = torch.randn(N, C, generator=GENERATOR) / 3 + 0.3
NUMBERS = torch.randint(C, (N,), generator=GENERATOR)
TOKENS = torch.randn(N, T, C, generator=GENERATOR)
TAGS = torch.randint(C, (N, T), generator=GENERATOR)
BIT_LOGITS = torch.randn(N, T, generator=GENERATOR)
BITS = torch.randint(2, (N, T), generator=GENERATOR)
WEIGHT = torch.rand(N, generator=GENERATOR)
SIZES = pytest.mark.parametrize("size", [1, 3, N])
IGNORED = pytest.mark.parametrize("ignored", [-100, 255, 0])


def without(y, ignored, share=0.4):
    """Return the targets with a share of them ignored, all of the first rows among them."""
    generator = torch.Generator().manual_seed(1)
    y = y.where(torch.rand(y.shape, generator=generator) > share, ignored)
    y[:4] = ignored
    return y


def over_batches(metrics, columns, size, **options):
    metric_set = MetricSet(metrics, CPU, **{name: lambda *_, v=v: v for name, v in options.items()})
    for batch in zip(*(column.split(size) for column in columns), strict=True):
        metric_set.update(*batch)
    return metric_set.compute()


def accuracy(p, y, weight=None):
    return sk.accuracy_score(y, p.argmax(1), sample_weight=weight)


def f1(p, y):
    labels = range(C)
    return sk.f1_score(y, p.argmax(1), average="macro", labels=labels, zero_division=0)


def truth_of(metric, p, y):
    metric.reset()
    metric.update(p, y)
    return float(metric.compute())


METRICS = {
    "acc": ("acc", accuracy),
    "f1": ("f1", None),
    "auc": ("auc", None),
    "iou": ("iou", None),
    "kappa": ("kappa", lambda p, y: sk.cohen_kappa_score(y, p.argmax(1))),
    "Accuracy": (Accuracy(), accuracy),
    "IOU": (IOU(C), None),
    "Precision": (Precision(C), None),
    "Recall": (Recall(C), None),
    "MulticlassF1Score": (classification.MulticlassF1Score(C), None),
    "MulticlassAUROC": (classification.MulticlassAUROC(C), None),
    "MinMaxMetric": (MinMaxMetric(classification.MulticlassF1Score(C)), None),
    "composition": (100 * classification.MulticlassF1Score(C), None),
    "collection": (torchmetrics.MetricCollection([classification.MulticlassF1Score(C)]), None),
    "subclass": (type("Mine", (classification.MulticlassF1Score,), {})(C), None),
}


@SIZES
@IGNORED
@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("scale", ["class_logits", None])
@pytest.mark.filterwarnings("ignore:No (positive|negative) samples")
def test_ignored_targets_do_not_count(name, size, ignored, scale):
    metric, truth = METRICS[name]
    y = without(NUMBERS, ignored)
    left = y != ignored
    p, y_left = LOGITS[left], y[left]
    values = over_batches({"m": metric}, (LOGITS, y), size, scale=scale, ignored=ignored)
    alone = over_batches({"m": metric}, (p, y_left), len(p), scale=scale)
    assert values == pytest.approx(alone, rel=1e-5)
    if truth is not None:
        assert values["m"] == pytest.approx(truth(p, y_left), rel=1e-5)
    if name == "MulticlassF1Score":
        assert values["m"] == pytest.approx(
            truth_of(classification.MulticlassF1Score(C), p, y_left)
        )


@SIZES
@pytest.mark.parametrize("metric", ["acc", Accuracy()], ids=["acc", "Accuracy"])
@pytest.mark.parametrize("tokens", [False, True], ids=["samples", "tokens"])
def test_sample_weights_stay_with_their_targets(metric, size, tokens):
    p, y = (TOKENS.movedim(-1, 1), without(TAGS, -100)) if tokens else (LOGITS, without(NUMBERS, 9))
    ignored = -100 if tokens else 9
    options = {"scale": "class_logits", "ignored": ignored}
    value = over_batches({"m": metric}, (p, y, WEIGHT), size, **options)["m"]
    left, rows = y != ignored, p.movedim(1, -1)
    weight = WEIGHT.unsqueeze(1).expand(y.shape)[left] if tokens else WEIGHT[left]
    assert value == pytest.approx(accuracy(rows[left], y[left], weight), rel=1e-6)


@SIZES
@pytest.mark.parametrize("metric", ["acc", "f1", "auc", Accuracy(), AUC(), Precision()], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_bits_of_tokens_are_left_out_too(metric, size, weighted):
    y = without(BITS, -100)
    left = y != -100
    columns = (BIT_LOGITS, y, WEIGHT) if weighted else (BIT_LOGITS, y)
    value = over_batches({"m": metric}, columns, size, scale="logits", ignored=-100)["m"]
    weight = WEIGHT.unsqueeze(1).expand(y.shape)[left] if weighted else None
    columns = (BIT_LOGITS[left], y[left], weight) if weighted else (BIT_LOGITS[left], y[left])
    name = metric if isinstance(metric, str) else ""
    if name == "f1" and not weighted:  # a name is for several labels if targets are (N, L)
        f1s = [sk.f1_score(y[:, t][left[:, t]], BIT_LOGITS[:, t][left[:, t]] > 0) for t in range(T)]
        assert value == pytest.approx(sum(f1s) / T, rel=1e-5)
    elif name in ("f1", "auc"):
        assert 0 <= value <= 1
    else:
        alone = over_batches({"m": metric}, columns, len(columns[0]), scale="logits")["m"]
        assert value == pytest.approx(alone, rel=1e-6)


@SIZES
@pytest.mark.parametrize("name", METRICS)
def test_an_epoch_of_ignored_targets_has_no_value(name, size):
    metric = METRICS[name][0]
    y = torch.full((N,), -100)
    options = {"scale": "class_logits", "ignored": -100}
    values = over_batches({"m": metric}, (LOGITS, y), size, **options)
    assert all(value != value for value in values.values())


def test_an_ignore_index_of_the_users_decides():
    y = without(NUMBERS, -100)
    y[-1] = 2
    metric = classification.MulticlassAccuracy(C, average="micro", ignore_index=-100)
    value = over_batches({"m": metric}, (LOGITS, y), 3, scale="class_logits", ignored=2)["m"]
    left = y != -100
    assert value == pytest.approx(accuracy(LOGITS[left], y[left]))


def test_functions_get_all_targets():
    seen = []

    def look(y_pred, y_true):
        seen.append((y_pred, y_true))
        return 0.0

    y = without(NUMBERS, -100)
    over_batches({"look": look}, (LOGITS, y), N, scale="class_logits", ignored=-100)
    assert torch.equal(seen[0][0], LOGITS)
    assert torch.equal(seen[0][1], y)


@pytest.mark.parametrize("metric", ["acc", Accuracy(), IOU(C), Recall(C)], ids=str)
def test_an_accelerator_is_not_asked_for_what_is_left(metric, monkeypatch):
    def always_a_mask(form, y_true):
        return None if form.ignored is None else y_true != form.ignored

    monkeypatch.setattr(TargetForm, "counted", always_a_mask)
    y = without(NUMBERS, -100)
    options = {"scale": "class_logits", "ignored": -100}
    value = over_batches({"m": metric}, (LOGITS, y), 3, **options)
    left = y != -100
    assert value == over_batches({"m": metric}, (LOGITS[left], y[left]), N, scale="class_logits")


@SIZES
@pytest.mark.parametrize(
    "metric",
    ["acc", "f1", "auc", Accuracy(), classification.MulticlassAccuracy(C, average="micro")],
    ids=str,
)
@pytest.mark.parametrize("length", [C, T], ids=["as many tokens as classes", "more tokens"])
@pytest.mark.parametrize("ignored", [None, -100])
def test_classes_may_be_last(metric, size, length, ignored):
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(N, length, C, generator=generator)
    y = torch.randint(C, (N, length), generator=generator)
    y = y if ignored is None else without(y, ignored)
    options = {"ignored": ignored, "classes_last": True}
    value = over_batches({"m": metric}, (p, y), size, **options)["m"]
    left = y != -100
    alone = over_batches({"m": metric}, (p[left], y[left]), N * length)["m"]
    assert value == pytest.approx(alone, rel=1e-5)
    if isinstance(metric, str) and metric == "acc":
        assert value == pytest.approx(accuracy(p[left], y[left]))


def test_the_first_dimension_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    p, y = torch.randn(N, C, C, generator=generator), torch.randint(C, (N, C), generator=generator)
    value = over_batches({"m": "acc"}, (p, y), 3, scale="class_logits", classes_last=False)["m"]
    assert value == pytest.approx(float((p.argmax(1) == y).double().mean()))


@SIZES
@pytest.mark.parametrize("names", [("acc", "f1", "auc", "kappa")])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_rows_that_sum_to_one_are_classes(names, size, smoothing):
    soft = torch.nn.functional.one_hot(NUMBERS, C) * (1 - smoothing) + smoothing / C
    values = over_batches({name: name for name in names}, (LOGITS, soft), size)
    assert values == pytest.approx(
        over_batches({name: name for name in names}, (LOGITS, NUMBERS), N), rel=1e-5
    )
    assert values["acc"] == pytest.approx(accuracy(LOGITS, NUMBERS))


@SIZES
@pytest.mark.parametrize("metric", [Accuracy(), IOU(C), Precision(C), Recall(C)], ids=str)
@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_our_objects_know_classes_from_labels(metric, size, kind):
    y = torch.nn.functional.one_hot(NUMBERS, C).float()
    y[-1] = 1.0 if kind == "labels" else y[-1]
    value = over_batches({"m": metric}, (LOGITS, y), size)["m"]
    truth = NUMBERS if kind == "classes" else y
    expected = over_batches({"m": metric}, (LOGITS, truth), N, scale="logits")["m"]
    assert value == pytest.approx(expected)


@SIZES
@pytest.mark.parametrize("place", [0, N // 2, N - 1])
def test_one_row_of_labels_decides_for_all(size, place):
    labels = torch.nn.functional.one_hot(NUMBERS, C).float()
    labels[place] = torch.tensor([1.0, 1.0, 0.0, 0.0])
    metric_set = MetricSet({"acc": "acc", "f1": "f1"}, CPU)
    for p, y in zip(LOGITS.split(size), labels.split(size), strict=True):
        metric_set.update(p, y)
    guesses = LOGITS > 0
    assert metric_set.compute() == {
        "acc": pytest.approx(float((guesses == labels.bool()).double().mean())),
        "f1": pytest.approx(sk.f1_score(labels, guesses, average="macro"), rel=1e-5),
    }
    assert set(metric_set.tasks.values()) == {f"multilabel, {C} labels"}
    metric_set.reset()
    assert set(metric_set.tasks.values()) == {f"multilabel, {C} labels"}


def test_what_was_decided_is_stated():
    metric_set = MetricSet({"acc": "acc"}, CPU)
    metric_set.update(LOGITS, torch.nn.functional.one_hot(NUMBERS, C).float())
    assert metric_set.tasks == {
        "acc": f"multiclass, {C} classes (each row of the targets sums to 1)"
    }


def test_a_metric_of_classes_refuses_labels_that_come_later():
    labels = torch.nn.functional.one_hot(NUMBERS, C).float()
    labels[-1] = 1.0
    with pytest.raises(MetricError, match=r"'m' cannot be computed: it is defined for classes"):
        over_batches({"m": "kappa"}, (LOGITS, labels), 3)


@pytest.mark.parametrize("metric", ["acc", Accuracy(), "f1"], ids=str)
def test_a_squeezed_batch_of_one_has_its_class(metric):
    metric_set = MetricSet({"m": metric}, CPU, lambda _: "class_logits")
    metric_set.update(LOGITS[:3], NUMBERS[:3])
    metric_set.update(LOGITS[3], NUMBERS[3:4])
    expected = over_batches({"m": metric}, (LOGITS[:4], NUMBERS[:4]), 4, scale="class_logits")
    assert metric_set.compute() == expected


@pytest.mark.parametrize(
    "metric",
    ["mae", "r2", torchmetrics.MeanSquaredError(), torchmetrics.PearsonCorrCoef()],
    ids=str,
)
def test_a_squeezed_batch_of_one_is_joined(metric):
    metric_set = MetricSet({"m": metric}, CPU)
    p, y = LOGITS[:9, 0], LOGITS[:9, 1]
    for part in (slice(0, 4), slice(4, 8)):
        metric_set.update(p[part], y[part])
    metric_set.update(p[8], y[8:])
    assert metric_set.compute() == pytest.approx(over_batches({"m": metric}, (p, y), 9), rel=1e-5)


def test_an_error_for_a_squeezed_batch_says_so():
    def length(y_pred, y_true):
        return len(y_pred) / len(y_true)

    with pytest.raises(MetricError, match=r"'m' failed .* end the net with \.squeeze\(-1\)"):
        MetricSet({"m": length}, CPU).update(torch.tensor(0.5), torch.zeros(1))


@pytest.mark.parametrize("metric", ["acc", "f1", "kappa", Accuracy()], ids=str)
@pytest.mark.parametrize("kind", ["one-hot", "ignored"])
def test_states_continue_and_merge(metric, kind):
    ignored = -100 if kind == "ignored" else None
    y = without(NUMBERS, -100) if ignored else torch.nn.functional.one_hot(NUMBERS, C).float()

    def stage():
        return MetricSet({"m": metric}, CPU, ignored=lambda _: ignored)

    whole, first, second, resumed = (stage() for _ in range(4))
    for number, (p, t) in enumerate(zip(LOGITS.split(3), y.split(3), strict=True)):
        whole.update(p, t)
        (first if number < 7 else second).update(p, t)
    expected = whole.compute()
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    for p, t in zip(LOGITS[21:].split(3), y[21:].split(3), strict=True):
        resumed.update(p, t)
    assert resumed.compute() == expected
    parts = []
    second.gathered(lambda part: parts.append(part) or [part])
    merged = first.gathered(lambda part: [part, *parts])
    assert merged.compute() == pytest.approx(expected, rel=1e-6)
    assert first.tasks == whole.tasks
