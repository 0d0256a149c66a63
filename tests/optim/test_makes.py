"""Optimizers of any library: the bits of a loop by hand, and of a run that was resumed."""

import pytest
import torch
from torch import nn, optim

from fitorch import KerasModel
from fitorch.callbacks import LambdaCallback

X = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


def of(library, name, *args, **options):
    def make(parameters):
        kind = getattr(pytest.importorskip(library), name)
        return kind(parameters, *args, **options)

    return make


def eight_bits(parameters):
    return pytest.importorskip("torchao.optim").AdamW8bit(parameters, lr=1e-2, block_size=32)


MAKES = {
    "Adafactor": lambda p: optim.Adafactor(p, lr=1e-2),
    "relative step": of("pytorch_optimizer", "AdaFactor", lr=None, relative_step=True),
    "Transformers' relative step": of("transformers", "Adafactor", relative_step=True),
    "SOAP": of("pytorch_optimizer", "SOAP", lr=3e-3, precondition_frequency=3),
    "Prodigy": of("pytorch_optimizer", "Prodigy"),
    "Lion": of("pytorch_optimizer", "Lion", lr=1e-3),
    "Shampoo": of("pytorch_optimizer", "Shampoo", lr=1e-3),
    "AdamP": of("pytorch_optimizer", "AdamP", lr=1e-3),
    "8-bit AdamW": eight_bits,
}


def optimizer_of(name, parameters):
    try:
        return MAKES[name](parameters)
    except AttributeError as error:  # releases add and remove optimizers
        pytest.skip(str(error))


def net(name):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 3))
    return layers if name == "8-bit AdamW" else layers.double()


def data(name):
    return (X if name == "8-bit AdamW" else X.double()), Y


class Cut(Exception):
    """Raised in the middle of a fit."""


def fitted(name, folder, cut_after=None, **options):
    calls = []

    def cut(batch, logs):
        calls.append(batch)
        if len(calls) == cut_after:
            raise Cut

    module = net(name)
    model = KerasModel(module, "cross_entropy", None, optimizer_of(name, [*module.parameters()]))
    frame = model.fit(
        data(name),
        epochs=3,
        batch_size=10,
        shuffle=False,
        verbose=0,
        ckpt_path=folder,
        save_every_n_steps=4,
        callbacks=[LambdaCallback(on_train_batch_end=cut)],
        monitor="train_loss",
        **options,
    )
    model.load_ckpt(folder / "best.safetensors")
    return module, frame


def by_hand(name):
    """Return the weights after the epoch of the least loss, which a fit keeps, and the losses."""
    module, (x, y) = net(name), data(name)
    optimizer = optimizer_of(name, [*module.parameters()])
    losses, kept = [], {}
    for epoch in range(3):
        total = 0.0
        for begin in range(0, 60, 10):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(x[begin : begin + 10]), y[begin : begin + 10])
            loss.backward()
            optimizer.step()
            total += loss.item() / 6
        if not losses or total < min(losses):
            kept = {key: value.clone() for key, value in module.state_dict().items()}
        losses.append(total)
        assert len(losses) == epoch + 1
    return kept, losses


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
@pytest.mark.parametrize("name", MAKES)
def test_it_trains_as_by_hand_and_resumes_to_the_same_bits(name, tmp_path):
    expected, losses = by_hand(name)
    module, frame = fitted(name, tmp_path / "a")
    assert frame["train_loss"].tolist() == pytest.approx(losses, rel=1e-6)
    for key, value in module.state_dict().items():
        assert torch.equal(value, expected[key]), key
    with pytest.raises(Cut):
        fitted(name, tmp_path / "b", 9)
    resumed, _ = fitted(name, tmp_path / "b", resume=True)
    for key, value in resumed.state_dict().items():
        assert torch.equal(value, expected[key]), key
