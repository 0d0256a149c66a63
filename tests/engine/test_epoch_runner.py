"""torchkeras' EpochRunner: it goes over the batches of an epoch, fit does all else."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy

from engine.step_runners import StepRunner, made, problem
from fitorch import KerasModel
from fitorch.callbacks import LambdaCallback


class EpochRunner:
    """As torchkeras has it: means over batches, metrics computed and reset by itself."""

    def __init__(self, step_runner, quiet=False):
        self.step_runner, self.quiet = step_runner, quiet
        self.stage, self.accelerator = step_runner.stage, step_runner.accelerator

    def __call__(self, dataloader):
        sums, figures, step = {}, {}, 0
        assert len(dataloader) == dataloader.size
        for step, batch in enumerate(dataloader, start=1):  # noqa: B007 - how many there were
            with self.accelerator.accumulate(self.step_runner.net):
                losses, figures = self.step_runner(batch)
            sums = {name: sums.get(name, 0.0) + value for name, value in losses.items()}
        means = {name: total / step for name, total in sums.items()}
        for name, metric in self.step_runner.metrics_dict.items():
            figures[f"{self.stage}_{name}"] = metric.compute().item()
            metric.reset()
        return {**means, **figures, f"{self.stage}_batches": step}


class WithEpochs(KerasModel):
    StepRunner = StepRunner
    EpochRunner = EpochRunner


def test_an_epoch_runner_goes_over_the_batches(tmp_path):
    net, loader, x, y = problem(samples=64)  # batches alike, so its means are those over samples
    expected = copy.deepcopy(net)
    metrics = {"acc": Accuracy(task="binary")}
    model = made(net, WithEpochs, metrics=metrics)
    counted = []
    note = LambdaCallback(on_train_batch_end=lambda batch, logs: counted.append(batch))
    frame = model.fit(
        loader, DataLoader(TensorDataset(x, y), 20), epochs=4, seed=1, verbose=0, callbacks=[note]
    )
    assert list(frame["train_batches"]) == [4] * 4
    assert list(frame["val_batches"]) == [4] * 4
    assert counted == [0] * 4
    assert model.updates == 16
    other = made(expected, metrics={"acc": Accuracy(task="binary")})
    plain = other.fit(loader, epochs=4, seed=1, verbose=0)
    assert frame["train_loss"].tolist() == pytest.approx(plain["train_loss"].tolist())
    assert frame["train_acc"].tolist() == pytest.approx(plain["train_acc"].tolist())
    for own, value in zip(net.parameters(), expected.parameters(), strict=True):
        assert torch.equal(own, value)
    figures = model.evaluate(DataLoader(TensorDataset(x, y), 16))
    assert figures["val_loss"] == pytest.approx(other.evaluate(loader)["val_loss"])


def test_a_run_with_an_epoch_runner_is_gone_on_with(tmp_path):
    weights = []
    for parts in ((4,), (2, 4)):
        net, loader, _, _ = problem()
        for epochs in parts:
            net, loader, _, _ = problem()
            options = {"ckpt_path": tmp_path / str(len(parts)), "resume": True, "seed": 1}
            made(net, WithEpochs).fit(loader, epochs=epochs, verbose=0, **options)
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(*weights)


def epochs_with(kind, **options):
    net, loader, _, _ = problem()
    model = type("Model", (KerasModel,), {"StepRunner": StepRunner, **kind})
    made(net, model).fit(loader, epochs=1, verbose=0, **options)


def test_an_epoch_runner_that_cannot_be_used_is_told():
    with pytest.raises(ValueError, match=r"EpochRunner is set without the StepRunner.*callbacks"):
        epochs_with({"EpochRunner": EpochRunner, "StepRunner": None})
    with pytest.raises(TypeError, match=r"cannot be created: .*expected EpochRunner\(step_runner"):
        epochs_with({"EpochRunner": type("Odd", (), {"__init__": lambda self: None})})
    nothing = type("Nothing", (EpochRunner,), {"__call__": lambda self, batches: None})
    with pytest.raises(TypeError, match="must return a dict of floats by name; it returned None"):
        epochs_with({"EpochRunner": nothing})
    with pytest.raises(
        ValueError, match="gradient_accumulation_steps does not work with EpochRunner"
    ):
        epochs_with({"EpochRunner": EpochRunner}, gradient_accumulation_steps=2)
