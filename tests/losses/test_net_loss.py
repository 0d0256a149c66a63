"""The loss that a net returns, in the forms of the ecosystem, and what it is a mean over."""

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from fitorch.losses.net_loss import TargetCount, logits_in, logits_of, loss_in

LOSS, LOGITS = torch.tensor(0.5), torch.zeros(4, 3)
PARTS = {"ce": torch.tensor(0.2), "l2": torch.tensor(0.3)}


class Pair(NamedTuple):
    loss: torch.Tensor
    logits: torch.Tensor


@dataclass
class Record:
    loss: torch.Tensor
    logits: torch.Tensor


FORMS = {
    "attributes": SimpleNamespace(loss=LOSS, logits=LOGITS),
    "a dataclass": Record(LOSS, LOGITS),
    "a named tuple": Pair(LOSS, LOGITS),
    "a tuple": (LOSS, LOGITS),
}


@pytest.mark.parametrize("output", FORMS.values(), ids=FORMS)
def test_the_loss_and_the_logits_of_an_output_are_found(output):
    assert loss_in(output) is LOSS
    assert logits_in(output) is LOGITS


@pytest.mark.parametrize(
    "output", [{"loss": LOSS, "logits": LOGITS}, OrderedDict(loss=LOSS, logits=LOGITS), PARTS]
)
def test_a_mapping_with_a_loss_or_of_losses_is_returned_with_its_parts(output):
    assert loss_in(output) is output


@pytest.mark.parametrize(
    "output",
    [LOGITS, LOSS, {}, (), (LOGITS, LOGITS), {"logits": LOGITS}, SimpleNamespace(loss=None), None],
)
def test_an_output_without_a_loss_has_none(output):
    assert loss_in(output) is None


def test_logits_are_taken_only_by_their_name():
    assert logits_of(FORMS["a dataclass"]) is LOGITS
    assert logits_of({"logits": LOGITS}) is LOGITS
    for other in (LOGITS, (LOSS, LOGITS), {"a": LOGITS}, None):
        assert logits_of(other) is other


def language_model(shift, samples=6, tokens=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, tokens, 7, generator=generator).to(dtype)
    labels = torch.randint(7, (samples, tokens), generator=generator)
    labels[torch.arange(tokens) >= torch.arange(1, samples + 1)[:, None]] = -100
    predicted = logits[:, : tokens - shift].flatten(0, 1)
    loss = F.cross_entropy(predicted, labels[:, shift:].flatten())
    return SimpleNamespace(loss=loss, logits=logits), labels


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shift", [0, 1], ids=["token classifier", "causal"])
def test_the_targets_that_the_loss_is_a_mean_over_are_counted(shift, dtype):
    output, labels = language_model(shift, dtype=dtype)
    expected = (labels[:, shift:] != -100).sum()
    assert TargetCount()(output, labels) == expected


def test_a_count_holds_for_batches_without_logits_once_it_is_known():
    count = TargetCount()
    output, labels = language_model(1)
    count(output, labels)
    assert count(SimpleNamespace(loss=output.loss), labels[:4]) == (labels[:4, 1:] != -100).sum()


def test_a_batch_that_fits_both_does_not_decide():
    logits = torch.zeros(4, 5, 7)  # an untrained net: all classes are equally likely
    labels = torch.arange(20).reshape(4, 5) % 7
    count = TargetCount()
    count(SimpleNamespace(loss=torch.tensor(7.0).log(), logits=logits), labels)
    output, labels = language_model(1)
    assert count(output, labels) == (labels[:, 1:] != -100).sum()


@pytest.mark.parametrize("logits", [None, torch.zeros(6, 3), torch.ones(6, 5, 7)])
def test_a_loss_of_another_kind_counts_what_is_not_ignored_and_says_so(logits):
    _, labels = language_model(0)
    count = TargetCount()
    output = SimpleNamespace(loss=torch.tensor(0.123), logits=logits)
    with pytest.warns(UserWarning, match="weighted by the number of labels that are not -100"):
        assert count(output, labels) == (labels != -100).sum()
    count(output, labels)  # said once


def test_one_label_per_sample_needs_no_decision():
    labels = torch.tensor([0, 2, -100, 1])
    assert TargetCount()(SimpleNamespace(loss=torch.tensor(0.1), logits=LOGITS), labels) == 3
    assert not TargetCount.applies(torch.rand(4))
    assert not TargetCount.applies(None)
