from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from fitorch import KerasModel
from fitorch.data.arrays import common_length, is_array, is_in_memory, to_tensors
from fitorch.errors import DataError

VALUES = [[1, 2, 3], [4, 5, 6]]


def convert(value, floating=torch.float32, labels=False):
    return to_tensors(value, "x", floating, labels=labels)


FEATURES = {
    "float64": torch.float32,
    "float32": torch.float32,
    "float16": torch.float16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int64,
    "int8": torch.int64,
    "uint8": torch.uint8,
    "uint16": torch.int64,
    "uint32": torch.int64,
    "uint64": torch.int64,
    "bool": torch.bool,
}


@pytest.mark.parametrize(("given", "expected"), FEATURES.items(), ids=FEATURES)
def test_makes_features_of_any_number_type(given, expected):
    array = np.array(VALUES, dtype=given)
    tensor = convert(array)
    assert tensor.dtype == expected
    assert tensor.tolist() == array.tolist()


@pytest.mark.parametrize("given", [name for name in FEATURES if "int" in name])
def test_makes_int64_of_integer_labels(given):
    tensor = convert(np.array([0, 1, 2], dtype=given), labels=True)
    assert tensor.dtype == torch.int64
    assert tensor.tolist() == [0, 1, 2]


@pytest.mark.parametrize("given", ["bool", "float32", "float16"])
def test_keeps_labels_that_are_no_integers(given):
    assert convert(np.array([0, 1], dtype=given), labels=True).dtype == FEATURES[given]


@pytest.mark.parametrize("labels", [False, True])
def test_keeps_float64_for_a_net_in_float64(labels):
    array = np.array([0.1, 0.2])
    tensor = convert(array, torch.float64, labels)
    assert tensor.dtype == torch.float64
    assert tensor.tolist() == array.tolist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bfloat16, torch.complex64])
def test_takes_a_tensor_as_it_is(dtype):
    tensor = torch.zeros(3, dtype=dtype)
    assert convert(tensor, labels=True) is tensor


@pytest.mark.parametrize("given", ["float32", "int64", "uint8", "bool"])
def test_shares_memory_where_nothing_must_change(given):
    array = np.array(VALUES, dtype=given)
    assert convert(array).data_ptr() == array.ctypes.data


def test_shares_memory_with_a_series():
    series = pd.Series(np.arange(5))
    assert np.shares_memory(convert(series, labels=True).numpy(), series.to_numpy())


ODD = {
    "reversed": np.array(VALUES)[::-1],
    "every other column": np.array(VALUES, dtype=np.float32)[:, ::2],
    "transposed": np.array(VALUES, dtype=np.float32).T,
    "big-endian floats": np.array(VALUES, dtype=">f4"),
    "big-endian doubles": np.array(VALUES, dtype=">f8"),
    "big-endian integers": np.array(VALUES, dtype=">i4"),
    "little-endian": np.array(VALUES, dtype="<i2"),
    "broadcast": np.broadcast_to(np.float32(2.0), (3, 2)),
    "empty": np.empty((0, 2)),
    "a number": np.float64(3.5),
    "float subclass of arrays": np.asmatrix(VALUES),
}


@pytest.mark.parametrize("array", ODD.values(), ids=ODD)
def test_takes_any_layout_of_memory(array):
    tensor = convert(array)
    assert tensor.tolist() == np.asarray(array).tolist()
    assert tuple(tensor.shape) == array.shape


def test_takes_a_file_that_is_mapped_into_memory(tmp_path):
    np.save(tmp_path / "x.npy", np.array(VALUES, dtype=np.float32))
    array = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert convert(array).data_ptr() == array.ctypes.data


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_takes_read_only_arrays_without_a_warning(dtype):
    array = np.array(VALUES, dtype=dtype)
    array.setflags(write=False)
    assert convert(array).tolist() == VALUES


def test_takes_frames_and_series_of_pandas():
    frame = pd.DataFrame({"a": [0.1, 0.2], "b": [1.0, 2.0]}, index=["p", "q"])
    expected = torch.tensor([[0.1, 1.0], [0.2, 2.0]])
    assert torch.equal(convert(frame), expected)
    assert torch.equal(convert(frame["a"]), expected[:, 0])
    assert convert(pd.Series([1, 0], dtype="int8"), labels=True).dtype == torch.int64
    assert torch.equal(convert(frame, torch.float64), torch.from_numpy(frame.to_numpy(copy=True)))


MIXED = {
    "floats and booleans": {"a": [0.5, 1.5], "b": [True, False]},
    "integers and booleans": {"a": [5, 15], "b": [True, False]},
    "integers and floats": {"a": [5, 15], "b": [0.5, 0.25]},
    "nullable integers": {"a": pd.Series([5, 15], dtype="Int64"), "b": [0.5, 0.25]},
    "nullable floats": {"a": pd.Series([5, 15], dtype="Float64"), "b": [True, False]},
}


@pytest.mark.parametrize("columns", MIXED.values(), ids=MIXED)
def test_takes_frames_with_columns_of_several_number_types(columns):
    frame = pd.DataFrame(columns)
    expected = [[float(value) for value in row] for row in frame.itertuples(index=False)]
    tensor = convert(frame)
    assert tensor.dtype == torch.float32
    assert tensor.tolist() == expected


def test_takes_what_get_dummies_gives():
    frame = pd.get_dummies(pd.DataFrame({"age": [30.0, 40.0], "city": ["Rome", "Oslo"]}))
    assert convert(frame).tolist() == [[30.0, 0.0, 1.0], [40.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.array(["a", "b"]), "x has dtype <U1"),
        (np.array([object(), 1], dtype=object), "x has dtype object"),
        (np.array([1, 2], dtype="datetime64[s]"), r"x has dtype datetime64\[s\]"),
        (pd.Series(["a", "b"]), "x has dtype (object|str)"),
        (pd.DataFrame({"n": [1, 2], "city": ["a", "b"]}), "x has column 'city' of dtype"),
        (pd.DataFrame({"when": pd.to_datetime(["2020-01-01"])}), "x has column 'when' of dtype"),
    ],
    ids=["text", "objects", "dates", "series", "frame", "frame of dates"],
)
def test_refuses_what_is_no_number_and_says_what_to_do(value, named):
    with pytest.raises(DataError, match=f"{named}.*get_dummies.*astype"):
        convert(value)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize(
    ("floating", "expected"),
    [(torch.float32, torch.complex64), (torch.float64, torch.complex128)],
)
def test_complex_numbers_have_the_precision_of_the_net(dtype, floating, expected):
    array = np.array([1 + 2j, 3j], dtype)
    tensor = to_tensors(array, "x", floating)
    assert tensor.dtype == (torch.complex64 if dtype == np.complex64 else expected)
    assert tensor.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("dtype", "instead"), [(np.longdouble, "float64"), (np.clongdouble, "complex128")]
)
def test_refuses_numbers_wider_than_those_of_torch(dtype, instead):
    if np.dtype(dtype).itemsize == np.dtype(instead).itemsize:
        pytest.skip("no wider type on this platform")
    with pytest.raises(DataError, match=f"torch does not have; use {instead}"):
        convert(np.ones(2, dtype))


@pytest.mark.parametrize("kind", ["csr_matrix", "coo_array", "csc_array", "dok_matrix"])
def test_makes_a_batch_of_sparse_rows_dense(kind):
    matrix = getattr(scipy.sparse, kind)(np.eye(3))
    assert convert(matrix).tolist() == np.eye(3).tolist()


@pytest.mark.parametrize("value", ["text", 3.5, None, object(), {1, 2}])
def test_refuses_what_is_no_array(value):
    with pytest.raises(TypeError, match=f"x is a {type(value).__name__}; pass a tensor"):
        convert(value)


def test_says_where_in_the_data_the_fault_is():
    with pytest.raises(TypeError, match=r"x\['a'\]\[1\] is a str"):
        convert({"a": (np.zeros(2), "b")})


def test_leaves_alone_what_is_no_array_where_it_is_told_to():
    assert to_tensors(["id", None], "x", torch.float32, strict=False) == ["id", None]


def test_keeps_the_structure_of_nested_arrays():
    pair = namedtuple("Pair", ["a", "b"])
    tree = {"p": pair(np.zeros(2), [np.ones(2)]), "q": (np.zeros(2),)}
    converted = convert(tree)
    assert type(converted["p"]) is pair
    assert type(converted["p"].b) is list
    assert type(converted["q"]) is tuple
    assert torch.equal(converted["p"].b[0], torch.ones(2))


@pytest.mark.parametrize(
    ("value", "array", "memory"),
    [
        (np.zeros(2), True, True),
        (torch.zeros(2), True, True),
        (pd.Series([1]), True, True),
        (pd.DataFrame({"a": [1]}), True, True),
        (scipy.sparse.eye_array(2), False, True),
        ({"a": np.zeros(2), "b": [torch.zeros(2)]}, False, True),
        ({"a": np.zeros(2), "b": "text"}, False, False),
        ([1, 2], False, False),
        ({}, False, False),
        ([], False, False),
    ],
)
def test_knows_arrays_and_what_is_in_memory(value, array, memory):
    assert is_array(value) is array
    assert is_in_memory(value) is memory


def test_returns_the_length_that_all_parts_have():
    parts = {"x": {"a": torch.zeros(5, 2), "b": torch.zeros(5)}, "y": torch.zeros(5)}
    assert common_length(parts) == 5


def test_names_each_part_of_another_length_once():
    with pytest.raises(DataError, match="lengths: x has 3, x has 2, y has 5 samples; they must"):
        common_length({"x": [torch.zeros(3), torch.zeros(2), torch.zeros(3)], "y": torch.zeros(5)})


def test_refuses_a_single_number():
    with pytest.raises(DataError, match="y is a single number"):
        common_length({"x": torch.zeros(3), "y": torch.tensor(1.0)})


@pytest.mark.parametrize("parts", [{"x": (), "y": []}, {}])
def test_refuses_data_without_any_array(parts):
    with pytest.raises(DataError, match="no array in"):
        common_length(parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fits_numpy_and_pandas_in_the_precision_of_the_net(dtype):
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    frames = pd.DataFrame(x), pd.Series(y)
    for data in ((x, y), frames):
        net = torch.nn.Linear(3, 2).to(dtype)
        frame = KerasModel(net, "cross_entropy").fit(data, epochs=1, verbose=0)
        assert frame["train_loss"].notna().all()
        assert net.weight.dtype == dtype
