"""Digests differ where batches do, and are the same for the same content."""

import numpy as np
import pytest
import torch

from fitorch.data.digest import digest

LARGE = 2**40
ALIKE = {
    "large integers": (torch.tensor([LARGE]), torch.tensor([LARGE + 1])),
    "bfloat16": (torch.ones(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.bfloat16)),
    "flags": (torch.tensor([True]), torch.tensor([False])),
    "complex": (torch.tensor([1j]), torch.tensor([2j])),
    "numbers": (torch.tensor(1.0), torch.tensor(2.0)),
    "texts": (["a", "b"], ["a", "c"]),
    "objects": (np.array(["a", None], object), np.array(["b", None], object)),
    "mappings": ({"x": torch.zeros(2)}, {"x": torch.ones(2)}),
}


@pytest.mark.parametrize(("first", "second"), ALIKE.values(), ids=ALIKE)
def test_other_content_has_another_digest(first, second):
    assert digest([first]) != digest([second])


@pytest.mark.parametrize("batch", [first for first, _ in ALIKE.values()], ids=ALIKE)
def test_a_copy_has_the_same_digest(batch):
    import copy

    assert digest([batch]) == digest([copy.deepcopy(batch)])


def test_objects_count_by_their_content_not_by_their_address():
    words = [np.array(["".join(["a", str(number)])], object) for number in (1, 1)]
    assert words[0][0] is not words[1][0]
    assert digest([words[0]]) == digest([words[1]])
