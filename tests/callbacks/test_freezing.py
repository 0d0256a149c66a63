"""What trains when: weights that move, and weights that do not."""

import pytest
import torch
from torch import nn, optim

from fitorch import KerasModel
from fitorch.callbacks import Callback, Freeze, GradualUnfreeze
from fitorch.engine.steps import compiled_region as region
from fitorch.losses import L2
from versions import since_torch

X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        self.plain_norm = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.plain_norm(self.body(x)).relu())


def make_model(net=None, loss="mse", kind=optim.Adam, **options):
    torch.manual_seed(0)
    net = net or Net()
    optimizer = kind(net.parameters(), lr=0.01, weight_decay=0.1)
    return KerasModel(net, loss, optimizer=optimizer, **options)


class Moves(Callback):
    """Notes, for each epoch, which tensors of the net's state have changed."""

    def __init__(self):
        self.moved = []

    def on_epoch_begin(self, epoch, logs=None):
        self.before = {n: t.clone() for n, t in self.model.net.state_dict().items()}

    def on_epoch_end(self, epoch, logs=None):
        state = self.model.net.state_dict()
        self.moved.append({n for n, t in state.items() if not torch.equal(t, self.before[n])})


def moved(callback, model=None, epochs=1, **options):
    """Return, for each epoch, what of the net has moved."""
    moves = Moves()
    (model or make_model()).fit(
        (X, Y), (X, Y), epochs=epochs, callbacks=[callback, moves], verbose=0, seed=0, **options
    )
    return moves.moved


PARAMETERS = {name for name, _ in Net().named_parameters()}
STATISTICS = {
    f"{norm}.{name}"
    for norm in ("body.1", "plain_norm.1")
    for name in ("running_mean", "running_var", "num_batches_tracked")
}
BODY = {name for name in PARAMETERS | STATISTICS if name.startswith("body")}
ALL = PARAMETERS | STATISTICS


@pytest.mark.parametrize(
    ("pattern", "frozen"),
    [
        ("body", BODY),
        ("body.0", {"body.0.weight", "body.0.bias"}),
        ("head.bias", {"head.bias"}),
        ("*.bias", {n for n in ALL if n.endswith("bias")}),
        (["body.0.weight", "head"], {"body.0.weight", "head.weight", "head.bias"}),
        (("body.2",), {"body.2.weight", "body.2.bias"}),
        (lambda name, p: p.dim() > 1, {n for n, p in Net().named_parameters() if p.dim() > 1}),
        ("plain_norm", {n for n in ALL if n.startswith("plain_norm")}),
    ],
)
def test_what_is_named_does_not_move(pattern, frozen):
    assert moved(Freeze(pattern)) == [ALL - frozen]


def test_all_moves_again_from_an_epoch_on():
    assert moved(Freeze("body", until=2), epochs=4) == [ALL - BODY] * 2 + [ALL] * 2
    assert moved(Freeze("body", until=0)) == [ALL]


def test_statistics_move_on_request():
    expected = ALL - (BODY - STATISTICS)
    assert moved(Freeze("body", batch_norm=False)) == [expected]


def test_epochs_count_over_all_fits():
    model, freeze = make_model(), Freeze("body", until=1)
    assert moved(freeze, model) == [ALL - BODY]
    assert moved(freeze, model) == [ALL]


def test_more_trains_from_epoch_to_epoch():
    schedule = {0: "head", 2: ["plain_norm"], 3: lambda name, p: name.startswith("body")}
    head = {"head.weight", "head.bias"}
    with_norm = head | {n for n in ALL if n.startswith("plain_norm")}
    expected = [head, head, with_norm, ALL]
    assert moved(GradualUnfreeze(schedule), epochs=4) == expected


def test_what_nothing_names_stays_frozen():
    assert moved(GradualUnfreeze({0: "head", 1: "body.2"}), epochs=2)[1] == {
        "head.weight",
        "head.bias",
        "body.2.weight",
        "body.2.bias",
    }


@pytest.mark.parametrize("callback", [Freeze("body"), GradualUnfreeze({0: "head", 1: "body.0"})])
@pytest.mark.parametrize("fails", [False, True])
def test_all_is_as_before_at_the_end(callback, fails):
    class Fails(Callback):
        def on_epoch_end(self, epoch, logs=None):
            if fails:
                raise ArithmeticError

    model = make_model()
    model.net.body[0].bias.requires_grad_(False)
    model.net.plain_norm[1].eval()
    modes = [module.training for module in model.net.modules()]
    groups = [id(p) for p in model.optimizer.param_groups[0]["params"]]
    try:
        model.fit((X, Y), epochs=2, callbacks=[callback, Fails()], verbose=0)
    except ArithmeticError:
        assert fails
    trained = {name: p.requires_grad for name, p in model.net.named_parameters()}
    assert trained == {name: name != "body.0.bias" for name in trained}
    assert [module.training for module in model.net.modules()] == modes
    assert [id(p) for p in model.optimizer.param_groups[0]["params"]] == groups


def test_what_a_user_froze_stays_frozen_unless_it_is_named():
    def prepared():
        model = make_model()
        model.net.body.requires_grad_(False)
        return model

    kept = ALL - (BODY - STATISTICS)
    assert moved(Freeze("head.bias", until=1), prepared(), 2) == [kept - {"head.bias"}, kept]
    assert moved(GradualUnfreeze({0: "*"}), prepared()) == [ALL]


@pytest.mark.parametrize("whole", [True, False])
def test_statistics_stay_where_the_net_was_in_eval_mode(whole):
    model = make_model()
    (model.net if whole else model.net.plain_norm[1]).eval()
    expected = ALL if whole else {n for n in ALL if not n.startswith("plain_norm.1")}
    assert moved(Freeze("body"), model, 2) == [expected - BODY] * 2


def test_a_callback_that_leaves_the_net_in_eval_mode_frees_nothing():
    class Evals(Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.net.eval()

    moves, model = Moves(), make_model()
    callbacks = [Evals(), Freeze("body"), moves]
    model.fit((X, Y), epochs=2, callbacks=callbacks, verbose=0)
    assert moves.moved == [ALL - BODY] * 2


def test_penalties_leave_out_what_is_frozen():
    frame = make_model(loss=nn.MSELoss() + 1.0 * L2()).fit(
        (X, Y), epochs=2, callbacks=[Freeze("head", until=1)], verbose=0
    )
    assert frame["train_l2"][0] < frame["train_l2"][1]


@pytest.mark.slow
@since_torch("2.13")
def test_with_a_compiled_step(monkeypatch):
    monkeypatch.setattr(region, "_BACKEND", "aot_eager")
    torch._dynamo.reset()
    model = make_model(kind=optim.SGD, jit_compile=True)
    options = {"batch_size": 4, "shuffle": False}
    assert moved(Freeze("body", until=1), model, 3, **options) == [ALL - BODY, ALL, ALL]
    assert not model.compilation.refused
    plain = make_model(kind=optim.SGD)
    moved(Freeze("body", until=1), plain, 3, **options)
    state = plain.net.state_dict()
    for name, value in model.net.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-5, atol=1e-6)


def test_shared_parameters_go_by_any_of_their_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.head = nn.Linear(3, 1)

        def forward(self, x):
            return self.head(self.second(self.first(x)))

    found = moved(Freeze("second.weight"), make_model(Tied()))
    assert found == [{"first.bias", "second.bias", "head.weight", "head.bias"}]


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (Freeze("boddy"), r"finds nothing named 'boddy' \(did you mean 'body'"),
        (Freeze("boddy.*"), r"finds nothing named 'boddy\.\*' \(did you mean 'body'"),
        (Freeze(["head", "tail"]), r"Freeze finds nothing named 'tail'.* parameters are body\.0\."),
        (Freeze(lambda name, p: False), "Freeze selects none of the parameters of Net"),
        (Freeze([]), "Freeze selects none of the parameters of Net"),
        (
            GradualUnfreeze({0: "head", 9: "hed"}),
            r"GradualUnfreeze, for epoch 9, finds nothing named 'hed' \(did you mean 'head'",
        ),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_before_training(callback, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        model.fit((X, Y), epochs=1, callbacks=[callback], verbose=0)
    assert len(model.history) == 0
    assert all(parameter.requires_grad for parameter in model.net.parameters())


def test_what_the_optimizer_lacks_can_not_be_unfrozen():
    net = Net()
    optimizer = optim.SGD(net.head.parameters(), 0.1)
    model = KerasModel(net, "mse", optimizer=optimizer)
    with pytest.raises(ValueError, match=r"names 'body\.0\.weight', which the optimizer does not"):
        model.fit((X, Y), callbacks=[GradualUnfreeze({0: "head", 1: "body"})], verbose=0)
    assert moved(Freeze("head.bias"), model) == [{"head.weight"} | STATISTICS]


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match=r"pattern is 3; expected a pattern such as"):
        Freeze(3)
    with pytest.raises(TypeError, match=r"until is 1\.5, a float; expected an int >= 0"):
        Freeze("head", until=1.5)
    with pytest.raises(ValueError, match="until is -1; expected an int >= 0"):
        Freeze("head", until=-1)
    with pytest.raises(TypeError, match="schedule is 'head'; expected a dict of epochs"):
        GradualUnfreeze("head")
    with pytest.raises(ValueError, match=r"has the epochs \[1, 3\], but not 0"):
        GradualUnfreeze({3: "head", 1: "body"})
    with pytest.raises(TypeError, match="pattern for epoch 1 is 2; expected a pattern"):
        GradualUnfreeze({0: "head", 1: 2})
    with pytest.raises(TypeError, match="an epoch of the schedule is 'head'"):
        GradualUnfreeze({"head": 0})
