"""Losses that return their parts."""

import pytest
import torch
from torch import tensor

from fitorch.losses.parts import split_parts

CE, L2 = tensor(0.5), tensor(0.25)


@pytest.mark.parametrize(
    ("result", "total", "parts"),
    [
        ({"ce": CE, "l2": L2}, 0.75, {"ce": 0.5, "l2": 0.25}),
        ({"loss": L2, "ce": CE}, 0.25, {"ce": 0.5}),
        ({"loss": L2, "logits": torch.zeros(3, 2)}, 0.25, {}),
        ((CE, {"l2": L2, "image": torch.zeros(2, 2)}), 0.5, {"l2": 0.25}),
        ([CE, {"ce": CE}], 0.5, {"ce": 0.5}),
        ({"only": CE}, 0.5, {"only": 0.5}),
    ],
)
def test_a_result_is_split_into_the_loss_and_its_parts(result, total, parts):
    loss, found = split_parts("my_loss", result)
    assert loss.item() == total
    assert {name: part.item() for name, part in found.items()} == parts


@pytest.mark.parametrize(
    "result", [None, {}, (CE, L2), {"ce": CE, "image": torch.zeros(2, 2)}, "text", (CE, {}, 1)]
)
def test_other_results_are_refused_with_the_forms_that_are_taken(result):
    with pytest.raises(ValueError, match=r"my_loss returned .*; expected a scalar tensor, a map"):
        split_parts("my_loss", result)
