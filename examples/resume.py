"""Run it, press Ctrl-C, run it again: it goes on where it stood, to the same bits.

A net that learns digits, shuffled, with dropout and noise on every image. Interrupt it as often as
you like, with Ctrl-C, kill -TERM or kill -9: the last line is the same. `--fresh` begins anew.
"""

import hashlib
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

from fitorch import KerasModel, list_checkpoints


class NoisyDigits(Dataset):
    def __init__(self, part):
        digits = load_digits()
        self.images = torch.tensor(digits.images[part] / 16, dtype=torch.float32).unsqueeze(1)
        self.labels = torch.tensor(digits.target[part])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index]
        return image + 0.2 * torch.randn(image.shape), self.labels[index]


torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    nn.Dropout(0.3), nn.Linear(288, 10),
)  # fmt: skip
model = KerasModel(net, "cross_entropy", {"acc": "acc"}, "adamw")
model.fit(
    DataLoader(NoisyDigits(slice(1400)), batch_size=16, shuffle=True),
    DataLoader(NoisyDigits(slice(1400, None)), batch_size=200),
    epochs=8,
    ckpt_path="runs/resume",
    resume="--fresh" not in sys.argv,
    save_every_n_steps=50,  # for kill -9, which leaves no time to save
    seed=0,
)
checkpoints = list_checkpoints("runs/resume")
print(checkpoints[["step", "epoch", "batch", "monitor", "value", "state"]])
weights = b"".join(p.detach().numpy().tobytes() for p in net.parameters())
print(f"best val_acc {model.history.best['val_acc']:.4f}")
print(f"sha256 of the weights: {hashlib.sha256(weights).hexdigest()[:16]}")
