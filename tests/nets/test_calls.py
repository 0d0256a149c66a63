"""How nets are called with features, decided by the signature of their forward."""

import warnings

import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.nets.calls import choose_call
from fitorch.tree import leaves

A, B = torch.ones(4, 2), torch.zeros(4, 3)


def net_of(function):
    """A module whose forward has the signature of a function."""
    return type("Net", (nn.Module,), {"forward": function})()


AS_BEFORE = {
    "one": (net_of(lambda self, x: x), A, A),
    "two": (net_of(lambda self, a, b: (a, b)), (A, B), (A, B)),
    "two, one of them optional": (net_of(lambda self, a, b=None: (a, b)), (A, B), (A, B)),
    "any number": (net_of(lambda self, *x: x), (A, B), (A, B)),
    "keywords": (net_of(lambda self, a, b: (a, b)), {"b": B, "a": A}, (A, B)),
    "any keywords": (net_of(lambda self, **x: x), {"a": A}, {"a": A}),
}


@pytest.mark.parametrize(("net", "features", "expected"), AS_BEFORE.values(), ids=AS_BEFORE)
def test_features_are_the_arguments_where_forward_takes_them(net, features, expected):
    result = choose_call(net, features)(features)
    assert type(result) is type(expected)
    assert all(a is b for a, b in zip(leaves(result), leaves(expected), strict=True))


WHOLE = {
    "a tuple": (A, B),
    "a list": [A, B],
    "a mapping": {"a": A, "b": B},
    "texts": ["a", "bc", "d"],
    "one text": ["a"],  # a last batch of one sample
    "images of several sizes": [torch.ones(3, 4, 4), torch.ones(3, 5, 5)],
}


@pytest.mark.parametrize("features", WHOLE.values(), ids=WHOLE)
def test_features_are_passed_whole_to_a_net_that_takes_one_argument(features):
    with pytest.warns(UserWarning, match=r"Net\.forward does not take the parts .* as one"):
        call = choose_call(net_of(lambda self, x: x), features)
    assert call(features) is features


def test_keys_that_forward_does_not_take_are_dropped_and_named():
    features = {"a": A, "token_type_ids": B}
    with pytest.warns(UserWarning, match=r"Net\.forward does not take token_type_ids"):
        call = choose_call(net_of(lambda self, a, mask=None: (a, mask)), features)
    assert call(features) == (A, None)


def test_a_missing_argument_is_still_torchs_error():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'b'"):
        choose_call(net_of(lambda self, a, b: a), {"a": A})({"a": A})


def test_a_compiled_net_is_called_as_the_original():
    net = net_of(lambda self, x: x)
    with pytest.warns(UserWarning, match="does not take the parts"):
        call = choose_call(torch.compile(net, backend="eager"), (A, B))
    assert call((A, B)) == (A, B)


class Recommender(nn.Module):
    """forward(x) of numbers and a category, as one tuple or mapping."""

    def __init__(self, keys):
        super().__init__()
        torch.manual_seed(0)
        self.keys, self.embedding, self.head = keys, nn.Embedding(5, 3), nn.Linear(5, 1)

    def forward(self, x):
        numbers, category = (x[key] for key in self.keys)
        return self.head(torch.cat([numbers, self.embedding(category)], 1))


@pytest.mark.parametrize("form", ["tuple", "mapping"])
@pytest.mark.filterwarnings("ignore:Recommender.forward does not take the parts")
def test_such_a_net_is_trained_evaluated_and_predicts_as_by_hand(form):
    numbers, category, y = torch.rand(12, 2), torch.arange(12) % 5, torch.rand(12, 1)
    keys, features = (
        ((0, 1), (numbers, category)) if form == "tuple" else ("ab", {"a": numbers, "b": category})
    )
    net, by_hand = Recommender(keys), Recommender(keys)
    model = KerasModel(net, "mse", None, torch.optim.SGD(net.parameters(), 0.1))
    model.fit((features, y), epochs=2, batch_size=12, shuffle=False, verbose=0)
    optimizer = torch.optim.SGD(by_hand.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.mse_loss(by_hand(features), y).backward()
        optimizer.step()
    expected = by_hand(features).detach()
    torch.testing.assert_close(model.predict((features, y), verbose=0), expected)
    scores = model.evaluate((features, y), batch_size=5, verbose=0)
    assert scores["val_loss"] == pytest.approx(nn.functional.mse_loss(expected, y).item())


class Labelled(nn.Linear):
    """A net of a mapping; it takes no labels."""

    def forward(self, x, mask=None):
        return super().forward(x)


def test_labels_and_other_keys_are_kept_from_a_net_that_does_not_take_them():
    net = Labelled(2, 1)
    data = {"x": A, "labels": torch.rand(4, 1)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # labels are no surprise
        KerasModel(net, "mse").fit(data, epochs=1, verbose=0)
    with pytest.warns(UserWarning, match="does not take length"):
        KerasModel(net, "mse").evaluate({**data, "length": torch.ones(4)}, verbose=0)


class Counting(nn.Linear):
    """Divides its loss by a number of targets that it is given, as Transformers' models do."""

    def forward(self, x, labels=None, num_items_in_batch=None):
        logits = super().forward(x)
        assert num_items_in_batch is not None
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return {"loss": loss / num_items_in_batch, "logits": logits}


@pytest.mark.parametrize("window", [1, 3])
def test_a_net_that_divides_by_the_number_of_targets_is_given_it(window):
    torch.manual_seed(0)
    x, labels = torch.randn(12, 5, 3).double(), torch.randint(4, (12, 5))
    labels[torch.arange(5) >= torch.randint(1, 6, (12, 1))] = -100
    net, by_hand = Counting(3, 4).double(), Counting(3, 4).double()
    by_hand.load_state_dict(net.state_dict())
    model = KerasModel(net, None, None, torch.optim.SGD(net.parameters(), 0.1))
    frame = model.fit(
        {"x": x, "labels": labels},
        epochs=1,
        batch_size=12 // window,
        gradient_accumulation_steps=window,
        shuffle=False,
        verbose=0,
    )
    loss = by_hand(x, labels, (labels != -100).sum())["loss"]
    loss.backward()
    assert frame["train_loss"][0] == pytest.approx(loss.item(), rel=1e-10)
    assert by_hand.weight.grad is not None
    expected = by_hand.weight - 0.1 * by_hand.weight.grad
    torch.testing.assert_close(net.weight, expected, rtol=1e-10, atol=1e-13)
