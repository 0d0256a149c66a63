import io
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fitorch import KerasModel, seed_everything
from fitorch.callbacks import Callback
from fitorch.randomness import derive_seed, random_state, set_random_state, undisturbed_randomness


def make_model(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 1))
    return KerasModel(net, "mse", optimizer="adam", **options)


def data(samples=30):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 2, generator=generator)
    return x, x[:, :1]


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()


class Noisy(Dataset):
    """Samples with noise from all three global generators."""

    def __len__(self):
        return 30

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return torch.tensor([index / 30, noise]), torch.tensor([noise])


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(
    "make_data",
    [data, lambda: DataLoader(TensorDataset(*data()), 8, shuffle=True), Noisy],
    ids=["tensors", "shuffling loader", "noisy dataset"],
)
def test_the_same_seed_gives_the_same_bits(make_data):
    results = []
    for disturbance in range(2):
        model = make_model()
        seed_everything(disturbance)  # whatever was drawn before does not count
        frame = model.fit(make_data(), epochs=3, batch_size=8, seed=7, verbose=0)
        results.append((weights(model), frame["train_loss"].tolist()))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_another_seed_gives_other_bits():
    models = [make_model(), make_model()]
    for seed, model in enumerate(models):
        model.fit(data(), epochs=1, batch_size=8, seed=seed, verbose=0)
    assert not torch.equal(weights(models[0]), weights(models[1]))


def test_torchs_manual_seed_governs_where_no_seed_is_given():
    models = [make_model(), make_model(), make_model()]
    for seed, model in zip([3, 3, 4], models, strict=True):
        torch.manual_seed(seed)
        model.fit(data(), epochs=1, batch_size=8, verbose=0)
    assert models[0].history.seed == models[1].history.seed
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


def test_two_fits_without_a_seed_draw_different_ones():
    model = make_model()
    frame = model.fit(data(), epochs=1, verbose=0)
    first = frame.attrs["seed"]
    assert model.fit(data(), epochs=1, verbose=0).attrs["seed"] != first


def test_the_drawn_seed_repeats_the_fit():
    first, again = make_model(), make_model()
    frame = first.fit(data(), epochs=2, batch_size=8, verbose=0)
    again.fit(data(), epochs=2, batch_size=8, seed=frame.attrs["seed"], verbose=0)
    assert torch.equal(weights(first), weights(again))


@pytest.mark.parametrize("make_data", [data, Noisy], ids=["tensors", "noisy dataset"])
def test_a_fit_with_a_seed_leaves_the_global_generators_alone(make_data):
    model = make_model()
    seed_everything(11)
    expected = draws()
    seed_everything(11)
    model.fit(make_data(), make_data(), epochs=2, seed=1, verbose=0)
    assert draws() == expected


def test_a_fit_without_a_seed_draws_one_number_from_torch():
    model = make_model()
    seed_everything(11)
    torch.empty((), dtype=torch.int64).random_()
    expected = draws()
    seed_everything(11)
    model.fit(data(), epochs=2, verbose=0)
    assert draws() == expected


def test_evaluate_and_predict_of_arrays_leave_the_global_generators_alone():
    model = make_model()
    seed_everything(11)
    expected = draws()
    seed_everything(11)
    model.evaluate(data(), verbose=0)
    model.predict(data()[0], verbose=0)
    assert draws() == expected


def test_the_global_generators_are_back_after_an_error():
    class Fails(Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise ArithmeticError

    model = make_model()
    seed_everything(11)
    expected = draws()
    seed_everything(11)
    with pytest.raises(ArithmeticError):
        model.fit(Noisy(), epochs=2, seed=1, callbacks=[Fails()], verbose=0)
    assert draws() == expected


@pytest.mark.parametrize(
    "make_validation",
    [data, lambda: DataLoader(TensorDataset(*data()), 8, shuffle=True), Noisy],
    ids=["tensors", "shuffling loader", "noisy dataset"],
)
def test_validation_does_not_change_training(make_validation):
    with_validation, without = make_model(), make_model()
    with_validation.fit(Noisy(), make_validation(), epochs=3, seed=7, verbose=0)
    without.fit(Noisy(), epochs=3, seed=7, verbose=0)
    assert torch.equal(weights(with_validation), weights(without))


def test_the_state_of_the_generators_can_be_stored_safely():
    seed_everything(5)
    draws()
    file = io.BytesIO()
    torch.save(random_state(), file)
    expected = draws()
    file.seek(0)
    set_random_state(torch.load(file, weights_only=True))
    assert draws() == expected


def test_undisturbed_randomness_ends_as_if_nothing_had_been_drawn():
    seed_everything(5)
    expected = draws()
    seed_everything(5)
    with undisturbed_randomness():
        draws()
    assert draws() == expected


def test_seed_everything_seeds_all_three_generators():
    assert seed_everything(2**40 + 3) == 2**40 + 3
    first = draws()
    seed_everything(2**40 + 3)
    assert draws() == first


def test_derived_seeds_differ_by_every_label():
    seeds = {
        derive_seed(seed, label, number)
        for seed in range(10)
        for label in ("order", "model")
        for number in range(50)
    }
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


class Modes(Callback):
    def on_train_batch_end(self, batch, logs=None):
        cudnn = torch.backends.cudnn
        self.seen = (
            torch.are_deterministic_algorithms_enabled(),
            cudnn.deterministic,
            cudnn.benchmark,
        )


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_algorithms_are_used_in_the_fit_alone(monkeypatch, wanted):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    modes = Modes()
    make_model().fit(data(), epochs=1, deterministic=wanted, callbacks=[modes], verbose=0)
    assert modes.seen == ((True, True, False) if wanted else (False, False, True))
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.deterministic


def test_deterministic_is_a_flag():
    with pytest.raises(TypeError, match="deterministic is 1"):
        make_model().fit(data(), deterministic=1)
