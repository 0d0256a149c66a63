"""Schedules of torch, Transformers and timm as they come, against a loop by hand."""

import importlib.util
import sys
import types
import warnings

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from fitorch import KerasModel, WarmupCosine
from fitorch.callbacks import LambdaCallback
from fitorch.errors import CheckpointMismatchError
from fitorch.optim.scheduling import when_to_step

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X.sum(1, keepdim=True)
STEPS = 4  # updates in an epoch


def transformers_schedule(name, **options):
    library = pytest.importorskip("transformers")
    return lambda optimizer: getattr(library, name)(optimizer, **options)


@pytest.fixture(scope="module")
def timm_schedulers():
    """timm's schedules, without its models, which need torchvision."""
    found = importlib.util.find_spec("timm")
    if found is None:
        pytest.skip("timm is not installed")
    package = types.ModuleType("timm")
    package.__path__ = list(found.submodule_search_locations)
    before = {name: m for name, m in sys.modules.items() if name.partition(".")[0] == "timm"}
    sys.modules["timm"] = package
    yield importlib.import_module("timm.scheduler")
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        del sys.modules[name]
    sys.modules.update(before)


def net():
    torch.manual_seed(0)
    return nn.Linear(3, 1).double()


def rates_of(schedule, epochs=3, **options):
    """Return the rate of each update of a fit, and its frame."""
    module, rates = net(), []
    optimizer = optim.SGD(module.parameters(), lr=0.1)
    made = schedule(optimizer) if callable(schedule) else schedule
    model = KerasModel(module, "mse", None, optimizer, made)
    note = LambdaCallback(
        on_train_batch_begin=lambda batch, logs: rates.append(optimizer.param_groups[0]["lr"])
    )
    given = {"epochs": epochs, "batch_size": 10, "verbose": 0, "callbacks": [note], **options}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = model.fit((X, Y), (X, Y), **given)
    return rates, frame


def rates_by_hand(schedule, epochs=3, after_update=None, after_epoch=None):
    """Return the rate of each update in the loop that the library documents."""
    optimizer, rates, updates = optim.SGD(net().parameters(), lr=0.1), [], 0
    made = schedule(optimizer)
    for epoch in range(epochs):
        for _ in range(STEPS):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            updates += 1
            if after_update:
                after_update(made, updates)
        if after_epoch:
            after_epoch(made, epoch)
    return rates


TRANSFORMERS = {
    "linear": ("get_linear_schedule_with_warmup", {"num_warmup_steps": 3}),
    "cosine": ("get_cosine_schedule_with_warmup", {"num_warmup_steps": 3}),
    "restarts": ("get_cosine_with_hard_restarts_schedule_with_warmup", {"num_warmup_steps": 2}),
    "polynomial": ("get_polynomial_decay_schedule_with_warmup", {"num_warmup_steps": 2}),
    "inverse root": ("get_inverse_sqrt_schedule", {"num_warmup_steps": 2}),
    "constant": ("get_constant_schedule_with_warmup", {"num_warmup_steps": 5}),
}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_schedules_of_transformers_count_updates(kind):
    name, options = TRANSFORMERS[kind]
    if kind not in ("inverse root", "constant"):
        options = {**options, "num_training_steps": 3 * STEPS}
    schedule = transformers_schedule(name, **options)
    rates, _ = rates_of(schedule)
    assert rates == rates_by_hand(schedule, after_update=lambda made, _: made.step())
    assert len(set(rates)) > 4


def one_cycle(optimizer):
    return lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12, cycle_momentum=False)


NESTED = {
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o,
        [
            lr_scheduler.LinearLR(o, 0.1, total_iters=4),
            lr_scheduler.CyclicLR(o, 0.01, 0.1, cycle_momentum=False),
        ],
        [4],
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler([WarmupCosine(12, 3)(o)]),
    "chained one cycle": lambda o: lr_scheduler.ChainedScheduler([one_cycle(o)]),
}


@pytest.mark.parametrize("kind", NESTED)
def test_what_counts_updates_within_another_counts_updates(kind):
    rates, _ = rates_of(NESTED[kind])
    assert rates == rates_by_hand(NESTED[kind], after_update=lambda made, _: made.step())


def test_a_lambda_of_the_users_counts_epochs():
    optimizer = optim.SGD(net().parameters(), lr=0.1)
    schedule = lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    assert when_to_step(schedule, "auto") == "epoch"


@pytest.mark.parametrize("in_epochs", [True, False])
def test_schedules_of_timm_get_both_calls(in_epochs, timm_schedulers):
    length = 3 if in_epochs else 12

    def schedule(optimizer):
        return timm_schedulers.CosineLRScheduler(
            optimizer, t_initial=length, warmup_t=1, warmup_lr_init=0.01, t_in_epochs=in_epochs
        )

    rates, _ = rates_of(schedule)
    expected = rates_by_hand(
        schedule,
        after_update=lambda made, updates: made.step_update(num_updates=updates),
        after_epoch=lambda made, epoch: made.step(epoch + 1, 1.0),
    )
    assert rates == expected
    assert len(set(rates)) >= 3


def test_timms_plateau_gets_the_monitored_value(timm_schedulers):
    def plateau(mode):
        def make(optimizer):
            with warnings.catch_warnings():  # timm says that it will be removed
                warnings.simplefilter("ignore", FutureWarning)
                return timm_schedulers.PlateauLRScheduler(
                    optimizer, decay_rate=0.5, patience_t=0, mode=mode, threshold=1e9
                )

        return make

    _, frame = rates_of(plateau("min"), epochs=4)
    values = frame["val_loss"].tolist()
    expected = rates_by_hand(
        plateau("min"),
        epochs=4,
        after_epoch=lambda made, epoch: made.step(epoch + 1, values[epoch]),
    )
    assert frame["lr"].tolist() == expected[::STEPS]
    assert expected[0] != expected[-1]
    with pytest.raises(ValueError, match=r"has mode='max', but lower values of val_loss are"):
        rates_of(plateau("max"))


def test_a_resumed_run_of_timm_ends_at_the_same_bits(timm_schedulers, tmp_path):
    def schedule(optimizer):
        return timm_schedulers.CosineLRScheduler(optimizer, t_initial=12, t_in_epochs=False)

    whole, _ = rates_of(schedule, ckpt_path=tmp_path / "a")
    rates_of(schedule, epochs=2, ckpt_path=tmp_path / "b")
    rest, frame = rates_of(schedule, ckpt_path=tmp_path / "b", resume=True)
    assert rest == whole[2 * STEPS :]
    assert len(frame) == 3


def test_a_schedule_that_asks_for_the_epoch_gets_the_completed_ones():
    class Halving:
        def __init__(self, optimizer):
            self.optimizer, self.seen = optimizer, []

        def step(self, epoch, metric):
            self.seen.append((epoch, metric))
            self.optimizer.param_groups[0]["lr"] = 0.1 * 0.5**epoch

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            """Restore nothing."""

    made = []
    rates, frame = rates_of(lambda optimizer: made.append(Halving(optimizer)) or made[0])
    assert rates[::STEPS] == [0.1, 0.05, 0.025]
    assert made[0].seen == list(enumerate(frame["val_loss"], start=1))


def test_a_plateau_against_the_monitor_is_refused_before_the_first_batch():
    batches = []
    note = LambdaCallback(on_train_batch_begin=lambda batch, logs: batches.append(batch))
    with pytest.raises(ValueError, match=r"ReduceLROnPlateau has mode='max'.*pass mode='min'"):
        rates_of(lambda o: lr_scheduler.ReduceLROnPlateau(o, mode="max"), callbacks=[note])
    assert not batches


LENGTHS = {
    "a warm-up of Transformers": (
        transformers_schedule,
        "get_constant_schedule_with_warmup",
        {"num_warmup_steps": 20},
        r"warms up over 20 steps, but this fit ends after 12 updates",
    ),
    "an end of Transformers": (
        transformers_schedule,
        "get_linear_schedule_with_warmup",
        {"num_warmup_steps": 2, "num_training_steps": 8},
        r"ends after 8 steps, but this fit goes on to 12 updates",
    ),
}


@pytest.mark.parametrize("case", LENGTHS)
def test_a_length_that_does_not_fit_is_told_before_the_first_batch(case):
    make, name, options, message = LENGTHS[case]
    with pytest.raises(UserWarning, match=message):
        rates_of(make(name, **options))


def test_our_own_schedule_is_told_too():
    with pytest.raises(UserWarning, match=r"WarmupCosine ends after 8 steps"):
        rates_of(WarmupCosine(8))
    with pytest.raises(UserWarning, match=r"WarmupCosine warms up over 20 steps"):
        rates_of(WarmupCosine(30, 20))


def test_a_sequence_that_never_leaves_its_warm_up_is_told():
    def schedule(optimizer):
        parts = [
            lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5),
            lr_scheduler.ConstantLR(optimizer, 1.0),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, [5])

    with pytest.raises(UserWarning, match=r"SequentialLR warms up over 5 steps.*3 epochs"):
        rates_of(schedule)


def test_a_first_epoch_without_a_rate_is_told():
    with pytest.raises(UserWarning, match=r"LambdaLR begins with a learning rate of 0"):
        rates_of(lambda o: lr_scheduler.LambdaLR(o, lambda n: min(1.0, n / 10)))


# Schedules of several optimizers


def halving(optimizer):
    return lr_scheduler.StepLR(optimizer, 1, 0.5)


def fitted(lr_schedule, epochs=3, **options):
    module = nn.Sequential(net(), nn.Linear(1, 1).double())
    first = optim.SGD(module[0].parameters(), 0.1)
    second = optim.AdamW(module[1].parameters(), 0.01)
    made = lr_schedule(first, second)
    model = KerasModel(module, "mse", None, {"a": first, "b": second}, made)
    given = {"epochs": epochs, "batch_size": 10, "verbose": 0, "seed": 0, **options}
    return module, model.fit((X, Y), **given)[["lr_a", "lr_b"]].to_numpy().T.tolist()


FORMS = {
    "a function": (lambda a, b: halving, [0.1, 0.05, 0.025], [0.01, 0.005, 0.0025]),
    "a list": (lambda a, b: [None, halving], [0.1] * 3, [0.01, 0.005, 0.0025]),
    "instances": (
        lambda a, b: [halving(b), halving(a)],
        [0.1, 0.05, 0.025],
        [0.01, 0.005, 0.0025],
    ),
    "names": (lambda a, b: {"a": halving}, [0.1, 0.05, 0.025], [0.01] * 3),
    "one instance": (lambda a, b: halving(a), [0.1, 0.05, 0.025], [0.01] * 3),
}


@pytest.mark.parametrize("form", FORMS)
def test_several_optimizers_have_their_own_schedules(form):
    make, first, second = FORMS[form]
    _, rates = fitted(make)
    assert rates == [first, second]


def test_schedules_of_different_kinds_take_their_own_steps():
    _, (first, second) = fitted(lambda a, b: {"a": halving, "b": one_cycle})
    assert first == [0.1, 0.05, 0.025]
    optimizer = optim.AdamW(net().parameters(), 0.01)
    schedule, expected = one_cycle(optimizer), []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert second == expected[3::4]


def test_schedules_of_several_optimizers_resume(tmp_path):
    def make(a, b):
        return {"a": halving, "b": one_cycle}

    whole, rates = fitted(make, ckpt_path=tmp_path / "a")
    fitted(make, epochs=2, ckpt_path=tmp_path / "b")
    resumed, resumed_rates = fitted(make, ckpt_path=tmp_path / "b", resume=True)
    assert resumed_rates == rates
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(
        CheckpointMismatchError, match=r"lr_scheduler: saved 'StepLR \+ OneCycleLR'"
    ):
        fitted(lambda a, b: halving, ckpt_path=tmp_path / "b", epochs=4, resume=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a, b: [halving], r"1 entries for 2 optimizers \(a, b\)"),
        (lambda a, b: {"c": halving}, r"names \['c'\], but the optimizers are \['a', 'b'\]"),
        (lambda a, b: halving(optim.SGD(net().parameters(), 0.1)), "a different optimizer"),
    ],
)
def test_schedules_that_do_not_fit_the_optimizers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        fitted(make)


def test_a_list_for_a_single_optimizer_is_refused():
    with pytest.raises(TypeError, match="one of these for each of several optimizers"):
        KerasModel(net(), "mse", None, "sgd", [halving])
