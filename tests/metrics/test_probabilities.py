import pytest
import torch
import torchmetrics
from sklearn import metrics as sk
from torchmetrics import classification

from fitorch.metrics import AUC, IOU, Accuracy, MetricSet, Precision, Recall

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(3)
LOGITS = torch.rand(200, generator=GENERATOR) * 1.2 - 0.1  # most of them look like probabilities
BITS = (LOGITS + torch.randn(200, generator=GENERATOR) / 4 > 0.5).long()
SIZES = pytest.mark.parametrize("size", [1, 7, 64, 200])
MEMBERS = [classification.BinaryAccuracy(), classification.BinaryF1Score()]


def over_batches(metric, data, size, scale=None):
    metric_set = MetricSet({"m": metric}, CPU, lambda output: scale)
    for pair in zip(*(column.split(size) for column in data), strict=True):
        metric_set.update(*pair)
    return metric_set.compute()


@SIZES
@pytest.mark.parametrize("scale", [None, "logits"])
def test_logits_that_look_like_probabilities_are_read_as_logits(size, scale):
    value = over_batches(classification.BinaryAccuracy(), (LOGITS, BITS), size, scale)["m"]
    assert value == pytest.approx(sk.accuracy_score(BITS, LOGITS > 0))


def test_torchmetrics_by_itself_depends_on_the_batch_size():
    values = []
    for size in (1, 200):
        metric = classification.BinaryAccuracy()
        for pair in zip(LOGITS.split(size), BITS.split(size), strict=True):
            metric.update(*pair)
        values.append(metric.compute().item())
    assert values[0] != pytest.approx(values[1], abs=0.1)


@SIZES
@pytest.mark.parametrize("scale", [None, "probabilities"])
def test_probabilities_are_read_as_such(size, scale):
    p = LOGITS.clamp(0, 1)
    value = over_batches(classification.BinaryAccuracy(), (p, BITS), size, scale)["m"]
    assert value == pytest.approx(sk.accuracy_score(BITS, p > 0.5))


@SIZES
@pytest.mark.parametrize("scale", [None, "logits"])
def test_a_collection_keeps_its_names_and_its_figures(size, scale):
    collection = torchmetrics.MetricCollection(MEMBERS)
    values = over_batches(collection, (LOGITS, BITS), size, scale)
    assert values == {
        "m_BinaryAccuracy": pytest.approx(sk.accuracy_score(BITS, LOGITS > 0)),
        "m_BinaryF1Score": pytest.approx(sk.f1_score(BITS, LOGITS > 0)),
    }


@SIZES
@pytest.mark.parametrize("scale", [None, "logits"])
def test_several_labels_are_decided_once_too(size, scale):
    logits, bits = LOGITS.reshape(50, 4), BITS.reshape(50, 4)
    metric = classification.MultilabelF1Score(4)
    value = over_batches(metric, (logits, bits), min(size, 50), scale)["m"]
    assert value == pytest.approx(sk.f1_score(bits, logits > 0, average="macro"))


@SIZES
def test_curves_of_classes_see_the_softmax(size):
    scores = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    numbers = torch.randint(3, (200,), generator=torch.Generator().manual_seed(1))
    value = over_batches(classification.MulticlassAUROC(3), (scores, numbers), size, "logits")["m"]
    assert value == pytest.approx(
        sk.roc_auc_score(numbers, scores.double().softmax(1), multi_class="ovr"), rel=1e-6
    )


def test_large_logits_stay_apart():
    logits = torch.linspace(18, 30, 200)  # their sigmoid is 1 in 32 bits
    value = over_batches(classification.BinaryAUROC(), (logits, BITS), 200, "logits")["m"]
    assert value == pytest.approx(sk.roc_auc_score(BITS, logits), rel=1e-6)


@pytest.mark.parametrize("kind", [Accuracy, Precision, Recall, IOU])
@SIZES
def test_ours_take_what_the_objective_says(kind, size):
    logits = over_batches(kind(from_logits=True), (LOGITS, BITS), size)["m"]
    assert over_batches(kind(), (LOGITS, BITS), size, "logits")["m"] == logits
    assert over_batches(kind(), (LOGITS, BITS), size, None)["m"] == logits
    p = LOGITS.sigmoid()
    assert over_batches(kind(), (p, BITS), size, "probabilities")["m"] == logits
    assert over_batches(kind(), (p, BITS), size, None)["m"] == logits


def test_what_the_user_says_goes_first():
    told = over_batches(Accuracy(from_logits=False), (LOGITS, BITS), 7, "logits")["m"]
    assert told == pytest.approx(sk.accuracy_score(BITS, LOGITS > 0.5))


def test_bins_know_what_they_bin():
    binned = AUC(thresholds=4000)
    exact = sk.roc_auc_score(BITS, LOGITS)
    for scale in (None, "logits"):
        assert over_batches(binned, (LOGITS, BITS), 7, scale)["m"] == pytest.approx(exact, abs=0.01)


def test_numbers_of_classes_are_left_alone():
    guesses = (LOGITS > 0).long()
    value = over_batches(classification.BinaryAccuracy(), (guesses, BITS), 7, "logits")["m"]
    assert value == pytest.approx(sk.accuracy_score(BITS, guesses))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_32_bits(dtype):
    seen = []

    def look(y_pred, y_true):
        seen.append(y_pred.dtype)
        return 0.0

    metric_set = MetricSet({"look": look}, CPU)
    metric_set.update(LOGITS.to(dtype), BITS)
    assert seen == [torch.float32]
