"""A failed assertion of a device: the error names the classes of the epoch so far.

No device is needed: the error has only a text, and the Dataset is read on the CPU.
"""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from fitorch import KerasModel

ASSERTION = "CUDA error: device-side assert triggered"


class Asserting(nn.Linear):
    """A net that fails as a GPU does, in a batch after the one with the wrong class."""

    calls = 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == 4:
            raise RuntimeError(ASSERTION)
        return super().forward(x)


class Labelled(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return torch.ones(4), torch.tensor(1000 if index == 50 else index % 3)


def loss(y_pred, y_true):
    """Accept any class, as a kernel does until the device notices."""
    return nn.functional.cross_entropy(y_pred, y_true.clamp(max=2))


def note_of(data, batch_size=20, **options):
    model = KerasModel(Asserting(4, 3), loss)
    with pytest.raises(RuntimeError, match="device-side assert") as caught:
        model.fit(data, epochs=1, batch_size=batch_size, verbose=0, **options)
    return caught.value.__notes__[0]


def test_the_range_of_the_classes_is_named_with_its_samples():
    note = note_of(Labelled(), shuffle=False, num_workers=0)
    assert "classes from 0 (sample 0) to 1000 (sample 50)" in note
    assert "fit(cpu=True)" in note


def test_samples_of_a_shuffled_epoch_are_those_that_were_read():
    note = note_of(Labelled(), shuffle=True, seed=3, num_workers=0)
    read = 50 in torch.randperm(100, generator=_generator(3))[:80].tolist()
    assert ("1000 (sample 50)" in note) == read


def _generator(seed):
    from fitorch.randomness import derive_seed

    generator = torch.Generator()
    return generator.manual_seed(derive_seed(seed, "order", 0))


def test_without_a_dataset_the_hint_is_general():
    x = torch.ones(100, 4)
    note = note_of([(x[:20], torch.zeros(20, dtype=torch.long))] * 5, batch_size=None)
    assert "a class number or an index is out of range; fit(cpu=True) names the batch" in note
    assert "classes from" not in note
