"""Steps of the user's own, against a loop by hand: GANs, several losses, accumulation, resume."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, softplus
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel
from fitorch.callbacks import EarlyStopping, LambdaCallback

X = torch.randn(52, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X.sum(1, keepdim=True)


def mlp(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


# A GAN


def gan():
    torch.manual_seed(0)
    net = nn.ModuleDict({"maker": mlp(4, 2), "judge": mlp(2, 1)})
    optimizers = {
        "maker": torch.optim.Adam(net["maker"].parameters(), 1e-2),
        "judge": torch.optim.SGD(net["judge"].parameters(), 0.1, momentum=0.9),
    }
    return net, optimizers


def noise(real):
    """Noise that depends on the batch, so that any loop draws the same."""
    generator = torch.Generator().manual_seed(int(real.abs().sum() * 1e6) % 2**31)
    return torch.randn(len(real), 4, generator=generator, dtype=torch.float64)


def losses_of_judge(net, real, made):
    return (softplus(-net["judge"](real)) + softplus(net["judge"](made))).mean()


def gan_step(model, real):
    net = model.net
    made = net["maker"](noise(real))
    judged = losses_of_judge(net, real, made.detach())
    model.backward(judged)
    model.update("judge")
    loss = softplus(-net["judge"](made)).mean()
    model.backward(loss)
    model.update("maker")
    return {"loss": loss, "judge": judged}


def gan_by_hand(epochs=3, clip=None):
    net, optimizers = gan()
    figures = []
    for _ in range(epochs):
        rows = []
        for real in X.split(10):
            made = net["maker"](noise(real))
            for name in ("judge", "maker"):
                for optimizer in optimizers.values():
                    optimizer.zero_grad()
                if name == "judge":
                    loss = losses_of_judge(net, real, made.detach())
                else:
                    loss = softplus(-net["judge"](made)).mean()
                loss.backward()
                if clip:
                    nn.utils.clip_grad_norm_(net[name].parameters(), clip)
                optimizers[name].step()
                rows.append((name, loss.item() * len(real)))
        figures.append([sum(v for n, v in rows if n == name) / 52 for name in ("maker", "judge")])
    return net, figures


def fit_gan(step=gan_step, kind=KerasModel, **options):
    net, optimizers = gan()
    given = {"epochs": 3, "verbose": 0, "seed": 0, **options}
    model = kind(net, optimizer=optimizers, **({} if step is None else {"step": step}))
    return model, model.fit(DataLoader(X, 10), **given)


class Gan(KerasModel):
    def train_step(self, batch):
        return gan_step(self, batch)


def same(left, right):
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("form", ["function", "method"])
def test_a_gan_has_the_bits_and_figures_of_a_loop_by_hand(form, clip):
    expected, figures = gan_by_hand(clip=clip)
    given = {} if form == "function" else {"step": None, "kind": Gan}
    model, frame = fit_gan(clip_grad_norm=clip, **given)
    assert same(model.net, expected)
    rows = frame[["train_loss", "train_judge"]].to_numpy().tolist()
    for row, figure in zip(rows, figures, strict=True):
        assert row == pytest.approx(figure, rel=1e-12)
    assert {"lr_maker", "lr_judge"} <= set(frame)


class Cut(Exception):
    """Raised in the middle of a fit."""


def cutting(after):
    count = itertools.count(1)

    def cut(batch, logs):
        if next(count) == after:
            raise Cut

    return LambdaCallback(on_train_batch_end=cut)


def whole_and_resumed(run, folder):
    """Return what `run` returns without an interruption, and resumed after ten batches."""
    whole = run(folder / "a")
    with pytest.raises(Cut):
        run(folder / "b", callbacks=[cutting(10)])
    return whole, run(folder / "b", resume=True)


@pytest.mark.parametrize("cut", [8, 12, 17])
def test_a_gan_resumes_to_the_same_bits(cut, tmp_path):
    def halving(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)

    def run(folder, **options):
        net, optimizers = gan()
        net["judge"].insert(1, nn.Dropout(0.2))
        model = KerasModel(net, None, None, optimizers, halving, step=gan_step)
        given = {"epochs": 3, "verbose": 0, "seed": 0, "scheduler_step": "update"}
        loader = DataLoader(X, 10, shuffle=True)
        frame = model.fit(
            loader, ckpt_path=folder, save_every_n_steps=3, monitor="train_judge", mode="min",
            **given, **options,
        )  # fmt: skip
        return model.net, frame.drop(columns="seconds")

    whole, frame = run(tmp_path / "a")
    with pytest.raises(Cut):
        run(tmp_path / "b", callbacks=[cutting(cut)])
    resumed, resumed_frame = run(tmp_path / "b", resume=True)
    assert same(resumed, whole)
    assert resumed_frame.equals(frame)


# One net, one optimizer


def plain_step(model, batch):
    x, y = batch
    y_pred = model.net(x)
    model.measure(y_pred, y)
    loss = model.compute_loss(y_pred, y)
    model.backward(loss)
    model.update()
    return {"loss": loss}


def regression(step=plain_step, metrics=None, **given):
    torch.manual_seed(0)
    net = mlp(2, 1)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    metrics = {"mae": "mae"} if metrics is None else metrics
    return KerasModel(net, "mse", metrics, optimizer, step=step, **given)


OPTIONS = {
    "plain": {},
    "clipped": {"clip_grad_norm": 0.1},
    "bf16": {"mixed_precision": "bf16"},
    "a stream": {},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_step_that_does_what_fit_does_gives_its_bits_and_figures(case):
    results = []
    for step in (None, plain_step):
        model = regression(step)
        data = [(X[i : i + 10], Y[i : i + 10]) for i in range(0, 52, 10)]
        loader = DataLoader(TensorDataset(X, Y), 10, shuffle=case != "a stream")
        frame = model.fit(
            data if case == "a stream" else loader,
            DataLoader(TensorDataset(X, Y), 7),
            epochs=3,
            verbose=0,
            seed=0,
            **OPTIONS[case],
        )
        results.append((model, frame.drop(columns="seconds")))
    (ours, frame), (own, own_frame) = results
    assert same(ours.net, own.net)
    assert list(frame) == list(own_frame) or set(frame) == set(own_frame)
    for name in frame:
        assert own_frame[name].tolist() == pytest.approx(frame[name].tolist(), rel=1e-12)


@pytest.mark.parametrize("window", [2, 3, 4])
def test_a_window_is_one_batch_of_its_samples(window):
    data = DataLoader(TensorDataset(X, Y), 10)
    model = regression()
    model.fit(data, epochs=3, verbose=0, gradient_accumulation_steps=window)
    expected = regression(None)
    expected.fit(DataLoader(TensorDataset(X, Y), 10 * window), epochs=3, verbose=0)
    for a, b in zip(model.net.parameters(), expected.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert model.progress.updates == expected.progress.updates


def test_two_backward_passes_add_up_and_two_updates_share_one():
    torch.manual_seed(0)
    net = nn.ModuleDict({"a": mlp(2, 1), "b": mlp(2, 1)})
    twin = nn.ModuleDict({"a": mlp(2, 1), "b": mlp(2, 1)})
    twin.load_state_dict(net.state_dict())

    def make(net):
        return {name: torch.optim.SGD(net[name].parameters(), 0.1) for name in net}

    def step(model, batch):
        x, y = batch
        first, second = model.net["a"](x), model.net["b"](x)
        model.backward(mse_loss(first, y))
        model.backward(mse_loss(second, first.detach()))
        model.update("a")
        model.update("b")
        return {"loss": mse_loss(first, y)}

    model = KerasModel(net, optimizer=make(net), step=step)
    model.fit(DataLoader(TensorDataset(X, Y), 10), epochs=2, verbose=0)
    optimizers = make(twin)
    for _, (x, y) in itertools.product(range(2), zip(X.split(10), Y.split(10), strict=True)):
        twin.zero_grad()
        first = twin["a"](x)
        (mse_loss(first, y) + mse_loss(twin["b"](x), first.detach())).backward()
        for optimizer in optimizers.values():
            optimizer.step()
    assert same(net, twin)


def test_an_update_every_other_batch_keeps_the_rest_as_it_is():
    """A critic with every batch, an actor with every second one."""

    def step(model, batch):
        model.backward(losses_of_judge(model.net, batch, model.net["maker"](noise(batch)).detach()))
        model.update("judge")
        model.seen = getattr(model, "seen", 0) + 1
        if model.seen % 2:
            return {"loss": 0.0}
        loss = softplus(-model.net["judge"](model.net["maker"](noise(batch)))).mean()
        model.backward(loss)
        model.update("maker")
        return {"loss": loss, "maker": loss}

    model, frame = fit_gan(step)
    expected, optimizers = gan()
    seen, rows = 0, []
    for real in [*X.split(10)] * 3:
        seen += 1
        expected.zero_grad()
        losses_of_judge(expected, real, expected["maker"](noise(real)).detach()).backward()
        optimizers["judge"].step()
        if seen % 2:
            continue
        expected.zero_grad()
        loss = softplus(-expected["judge"](expected["maker"](noise(real)))).mean()
        loss.backward()
        optimizers["maker"].step()
        rows.append((loss.item(), len(real)))
    assert same(model.net, expected)
    # A figure that some batches lack is the mean over those that have it.
    first = rows[:3]
    mean = sum(value * n for value, n in first) / sum(n for _, n in first)
    assert frame["train_maker"].iloc[0] == pytest.approx(mean, rel=1e-12)


def test_a_pair_counts_by_its_own_weight():
    def step(model, batch):
        loss = mse_loss(model.net(batch[0]), batch[1])
        model.backward(loss)
        model.update()
        positive = (batch[1] > 0).sum()
        return {"loss": loss, "mean_of_positive": (batch[1][batch[1] > 0].mean(), positive)}

    model = regression(step)
    frame = model.fit(DataLoader(TensorDataset(X, Y), 10), epochs=1, verbose=0)
    expected = Y[Y > 0].mean().item()
    assert frame["train_mean_of_positive"].iloc[0] == pytest.approx(expected, rel=1e-12)


# Validation, prediction and callbacks


class Distilled(KerasModel):
    """Two students of one teacher, which learn from it and from each other."""

    teacher: nn.Module

    def train_step(self, batch):
        x, y = batch
        with torch.no_grad():
            wanted = self.teacher(x)
        figures = {}
        for name, other in (("first", "second"), ("second", "first")):
            guess = self.net[name](x)
            peer = self.net[other](x).detach()
            loss = mse_loss(guess, y) + mse_loss(guess, wanted) + 0.1 * mse_loss(guess, peer)
            self.backward(loss)
            self.update(name)
            figures[name] = loss
        return {"loss": sum(figures.values()), **figures}

    def test_step(self, batch):
        x, y = batch
        guess = (self.net["first"](x) + self.net["second"](x)) / 2
        self.measure(guess, y)
        return {"loss": mse_loss(guess, y)}

    def predict_step(self, batch):
        x = batch[0] if isinstance(batch, (tuple, list)) else batch
        return (self.net["first"](x) + self.net["second"](x)) / 2


def distilled():
    torch.manual_seed(0)
    net = nn.ModuleDict({"first": mlp(2, 1), "second": mlp(2, 1)})
    optimizers = {name: torch.optim.Adam(net[name].parameters(), 0.01) for name in net}
    model = Distilled(net, None, {"mae": "mae"}, optimizers)
    model.teacher = mlp(2, 1)
    return model


def test_validation_and_prediction_have_methods_of_their_own():
    model = distilled()
    data = DataLoader(TensorDataset(X, Y), 10)
    frame = model.fit(data, data, epochs=3, verbose=0)
    guess = model.predict(X, batch_size=7, verbose=0)
    with torch.no_grad():
        expected = (model.net["first"](X) + model.net["second"](X)) / 2
    torch.testing.assert_close(guess, expected, rtol=1e-12, atol=1e-12)
    last = frame.iloc[-1]
    assert last["val_loss"] == pytest.approx(mse_loss(expected, Y).item(), rel=1e-12)
    assert last["val_mae"] == pytest.approx((expected - Y).abs().mean().item(), rel=1e-6)
    assert model.evaluate(data, verbose=0)["val_loss"] == pytest.approx(last["val_loss"], rel=1e-12)


def test_without_a_test_step_validation_runs_the_same_function_and_changes_nothing():
    net, optimizers = gan()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = KerasModel(net, optimizer=optimizers, step=gan_step)
    values = model.evaluate(DataLoader(X, 7), verbose=0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    made = net["maker"]
    with torch.no_grad():
        sums = [softplus(-net["judge"](made(noise(real)))).sum() for real in X.split(7)]
    assert values["val_loss"] == pytest.approx((sum(sums) / 52).item(), rel=1e-12)


def test_figures_can_be_monitored():
    callback = EarlyStopping(monitor="train_judge", mode="min", patience=1, min_delta=1e9)
    _, frame = fit_gan(callbacks=[callback], epochs=9, monitor="train_judge", mode="min")
    assert len(frame) == 2


def test_modules_of_attributes_are_saved_with_the_model(tmp_path):
    model = distilled()
    data = DataLoader(TensorDataset(X, Y), 10)
    model.fit(data, epochs=1, verbose=0, ckpt_path=tmp_path)
    other = distilled()
    with torch.no_grad():
        other.teacher[0].weight.zero_()
    other.restore(tmp_path)
    assert same(other.teacher, model.teacher)


class Environment:
    """A walk on five places that is rewarded at its right end."""

    def play(self, policy, generator):
        place, steps = 2, []
        while 0 <= place < 5 and len(steps) < 20:
            state = nn.functional.one_hot(torch.tensor(place), 5).double()
            chances = policy(state).softmax(-1)
            right = bool(torch.rand((), generator=generator, dtype=torch.float64) < chances[1])
            steps.append((state, int(right)))
            place += 1 if right else -1
        return steps, float(place >= 5)


def actor_critic():
    torch.manual_seed(0)
    net = nn.ModuleDict({"actor": nn.Linear(5, 2).double(), "critic": nn.Linear(5, 1).double()})
    return net, {name: torch.optim.Adam(net[name].parameters(), 0.05) for name in net}


def losses_of_episode(net, episode):
    generator = torch.Generator().manual_seed(int(episode))
    steps, reward = Environment().play(net["actor"], generator)
    states = torch.stack([state for state, _ in steps])
    actions = torch.tensor([action for _, action in steps])
    value = net["critic"](states).squeeze(-1)
    advantage = reward - value
    chosen = cross_entropy(net["actor"](states), actions, reduction="none")
    return (chosen * advantage.detach()).mean(), advantage.square().mean(), reward


def test_an_actor_critic_learns_as_by_hand():
    def step(model, episode):
        actor, critic, reward = losses_of_episode(model.net, episode)
        model.backward(actor)
        model.update("actor")
        model.backward(critic)
        model.update("critic")
        return {"loss": actor, "reward": reward}

    net, optimizers = actor_critic()
    model = KerasModel(net, optimizer=optimizers, step=step)
    episodes = DataLoader(range(100), batch_size=1)
    frame = model.fit(episodes, epochs=3, verbose=0, monitor="train_reward", mode="max")
    expected, optimizers = actor_critic()
    rewards = []
    for _, number in itertools.product(range(3), range(100)):
        actor, critic, reward = losses_of_episode(expected, number)
        for name, loss in (("actor", actor), ("critic", critic)):
            expected.zero_grad()
            loss.backward(retain_graph=name == "actor")
            optimizers[name].step()
        rewards.append(reward)
    assert same(net, expected)
    assert frame["train_reward"].tolist() == pytest.approx(
        [sum(rewards[i : i + 100]) / 100 for i in (0, 100, 200)]
    )
    assert frame["train_reward"].iloc[-1] > frame["train_reward"].iloc[0]


# Bad input


WRONG = {
    "no mapping": (lambda model, batch: torch.zeros(()), TypeError, "expected a mapping"),
    "nothing": (lambda model, batch: None, TypeError, "returned a NoneType"),
    "no number": (lambda model, batch: {"loss": torch.zeros(3)}, TypeError, r"shape \(3,\)"),
    "a metric": (lambda model, batch: {"mae": 1.0}, ValueError, "a metric of metrics_dict"),
    "not finite": (lambda model, batch: {"loss": float("nan")}, ArithmeticError, "is nan"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_step_must_not_return(case):
    step, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        regression(step).fit(DataLoader(TensorDataset(X, Y), 10), epochs=1, verbose=0)


def test_an_unknown_name_is_refused_with_those_there_are():
    def step(model, batch):
        model.backward(softplus(model.net["judge"](batch)).mean())
        model.update("critic")

    with pytest.raises(ValueError, match="no optimizer 'critic'; expected one of 'maker'"):
        fit_gan(step)
    with pytest.raises(
        ValueError, match=r"update\(\) needs the name of an optimizer, one of 'maker'"
    ):
        fit_gan(lambda model, batch: model.update())


def test_a_step_that_never_updates_is_refused():
    options = {"epochs": 1, "verbose": 0, "batch_size": None}
    data = [(X[:4], Y[:4])] * 101
    with pytest.raises(ValueError, match=r"has not called model\.update\(\) in 100 batches"):
        regression(lambda model, batch: {"loss": 1.0}).fit(data, **options)
    with pytest.raises(ValueError, match=r"has not called model\.update\(\) in 3 batches"):
        regression(lambda model, batch: {"loss": 1.0}).fit(data[:3], **options)
    with pytest.raises(ValueError, match=r"model\.update\(\) found no gradient"):
        regression(lambda model, batch: {"loss": float(model.update())}).fit(data, **options)


def test_a_step_of_a_loop_by_hand_trains_but_not_in_validation():
    def step(model, batch):
        loss = mse_loss(model.net(batch[0]), batch[1])
        model.optimizer.zero_grad()
        loss.backward()
        model.optimizer.step()
        return {"loss": loss}

    data = DataLoader(TensorDataset(X, Y), 10)
    model, expected = regression(step), regression()
    model.fit(data, epochs=2, verbose=0)
    expected.fit(data, epochs=2, verbose=0)
    assert same(model.net, expected.net)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"called optimizer\.step\(\) in validation"):
        model.evaluate(data, verbose=0)
    assert all(torch.equal(v, before[name]) for name, v in model.net.state_dict().items())
    with pytest.raises(RuntimeError, match="knows nothing of other processes and of gradient"):
        model.fit(data, epochs=1, verbose=0, gradient_accumulation_steps=2)


def test_gradients_of_several_batches_add_up_until_an_update():
    def step(model, batch):
        loss = mse_loss(model.net(batch[0]), batch[1])
        model.backward(loss / 2)
        model.seen = getattr(model, "seen", 0) + 1
        if model.seen % 2 == 0:
            model.update()
        return {"loss": loss}

    model, expected = regression(step), regression()
    model.fit(DataLoader(TensorDataset(X[:40], Y[:40]), 10), epochs=3, verbose=0)
    expected.fit(DataLoader(TensorDataset(X[:40], Y[:40]), 20), epochs=3, verbose=0)
    for a, b in zip(model.net.parameters(), expected.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_two_updates_of_one_optimizer_within_a_window_are_refused():
    def step(model, batch):
        losses = []
        for _ in range(2):
            losses.append(mse_loss(model.net(batch[0]), batch[1]))
            model.backward(losses[-1])
            model.update()
        return {"loss": losses[0]}

    data = DataLoader(TensorDataset(X, Y), 10)
    with pytest.raises(ValueError, match="several times in a batch"):
        regression(step).fit(data, epochs=1, verbose=0, gradient_accumulation_steps=2)
    regression(step).fit(data, epochs=1, verbose=0)


def test_in_fp16_two_updates_by_one_backward_pass_have_one_scale():
    """The first one overflows, which lowers the scale; the second one must not notice."""
    torch.manual_seed(0)
    net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 1)})
    optimizers = {name: torch.optim.SGD(net[name].parameters(), 0.1) for name in net}
    x, y = torch.randn(8, 4), torch.randn(8, 1)
    loss = mse_loss(net["b"](torch.tanh(net["a"](x))), y)
    expected = net["b"].weight - 0.1 * torch.autograd.grad(loss, net["b"].weight)[0]
    weights = []

    def step(model, batch):
        x, y = batch
        hidden = model.net["a"](x)
        loss = mse_loss(model.net["b"](torch.tanh(hidden)).float(), y)
        model.backward(loss + (hidden * 3).sum().float())
        model.update("a")
        model.update("b")
        weights.append((model.net["a"].weight.clone(), model.net["b"].weight.clone()))
        return {"loss": loss}

    before = net["a"].weight.detach().clone()
    model = KerasModel(net, step=step, optimizer=optimizers)
    model.fit((x, y), epochs=1, mixed_precision="fp16", batch_size=8, verbose=0)
    first, second = weights[0]
    assert torch.equal(first, before)  # it has overflowed
    torch.testing.assert_close(second, expected, rtol=1e-2, atol=1e-4)


HOLDERS = ["attribute", "private attribute", "list", "object", "closure", "argument"]


class Held:
    """An object of the user's."""


def holding(where):
    """Return a model whose step trains a head that is not in its net."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.2), nn.Linear(4, 1)).double()
    optimizer = torch.optim.Adam(head.parameters(), 0.01)
    held = (head, optimizer)

    def step(model, batch, held=None):
        head, optimizer = {
            "attribute": lambda: (model.head, model.head_optimizer),
            "private attribute": lambda: (model._head, model._optimizer_of_head),
            "list": lambda: model.parts,
            "object": lambda: (model.held.head, model.held.optimizer),
            "closure": lambda: closed_over,
            "argument": lambda: held,
        }[where]()
        x, y = batch
        loss = mse_loss(head(model.net(x)), y)
        model.backward(loss)
        model.update()
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss}

    closed_over = held if where == "closure" else None
    model = regression(partial(step, held=held) if where == "argument" else step)
    if where == "attribute":
        model.head, model.head_optimizer = held
    elif where == "private attribute":
        model._head, model._optimizer_of_head = held
    elif where == "list":
        model.parts = [*held]
    elif where == "object":
        model.held = Held()
        model.held.head, model.held.optimizer = held
    return model, head


@pytest.mark.parametrize("where", HOLDERS)
def test_what_a_step_holds_is_resumed_wherever_it_is(where, tmp_path):
    def run(folder, **options):
        model, head = holding(where)
        data = DataLoader(TensorDataset(X, Y), 10, shuffle=True)
        given = {"epochs": 3, "verbose": 0, "seed": 0, "save_every_n_steps": 4}
        model.fit(data, ckpt_path=folder, **given, **options)
        return head

    whole, resumed = whole_and_resumed(run, tmp_path)
    assert same(resumed, whole)


def test_values_tensors_and_generators_of_attributes_are_resumed(tmp_path):
    class Queue(KerasModel):
        """Compares with earlier features, drawn from a queue by a generator of its own."""

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.queue = torch.zeros(8, 1, dtype=torch.float64)
            self.generator = torch.Generator().manual_seed(0)
            self.seen, self.names = 0, ["first"]

        def train_step(self, batch):
            x, y = batch
            self.seen += 1
            guess = self.net(x)
            drawn = torch.randint(0, 8, (len(x),), generator=self.generator)
            loss = mse_loss(guess, y) + 0.1 * mse_loss(guess, self.queue[drawn])
            self.backward(loss)
            if self.seen % 2:
                self.update()
            self.queue = torch.cat([guess.detach(), self.queue])[:8]
            self.names = [*self.names[-2:], str(self.seen)]
            return {"loss": loss}

    def run(folder, **options):
        torch.manual_seed(0)
        net = mlp(2, 1)
        model = Queue(net, "mse", None, torch.optim.Adam(net.parameters(), 0.01))
        data = DataLoader(TensorDataset(X, Y), 10, shuffle=True)
        given = {"epochs": 3, "verbose": 0, "seed": 0, "save_every_n_steps": 3}
        model.fit(data, ckpt_path=folder, **given, **options)
        return model

    whole, resumed = whole_and_resumed(run, tmp_path)
    assert same(resumed.net, whole.net)
    assert torch.equal(resumed.queue, whole.queue)
    assert (resumed.seen, resumed.names) == (whole.seen, whole.names)


def test_calls_outside_of_a_step_are_refused():
    model = regression()
    with pytest.raises(RuntimeError, match="works within a step"):
        model.backward(torch.zeros((), requires_grad=True))


def test_a_training_step_of_lightning_is_told_what_to_do():
    class Lit(KerasModel):
        def training_step(self, batch, batch_idx):
            return batch

    with pytest.raises(TypeError, match=r"as in Lightning.*train_step\(self, batch\)"):
        Lit(mlp(2, 1), "mse").fit((X, Y), epochs=1, verbose=0)


def test_two_ways_to_process_a_batch_are_refused():
    with pytest.raises(ValueError, match="step= and train_step both process a batch"):
        fit_gan(gan_step, kind=Gan)
    with pytest.raises(ValueError, match="forward= and a step both process a batch"):
        regression(forward=lambda net, batch: batch).fit((X, Y), epochs=1, verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": {0: 1.0}}, "class_weight does not work with plain_step"),
        ({"mixed_precision": "fp16", "gradient_accumulation_steps": 2}, "with fp16 does not work"),
    ],
)
def test_arguments_without_effect_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        regression().fit((X, Y), epochs=1, verbose=0, **options)


def test_a_container_of_nets_is_not_called():
    net, optimizers = gan()
    model = KerasModel(net, optimizer=optimizers, step=gan_step)
    with pytest.raises(TypeError, match=r"which cannot be called; define predict_step"):
        model.predict(X, verbose=0)


def test_a_monitored_value_that_the_step_does_not_return_is_told():
    with pytest.raises(ValueError, match="train_nothing"):
        fit_gan(monitor="train_nothing", mode="min")
