"""A StepRunner as torchkeras' users write it, and the problem that it trains on."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel


class StepRunner:
    """As torchkeras' own documentation has it."""

    clip = 1.0

    def __init__(
        self,
        net,
        loss_fn,
        accelerator=None,
        stage="train",
        metrics_dict=None,
        optimizer=None,
        lr_scheduler=None,
        **kwargs,
    ):
        self.net, self.loss_fn, self.metrics_dict, self.stage = net, loss_fn, metrics_dict, stage
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.accelerator = accelerator
        self.kwargs = kwargs
        if self.stage == "train":
            self.net.train()
        else:
            self.net.eval()

    def __call__(self, batch):
        features, labels = batch
        preds = self.net(features)
        loss = self.loss_fn(preds, labels)
        if self.optimizer is not None and self.stage == "train":
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.net.parameters(), self.clip)
            self.optimizer.step()
            if self.lr_scheduler is not None:
                self.lr_scheduler.step()
            self.optimizer.zero_grad()
        all_loss = self.accelerator.gather_for_metrics(loss).sum()
        all_preds = self.accelerator.gather_for_metrics(preds)
        all_labels = self.accelerator.gather_for_metrics(labels)
        step_losses = {self.stage + "_loss": all_loss.item()}
        step_metrics = {
            self.stage + "_" + name: metric_fn(all_preds, all_labels).item()
            for name, metric_fn in self.metrics_dict.items()
        }
        if self.stage == "train":
            step_metrics["lr"] = self.optimizer.state_dict()["param_groups"][0]["lr"]
        return step_losses, step_metrics


class Model(KerasModel):
    StepRunner = StepRunner


def problem(samples=70):
    torch.manual_seed(0)
    x = torch.randn(samples, 3)
    y = (x.sum(1, keepdim=True) > 0).float()
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.25), nn.Tanh(), nn.Linear(4, 1))
    return net, DataLoader(TensorDataset(x, y), batch_size=16), x, y


def made(net, kind=Model, loss_fn=None, metrics=None, **extra):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    loss_fn = nn.BCEWithLogitsLoss() if loss_fn is None else loss_fn
    return kind(net, loss_fn, {} if metrics is None else metrics, optimizer, scheduler, **extra)
