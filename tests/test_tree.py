from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import pytest
import torch

from fitorch.tree import byte_count, describe, join, leaves, map_tensors, sample_count

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Output:
    value: Any
    parts: list
    late: Any = field(init=False)


@dataclass(frozen=True)
class Frozen:
    value: Any


A, B = torch.arange(3.0), torch.arange(6.0).reshape(3, 2)

TREES = {
    "tensor": A,
    "tuple": (A, B),
    "list": [A, [B]],
    "dict": {"a": A, "b": (B,)},
    "named tuple": Pair(A, [B]),
    "ordered dict": OrderedDict(a=A, b=B),
    "mapping": UserDict({"a": A, "b": B}),
    "dataclass": Output(A, [B, Frozen(A)]),
}


def kinds(tree):
    """Return the types of a tree and of all in it."""
    if isinstance(tree, (dict, UserDict)):
        return [type(tree), *(kinds(value) for value in tree.values())]
    if isinstance(tree, (tuple, list)):
        return [type(tree), *map(kinds, tree)]
    if is_dataclass(tree):
        return [type(tree), *(kinds(getattr(tree, f.name, None)) for f in fields(tree))]
    return type(tree)


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_maps_tensors_and_keeps_the_structure(tree):
    doubled = map_tensors(lambda tensor: tensor * 2, tree)
    assert kinds(doubled) == kinds(tree)
    for ours, theirs in zip(leaves(doubled), leaves(tree), strict=True):
        assert torch.equal(ours, theirs * 2)


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_joins_leaf_by_leaf_and_keeps_the_structure(tree):
    joined = join(torch.cat, [tree, map_tensors(torch.neg, tree)])
    assert kinds(joined) == kinds(tree)
    for ours, theirs in zip(leaves(joined), leaves(tree), strict=True):
        assert torch.equal(ours, torch.cat([theirs, -theirs]))


def test_refuses_to_join_trees_of_different_length():
    with pytest.raises(ValueError, match="zip"):
        join(torch.cat, [(A, B), (A,)])


def test_leaves_alone_what_is_no_tensor():
    tree = {"name": "ring", "none": None, "x": [1, A]}
    mapped = map_tensors(torch.neg, tree)
    assert mapped["name"] == "ring"
    assert mapped["none"] is None
    assert mapped["x"][0] == 1
    assert next(leaves(tree)) is A


def test_a_dataclass_is_copied_not_changed():
    tree = Output(A, [B])
    assert map_tensors(torch.neg, tree).value is not tree.value
    assert tree.value is A
    assert not hasattr(map_tensors(torch.neg, tree), "late")


def test_falls_back_on_a_dict_where_a_mapping_can_not_be_rebuilt():
    mapped = map_tensors(torch.neg, defaultdict(list, a=A))
    assert type(mapped) is dict
    assert torch.equal(mapped["a"], -A)


@pytest.mark.parametrize(
    ("tree", "count"),
    [(B, 3), ((torch.tensor(1.0), A), 3), ({"a": None, "b": [torch.zeros(7, 1)]}, 7)],
)
def test_counts_samples_by_the_first_tensor_that_has_a_dimension(tree, count):
    assert sample_count(tree) == count


@pytest.mark.parametrize("tree", [(), {"a": "text"}, [torch.tensor(1)]])
def test_refuses_to_count_where_nothing_has_a_dimension(tree):
    with pytest.raises(ValueError, match="no tensor with a batch dimension"):
        sample_count(tree)


def test_the_default_counts_where_nothing_has_a_dimension():
    assert sample_count({"a": "text"}, default=1) == 1
    assert sample_count(torch.zeros(0, 2), default=1) == 0


def test_bytes_are_those_of_all_tensors_and_none_of_lazy_ones():
    lazy = torch.nn.LazyLinear(3).weight
    tree = {"a": [torch.zeros(3, 2), lazy], "b": (torch.zeros(5, dtype=torch.int16), None)}
    assert byte_count(tree) == 3 * 2 * 4 + 5 * 2
    assert byte_count([]) == 0


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (A, "float32 (3,)"),
        ((A, B), "(float32 (3,), float32 (3, 2))"),
        ([A.long(), None], "[int64 (3,), NoneType]"),
        ({"a": A, 1: "b"}, "{'a': float32 (3,), 1: str}"),
        (["x"] * 1000, "[" + "str, " * 8 + "...]"),
        ((0.5,) * 9, "(" + "float, " * 8 + "...)"),
        (Output(A, [None]), "Output {'value': float32 (3,), 'parts': [NoneType]}"),
        (Output, "type"),
        ((), "()"),
    ],
)
def test_describes_types_and_shapes_in_one_short_line(tree, text):
    assert describe(tree) == text
