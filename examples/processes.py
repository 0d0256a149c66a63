"""One script for one process and for several: each sample comes once an epoch.

Start it with `python examples/processes.py`, with `torchrun --nproc_per_node 2
examples/processes.py`, or with `python examples/processes.py 2`, which starts two with fit_ddp.
`--fsdp` spreads the net over the processes: each keeps a part of every weight. `--deepspeed` has
DeepSpeed spread gradients and the optimizer's state.
"""

import argparse
import os

import torch
from sklearn.datasets import load_digits
from torch import nn

from fitorch import KerasModel

parser = argparse.ArgumentParser()
parser.add_argument("own", type=int, nargs="?", default=1, help="processes to start here")
parser.add_argument("--fsdp", action="store_true", help="spread the net over the processes")
parser.add_argument("--deepspeed", action="store_true", help="spread the optimizer's state")
given = parser.parse_args()

digits = load_digits()
x = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
y = torch.tensor(digits.target)
train, test = (x[:1400], y[:1400]), (x[1400:], y[1400:])

torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 10)
)  # fmt: skip
optimizer = torch.optim.Adam(net.parameters(), 0.01)
spread = {"fsdp": given.fsdp or None, "deepspeed": given.deepspeed or None}
model = KerasModel(net, "cross_entropy", {"acc": "acc"}, optimizer, **spread)

count = given.own * int(os.environ.get("WORLD_SIZE", "1"))  # or what torchrun started
options = {"epochs": 8, "batch_size": 60 // count, "seed": 0, "ckpt_path": "runs/processes"}
if given.own > 1:
    model.fit_ddp(given.own, train, test, **options)
else:
    model.fit(train, test, **options)

predicted = model.predict(test[0], verbose=0).argmax(1)  # all of them, in every process
if model.is_main_process:
    accuracy = (predicted == test[1]).double().mean()
    print(f"{count} with a batch of {options['batch_size']} each: best val_loss "
          f"{model.history.best['val_loss']:.4f}, accuracy {accuracy:.4f}")  # fmt: skip
