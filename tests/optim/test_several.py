"""Several optimizers as one, against a loop by hand."""

import copy
import pickle

import pytest
import torch
from torch import nn, optim

from fitorch import KerasModel
from fitorch.callbacks import LambdaCallback
from fitorch.errors import CheckpointMismatchError
from fitorch.optim.muon import muon_with_adamw
from fitorch.optim.several import Optimizers

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X[:, :3].argmax(1)
HAS_MUON = hasattr(optim, "Muon")


def net():
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    return nn.Sequential(*layers).double()


def sgd_and_adam(module):
    matrices = [p for p in module.parameters() if p.dim() == 2]
    others = [p for p in module.parameters() if p.dim() != 2]
    return optim.SGD(matrices, 0.1, momentum=0.9), optim.AdamW(others, 0.01, fused=True)


def muon_and_adamw(module):
    return tuple(muon_with_adamw(module))


PAIRS = [
    sgd_and_adam,
    pytest.param(muon_and_adamw, marks=pytest.mark.skipif(not HAS_MUON, reason="needs torch 2.9")),
]


def by_hand(module, optimizers, epochs, clip=None, window=1):
    for _ in range(epochs):
        for begin in range(0, len(X), 10 * window):
            for optimizer in optimizers:
                optimizer.zero_grad()
            x, y = X[begin : begin + 10 * window], Y[begin : begin + 10 * window]
            nn.functional.cross_entropy(module(x), y).backward()
            if clip:
                groups = [group for optimizer in optimizers for group in optimizer.param_groups]
                nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], clip)
            for optimizer in optimizers:
                optimizer.step()
    return module


def fitted(pair, form, **options):
    module = net()
    members = pair(module)
    forms = {
        "list": list(members),
        "mapping": dict(zip("ab", members, strict=True)),
        "function": lambda _: members,
    }
    model = KerasModel(module, "cross_entropy", optimizer=forms[form])
    given = {"epochs": 3, "batch_size": 10, "shuffle": False, "verbose": 0, **options}
    frame = model.fit((X, Y), **given)
    return model, frame


def same(left, right):
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("form", ["list", "mapping", "function"])
@pytest.mark.parametrize("pair", PAIRS)
def test_two_optimizers_give_the_bits_of_a_loop_by_hand(pair, form):
    expected = net()
    by_hand(expected, pair(expected), 3)
    model, _ = fitted(pair, form)
    assert same(model.net, expected)


@pytest.mark.parametrize("pair", PAIRS)
def test_clipping_takes_the_norm_over_all_of_them(pair):
    expected = net()
    by_hand(expected, pair(expected), 3, clip=0.1)
    model, _ = fitted(pair, "list", clip_grad_norm=0.1)
    assert same(model.net, expected)


def test_accumulation_makes_one_update_of_a_window():
    expected = net()
    by_hand(expected, sgd_and_adam(expected), 3, window=2)
    model, _ = fitted(sgd_and_adam, "list", gradient_accumulation_steps=2)
    for a, b in zip(model.net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_columns_have_the_names_of_the_optimizers():
    _, frame = fitted(sgd_and_adam, "list")
    assert frame[["lr_sgd", "lr_adamw"]].iloc[-1].tolist() == [0.1, 0.01]
    assert "lr" not in frame
    _, frame = fitted(sgd_and_adam, "mapping")
    assert frame[["lr_a", "lr_b"]].iloc[-1].tolist() == [0.1, 0.01]
    module = net()
    two = [optim.SGD(layer.parameters(), 0.1) for layer in module if isinstance(layer, nn.Linear)]
    model = KerasModel(module, "cross_entropy", optimizer=two)
    columns = model.fit((X, Y), epochs=1, verbose=0).columns
    assert {"lr_sgd", "lr_sgd_2", "lr_sgd_3"} <= set(columns)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("form", ["list", "mapping"])
def test_a_resumed_run_ends_at_the_same_bits(pair, form, tmp_path):
    whole, _ = fitted(pair, form, ckpt_path=tmp_path / "a", shuffle=True, seed=1)
    stop = LambdaCallback(on_train_batch_end=cutting(9))
    options = {"ckpt_path": tmp_path / "b", "shuffle": True, "seed": 1, "save_every_n_steps": 4}
    with pytest.raises(Cut):
        fitted(pair, form, callbacks=[stop], **options)
    resumed, _ = fitted(pair, form, resume=True, **options)
    assert same(resumed.net, whole.net)


def test_a_checkpoint_of_other_optimizers_is_refused(tmp_path):
    fitted(sgd_and_adam, "list", ckpt_path=tmp_path)
    module = net()
    model = KerasModel(module, "cross_entropy", optimizer=optim.Adam(module.parameters()))
    with pytest.raises(
        CheckpointMismatchError, match=r"optimizer: saved 'SGD \+ AdamW', given 'Adam'"
    ):
        model.fit((X, Y), epochs=4, batch_size=10, ckpt_path=tmp_path, resume=True, verbose=0)


def test_a_parameter_of_two_optimizers_is_refused_by_name():
    module = net()
    first, second = sgd_and_adam(module)
    second.add_param_group({"params": [module[2].weight]})
    with pytest.raises(ValueError, match=r"'sgd' and 'adamw' both train 2\.weight"):
        KerasModel(module, "cross_entropy", optimizer=[first, second])


def test_a_parameter_of_none_is_refused_by_name():
    module = net()
    members = list(sgd_and_adam(module))
    members[1] = optim.AdamW([module[0].bias, module[2].bias])
    with pytest.raises(ValueError, match=r"trains 1 parameters \(4\.bias\).*requires_grad_"):
        KerasModel(module, "cross_entropy", optimizer=members)
    module[4].bias.requires_grad_(False)
    KerasModel(module, "cross_entropy", optimizer=members)


def test_an_optimizer_of_another_net_is_refused():
    module, other = net(), net()
    with pytest.raises(ValueError, match="AdamW are not the net's"):
        KerasModel(module, "mse", optimizer=[sgd_and_adam(module)[0], sgd_and_adam(other)[1]])


@pytest.mark.parametrize("given", [[], {}, [1], {"a b": optim.SGD([torch.zeros(1)], 0.1)}])
def test_other_things_in_a_list_are_refused(given):
    with pytest.raises(TypeError, match="several in a list or a dict by name"):
        KerasModel(net(), "cross_entropy", optimizer=given)


def test_copies_and_pickles_train_their_own_parameters():
    module = net()
    both = Optimizers(dict(zip("ab", sgd_and_adam(module), strict=True)))
    nn.functional.cross_entropy(module(X), Y).backward()
    both.step()
    for copied in (copy.deepcopy(both), pickle.loads(pickle.dumps(both))):
        held = [p for group in copied.param_groups for p in group["params"]]
        originals = [p for group in both.param_groups for p in group["params"]]
        assert all(torch.equal(a, b) and a is not b for a, b in zip(held, originals, strict=True))
        assert len(copied.state) == len(both.state) == 6
        assert list(copied["a"].state_dict()["state"]) == [0, 1, 2]


def test_a_group_added_to_the_whole_names_the_members():
    both = Optimizers(dict(zip("ab", sgd_and_adam(net()), strict=True)))
    with pytest.raises(ValueError, match=r"model\.optimizer\['a'\]\.add_param_group.*'a', 'b'"):
        both.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


def test_hooks_on_the_whole_run():
    module, calls = net(), []
    model = KerasModel(module, "cross_entropy", optimizer=list(sgd_and_adam(module)))
    model.optimizer.register_step_post_hook(lambda *_: calls.append(1))
    model.fit((X, Y), epochs=1, batch_size=10, verbose=0)
    assert len(calls) == 6


@pytest.mark.skipif(not HAS_MUON, reason="needs torch 2.9")
def test_muon_by_name_takes_the_hidden_matrices():
    module = nn.Sequential(
        nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 3)
    )
    model = KerasModel(module, "cross_entropy", optimizer="Muon")
    muon, adamw = model.optimizer.members.values()
    assert {id(p) for p in muon.param_groups[0]["params"]} == {
        id(module[1].weight),
        id(module[3].weight),
    }
    total = len(muon.param_groups[0]["params"]) + len(adamw.param_groups[0]["params"])
    assert total == len(list(module.parameters()))
    with pytest.raises(ValueError, match="no hidden matrix"):
        KerasModel(nn.Linear(2, 1), "mse", optimizer="muon")


def test_another_optimizer_between_two_fits_is_used():
    module, expected = net(), net()
    model = KerasModel(module, "cross_entropy", optimizer="sgd")
    model.optimizer = [*sgd_and_adam(module)]
    model.fit((X, Y), epochs=3, batch_size=10, shuffle=False, verbose=0)
    by_hand(expected, sgd_and_adam(expected), 3)
    assert same(module, expected)


def test_another_optimizer_within_a_fit_is_refused():
    model = KerasModel(net(), "cross_entropy", optimizer="sgd")

    def replaced(batch, logs):
        model.optimizer = "adam"

    callback = LambdaCallback(on_train_batch_end=replaced)
    with pytest.raises(RuntimeError, match="set within a fit"):
        model.fit((X, Y), epochs=1, verbose=0, callbacks=[callback])


def test_a_schedule_of_the_earlier_optimizer_is_refused():
    module = net()
    optimizer = optim.SGD(module.parameters(), 0.1)
    schedule = optim.lr_scheduler.StepLR(optimizer, 1)
    model = KerasModel(module, "cross_entropy", None, optimizer, schedule)
    model.optimizer = "adam"
    with pytest.raises(ValueError, match="built for a different optimizer"):
        model.fit((X, Y), epochs=1, verbose=0)
    model.lr_scheduler = None
    model.fit((X, Y), epochs=1, verbose=0)


def test_a_schedule_by_a_function_follows_the_optimizer():
    def halving(optimizer):
        return optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    model = KerasModel(net(), "cross_entropy", None, "sgd", halving)
    model.optimizer = "adam"
    rates = model.fit((X, Y), epochs=3, verbose=0)["lr"].tolist()
    assert rates == [1e-3, 5e-4, 2.5e-4]


class Cut(Exception):
    """Raised in the middle of a fit."""


def cutting(after):
    calls = []

    def cut(batch, logs):
        calls.append(batch)
        if len(calls) == after:
            raise Cut

    return cut


def add_group(module, optimizer, epoch):
    if epoch == 1:
        optimizer.add_param_group({"params": [*module[0].parameters()], "lr": 0.05})


def unfrozen_by_hand():
    module = net()
    optimizer = optim.SGD(module[4].parameters(), 0.1, momentum=0.9)
    for epoch in range(3):
        add_group(module, optimizer, epoch)
        held = [p for group in optimizer.param_groups for p in group["params"]]
        for begin in range(0, 60, 10):
            optimizer.zero_grad()
            x, y = X[begin : begin + 10], Y[begin : begin + 10]
            nn.functional.cross_entropy(module(x), y).backward()
            nn.utils.clip_grad_norm_(held, 0.2)
            optimizer.step()
    return module


def unfrozen_by_a_callback(folder, cut_after=None, *, resume=False):
    module = net()
    optimizer = optim.SGD(module[4].parameters(), 0.1, momentum=0.9)
    callback = LambdaCallback(
        on_epoch_begin=lambda epoch, logs: add_group(module, optimizer, epoch),
        on_train_batch_end=cutting(cut_after),
    )
    frame = KerasModel(module, "cross_entropy", optimizer=optimizer).fit(
        (X, Y),
        epochs=3,
        batch_size=10,
        shuffle=False,
        verbose=0,
        clip_grad_norm=0.2,
        callbacks=[callback],
        ckpt_path=folder,
        save_every_n_steps=4,
        resume=resume,
    )
    return module, frame


def test_groups_added_by_a_callback_are_trained_clipped_and_resumed(tmp_path):
    expected = unfrozen_by_hand()
    module, frame = unfrozen_by_a_callback(tmp_path / "a")
    assert same(module, expected)
    assert frame["lr_1"].tolist()[1:] == [0.05, 0.05]
    with pytest.raises(Cut):
        unfrozen_by_a_callback(tmp_path / "b", 15)  # within the last epoch
    resumed, _ = unfrozen_by_a_callback(tmp_path / "b", resume=True)
    assert same(resumed, expected)
