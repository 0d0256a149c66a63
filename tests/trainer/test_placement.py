import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from fitorch import KerasModel
from fitorch.placement import Placement, floating_dtype, move_optimizer


def test_the_net_lies_where_accelerate_finds_best():
    placement = Placement()
    assert placement.device == placement.accelerator.device
    net = nn.Linear(2, 1)
    parameters = list(net.parameters())
    placement.place(net)
    assert net.weight.device.type == placement.device.type
    assert [id(p) for p in net.parameters()] == [id(p) for p in parameters]


def test_the_cpu_can_be_asked_for():
    placement = Placement(cpu=True)
    assert placement.device.type == "cpu"
    assert str(placement) == "cpu"


@pytest.mark.parametrize(("precision", "dtype"), [("no", None), ("bf16", torch.bfloat16)])
def test_precision_is_as_asked_for_one_after_another(precision, dtype):
    for asked, expected in (("bf16", torch.bfloat16), (precision, dtype), (None, None)):
        placement = Placement(asked, cpu=True)
        assert placement.dtype == expected
        assert placement.scaler is None


def test_the_precision_is_named():
    assert str(Placement("bf16", cpu=True)) == "cpu in bf16"


def test_an_accelerator_of_the_users_own_goes_on_working():
    AcceleratorState._reset_state(reset_partial_state=True)
    own = Accelerator(cpu=True)
    Placement(cpu=True)
    assert own.device.type == "cpu"
    assert own.mixed_precision == "no"
    assert own.is_main_process


def test_no_precision_casts_nothing():
    net = nn.Linear(2, 1)
    assert Placement(cpu=True).cast(net) is net


def test_a_cast_net_gives_float32_in_its_own_structure():
    def net(x):
        y = x @ torch.ones(2, 1)
        return {"y": y, "parts": [y, (y.dtype,)]}

    output = Placement("bf16", cpu=True).cast(net)(torch.ones(3, 2))
    assert output["y"].dtype == torch.float32
    assert output["parts"][0].dtype == torch.float32
    assert output["parts"][1] == (torch.bfloat16,)


def test_a_net_on_the_meta_device_is_refused():
    with pytest.raises(ValueError, match="meta device, without weights; build it on 'cpu'"):
        Placement(cpu=True).place(nn.Linear(2, 1, device="meta"))


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


def test_fp16_on_a_cpu_is_refused():
    model = KerasModel(nn.Linear(2, 1), "mse")
    with pytest.raises(ValueError, match="'fp16' needs a GPU, but this runs on cpu; pass 'bf16'"):
        model.fit((torch.ones(2, 2), torch.ones(2, 1)), mixed_precision="fp16", cpu=True, verbose=0)
    model.fit((torch.ones(2, 2), torch.ones(2, 1)), epochs=1, verbose=0)
