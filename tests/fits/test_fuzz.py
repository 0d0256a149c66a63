"""Random nets, data and arguments: `fit` trains, or says in its own words why it does not."""

import random

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitorch import FitorchError, KerasModel

OURS = (FitorchError, ValueError, TypeError)  # each with a message of its own; never a bare slip


def random_case(rng):
    """Draw a case in which each thing is mostly right."""

    def mostly(right, *others):
        return right if rng.random() < 0.85 else rng.choice(others)

    samples, features, classes = mostly(rng.randint(2, 40), 0, 1), rng.randint(1, 5), 3
    x = torch.randn(samples, features)
    numbers = torch.randint(0, classes, (samples,))
    loss, outputs, y = rng.choice(
        [
            ("cross_entropy", classes, numbers),
            ("mse", 2, torch.randn(samples, 2)),
            ("bce_with_logits", 1, (numbers > 0).float().unsqueeze(1)),
        ]
    )
    y = mostly(y, numbers, numbers.float(), torch.randn(samples, classes))
    loss = mostly(loss, "bce", "nll", None, "l1")
    norm = [nn.BatchNorm1d(4)] if rng.random() < 0.3 else []
    inputs = mostly(features, 3)
    net = nn.Sequential(nn.Linear(inputs, 4), *norm, nn.Tanh(), nn.Linear(4, mostly(outputs, 2)))
    data = rng.choice(
        [
            (x, y),
            (x.numpy(), y.numpy()),
            (x, y, torch.rand(samples)),
            (pd.DataFrame(x.numpy()), y.numpy()),
            DataLoader(TensorDataset(x, y), batch_size=rng.randint(1, 9)) if samples else [],
            [(x, y), (x, y)],
            (part for part in [(x, y), (np.asarray(x), np.asarray(y))]),
            mostly((x, y), x, {"x": x, "labels": y}, [x, y], None),
        ]
    )
    arguments = {
        "epochs": mostly(rng.randint(1, 3), 0),
        "batch_size": rng.randint(1, 12),
        "validation_split": mostly(0.0, 0.5),
        "patience": rng.choice([None, 1]),
        "gradient_accumulation_steps": rng.choice([1, 1, 3]),
        "clip_grad_norm": rng.choice([None, 1.0]),
        "class_weight": mostly(None, {0: 2.0}),
        "steps_per_epoch": mostly(None, 3),
        "monitor": mostly("val_loss", "train_acc", "val_acc", "nothing"),
        "mixed_precision": mostly(None, "bf16"),
    }
    metrics = mostly({}, {"acc": "acc"}, {"auc": "auc"})
    return net, loss, metrics, data, arguments


@pytest.mark.filterwarnings("ignore:predictions of shape")
@pytest.mark.filterwarnings("ignore:.*does not count")
@pytest.mark.filterwarnings("ignore:.*items are taken for batches")
@pytest.mark.parametrize("seed", range(150))
def test_fit_trains_or_raises_an_error_that_explains(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    net, loss, metrics, data, arguments = random_case(rng)
    model = KerasModel(net, loss, metrics)
    frame, told = None, ""
    try:
        frame = model.fit(data, **arguments, verbose=0)
    except OURS as error:
        told = str(error)
    except (RuntimeError, IndexError) as error:  # torch's own, with our note
        told = "\n".join([str(error), *getattr(error, "__notes__", [])])
        assert "the batch was" in told
    if frame is None:
        assert len(told) > 20
    else:
        assert len(frame) <= arguments["epochs"]
        assert frame["train_loss"].notna().all()
