"""Ignite: an engine that trains and one that evaluates after each epoch."""

from __future__ import annotations

from typing import Any

from contenders import Run
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy, Average, Loss
from torch import Tensor
from workloads import Workload

from .tasks import Reported, adam, is_binary, loaders


def build(workload: Workload) -> Run:
    """Build both engines; accuracy of two classes takes thresholded predictions."""
    binary = is_binary(workload)

    def classes(output: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        y_pred, y = output[:2]
        return ((y_pred > 0).float() if binary else y_pred), y

    train, val = loaders(workload)
    trainer = create_supervised_trainer(
        workload.net, adam(workload), workload.loss_fn, output_transform=_all_of_it
    )
    Accuracy(output_transform=classes).attach(trainer, "acc")
    Average(output_transform=lambda output: output[2]).attach(trainer, "loss")
    metrics = {"acc": Accuracy(output_transform=classes), "loss": Loss(workload.loss_fn)}
    evaluator = create_supervised_evaluator(workload.net, metrics=metrics)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(val))

    def run(epochs: int) -> Reported:
        trainer.run(train, max_epochs=epochs)
        stages = {"train": trainer, "val": evaluator}
        return {
            f"{stage}_{name}": float(engine.state.metrics[name])
            for stage, engine in stages.items()
            for name in ("loss", "acc")
        }

    return run


def _all_of_it(x: Tensor, y: Tensor, y_pred: Tensor, loss: Tensor) -> tuple[Any, ...]:
    return y_pred, y, loss.item()
