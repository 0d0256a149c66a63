"""Scenarios: nets of many forms, and several fits of one model."""

import torch
from torch import nn

from devices.problems import (
    BINARY,
    CLASSES,
    DEVICE,
    OTHER,
    VALUES,
    X,
    check_as_on_the_cpu,
    check_same,
    linear,
    mlp,
    model_of,
    train,
)
from devices.scenarios import Scenarios
from fitorch import KerasModel

SCENARIOS = Scenarios()


# Forms of nets


@SCENARIOS.add
def several_outputs_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = linear(), linear(3)

        def forward(self, a, b):
            return {"value": self.one(a), "label": self.two(b)}

    features, targets = {"a": X, "b": X.flip(1)}, {"value": VALUES, "label": CLASSES}
    loss = {"value": "mse", "label": "cross_entropy"}
    metrics = {"value": {"mae": "mae"}, "label": {"acc": "acc", "f1": "f1"}}

    def figures(device):
        model = model_of(device, Named, loss, metrics)
        found = train(model, (features, targets), (features, targets))
        return found, model.predict(features, verbose=0)

    check_as_on_the_cpu(figures)


@SCENARIOS.add
def several_validation_sets():
    sets = {"clean": (X, BINARY), "shifted": (X + 1, BINARY)}
    check_as_on_the_cpu(
        lambda device: train(
            model_of(device, loss="bce_with_logits", metrics={"acc": "acc"}), (X, BINARY), sets
        )
    )


@SCENARIOS.add
def a_forward_of_the_users():
    def forward(net, batch):
        return net(batch["x"]), batch["y"]

    batches = [{"x": X[i : i + 8], "y": VALUES[i : i + 8]} for i in range(0, 24, 8)]
    check_as_on_the_cpu(
        lambda device: train(model_of(device, forward=forward), batches, batches, batch_size=None)
    )


@SCENARIOS.add
def a_net_that_returns_its_loss():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = linear()

        def forward(self, x, labels=None):
            y = self.layer(x)
            return {"loss": ((y - labels) ** 2).mean(), "y": y}

    def forward(net, batch):
        return net(*batch), batch[1]

    check_as_on_the_cpu(
        lambda device: train(model_of(device, Own, None, forward=forward), val_data=(X, VALUES))
    )


@SCENARIOS.add
def another_loss_in_validation():
    check_as_on_the_cpu(
        lambda device: train(model_of(device, val_loss_fn="l1"), val_data=(X, VALUES))
    )


@SCENARIOS.add
def a_net_with_an_embedding():
    def net():
        return nn.Sequential(nn.Embedding(3, 5), nn.Flatten(), nn.Linear(20, 3))

    tokens = CLASSES[:, None].expand(-1, 4).contiguous()
    check_as_on_the_cpu(
        lambda device: train(model_of(device, net, "cross_entropy"), (tokens, CLASSES))
    )


@SCENARIOS.add
def a_convolutional_net_channels_last():
    def net():
        return nn.Sequential(nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 1))

    images = X.view(-1, 1, 2, 2)
    check_as_on_the_cpu(
        lambda device: train(model_of(device, net, channels_last=True), (images, VALUES)), rtol=1e-5
    )


@SCENARIOS.add
def a_transformer():
    def net():
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        return nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 1))

    sequences = torch.stack([X, X.flip(1), X.roll(1, 1)], 1)
    check_as_on_the_cpu(
        lambda device: train(model_of(device, net, optimizer="sgd"), (sequences, VALUES)),
        rtol=1e-4,
    )


@SCENARIOS.add
def a_step_runner():
    from engine.step_runners import made, problem

    def figures(device):
        net, loader, _, _ = problem()
        net[1].p = 0.0  # each device draws other numbers
        return train(made(net, device=device), loader, loader)

    check_as_on_the_cpu(figures)


@SCENARIOS.add
def estimators_of_scikit_learn():
    from fitorch.sklearn import KerasClassifier

    def net(n_features, n_outputs):
        torch.manual_seed(0)
        return nn.Linear(n_features, n_outputs)

    estimator = KerasClassifier(net, epochs=3, batch_size=8, random_state=0)
    estimator.fit(X.numpy(), CLASSES.numpy())
    assert next(estimator.model_.net.parameters()).device == torch.device(DEVICE)
    found = torch.from_numpy(estimator.predict_proba(X.numpy()))
    assert found.shape == (len(X), 3)
    check_same(found.sum(1), torch.ones(len(X), dtype=found.dtype), rtol=1e-5)
    estimator.predict(X.numpy())


# More than one fit


@SCENARIOS.add
def a_second_fit():
    def figures(device):
        model = model_of(device, mlp, metrics={"mae": "mae"})
        train(model)
        return train(model, val_data=(X, VALUES))

    check_as_on_the_cpu(figures)


@SCENARIOS.add
def a_fit_on_the_cpu_between_two_on_the_device():
    def figures(device):
        model = model_of(device, mlp)
        train(model)
        train(model, cpu=True)
        assert {p.device.type for p in model.net.parameters()} == {"cpu"}
        found = train(model)
        assert {str(p.device) for p in model.net.parameters()} == {device}
        return found

    check_as_on_the_cpu(figures)


@SCENARIOS.add
def a_net_that_moves_between_devices():
    net = mlp()
    train(KerasModel(net, "mse", device=OTHER))
    assert net[0].weight.device == torch.device(OTHER)
    train(KerasModel(net, "mse", device=DEVICE))
    assert net[0].weight.device == torch.device(DEVICE)


@SCENARIOS.add
def finding_a_learning_rate():
    def figures(device):
        model = model_of(device, mlp)
        frame = model.find_lr((X, VALUES), steps=10, batch_size=4, seed=0)
        return frame.to_dict("list")

    check_as_on_the_cpu(figures, rtol=1e-5)


@SCENARIOS.add
def evaluating_and_predicting():
    metrics = {"acc": "acc", "auc": "auc", "f1": "f1"}

    def figures(device):
        model = model_of(device, mlp, "bce_with_logits", metrics)
        train(model, (X, BINARY))
        measured = model.evaluate((X, BINARY), batch_size=8, verbose=0)
        return measured, model.predict(X, batch_size=8, verbose=0)

    check_as_on_the_cpu(figures)


@SCENARIOS.add
def nested_predictions():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = linear(3)

        def forward(self, x):
            y = self.layer(x)
            return {"a": y, "b": [y * 2, (y.argmax(1), y.sum())]}

    for join in ("auto", "list"):
        check_as_on_the_cpu(
            lambda device, join=join: model_of(device, Nested).predict(
                X, batch_size=8, verbose=0, join=join
            )
        )


@SCENARIOS.add
def the_other_device():
    def figures(device):
        model = model_of(device, mlp, "bce_with_logits", {"acc": "acc", "auc": "auc"})
        found = train(model, (X, BINARY), (X, BINARY))
        assert {str(p.device) for p in model.net.parameters()} == {device}
        return found, model.predict(X, verbose=0), model.evaluate((X, BINARY), verbose=0)

    check_as_on_the_cpu(figures, device=OTHER)
