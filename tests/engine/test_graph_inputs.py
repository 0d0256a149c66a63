"""What a compiled step changes in place is marked as static: else torch records no CUDA graph."""

import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.losses import L2, term

inductor = pytest.importorskip("torch._inductor.compile_fx")

X = torch.randn(3200, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def compiled(monkeypatch):
    """Collect the inputs of each compiled graph: those that are static, and those that change."""
    if torch.__version__ < "2.13":
        pytest.skip("needs torch 2.13")
    compile_inner, graphs = inductor._compile_fx_inner, []

    def noted(graph, inputs, **options):
        output = compile_inner(graph, inputs, **options)
        graphs.append((set(options["static_input_idxs"]), set(output.mutated_input_idxs)))
        return output

    monkeypatch.setattr(inductor, "_compile_fx_inner", noted)
    monkeypatch.setattr(torch._inductor.config, "fx_graph_cache", False)
    monkeypatch.setattr(torch._functorch.config, "enable_autograd_cache", False)
    torch._dynamo.reset()
    return graphs


def test_every_input_that_a_step_changes_is_static(compiled):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    model = KerasModel(net, term("mse") + 1e-3 * L2(), optimizer="adam", jit_compile=True)
    model.fit((X, X[:, :1]), epochs=1, verbose=0)
    ((static, changed),) = compiled
    assert changed
    assert changed <= static
