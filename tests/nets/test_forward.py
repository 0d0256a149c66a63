import copy

import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.engine.class_weights import ClassWeights
from fitorch.errors import DataError
from fitorch.nets.calls import choose_call
from fitorch.nets.forward import choose_forward, features_of
from fitorch.nets.precision import in_precision

CPU = torch.device("cpu")
A, B, Y, W = torch.ones(4, 2), torch.zeros(4, 3), torch.arange(4), torch.rand(4)


class Spy:
    """A net that returns how it was called."""

    def __call__(self, *args, **kwargs):
        return args, kwargs


def keep(net):
    return net


CALLS = {
    "a tensor": (A, (A,), {}),
    "a tuple": ((A, B), (A, B), {}),
    "a list": ([A, B], (A, B), {}),
    "a mapping": ({"a": A, "b": B}, (), {"a": A, "b": B}),
}


@pytest.mark.parametrize(("features", "args", "kwargs"), CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("weight", [(), (W,), (None,)], ids=["pair", "triple", "no weight"])
def test_calls_the_net_as_the_features_are(features, args, kwargs, kind, weight):
    batch = kind((features, Y, *weight))
    (got_args, got_kwargs), y_true, got_weight = choose_forward(Spy(), batch, keep)(batch)
    assert len(got_args) == len(args)
    assert all(a is b for a, b in zip(got_args, args, strict=True))
    assert got_kwargs == kwargs
    assert y_true is Y
    assert got_weight is (weight[0] if weight else None)
    assert choose_call(Spy(), features)(features) == (got_args, got_kwargs)


def test_passes_a_mapping_with_labels_whole_as_hugging_face_models_want_it():
    batch = {"input_ids": A, "labels": Y}
    (args, kwargs), y_true, weight = choose_forward(Spy(), batch, keep)(batch)
    assert args == ()
    assert kwargs == batch
    assert y_true is Y
    assert weight is None


def test_takes_the_sample_weight_out_of_a_mapping():
    batch = {"input_ids": A, "labels": Y, "sample_weight": W}
    (_, kwargs), y_true, weight = choose_forward(Spy(), batch, keep)(batch)
    assert set(kwargs) == {"input_ids", "labels"}
    assert y_true is Y
    assert weight is W
    assert set(batch) == {"input_ids", "labels", "sample_weight"}


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (A, r"a Tensor: float32 \(4, 2\)"),
        ((A,), r"a tuple of length 1: \(float32 \(4, 2\)\)"),
        ([A, Y, W, B], "a list of length 4"),
        ((), "a tuple of length 0"),
        ("text", "a str"),
        (None, "a NoneType"),
    ],
)
def test_names_the_three_forms_of_a_batch(batch, got):
    forms = r"a batch must be \(features, targets\), \(features, targets, sample_weight\), or a map"
    with pytest.raises(DataError, match=f"{forms}ping, but got {got}.*forward=lambda net, batch"):
        choose_forward(Spy(), batch, keep)


@pytest.mark.parametrize(("first", "later"), [((A, Y), (A, Y, W)), ((A, Y, W), (A, Y))])
def test_refuses_a_batch_of_another_length_than_the_first(first, later):
    forward = choose_forward(Spy(), first, keep)
    expected = f"first batch had length {len(first)}, but this one has {len(later)}: .float32"
    with pytest.raises(DataError, match=expected):
        forward(later)


def test_names_the_keys_of_a_mapping_without_labels():
    with pytest.raises(DataError, match=r"needs a 'labels' key.*\['image', 'target'\]; rename"):
        choose_forward(Spy(), {"image": A, "target": Y}, keep)


@pytest.mark.parametrize("weight", [(), (W,)])
@pytest.mark.parametrize("kind", [tuple, list])
def test_the_hook_takes_a_batch_of_any_form(weight, kind):
    net = Spy()
    hook = lambda n, batch: kind((n is net and batch["p"], batch["q"], *weight))  # noqa: E731
    y_pred, y_true, got = choose_forward(net, {"p": A}, keep, hook)({"p": A, "q": Y})
    assert y_pred is A
    assert y_true is Y
    assert got is (weight[0] if weight else None)


@pytest.mark.parametrize(
    ("result", "got"),
    [(A, r"a Tensor: float32 \(4, 2\)"), ((A,), "a tuple"), ((A, Y, W, B), "a tuple"), (None, "a")],
)
def test_says_what_the_hook_should_return(result, got):
    forward = choose_forward(Spy(), A, keep, lambda net, batch: result)
    with pytest.raises(DataError, match=rf"must return \(predictions, targets\).*returned {got}"):
        forward(A)


@pytest.mark.parametrize(
    ("batch", "features"),
    [
        (A, A),
        ((A,), A),
        ([A, Y], A),
        ((A, Y, W), A),
        (((A, B), Y), (A, B)),
        ({"a": A, "labels": Y, "sample_weight": W}, {"a": A}),
    ],
)
def test_leaves_targets_out_where_there_is_nothing_to_compare_with(batch, features):
    assert features_of(batch) is features or features_of(batch) == features


TARGETS = {
    "numbers": torch.tensor([0, 1, 2, 5, 1]),
    "int32": torch.tensor([0, 1, 2, 5, 1], dtype=torch.int32),
    "a column": torch.tensor([[0], [1], [2], [5], [1]]),
    "floats": torch.tensor([0.0, 1.0, 2.0, 5.0, 1.0]),
    "a column of floats": torch.tensor([[0.0], [1.0], [2.0], [5.0], [1.0]]),
    "one-hot": nn.functional.one_hot(torch.tensor([0, 1, 2, 5, 1])),
    "one-hot floats": nn.functional.one_hot(torch.tensor([0, 1, 2, 5, 1])).float(),
    "smoothed": nn.functional.one_hot(torch.tensor([0, 1, 2, 5, 1])) * 0.88 + 0.02,
}


@pytest.mark.parametrize("y_true", TARGETS.values(), ids=TARGETS)
def test_weighs_samples_by_class_and_those_of_other_classes_with_one(y_true):
    weights = ClassWeights({0: 0.5, 2: 3.0}, CPU)
    assert weights(y_true, None).tolist() == [0.5, 1.0, 3.0, 1.0, 1.0]


def test_weighs_booleans():
    y_true = torch.tensor([True, False])
    assert ClassWeights({1: 2.0}, CPU)(y_true, None).tolist() == [2.0, 1.0]


def test_weighs_ignored_targets_with_one():
    y_true = torch.tensor([-100, -1, 0])
    assert ClassWeights({0: 0.5}, CPU)(y_true, None).tolist() == [1.0, 1.0, 0.5]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_multiplies_with_the_samples_own_weights(shape):
    own = torch.tensor([1.0, 2.0, 4.0]).reshape(shape)
    got = ClassWeights({0: 0.5}, CPU)(torch.tensor([0, 1, 0]), own)
    assert got.tolist() == [0.5, 2.0, 2.0]


def test_keeps_the_precision_it_is_told_to():
    got = ClassWeights({0: 0.1}, CPU, torch.float64)(torch.tensor([0, 1]), None)
    assert got.dtype == torch.float64
    assert got.tolist() == [0.1, 1.0]


@pytest.mark.parametrize(
    "y_true",
    [
        torch.tensor([[1.0, 1.0], [0.0, 1.0]]),
        torch.tensor([[3, 7, 2], [1, 1, 4]]),
        torch.tensor([[2.0, -1.0], [0.0, 1.0]]),
        torch.zeros(2, 3, 3),
        torch.tensor(1),
        (Y, Y),
        None,
    ],
    ids=["many labels", "sequences", "no probabilities", "masks", "a number", "a tuple", "None"],
)
def test_refuses_class_weights_where_a_sample_has_no_one_class(y_true):
    with pytest.raises(DataError, match="class_weight needs targets that are one class per sample"):
        ClassWeights({0: 2.0}, CPU)(y_true, None)


def test_trains_with_class_weights_as_torch_does_with_the_losss_own():
    torch.manual_seed(0)
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.arange(30) % 3
    net = nn.Linear(4, 3).double()
    by_hand = copy.deepcopy(net)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64))
    for _ in range(3):
        for index in torch.arange(30).split(8):
            optimizer.zero_grad()
            loss_fn(by_hand(x[index]), y[index]).backward()
            optimizer.step()
    model = KerasModel(net, "cross_entropy", optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    weights = {0: 0.5, 2: 4.0}
    model.fit((x, y), epochs=3, batch_size=8, shuffle=False, class_weight=weights, verbose=0)
    torch.testing.assert_close(net.weight, by_hand.weight)


def test_leaves_a_net_alone_in_full_precision():
    net = nn.Linear(2, 1)
    assert in_precision(net, CPU, None) is net


def test_runs_a_net_in_low_precision_and_gives_float32():
    seen = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 1)

        def forward(self, x):
            y = self.linear(x)
            seen.append(y.dtype)
            return {"y": y, "n": torch.arange(2)}

    output = in_precision(Net(), CPU, torch.bfloat16)(A)
    assert seen == [torch.bfloat16]
    assert output["y"].dtype == torch.float32
    assert output["n"].dtype == torch.int64
