import pytest
import torch
from torch import nn

from fitorch import KerasModel, NonFiniteError
from fitorch.internals import torch as internals
from fitorch.optim.update import Update


def with_gradients(*values):
    parameters = [nn.Parameter(torch.zeros(len(value))) for value in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(value)
    return parameters


def moved(parameters):
    return [(-parameter.detach()).tolist() for parameter in parameters]


def test_an_update_steps_and_counts():
    parameters = with_gradients([1.0, 2.0])
    update = Update(torch.optim.SGD(parameters, lr=1.0))
    update()
    assert moved(parameters) == [[1.0, 2.0]]
    assert update.completed == 1


def test_the_norm_is_over_all_parameters():
    parameters = with_gradients([3.0], [0.0, 4.0])  # of norm 5
    Update(torch.optim.SGD(parameters, lr=1.0), clip_grad_norm=1.0)()
    assert moved(parameters) == [pytest.approx([0.6]), pytest.approx([0.0, 0.8])]


def test_a_small_norm_is_left_alone():
    parameters = with_gradients([0.3, 0.4])
    Update(torch.optim.SGD(parameters, lr=1.0), clip_grad_norm=1.0)()
    assert moved(parameters)[0] == pytest.approx([0.3, 0.4])


def test_values_are_clamped_one_by_one():
    parameters = with_gradients([3.0, -0.1], [-4.0])
    Update(torch.optim.SGD(parameters, lr=1.0), clip_grad_value=0.5)()
    assert moved(parameters) == [pytest.approx([0.5, -0.1]), pytest.approx([-0.5])]


def test_the_norm_is_clipped_before_the_values():
    parameters = with_gradients([3.0, 4.0])
    Update(torch.optim.SGD(parameters, lr=1.0), clip_grad_norm=1.0, clip_grad_value=0.7)()
    assert moved(parameters)[0] == pytest.approx([0.6, 0.7])


def test_a_norm_that_is_not_finite_is_refused_before_the_step():
    parameters = with_gradients([float("nan"), 1.0])
    with pytest.raises(NonFiniteError, match="its gradient is not"):
        Update(torch.optim.SGD(parameters, lr=1.0), clip_grad_norm=1.0)()
    assert moved(parameters)[0] == [0.0, 0.0]


def test_gradients_are_readable_between_an_update_and_the_next_batch():
    seen = []

    class Look:
        def set_model(self, model):
            self.net = model.net

        def on_train_batch_begin(self, batch, logs=None):
            seen.append(self.net.weight.grad)

        on_train_batch_end = on_train_batch_begin

    model = KerasModel(nn.Linear(2, 1), "mse")
    model.fit(
        (torch.randn(8, 2), torch.randn(8, 1)),
        epochs=1,
        batch_size=4,
        callbacks=[Look()],
        verbose=0,
    )
    assert seen[0] is None
    assert all(gradient is not None for gradient in seen[1:])
    assert model.net.weight.grad is None  # fit lets go of them


def test_an_optimizer_with_its_own_zero_grad_is_asked():
    calls = []

    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none=True):
            calls.append(set_to_none)
            super().zero_grad(set_to_none)

    parameters = with_gradients([1.0])
    Update(Own(parameters, lr=1.0)).zero_grad()
    assert calls == [True]
    assert parameters[0].grad is None


def test_rates_are_those_of_the_last_update():
    parameters = with_gradients([1.0])
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    update = Update(optimizer, scheduler=schedule)
    assert update.learning_rates() == {"lr": 1.0}
    update()
    update()
    assert update.learning_rates() == {"lr": 0.5}
    assert optimizer.param_groups[0]["lr"] == 0.25


class Scaler:
    """A gradient scaler that scales by 4 and skips the steps it is told to."""

    def __init__(self, *skipped):
        self.skipped, self.steps, self.scaling = set(skipped), 0, 4.0

    def scale(self, loss):
        return loss * self.scaling

    def unscale_(self, optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= self.scaling

    def step(self, optimizer):
        if self.steps not in self.skipped:
            optimizer.step()

    def get_scale(self):
        return self.scaling

    def update(self):
        if self.steps in self.skipped:
            self.scaling /= 2
        self.steps += 1


def test_scaled_gradients_are_unscaled_before_they_are_clipped():
    parameter = nn.Parameter(torch.zeros(2))
    update = Update(torch.optim.SGD([parameter], lr=1.0), scaler=Scaler(), clip_grad_norm=2.5)
    update.backward((parameter * torch.tensor([3.0, 4.0])).sum())
    update()
    assert moved([parameter])[0] == pytest.approx([1.5, 2.0])


def test_a_schedule_does_not_go_on_with_a_step_that_the_scaler_skipped():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    update = Update(optimizer, scaler=Scaler(1), scheduler=schedule)
    rates = []
    for _ in range(3):
        parameter.grad = torch.ones(1)
        update()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.5, 0.5, 0.25]


class CountingScaler(torch.amp.GradScaler):
    """torch's scaler, which counts how often its scale is read."""

    reads = 0

    def get_scale(self):
        self.reads += 1
        return super().get_scale()


def scaled_by_hand(gradients, **options):
    """torch's recipe: a schedule goes on if the scale has not fallen."""
    parameter, optimizer, schedule, scaler = scaled_parts(**options)
    epochs = []
    for gradient in gradients:
        optimizer.zero_grad()
        scaler.scale((parameter * gradient).sum()).backward()
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        if scaler.get_scale() >= before:
            schedule.step()
        epochs.append(schedule.last_epoch)
    return parameter.detach(), epochs, scaler.get_scale()


def scaled_parts(fused=False, kind=torch.optim.SGD):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = kind([parameter], lr=0.5, **({"fused": True} if fused else {}))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    return parameter, optimizer, schedule, CountingScaler("cpu", init_scale=8.0, growth_interval=3)


class OwnSGD(torch.optim.SGD):
    """An optimizer that is not torch's, and calls no hooks."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.step = self.step_of_its_own

    def step_of_its_own(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter -= group["lr"] * parameter.grad


GRADIENTS = [
    1.0,
    torch.inf,
    2.0,
    3.0,
    4.0,
    torch.inf,
    torch.inf,
    5.0,
    6.0,
    7.0,
    8.0,
    torch.nan,
    1.0,
]


@pytest.mark.filterwarnings("ignore:GradScaler is going to stop passing itself")
@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
@pytest.mark.parametrize(
    ("options", "reads"),
    [({}, 0), ({"fused": True}, 1), ({"kind": OwnSGD}, 1)],
    ids=["torch's", "fused", "without hooks"],
)
def test_a_schedule_with_fp16_reads_the_scale_at_most_once_an_update(options, reads):
    weights, epochs, scale = scaled_by_hand(GRADIENTS, **options)
    parameter, optimizer, schedule, scaler = scaled_parts(**options)
    update = Update(optimizer, scaler=scaler, scheduler=schedule)
    counted, seen = [], []
    for gradient in GRADIENTS:
        update.zero_grad()
        update.backward((parameter * gradient).sum())
        scaler.reads = 0
        update()
        counted.append(scaler.reads)
        seen.append(schedule.last_epoch)
    assert seen == epochs
    assert torch.equal(parameter, weights)
    assert scaler.get_scale() == scale
    assert counted[1:] == [reads] * (len(GRADIENTS) - 1)


def test_a_scaler_without_a_schedule_is_not_read():
    parameter, optimizer, _, scaler = scaled_parts()
    update = Update(optimizer, scaler=scaler)
    scaler.reads = 0
    for gradient in GRADIENTS:
        update.zero_grad()
        update.backward((parameter * gradient).sum())
        update()
    assert scaler.reads == 0


def test_a_restored_scale_that_is_lower_is_no_skipped_update():
    parameter, optimizer, schedule, scaler = scaled_parts(fused=True)
    update = Update(optimizer, scaler=scaler, scheduler=schedule)
    for number, restored in enumerate((None, 1.0), start=1):
        if restored is not None:
            scaler.load_state_dict({**scaler.state_dict(), "scale": restored})
            update.load_state_dict(update.state_dict())
        update.zero_grad()
        update.backward(parameter.sum())
        update()
        assert schedule.last_epoch == number


def test_an_update_leaves_no_hook_behind():
    _, optimizer, schedule, scaler = scaled_parts()
    update = Update(optimizer, scaler=scaler, scheduler=schedule)
    assert internals.has_step_hooks(optimizer)
    update.close()
    assert not internals.has_step_hooks(optimizer)
