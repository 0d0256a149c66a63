"""The script that the project started from: rings, loaders with workers, AUC."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel
from fitorch.metrics import AUC


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(2, 4)
        self.fc2 = nn.Linear(4, 8)
        self.fc3 = nn.Linear(8, 1)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def rings(n_positive, n_negative):
    r_p = 5.0 + torch.normal(0.0, 1.0, size=[n_positive, 1])
    theta_p = 2 * np.pi * torch.rand([n_positive, 1])
    positive = torch.cat([r_p * torch.cos(theta_p), r_p * torch.sin(theta_p)], axis=1)
    r_n = 8.0 + torch.normal(0.0, 1.0, size=[n_negative, 1])
    theta_n = 2 * np.pi * torch.rand([n_negative, 1])
    negative = torch.cat([r_n * torch.cos(theta_n), r_n * torch.sin(theta_n)], axis=1)
    targets = torch.cat([torch.ones_like(r_p), torch.zeros_like(r_n)], axis=0)
    return TensorDataset(torch.cat([positive, negative], axis=0), targets)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_ring_example_reaches_its_auc_within_20_epochs(seed, tmp_path):
    torch.manual_seed(seed)
    ds = rings(1000, 6000)
    ds_train, ds_val = torch.utils.data.random_split(
        ds, [int(len(ds) * 0.7), len(ds) - int(len(ds) * 0.7)]
    )
    dl_train = DataLoader(ds_train, batch_size=100, shuffle=True, num_workers=2)
    dl_val = DataLoader(ds_val, batch_size=100, num_workers=2)

    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    model = KerasModel(
        net=net,
        loss_fn=nn.BCEWithLogitsLoss(),
        metrics_dict={"auc": AUC()},
        optimizer=optimizer,
    )
    dfhistory = model.fit(
        train_data=dl_train,
        val_data=dl_val,
        epochs=20,
        ckpt_path=str(tmp_path / "checkpoint"),
        patience=3,
        monitor="val_auc",
        mode="max",
        plot=True,
        cpu=True,
    )

    assert dfhistory["val_auc"].max() > 0.97
    assert list(dfhistory) == [
        "epoch",
        "train_loss",
        "train_auc",
        "lr",
        "val_loss",
        "val_auc",
        "seconds",
    ]
    assert (tmp_path / "checkpoint" / "history.png").is_file()
    # as the script draws its picture: the net holds the weights of its best epoch
    best = model.evaluate(dl_val, verbose=0)["val_auc"]
    assert best == pytest.approx(dfhistory["val_auc"].max(), abs=1e-12)
    assert torch.squeeze(torch.sigmoid(net.forward(ds.tensors[0])) >= 0.5).shape == (7000,)
