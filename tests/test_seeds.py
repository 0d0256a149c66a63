"""The scripts that the project started from: rings, loaders with workers, closures as losses."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import seeds
from fitorch import KerasModel
from fitorch.losses import L1, L2, FocalLoss
from fitorch.metrics import AUC


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

    net = seeds.Net()
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


def closure(net):
    def focal_loss_with_regularization(y_pred, y_true):
        focal = seeds.FocalLoss()(torch.sigmoid(y_pred), y_true)
        return focal + seeds.l2_loss(net, 0.001) + seeds.l1_loss(net, 0.001)

    return focal_loss_with_regularization


def formula(net):
    return FocalLoss(from_logits=True) + 1e-3 * L2() + 1e-3 * L1()


def accuracy(y_pred, y_true):
    y_pred = torch.where(
        torch.sigmoid(y_pred) > 0.5, torch.ones_like(y_pred), torch.zeros_like(y_pred)
    )
    return torch.mean(1 - torch.abs(y_true - y_pred))


@pytest.fixture
def one_thread():
    """Small operations wait for one another where processors are few and busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


EXAMPLES = {
    # positive samples, learning rate, arguments of fit, the figure that it is about
    "loaders and early stopping": (
        1000,
        0.002,
        {"epochs": 20, "patience": 3, "monitor": "val_auc", "mode": "max"},
        "val_auc",
    ),
    "few positives": (200, 0.01, {"epochs": 30}, "val_accuracy"),
}


@pytest.mark.parametrize(
    ("name", "seed"),
    [(name, seed) for name, seeds in zip(EXAMPLES, [(1, 3), (0,)], strict=True) for seed in seeds],
)
def test_a_formula_trains_as_the_closures_do(name, seed, tmp_path, one_thread):
    """In 64 bits: what is rounded in 32 grows in some runs, whichever way it is written."""
    positives, lr, options, figure = EXAMPLES[name]
    frames = {}
    for write in (closure, formula):
        torch.manual_seed(seed)
        ds = TensorDataset(*(tensor.double() for tensor in rings(positives, 6000).tensors))
        ds_train, ds_val = torch.utils.data.random_split(
            ds, [int(len(ds) * 0.7), len(ds) - int(len(ds) * 0.7)]
        )
        net = seeds.Net().double()
        model = KerasModel(
            net=net,
            loss_fn=write(net),
            metrics_dict={"auc": AUC(), "accuracy": accuracy},
            optimizer=torch.optim.Adam(net.parameters(), lr=lr),
        )
        frames[write] = model.fit(
            train_data=DataLoader(ds_train, batch_size=100, shuffle=True, num_workers=2),
            val_data=DataLoader(ds_val, batch_size=100, num_workers=2),
            ckpt_path=str(tmp_path / write.__name__),
            cpu=True,
            verbose=0,
            **options,
        )
    ours, theirs = frames[formula], frames[closure]
    assert len(ours) == len(theirs)
    for column in ("train_loss", "val_loss", "train_auc", "val_auc", "val_accuracy"):
        assert ours[column].tolist() == pytest.approx(theirs[column].tolist(), rel=1e-6)
    terms = ours[["val_focal", "val_l2", "val_l1"]].sum(axis=1)
    assert ours["val_loss"].tolist() == pytest.approx(terms.tolist(), rel=1e-12)
    assert ours[figure].max() > 0.97
