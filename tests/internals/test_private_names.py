"""Every private name of another library exists, and the public way does the same without it."""

import ast
import builtins
import re

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader

from architecture import modules
from fitorch.internals import accelerate, datasets, deepspeed, torchdata, torchmetrics
from fitorch.internals import torch as internals

# Names with an underscore that are not another library's: documented ones, and our own by text.
DOCUMENTED = {
    "_async_predict": "a flag of Keras' callbacks, which are refused by name",
    "_async_test": "likewise",
    "_async_train": "likewise",
    "_check_sample_weight": "scikit-learn's documented utility for developers of estimators",
    "_fields": "of a named tuple",
    "_no_split_modules": "how Transformers' documentation says which blocks stay whole",
    "_plot": "how torchmetrics' documentation says to plot a metric",
    "_repr_png_": "IPython's protocol",
}


@pytest.mark.parametrize("library", [internals, torchmetrics, accelerate], ids=lambda m: m.__name__)
def test_every_private_name_exists(library):
    assert library.missing() == []


def test_every_private_name_of_deepspeed_exists():
    pytest.importorskip("deepspeed")
    assert deepspeed.missing() == []


def test_every_private_name_of_datasets_exists():
    pytest.importorskip("datasets")
    assert datasets.missing() == []


def test_every_name_of_torchdata_exists():
    pytest.importorskip("torchdata")
    assert torchdata.missing() == []


def test_a_private_name_that_is_gone_is_named(monkeypatch):
    assert internals.missing() == []  # imports torch._dynamo, which could not do without the names
    monkeypatch.delattr(torch, "_foreach_lerp_")
    monkeypatch.delattr(internals.optimizers, "_global_optimizer_pre_hooks")
    assert internals.missing() == [
        "torch._foreach_lerp_",
        "torch.optim.optimizer._global_optimizer_pre_hooks",
    ]


class Names(ast.NodeVisitor):
    """Collects the names that a module defines, and those that it takes from elsewhere."""

    def __init__(self):
        self.defined, self.used = set(), set()

    def visit_FunctionDef(self, node):
        self.defined.add(node.name)
        self.generic_visit(node)

    visit_ClassDef = visit_FunctionDef

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Store):
            self.defined.add(node.id)

    def visit_Attribute(self, node):
        if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in ("self", "cls"):
            self.defined.add(node.attr)
        self.used.add(node.attr)
        self.generic_visit(node)

    def visit_ImportFrom(self, node):
        if not node.level:
            self.used.update(node.module.split("."), (alias.name for alias in node.names))


def test_private_names_are_used_in_internals_alone():
    names = {module: Names() for module in modules()}
    for module, found in names.items():
        found.visit(ast.parse(modules()[module].read_text(encoding="utf-8")))
    ours = set().union(*(found.defined for found in names.values())) | DOCUMENTED.keys()
    foreign = {
        module: sorted(name for name in found.used - ours if re.match(r"_[a-zA-Z]", name))
        for module, found in names.items()
        if not module.startswith("internals.")
    }
    assert {module: names for module, names in foreign.items() if names} == {}


TENSORS = [torch.arange(6.0).reshape(2, 3) - 2, torch.tensor([0.5, -4.0])]
OTHERS = [torch.full((2, 3), 0.25), torch.tensor([1.0, 2.0])]


@pytest.mark.parametrize(
    ("name", "args", "options"),
    [
        ("add", (OTHERS,), {}),
        ("add_", (OTHERS,), {"alpha": 0.5}),
        ("add_", (OTHERS,), {}),
        ("copy_", (OTHERS,), {}),
        ("div_", (4.0,), {}),
        ("div_", (torch.tensor(4.0),), {}),
        ("lerp_", (OTHERS, 0.3), {}),
        ("mul", (2.5,), {}),
        ("mul", (torch.tensor(2.5),), {}),
        ("norm", (1,), {}),
        ("norm", (2, torch.float64), {}),
        ("sign", (), {}),
    ],
)
def test_a_loop_does_what_an_operation_on_lists_does(name, args, options):
    one, other = ([tensor.clone() for tensor in TENSORS] for _ in range(2))
    made = getattr(torch, f"_foreach_{name}")(one, *args, **options)
    looped = internals._foreach_loop(name)(other, *args, **options)
    for results in (zip(one, other, strict=True), zip(made or one, looped, strict=True)):
        for expected, result in results:
            torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("gone", ["_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"])
def test_an_optimizer_whose_hooks_are_kept_elsewhere_steps_publicly(gone):
    parameter = nn.Parameter(torch.ones(2))
    optimizer = optim.SGD([parameter], lr=0.5)
    assert internals.bare_step(optimizer) != optimizer.step
    del optimizer.__dict__[gone]
    assert internals.bare_step(optimizer) == optimizer.step
    assert internals.has_step_hooks(optimizer)  # not known, so compiled steps leave it alone


def test_an_optimizer_steps_publicly_if_global_hooks_are_kept_elsewhere(monkeypatch):
    optimizer = optim.SGD([nn.Parameter(torch.ones(2))], lr=0.5)
    monkeypatch.delattr(internals.optimizers, "_global_optimizer_post_hooks")
    assert internals.bare_step(optimizer) == optimizer.step


def test_buffers_that_are_not_persistent_are_found_without_the_private_name():
    class Buffers(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kept", torch.zeros(1))
            self.register_buffer("dropped", torch.zeros(1), persistent=False)

    module = Buffers()
    assert internals.non_persistent_buffers(module) == {"dropped"}
    del module.__dict__["_non_persistent_buffers_set"]
    state = {"kept": module.kept}
    module.state_dict = lambda: state
    module.named_buffers = lambda recurse: iter([("kept", None), ("dropped", None)])
    assert internals.non_persistent_buffers(module) == {"dropped"}


def test_a_graph_without_numbers_is_refused_with_the_way_out():
    assert internals.sequence_number((nn.Parameter(torch.ones(1)) * 2).grad_fn) >= 0
    with pytest.raises(RuntimeError, match=r"does not number the nodes.*pass backward=False"):
        internals.sequence_number(object())


def test_workers_of_another_iterator_are_left_to_it():
    batches = iter([1])
    assert list(internals.workers_of(batches)) == []
    internals.shut_down_workers(batches)
    assert next(batches) == 1


def test_a_loader_with_passes_of_its_own_is_told_from_torchs():
    class Own(DataLoader):
        def __iter__(self):
            return builtins.iter([])

    class Plain(DataLoader):
        pass

    assert internals.iterates_as_torch(Plain([0]))
    assert not internals.iterates_as_torch(Own([0]))


def test_a_store_of_our_own_serves_where_the_groups_is_not_to_be_had(monkeypatch, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        monkeypatch.delattr(torch.distributed.distributed_c10d, "_get_default_store")
        store = internals.default_store()
        store.set("name", "value")
        assert internals.default_store().get("name") == b"value"
    finally:
        internals._store_of_our_own.cache_clear()
        torch.distributed.destroy_process_group()


def test_the_scale_of_a_scaler_is_its_tensor_and_without_the_private_name_a_number():
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert internals.scale_of(scaler) == 8.0  # it has no tensor before the first loss
    scaler.scale(torch.ones(()))
    scale = internals.scale_of(scaler)
    assert isinstance(scale, torch.Tensor)
    assert scale.item() == scaler.get_scale() == 8.0

    class Elsewhere:
        def get_scale(self):
            return 4.0

    assert internals.scale_of(Elsewhere()) == 4.0


def test_only_steps_that_call_hooks_are_hooked():
    calls = []
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = optim.SGD([parameter], lr=0.1)
    optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)  # wraps the step
    handle = internals.hook_step(optimizer, lambda *_: calls.append(1))
    optimizer.step()
    handle.remove()
    optimizer.step()
    assert calls == [1]
    optimizer.step = lambda: None
    assert internals.hook_step(optimizer, lambda *_: None) is None


def test_fused_optimizers_skip_by_themselves():
    parameter = nn.Parameter(torch.zeros(1))
    assert internals.skips_by_itself(optim.SGD([parameter], fused=True))
    assert not internals.skips_by_itself(optim.SGD([parameter]))
