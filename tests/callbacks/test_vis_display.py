import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import VisDisplay

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))


def fit(callback, epochs=5):
    model = KerasModel(nn.Linear(3, 1), "mse", {}, "sgd")
    model.fit((X, X[:, :1]), epochs=epochs, verbose=0, callbacks=[callback])
    return model


@pytest.mark.parametrize(
    ("options", "epochs"),
    [({}, [0, 0, 1, 2, 3, 4]), ({"init_display": False, "dis_period": 2}, [1, 3])],
)
def test_it_is_called_in_its_time(options, epochs):
    seen = []
    model = fit(VisDisplay(lambda model: seen.append(model), **options))
    assert seen == [model] * len(epochs)


def test_it_is_called_with_what_was_given():
    seen = []
    fit(VisDisplay(seen.append, model="a net", dis_period=5))
    assert seen == ["a net", "a net"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("show",), TypeError, "display_fn is 'show', a str"),
        ((print, None, True, 0), ValueError, "dis_period is 0"),
    ],
)
def test_what_makes_no_sense(arguments, error, message):
    with pytest.raises(error, match=message):
        VisDisplay(*arguments)
