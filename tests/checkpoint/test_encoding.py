import math
import os
from collections import Counter, OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.encoded import round_trip, same
from fitorch.checkpoint import CheckpointStore, pack
from fitorch.checkpoint.encoding import Encoder, decode
from fitorch.errors import CheckpointCorruptedError, CheckpointError
from fitorch.randomness import random_state

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.complex32,
]
SOAK = os.environ.get("FITORCH_SOAK") == "1"
Point = namedtuple("Point", "x y")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.binary(max_size=20),
    st.text(st.characters(blacklist_categories=()), max_size=10),
)
KEYS = st.one_of(
    st.text(st.characters(blacklist_categories=()), max_size=8),
    st.sampled_from(["$", "value", "a.b", "a", "b", "", "__metadata__", "a'"]),
    st.integers(),
    st.booleans(),
    st.none(),
    st.binary(max_size=4),
    st.tuples(st.integers(), st.text(max_size=3)),
    st.frozensets(st.integers(), max_size=3),
)


def tensor_of(dtype, shape):
    count = math.prod(shape) * dtype.itemsize
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


TENSORS = st.builds(
    tensor_of, st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3).map(tuple)
)
ARRAYS = st.builds(
    lambda kind, shape: np.random.randint(0, 2, shape).astype(kind),
    st.sampled_from("?bBhHiIlLqQefd"),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
)
NUMBERS = st.builds(
    lambda kind, value: np.dtype(kind).type(value),
    st.sampled_from("?bBhHiIlLqQefd"),
    st.integers(0, 1),
)
STATES = st.recursive(
    st.one_of(SCALARS, TENSORS, ARRAYS, NUMBERS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.sets(st.one_of(st.integers(), st.text(max_size=3)), max_size=4),
        st.dictionaries(st.one_of(st.integers(), st.text(max_size=3)), st.integers()).map(Counter),
    ),
    max_leaves=12,
)


@settings(max_examples=3000 if SOAK else 150, deadline=None, database=None)
@pytest.mark.filterwarnings("ignore:ComplexHalf")
@given(STATES)
def test_any_state_comes_back_with_its_types_bits_and_order(state):
    assert same(state, round_trip(state))


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (5,), (3, 4)], ids=str)
def test_tensors_of_every_type_and_shape_keep_all_bits(dtype, shape):
    tensor = tensor_of(dtype, shape)
    assert same(tensor, round_trip(tensor))


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        -0.0,
        5e-324,
        0.1,
        2**63,
        -(2**64),
        10**4299,
        10**5000,
        -(10**5000),
        True,
        1,
        None,
        "",
        "\ud800",
        "\x00",
        "$",
        b"",
        b"\x80\x04.",
        (),
        [],
        {},
        set(),
        frozenset({1}),
        ((),),
        {"$": 1},
        {"$": "tensor", "value": "x"},
        {1: {True: 2}, (1, (2,)): 3, None: 4, 0.5: 5},
        {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}},
        {0: torch.ones(1), "0": torch.zeros(1)},
        {"": torch.ones(2)},
        {"__metadata__": torch.ones(2)},
        {"\ud800": torch.ones(2), "?": torch.zeros(2)},
        {frozenset({1, 2}): 3},
        {b"k": 1},
        {10**5000: 1},
        Counter({3: 2, 1: 5}),
        Counter({"a": 1}),
        Counter(),
        np.float64(0.1),
        np.float32("nan"),
        np.bool_(True),
        np.int8(-1),
        np.uint64(2**64 - 1),
        np.array(3.5),
        np.array([], np.int16),
        np.zeros((0, 3)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        {np.int64(3): 1},
    ],
    ids=lambda value: type(value).__name__,
)
def test_awkward_values_come_back_exactly(value):
    assert same(value, round_trip(value))


def test_ordered_and_default_dicts_come_back_as_dicts_in_order():
    state = OrderedDict([("b", 1), ("a", 2)])
    assert same(dict(state), round_trip(state))
    assert list(round_trip(state)) == ["b", "a"]
    assert same({1: [2]}, round_trip(defaultdict(list, {1: [2]})))


def test_foreign_byte_order_comes_back_native_with_the_same_numbers():
    array = np.arange(4, dtype=">i4")
    back = round_trip(array)
    assert back.dtype == np.dtype("i4")
    assert back.tolist() == [0, 1, 2, 3]


def test_views_become_copies_of_what_they_show():
    base = torch.arange(24.0).reshape(4, 6)
    views = [base.T, base[:, ::2], base[1:, 1], base.expand(2, 4, 6), torch.ones(1).expand(5)]
    for view in views:
        assert same(view, round_trip(view))


def test_conjugate_and_negative_views_are_resolved():
    numbers = torch.randn(4, dtype=torch.complex64)
    for view in (
        numbers.conj(),
        numbers.conj().imag,
        numbers[::2].conj().real,
        torch._neg_view(numbers),
    ):
        assert torch.equal(view.clone(), round_trip(view))


def test_shared_tensors_come_back_equal_and_apart():
    shared = torch.ones(3)
    back = round_trip({"a": shared, "b": shared, "c": shared[:2]})
    back["a"].zero_()
    assert back["b"].tolist() == [1, 1, 1]
    assert back["c"].tolist() == [1, 1]


def test_parameters_come_back_as_tensors_without_gradient():
    back = round_trip({"w": torch.nn.Parameter(torch.ones(2))})
    assert same({"w": torch.ones(2)}, back)
    assert not back["w"].requires_grad


def test_what_comes_back_can_be_written_to():
    back = round_trip({"t": torch.ones(2), "a": np.ones(2)})
    back["t"] += 1
    back["a"] += 1
    assert back["a"].tolist() == [2, 2]


def test_the_state_itself_is_left_as_it_is():
    state = {"a": [torch.ones(2), (1, {2})], "b": np.arange(3)}
    Encoder().encode(state, "state")
    assert same({"a": [torch.ones(2), (1, {2})], "b": np.arange(3)}, state)


def test_a_nets_state_dict_is_a_file_of_its_own_names_alone(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    part = pack({"model": net.state_dict()})["model"]
    assert part.tree is None
    assert set(part.tensors) == set(net.state_dict())


class Thing:
    pass


def refused():
    sparse = torch.ones(2, 2).to_sparse()
    return {
        "lambda": (lambda: 0, "function"),
        "sparse": (sparse, "sparse_coo"),
        "mkldnn": (torch.ones(2, 2).to_mkldnn(), "layout"),
        "object-array": (np.array([None]), "object"),
        "string-array": (np.array(["a"]), "<U1"),
        "masked": (np.ma.masked_array([1.0, 2.0], [0, 1]), "MaskedArray"),
        "complex-array": (np.ones(1, np.complex128), "complex128"),
        "date": (np.datetime64("2020-01-01"), "datetime64"),
        "namedtuple": (Point(1, 2), "Point"),
        "module": (torch.nn.Linear(1, 1), "Linear"),
        "generator": ((i for i in range(2)), "generator"),
        "torch-generator": (torch.Generator(), "Generator"),
        "device": (torch.device("cpu"), "device"),
        "object": (Thing(), "Thing"),
        "class": (Thing, "type"),
        "complex": (1j, "complex"),
        "bytearray": (bytearray(b"x"), "bytearray"),
        "range": (range(3), "range"),
        "meta": (torch.ones(2, device="meta"), "meta"),
        "lazy": (torch.nn.UninitializedParameter(), "UninitializedParameter"),
        "fnuz": (torch.zeros(2).to(torch.float8_e4m3fnuz), "float8_e4m3fnuz"),
    }


@pytest.mark.parametrize("name", list(refused()))
def test_what_cannot_be_stored_is_refused_with_its_path_and_type(name):
    value, kind = refused()[name]
    with pytest.raises(CheckpointError, match=r"callbacks\['mine'\]\['1'\]") as caught:
        pack({"callbacks": {"mine": [0, value]}})
    assert kind in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_quantized_and_nested_tensors_are_refused():
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    for tensor in (quantized, nested):
        with pytest.raises(CheckpointError, match=r"state\['t'\]"):
            Encoder().encode({"t": tensor}, "state")


def test_a_refused_key_is_named():
    with pytest.raises(CheckpointError, match=r"key <object"):
        Encoder().encode({"a": {object(): 1}}, "state")


@pytest.mark.parametrize(
    "wrap", [lambda x: [x], lambda x: (x,), lambda x: {"a": x}, lambda x: {1: x}]
)
def test_what_is_nested_too_deep_is_refused_and_what_is_not_comes_back(wrap):
    state = 7
    for _ in range(99):
        state = wrap(state)
    assert same(state, round_trip(state))
    for _ in range(10_000):
        state = wrap(state)
    with pytest.raises(CheckpointError, match="nested more than 100 deep"):
        Encoder().encode(state, "state")


def test_a_list_that_holds_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(CheckpointError, match="deep"):
        Encoder().encode(loop, "state")


@pytest.mark.parametrize(
    "plain",
    [
        {"$": "tensor"},
        {"$": "tensor", "value": "x"},
        {"$": "tensor", "value": []},
        {"$": []},
        {"$": "os.system", "value": "true"},
        {"$": "array", "value": ["t", [-1, -1]]},
        {"$": "array", "value": ["e", None]},
        {"$": "array", "value": ["b", [1]]},
        {"$": "array", "value": 3},
        {"$": "array", "value": ["t", "x"]},
        {"$": "array", "value": ["t", [2**70]]},
        {"$": "float", "value": "1"},
        {"$": "float", "value": []},
        {"$": "bytes", "value": "!"},
        {"$": "bytes", "value": 5},
        {"$": "complex", "value": "t"},
        {"$": "complex", "value": "e"},
        {"$": "dict", "value": [1]},
        {"$": "dict", "value": [[[], 1]]},
        {"$": "dict", "value": {"ab": 1}},
        {"$": "set", "value": [[]]},
        {"$": "set", "value": 1},
        {"$": "counter", "value": 0},
        {"$": "tuple", "value": None},
        {"$": "int", "value": 5},
        {"$": "int", "value": "zz"},
        {"$": None, "value": 1},
        {"$": 1.5, "value": 1},
        {"$": {"$": "x"}},
    ],
    ids=str,
)
def test_what_no_encoder_makes_is_called_corrupt(plain):
    tensors = {"t": torch.ones(3), "e": torch.ones(0), "b": torch.ones(1, dtype=torch.bfloat16)}
    if plain == {"$": "dict", "value": {"ab": 1}}:
        assert decode(plain, tensors) == {"a": "b"}  # harmless
        return
    with pytest.raises(CheckpointCorruptedError, match="cannot decode"):
        decode(plain, tensors)


def test_a_store_gives_back_the_same_state(tmp_path):
    state = {"a": [torch.ones(2), (1, np.float32(2))], 3: Counter("aab"), "rng": random_state()}
    checkpoint = CheckpointStore(tmp_path).save(1, {"state": state})
    assert same(state, checkpoint.read()["state"])


def test_a_part_whose_name_is_no_file_name_is_refused(tmp_path):
    for name in ("../x", "/x", "a/b", "manifest", "", ".hidden", "a\0b", "\ud800", "x" * 200):
        with pytest.raises(CheckpointError, match="not a valid name"):
            pack({name: {}})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool], ids=str)
def test_dtypes_are_stored(dtype):
    assert round_trip({"state": dtype})["state"] is dtype


@pytest.mark.parametrize("order", [(1, 0), (2, 0, 1), (0, 3, 1, 2)], ids=str)
def test_states_keep_the_order_of_their_memory(order):
    shape = range(2, 2 + len(order))
    tensor = torch.randn(*shape).permute(order)
    back = round_trip({"state": tensor})["state"]
    assert torch.equal(back, tensor)
    assert back.stride() == tensor.stride()
    # Strides of views that skip numbers are not kept.
    skipping = torch.randn(4, 6)[:, ::2]
    assert torch.equal(round_trip({"state": skipping})["state"], skipping)
