"""Train on arrays that are larger than memory: only the rows of a batch are read.

The features are a memory map here; datasets of h5py and zarr, dask arrays and slices of safetensors
files are passed in the same way. `--device cuda:1` chooses a device.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fitorch import KerasModel

parser = argparse.ArgumentParser()
parser.add_argument("--device", help="as 'cuda:1' or 'cpu'; without it, accelerate chooses")
device = parser.parse_args().device

ROWS, COLUMNS = 40_000, 32
draw = np.random.default_rng(0)
truth = draw.standard_normal(COLUMNS)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "features.bin")
    x = np.memmap(path, dtype="float64", mode="w+", shape=(ROWS, COLUMNS))
    y = np.empty((ROWS, 1))
    for begin in range(0, ROWS, 10_000):  # written in parts, too
        rows = draw.standard_normal((10_000, COLUMNS))
        x[begin : begin + 10_000] = rows
        y[begin : begin + 10_000, 0] = rows @ truth > 0

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(COLUMNS, 32), nn.ReLU(), nn.Linear(32, 1))
    model = KerasModel(net, "bce_with_logits", {"acc": "acc"}, "adamw", device=device)
    model.fit((x, y), epochs=3, batch_size=256, validation_split=0.1, seed=0)
    print(f"val_acc {model.history.frame['val_acc'].iloc[-1]:.3f}")
