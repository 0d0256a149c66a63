import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from fitorch import KerasModel, NonFiniteError
from fitorch.callbacks import LambdaCallback
from fitorch.devices.accelerators import HOST, accelerator_type
from fitorch.engine.placement import Placement
from fitorch.nets.precision import floating_dtype
from fitorch.optim.state import move_optimizer


def test_the_net_lies_where_accelerate_finds_best():
    placement = Placement()
    assert placement.device == placement.accelerator.device
    net = nn.Linear(2, 1)
    parameters = list(net.parameters())
    placement.place(net)
    assert net.weight.device.type == placement.device.type
    assert [id(p) for p in net.parameters()] == [id(p) for p in parameters]


def test_the_cpu_can_be_asked_for():
    placement = Placement(device=HOST)
    assert placement.device.type == "cpu"
    assert str(placement) == "cpu"


@pytest.mark.parametrize(("precision", "dtype"), [("no", None), ("bf16", torch.bfloat16)])
def test_precision_is_as_asked_for_one_after_another(precision, dtype):
    for asked, expected in (("bf16", torch.bfloat16), (precision, dtype), (None, None)):
        placement = Placement(asked, device=HOST)
        assert placement.dtype == expected
        assert placement.scaler is None


def test_the_precision_is_named():
    assert str(Placement("bf16", device=HOST)) == "cpu in bf16"


def test_an_accelerator_of_the_users_own_goes_on_working():
    AcceleratorState._reset_state(reset_partial_state=True)
    own = Accelerator(cpu=True)
    Placement(device=HOST)
    assert own.device.type == "cpu"
    assert own.mixed_precision == "no"
    assert own.is_main_process


def test_no_precision_casts_nothing():
    net = nn.Linear(2, 1)
    assert Placement(device=HOST).cast(net) is net


def test_a_cast_net_gives_float32_in_its_own_structure():
    def net(x):
        y = x @ torch.ones(2, 1)
        return {"y": y, "parts": [y, (y.dtype,)]}

    output = Placement("bf16", device=HOST).cast(net)(torch.ones(3, 2))
    assert output["y"].dtype == torch.float32
    assert output["parts"][0].dtype == torch.float32
    assert output["parts"][1] == (torch.bfloat16,)


def test_a_net_on_the_meta_device_is_refused():
    with pytest.raises(ValueError, match="meta device, without weights; build it on 'cpu'"):
        Placement(device=HOST).place(nn.Linear(2, 1, device="meta"))


def test_a_net_on_two_devices_is_refused():
    net = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1, device="meta"))
    with pytest.raises(ValueError, match=r"several devices \(cpu, meta\); move it to one"):
        KerasModel(net, "mse").fit((torch.ones(2, 2), torch.ones(2, 1)), verbose=0)


def test_an_optimizer_beside_its_parameters_stays_as_it_is():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones(2)
    optimizer.step()
    buffer = optimizer.state[parameter]["momentum_buffer"]
    move_optimizer(optimizer)
    assert optimizer.state[parameter]["momentum_buffer"] is buffer


@pytest.mark.gpu
def test_an_optimizer_follows_its_parameters():
    net = nn.Linear(2, 1)
    model = KerasModel(net, "mse", optimizer=torch.optim.Adam(net.parameters(), lr=0.1))
    data = torch.ones(4, 2), torch.ones(4, 1)
    model.fit(data, epochs=1, cpu=True, verbose=0)
    model.fit(data, epochs=1, verbose=0)
    model.fit(data, epochs=1, cpu=True, verbose=0)
    assert {int(state["step"]) for state in model.optimizer.state.values()} == {3}
    assert {state["exp_avg"].device.type for state in model.optimizer.state.values()} == {"cpu"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_data_gets_the_dtype_of_the_net(dtype):
    assert floating_dtype(nn.Linear(2, 1, dtype=dtype).parameters()) == dtype


def test_a_net_in_half_precision_takes_float32():
    assert floating_dtype(nn.Linear(2, 1, dtype=torch.bfloat16).parameters()) == torch.float32
    assert floating_dtype([]) == torch.float32


def fp16_by_hand(net, x, y, steps):
    """The ten lines of torch's own recipe for automatic mixed precision, on the CPU."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
    scaler, scales = torch.amp.GradScaler("cpu"), []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            y_pred = net(x)
        scaler.scale(nn.functional.mse_loss(y_pred.float(), y)).backward()
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        scales.append(scaler.get_scale())
        if scaler.get_scale() >= before:
            schedule.step()
    return scales, schedule.last_epoch


@pytest.mark.parametrize("size", [0.01, 300.0])
def test_fp16_on_a_cpu_scales_gradients_as_torchs_recipe_does(size):
    torch.manual_seed(0)
    nets = [nn.Linear(4, 1) for _ in "ab"]
    nets[1].load_state_dict(nets[0].state_dict())
    x, y = size * torch.randn(8, 4), size * torch.randn(8, 1)
    model = KerasModel(
        nets[0],
        "mse",
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        lr_scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    )
    seen = []
    look = LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(model.placement.scaler.get_scale())
    )
    options = {"mixed_precision": "fp16", "cpu": True, "batch_size": 8, "verbose": 0}
    model.fit((x, y), epochs=6, callbacks=[look], **options)
    scales, last = fp16_by_hand(nets[1], x, y, 6)
    assert seen == scales
    assert model.lr_scheduler.last_epoch == last
    assert (last < 6) == (size > 1)  # large data overflow: the first updates are skipped
    assert torch.equal(nets[0].weight, nets[1].weight)


def test_a_hundred_updates_skipped_in_a_row_end_training():
    net = nn.Linear(2, 1)
    net.weight.register_hook(lambda gradient: gradient * torch.inf)
    model = KerasModel(net, "mse", optimizer="sgd")
    data = (torch.ones(250, 2), torch.ones(250, 1))
    with pytest.raises(NonFiniteError, match=r"100 consecutive updates .* scale of [\d.e-]+"):
        model.fit(data, batch_size=1, epochs=1, mixed_precision="fp16", cpu=True, verbose=0)
    assert model.updates == 99


@pytest.mark.skipif(accelerator_type() is not None, reason="needs a machine without accelerators")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "xpu", "mps", "gpu", 1, "cpu:x"])
def test_a_device_that_is_not_here_is_named_with_those_that_are(device):
    with pytest.raises(ValueError, match=f"device is '{device}', but this machine has 'cpu'"):
        KerasModel(nn.Linear(2, 1), "mse", device=device)


@pytest.mark.parametrize("device", [True, 1.5, ["cpu"]])
def test_a_device_of_another_type_is_refused(device):
    with pytest.raises(TypeError, match="expected a name such as 'cuda:1' or 'cpu'"):
        KerasModel(nn.Linear(2, 1), "mse", device=device)
