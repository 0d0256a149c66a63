"""torchkeras' extension point: a StepRunner does a step, fit does all else."""

import copy
import math

import pytest
import torch
from torch import nn
from torchmetrics import Accuracy

from engine.step_runners import Model, StepRunner, made, problem
from fitorch import KerasModel, NonFiniteError
from fitorch.callbacks import EarlyStopping, LambdaCallback
from fitorch.engine.choose_step import choose_evaluation_step
from fitorch.metrics import AUC


def with_runner(call, stages=("train", "val")):
    """Return a model's class whose runner returns `call(runner, batch)`."""

    class Runner(StepRunner):
        def __call__(self, batch):
            result = super().__call__(batch)
            return call(self, result) if self.stage in stages else result

    return type("Model", (KerasModel,), {"StepRunner": Runner})


def by_hand(net, loader, epochs, window=1):
    """Train as the runner does; return for each epoch the mean of the loss over the samples."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    losses = []
    for _ in range(epochs):
        net.train()
        total = 0.0
        for number, (x, y) in enumerate(loader, start=1):
            loss = nn.functional.binary_cross_entropy_with_logits(net(x), y)
            (loss / window).backward()
            total += loss.item() * len(x)
            if number % window == 0 or number == len(loader):
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        losses.append(total / len(loader.dataset))
    return losses


@pytest.mark.parametrize("window", [1, 2, 3])
def test_a_step_runner_trains_as_its_code_does_by_hand(window):
    net, loader, _, _ = problem()
    twin = copy.deepcopy(net)
    for module in (*net.modules(), *twin.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    losses = by_hand(twin, loader, 3, window)
    model = made(net)
    window_of = {"gradient_accumulation_steps": window}
    frame = model.fit(loader, loader, epochs=3, **window_of, verbose=0)
    assert frame["train_loss"].tolist() == pytest.approx(losses, rel=1e-12)
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    updates = -(-len(loader) // window)
    assert frame["lr"].tolist() == [0.05 * 0.5 ** (n * updates // 3) for n in (1, 2, 3)]


def test_columns_are_those_that_the_runner_returns_beside_epoch_lr_and_seconds():
    net, loader, x, y = problem()
    metrics = {"acc": Accuracy(task="binary"), "auc": AUC()}
    frame = made(net, metrics=metrics).fit(loader, (x, y), epochs=2, verbose=0)
    measured = ["loss", "acc", "auc"]
    trained, validated = [f"train_{m}" for m in measured], [f"val_{m}" for m in measured]
    assert list(frame) == ["epoch", *trained, "lr", *validated, "seconds"]


def test_figures_are_means_over_samples_and_metrics_over_the_epoch():
    net, loader, x, y = problem()

    def accuracy(y_pred, y_true):
        return ((y_pred > 0) == y_true.bool()).float().mean()

    metrics = {"acc": Accuracy(task="binary"), "auc": AUC(), "share": accuracy}
    model = made(net, metrics=metrics)
    model.fit(loader, epochs=2, verbose=0)
    scores = model.evaluate((x, y), batch_size=32, verbose=0)  # the last batch has 6
    plain = KerasModel(net, nn.BCEWithLogitsLoss(), metrics)
    assert scores == pytest.approx(plain.evaluate((x, y), verbose=0), rel=1e-5)
    assert scores["val_share"] == pytest.approx(scores["val_acc"])
    assert metrics["acc"].update_called is False  # copies are used


def test_other_metrics_are_those_of_the_last_batch_and_other_losses_are_averaged():
    net, loader, _, _ = problem()
    seen = []

    def call(runner, result):
        losses, metrics = result
        seen.append(float(len(seen)))
        return {**losses, "train_part": seen[-1]}, {**metrics, "train_count": seen[-1]}

    frame = made(net, with_runner(call)).fit(loader, epochs=1, verbose=0)
    sizes = [16, 16, 16, 16, 6]
    mean = sum(n * v for n, v in zip(sizes, seen, strict=True)) / 70
    assert frame["train_part"].item() == pytest.approx(mean)
    assert frame["train_count"].item() == 4.0


def test_weights_of_the_best_epoch_are_kept_and_patience_stops(tmp_path):
    net, loader, x, y = problem()
    values = iter([0.5, 0.9, 0.7, 0.6, 0.5, 0.4])

    def call(runner, result):
        return result[0], {"val_iou": value[0]}

    value = [0.0]

    def next_value(epoch, logs):
        value[0] = next(values)

    model = made(net, with_runner(call, ["val"]))
    kept = {}

    def keep(epoch, logs):
        kept[epoch] = copy.deepcopy(net.state_dict())

    watching = LambdaCallback(on_epoch_begin=next_value, on_epoch_end=keep)
    options = {"monitor": "val_iou", "mode": "max", "patience": 2, "ckpt_path": tmp_path / "run"}
    frame = model.fit(loader, (x, y), epochs=6, callbacks=[watching], **options, verbose=0)
    assert frame["val_iou"].tolist() == [0.5, 0.9, 0.7, 0.6]
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, kept[1][name])
    fresh = made(problem()[0])
    fresh.load_ckpt(tmp_path / "run")
    assert torch.equal(fresh.net[0].weight, kept[1]["0.weight"])


@pytest.mark.parametrize(("when", "window"), [(2, 1), (7, 1), (7, 2)])
def test_a_run_that_was_interrupted_goes_on_with_the_same_bits(when, window, tmp_path):
    def fitted(path, stop=None, **options):
        net, _, x, y = problem()
        model = made(net, metrics={"acc": Accuracy(task="binary"), "auc": AUC()})
        seen, message = [], "the machine went down"

        def at(batch, logs):
            seen.append(batch)
            if len(seen) == stop:
                raise RuntimeError(message)

        frame = model.fit(
            (x, y),
            (x, y),
            epochs=3,
            seed=0,
            gradient_accumulation_steps=window,
            callbacks=[LambdaCallback(on_train_batch_begin=at)],
            ckpt_path=path,
            save_every_n_steps=1,
            verbose=0,
            **options,
        )
        return frame.drop(columns="seconds"), net

    whole, net = fitted(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="went down"):
        fitted(tmp_path / "cut", stop=when)
    again, twin = fitted(tmp_path / "cut", resume=True)
    assert again.equals(whole)
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_runner_may_be_set_on_keras_model_itself_after_the_model_is_made(monkeypatch):
    net, loader, _, _ = problem()
    model = KerasModel(net, nn.BCEWithLogitsLoss())
    stages = []

    def call(runner, result):
        stages.append(runner.stage)
        return result

    monkeypatch.setattr(KerasModel, "StepRunner", with_runner(call).StepRunner)
    model.fit(loader, loader, epochs=1, verbose=0)
    assert stages == ["train"] * 5 + ["val"] * 5


def test_other_keyword_arguments_reach_the_runner_optimizers_prepared():
    net, loader, _, _ = problem()
    critic = nn.Linear(1, 1)
    second = torch.optim.SGD(critic.parameters(), lr=0.1)
    before = critic.weight.detach().clone()
    seen = {}

    class Two(StepRunner):
        def __call__(self, batch):
            result = super().__call__(batch)
            if self.stage == "train":
                seen.update(self.kwargs)
                self.accelerator.backward(self.kwargs["critic"](batch[1]).mean())
                self.kwargs["second"].step()
                self.kwargs["second"].zero_grad()
            return result

    kind = type("Gan", (KerasModel,), {"StepRunner": Two})
    made(net, kind, critic=critic, second=second, weight=3).fit(loader, loader, epochs=1, verbose=0)
    assert seen["critic"] is critic
    assert seen["weight"] == 3
    assert not torch.equal(critic.weight, before)


def test_a_formula_is_called_with_the_net_that_it_penalizes():
    from fitorch.losses import L2, FocalLoss

    net, _, x, y = problem()
    formula = FocalLoss(from_logits=True) + 1e-2 * L2()
    with_step = made(net, loss_fn=formula).evaluate((x, y), batch_size=70, verbose=0)
    plain = KerasModel(net, formula).evaluate((x, y), verbose=0)
    assert with_step["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-5)


def test_several_validation_sets_are_stages_of_their_own():
    net, loader, x, y = problem()
    sets = {"clean": (x, y), "wrong": (x, 1 - y)}
    frame = made(net).fit(loader, sets, epochs=1, verbose=0)
    assert {"val_clean_loss", "val_wrong_loss"} <= set(frame)
    assert frame["val_clean_loss"].item() < frame["val_wrong_loss"].item()


def test_modes_that_a_runner_sets_in_validation_are_put_back():
    net, loader, x, y = problem()
    net.train()
    model = made(net)
    model.evaluate((x, y), verbose=0)
    assert all(module.training for module in net.modules())
    net.eval()
    model.fit(loader, (x, y), epochs=2, verbose=0)
    assert not any(module.training for module in net.modules())


def test_bfloat16_reaches_a_runner_by_the_accelerators_autocast():
    net, loader, _, _ = problem()
    seen = set()

    class Cast(StepRunner):
        def __call__(self, batch):
            with self.accelerator.autocast():
                seen.add(self.net(batch[0]).dtype)
            return super().__call__(batch)

    kind = type("Model", (KerasModel,), {"StepRunner": Cast})
    made(net, kind).fit(loader, epochs=1, mixed_precision="bf16", verbose=0)
    assert seen == {torch.bfloat16}


def test_batches_of_any_form_reach_the_runner_as_the_loader_gave_them():
    seen = []

    class Odd(StepRunner):
        def __call__(self, batch):
            seen.append(type(batch))
            return super().__call__([batch["a"], batch["b"]])

    net, _, x, y = problem()
    batches = [{"a": x[:30], "b": y[:30], "name": "first"}, {"a": x[30:], "b": y[30:], "name": "2"}]
    kind = type("Model", (KerasModel,), {"StepRunner": Odd})
    frame = made(net, kind).fit(batches, epochs=1, verbose=0)
    assert seen == [dict, dict]
    assert math.isfinite(frame["train_loss"].item())


def test_a_loss_that_is_not_finite_ends_the_fit():
    net, loader, _, _ = problem()
    model = made(net, with_runner(lambda runner, result: ({"train_loss": math.nan}, {})))
    with pytest.raises(NonFiniteError, match="the training loss"):
        model.fit(loader, epochs=2, verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": {0: 2.0}}, "class_weight.*weight the loss in it"),
        ({"clip_grad_norm": 1.0}, "clip_grad_norm.*self.accelerator.clip_grad_norm_"),
        ({"clip_grad_value": 1.0}, "clip_grad_value.*self.accelerator.clip_grad_value_"),
        ({"scheduler_step": "epoch"}, "scheduler_step.*self.lr_scheduler.step"),
        ({"mixed_precision": "fp16"}, "fp16.*use 'bf16'"),
        ({"monitor": "val_iou"}, "mode='max'"),
    ],
)
def test_what_only_fits_own_step_does_is_refused_before_training(options, message):
    net, loader, x, y = problem()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=message):
        made(net).fit(loader, (x, y), epochs=1, **options, verbose=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_accumulation_needs_to_know_where_the_epoch_ends():
    net, loader, _, _ = problem()

    class Endless:
        def __iter__(self):
            return iter(loader)

    with pytest.raises(ValueError, match=r"gradient_accumulation_steps.*steps_per_epoch"):
        made(net).fit(Endless(), epochs=1, gradient_accumulation_steps=2, verbose=0)
    made(net).fit(Endless(), epochs=1, gradient_accumulation_steps=2, steps_per_epoch=3, verbose=0)


def test_jit_compile_is_refused():
    net, loader, _, _ = problem()
    with pytest.raises(ValueError, match=r"jit_compile.*torch\.compile in it"):
        Model(net, nn.BCEWithLogitsLoss(), jit_compile=True).fit(loader, epochs=1, verbose=0)


def test_metrics_by_name_are_refused_since_the_runner_calls_them():
    net, loader, _, _ = problem()
    with pytest.raises(TypeError, match=r"metrics_dict\['acc'\].*pass an object"):
        made(net, metrics={"acc": "acc"}).fit(loader, epochs=1, verbose=0)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (1.0, TypeError, r"must return \(step_losses, step_metrics\)"),
        (({"loss": 1.0}, {}), ValueError, "self.stage \\+ '_loss'"),
        (({"train_loss": torch.ones(3)}, {}), ValueError, "'train_loss'.*expected a number"),
    ],
)
def test_what_is_returned_wrongly_is_told_at_the_first_batch(returned, error, message):
    net, loader, _, _ = problem()
    model = made(net, with_runner(lambda runner, result: returned))
    with pytest.raises(error, match=message):
        model.fit(loader, epochs=1, verbose=0)


def test_a_class_with_other_arguments_is_refused():
    class Bare:
        def __init__(self, net, loss_fn):
            pass

    net, loader, _, _ = problem()
    kind = type("Model", (KerasModel,), {"StepRunner": Bare})
    with pytest.raises(
        TypeError, match=r"Bare cannot be created: .*expected StepRunner\(net, loss_fn"
    ):
        made(net, kind).fit(loader, epochs=1, verbose=0)


def test_a_figure_that_the_runner_does_not_return_is_told_after_the_first_epoch():
    net, loader, x, y = problem()
    with pytest.raises(ValueError, match="val_iou"):
        made(net).fit(
            loader, (x, y), epochs=3, monitor="val_iou", mode="max", patience=1, verbose=0
        )
    stopping = EarlyStopping("val_dice", mode="max")
    with pytest.raises(ValueError, match="val_dice"):
        made(net).fit(loader, (x, y), epochs=3, callbacks=[stopping], verbose=0)


def test_forward_and_a_runner_are_not_both_taken():
    net, loader, _, _ = problem()
    model = made(net, forward=lambda net, batch: (net(batch[0]), batch[1]))
    with pytest.raises(ValueError, match="forward= and StepRunner"):
        model.fit(loader, epochs=1, verbose=0)


def test_unknown_arguments_are_refused_where_there_is_no_runner():
    with pytest.raises(TypeError, match="unexpected argument 'critic'"):
        KerasModel(nn.Linear(1, 1), nn.MSELoss(), critic=nn.Linear(1, 1))


def test_several_processes_are_refused(monkeypatch):
    model = made(problem()[0])
    monkeypatch.setattr(model.placement.processes, "world_size", 2)
    assert model.placement.processes.is_distributed
    with pytest.raises(ValueError, match="one process, but 2 were launched; pass forward="):
        choose_evaluation_step(model.measurement_spec(), None, "val_", lambda: False)
