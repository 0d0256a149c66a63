"""Tables: DataFrames of pandas and polars, masked arrays, missing values, names of columns."""

import math
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from torch import nn

from fitorch import DataError, KerasModel, NonFiniteError
from fitorch.data.arrays import to_tensors

ROWS = 12
NUMBERS = {
    "age": np.arange(ROWS) * 1.5,
    "rooms": np.arange(ROWS) % 5,
    "sold": np.arange(ROWS) % 3 == 0,
}
TRUE = np.column_stack([np.asarray(column, np.float64) for column in NUMBERS.values()])
Y = (np.arange(ROWS) % 2).astype(np.int64)
LIBRARIES = {"pandas": pd, "polars": pl}


def convert(value, labels=False, floating=torch.float32):
    return to_tensors(value, "x", floating, labels=labels)


def model(features=3, outputs=2, loss="cross_entropy"):
    torch.manual_seed(0)
    return KerasModel(nn.Linear(features, outputs), loss)


def trained(x, y=Y, **options):
    fitted = model(loss="cross_entropy" if np.ndim(y) == 1 else "mse")
    fitted.fit((x, y), epochs=1, verbose=0, **{"shuffle": False, **options})
    return fitted


PANDAS = {
    "numpy": pd.DataFrame(NUMBERS),
    "nullable": pd.DataFrame(NUMBERS).convert_dtypes(dtype_backend="numpy_nullable"),
    "arrow": pd.DataFrame(NUMBERS).convert_dtypes(dtype_backend="pyarrow"),
    "sparse": pd.DataFrame(NUMBERS).astype(pd.SparseDtype("float64", 0.0)),
    "float32": pd.DataFrame(NUMBERS).astype("float32"),
    "filtered": pd.concat([pd.DataFrame(NUMBERS)] * 2).iloc[:ROWS],
}
POLARS = {
    "plain": pl.DataFrame(NUMBERS),
    "float32": pl.DataFrame(NUMBERS).cast(pl.Float32),
    "chunks": pl.concat([pl.DataFrame(NUMBERS)[:5], pl.DataFrame(NUMBERS)[5:]], rechunk=False),
}
ARROW = {"pyarrow": pa.table(NUMBERS)}
FRAMES = {f"pandas {name}": frame for name, frame in PANDAS.items()}
FRAMES |= {f"polars {name}": frame for name, frame in POLARS.items()} | ARROW


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_every_verb_takes_frames_as_it_takes_their_numbers(frame):
    found, true = trained(frame), trained(TRUE)
    assert torch.equal(found.net.weight, true.net.weight)
    assert torch.equal(found.predict(frame, verbose=0), true.predict(TRUE, verbose=0))
    assert found.evaluate((frame, Y), verbose=0) == true.evaluate((TRUE, Y), verbose=0)


SERIES = {
    "pandas int64": pd.Series(Y),
    "pandas int8": pd.Series(Y, dtype="int8"),
    "pandas Int64": pd.Series(Y, dtype="Int64"),
    "pandas arrow": pd.Series(Y, dtype="int64[pyarrow]"),
    "pandas codes": pd.Series(list("ab" * 6), dtype="category").cat.codes,
    "polars": pl.Series(Y),
    "polars UInt8": pl.Series(Y, dtype=pl.UInt8),
    "polars codes": pl.Series(list("ab" * 6), dtype=pl.Enum(["a", "b"])).to_physical(),
}


@pytest.mark.parametrize("y", SERIES.values(), ids=SERIES)
def test_series_are_class_numbers(y):
    assert convert(y, labels=True).dtype == torch.int64
    assert torch.equal(trained(TRUE, y).net.weight, trained(TRUE).net.weight)


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (pd.Series([5, 9], dtype="Int8"), torch.int64),
        (pd.Series([5, 9], dtype="uint8[pyarrow]"), torch.int64),
        (pd.Series([5, 9], dtype="uint8"), torch.int64),
        (pl.Series([5, 9], dtype=pl.Int16), torch.int64),
        (pl.Series([5, 9], dtype=pl.UInt8), torch.int64),
        (pl.Series([5, 9], dtype=pl.UInt64), torch.int64),
        (pl.Series([5, 9], dtype=pl.Int32), torch.int32),
        (np.array([5, 9], "int8"), torch.int64),
        (np.array([5, 9], "int16"), torch.int64),
        (np.array([5, 9], "uint8"), torch.uint8),
        (np.ones((2, 3, 3), "int16"), torch.int16),
        (np.ones((2, 3, 3), "uint8"), torch.uint8),
        (torch.ones(2, dtype=torch.int8), torch.int8),
    ],
)
def test_small_integers_are_indices_of_embeddings_and_images_stay_bytes(column, dtype):
    tensor = convert(column)
    assert tensor.dtype == dtype
    assert tensor.tolist() == np.asarray(column).tolist()
    if dtype in (torch.int32, torch.int64):
        assert nn.Embedding(10, 2)(tensor).shape == (2, 2)


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
def test_integers_of_several_sizes_stay_exact(library):
    big = 2**60 + 1
    columns = {
        "a": np.array([big, 1]),
        "b": np.array([1, 2], "int8"),
        "c": np.array([3, 4], "uint64"),
    }
    assert convert(library.DataFrame(columns)).tolist() == [[big, 1, 3], [1, 2, 4]]


UNSIGNED = {
    "pandas": lambda big: pd.DataFrame({"a": np.array([1, big], "uint64"), "b": [-1, 2]}),
    "pandas UInt64": lambda big: pd.DataFrame(
        {"a": pd.array([1, big], dtype="UInt64"), "b": [-1, 2]}
    ),
    "pandas arrow": lambda big: pd.DataFrame(
        {"a": pd.array([1, big], dtype="uint64[pyarrow]"), "b": [-1, 2]}
    ),
    "polars": lambda big: pl.DataFrame(
        {"a": pl.Series([1, big], dtype=pl.UInt64), "b": pl.Series([-1, 2])}
    ),
}


@pytest.mark.parametrize("make", UNSIGNED.values(), ids=UNSIGNED)
def test_unsigned_integers_beside_signed_ones_are_exact_or_refused(make):
    assert convert(make(2**62 + 1)).tolist() == [[1, -1], [2**62 + 1, 2]]
    with pytest.raises(DataError, match=r"x's column 'a' has the value 9223372036854775813"):
        convert(make(2**63 + 5))


def test_a_column_of_arrays_is_refused_by_name_and_a_series_of_them_is_a_matrix():
    series = pl.Series("a", [[1, 2], [3, 4]], dtype=pl.Array(pl.Int64, 2))
    assert convert(series).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DataError, match=r"column 'a' of dtype Array"):
        convert(series.to_frame())


def test_a_lazy_frame_has_to_be_collected():
    frame = pl.LazyFrame({"a": [1.0, 2.0]})
    for data in (frame, (frame, np.zeros((2, 1)))):
        with pytest.raises(TypeError, match=r"a LazyFrame.*\.collect\(\) reads"):
            model(1).fit(data, epochs=1, verbose=0)


def test_integers_beyond_int64_are_refused():
    with pytest.raises(DataError, match=r"value 18446744073709551615, which int64"):
        convert(np.array([1, 2**64 - 1], "uint64"))


MISSING = {
    "pandas NaN": pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [np.nan, 1.0, np.nan]}),
    "pandas None": pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [None, 1.0, None]}),
    "pandas NaN and ints": pd.DataFrame({"a": [1, 2, 3], "b": [np.nan, 1.0, np.nan]}),
    "pandas Int64": pd.DataFrame({"a": [1, 2, 3], "b": pd.array([None, 1, None], dtype="Int64")}),
    "pandas boolean": pd.DataFrame({"a": [1, 2, 3], "b": pd.array([None, True, None])}),
    "pandas arrow": pd.DataFrame(
        {"a": [1, 2, 3], "b": pd.array([None, 1, None], dtype="int64[pyarrow]")}
    ),
    "pandas inf": pd.DataFrame({"a": [np.inf, -np.inf, 3], "b": [np.nan, np.inf, np.nan]}),
    "pyarrow": pa.table({"a": [1, 2, 3], "b": [None, 1, None]}),
    "polars null": pl.DataFrame({"a": [1, 2, 3], "b": [None, 1, None]}),
    "polars boolean": pl.DataFrame({"a": [1, 2, 3], "b": [None, True, None]}),
    "polars NaN": pl.DataFrame({"a": [1.0, 2.0, 3.0], "b": [np.nan, 1.0, np.nan]}),
}


@pytest.mark.parametrize("frame", MISSING.values(), ids=MISSING)
def test_missing_values_are_refused_by_column_and_count(frame):
    said = r"'s {} has missing values: 2 in column 'b'; fill them"
    y = np.zeros((3, 2))
    with pytest.raises(DataError, match="train_data" + said.format("x")):
        model(2).fit((frame, y), verbose=0)
    with pytest.raises(DataError, match="train_data" + said.format("y")):
        model(2, loss="mse").fit((y, frame), verbose=0)
    with pytest.raises(DataError, match=r"data's x has missing values: 2 in column 'b'"):
        model(2).predict(frame, verbose=0)
    with pytest.raises(DataError, match="val_data" + said.format("x")):
        model(2, loss="mse").evaluate((frame, y), verbose=0)
    with pytest.raises(DataError, match=r"train_data\['x'\] has missing values: 2 in column 'b'"):
        model(2).fit({"x": frame, "labels": y}, verbose=0)


@pytest.mark.parametrize(
    "series",
    [
        pd.Series([1.0, np.nan]),
        pd.Series([1, None], dtype="Int64"),
        pl.Series([1, None]),
        pl.Series([1.0, float("nan")]),
        pd.array([1, None], dtype="Int64"),
    ],
)
def test_missing_values_of_a_series_are_counted(series):
    for labels in (False, True):
        with pytest.raises(DataError, match="x has missing values: 1 of 2;"):
            convert(series, labels=labels)


def test_many_columns_with_missing_values_are_counted():
    frame = pd.DataFrame(np.full((2, 8), np.nan), columns=list("abcdefgh"))
    with pytest.raises(DataError, match=r"'e', and in 3 more columns; fill"):
        convert(frame)


def test_nan_in_arrays_reaches_a_net_that_handles_it():
    x = np.array([[1.0, np.nan], [2.0, 3.0], [np.nan, 1.0]], "float32")

    class Filling(nn.Linear):
        def forward(self, x):
            return super().forward(torch.nan_to_num(x))

    def masked_error(y_pred, y_true):
        known = ~y_true.isnan()
        return ((y_pred - y_true)[known] ** 2).mean()

    fitted = KerasModel(Filling(2, 2), masked_error)
    frame = fitted.fit((x, x), epochs=1, verbose=0)
    assert np.isfinite(frame["train_loss"]).all()
    assert fitted.predict(x, verbose=0).isfinite().all()


@pytest.mark.parametrize("labels", [False, True])
def test_masked_values_are_refused_and_a_mask_without_any_is_dropped(labels):
    array = np.ma.masked_array(np.arange(6.0).reshape(3, 2), mask=[[0, 1], [0, 0], [0, 1]])
    with pytest.raises(DataError, match=r"masked values: 2 in column 1; fill them with \.filled"):
        convert(array, labels)
    with pytest.raises(DataError, match=r"masked values: 1 of 2;"):
        convert(np.ma.masked_equal([1, 7], 7), labels)
    with pytest.raises(DataError, match=r"masked values: 1 of 8;"):
        convert(np.ma.masked_equal(np.arange(8).reshape(2, 2, 2), 7), labels)
    assert convert(np.ma.masked_array(array.data), labels).tolist() == array.data.tolist()


def test_masked_samples_of_a_dataset_are_refused():
    class Masked(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, number):
            return np.ma.masked_greater(np.arange(3.0) + number, 4), 0

    with pytest.raises(DataError, match="a sample is a masked array with masked values"):
        model().fit(Masked(), epochs=1, verbose=0)


TEXT = {
    "polars String": (pl.Series(["a", "b"]), "String", "to_physical"),
    "polars Categorical": (
        pl.Series(["a", "b"], dtype=pl.Categorical),
        "Categorical",
        "to_physical",
    ),
    "polars Enum": (pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"])), "Enum", "to_physical"),
    "polars Date": (pl.Series([0, 1]).cast(pl.Date), "Date", "to_physical"),
    "polars Decimal": (pl.Series([0, 1]).cast(pl.Decimal(8, 2)), "Decimal", r"\.cast"),
    "polars List": (pl.Series([[0], [1, 2]]), "List", "different lengths"),
    "pandas str": (pd.Series(["a", "b"]), "(object|str)", "get_dummies"),
    "pandas category": (pd.Series(["a", "b"], dtype="category"), "category", r"\.cat\.codes"),
    "pandas dates": (pd.Series(pd.to_datetime(["2020-01-01"] * 2)), "datetime64", r"\.astype"),
}


@pytest.mark.parametrize(("column", "dtype", "cure"), TEXT.values(), ids=TEXT)
def test_text_and_categories_are_refused_by_column_and_dtype(column, dtype, cure):
    library = LIBRARIES[type(column).__module__.partition(".")[0]]
    frame = library.DataFrame({"n": [1, 2], "city": column})
    with pytest.raises(DataError, match=f"x has column 'city' of dtype {dtype}.*{cure}"):
        convert(frame)
    with pytest.raises(DataError, match=f"x has dtype {dtype}.*{cure}"):
        convert(column)


def test_a_column_of_arrays_of_polars_is_a_matrix():
    series = pl.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pl.Array(pl.Float64, 2))
    assert convert(series).tolist() == [[1.0, 2.0], [3.0, 4.0]]


OTHERS = {
    "order": (lambda frame: frame[["rooms", "age", "sold"]], "has them in the order"),
    "missing": (lambda frame: frame[["age", "rooms"]], r"lacks \['sold'\]"),
    "more": (
        lambda frame: frame.__class__({**NUMBERS, "id": np.arange(ROWS)}),
        r"has additional \['id'\]",
    ),
    "renamed": (
        lambda frame: frame.rename(
            **{"columns" if isinstance(frame, pd.DataFrame) else "mapping": {"age": "years"}}
        ),
        r"lacks \['age'\] and has additional \['years'\]",
    ),
}


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
@pytest.mark.parametrize(("change", "said"), OTHERS.values(), ids=OTHERS)
def test_other_columns_than_in_training_are_refused(change, said, library):
    frame = library.DataFrame(NUMBERS)
    fitted = trained(frame)
    fitted = pickle.loads(pickle.dumps(fitted))
    other = change(frame)
    with pytest.raises(DataError, match=f"data's x has other columns .*{said}.*'age', 'rooms'"):
        fitted.predict(other, verbose=0)
    with pytest.raises(DataError, match=f"val_data's x has other columns .*{said}"):
        fitted.evaluate((other, Y), verbose=0)
    with pytest.raises(DataError, match=f"val_data's x has other columns .*{said}"):
        model().fit((frame, Y), (other, Y), epochs=1, verbose=0)
    # Arrays, and frames of the other library with the same names, are taken.
    expected = fitted.predict(TRUE, verbose=0)
    for kind in LIBRARIES.values():
        assert torch.equal(fitted.predict(kind.DataFrame(NUMBERS), verbose=0), expected)


def test_columns_of_arrow_are_compared():
    table = pa.table(NUMBERS)
    fitted = trained(table)
    with pytest.raises(DataError, match="has them in the order"):
        fitted.predict(table.select(["rooms", "age", "sold"]), verbose=0)


def test_frames_with_the_interface_of_pandas_are_read_as_they_are():
    class Like:
        """As a DataFrame of Modin, which is not one of pandas."""

        def __init__(self, frame):
            self._frame = frame

        def __getattr__(self, name):
            return getattr(self._frame, name)

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self._frame, dtype)

    assert torch.equal(convert(Like(pd.DataFrame(NUMBERS))), convert(TRUE))
    with pytest.raises(DataError, match="missing values: 2 in column 'b'"):
        convert(Like(MISSING["pandas Int64"]))


def test_columns_are_compared_in_nested_data_and_in_targets():
    x, y = pd.DataFrame({"a": [1.0] * 4, "b": 2.0}), pd.DataFrame({"p": [1.0] * 4, "q": 2.0})

    class Net(nn.Linear):
        def forward(self, left):
            return super().forward(left)

    fitted = KerasModel(Net(2, 2), "mse")
    fitted.fit(({"left": x}, y), epochs=1, verbose=0)
    for data in ({"left": x[["b", "a"]]}, ({"left": x[["b", "a"]]}, y)):
        with pytest.raises(DataError, match=r"data's x\['left'\] has other columns"):
            fitted.predict(data, verbose=0)
    with pytest.raises(DataError, match=r"val_data's y has other columns"):
        fitted.evaluate(({"left": x}, y[["q", "p"]]), verbose=0)
    fitted.evaluate(({"left": x}, y), verbose=0)


def test_numbered_columns_of_pandas_are_no_names():
    fitted = trained(pd.DataFrame(NUMBERS))
    expected = fitted.predict(TRUE, verbose=0)
    assert torch.equal(fitted.predict(pd.DataFrame(TRUE), verbose=0), expected)
    fitted = trained(pd.DataFrame(TRUE))
    assert torch.equal(fitted.predict(pd.DataFrame(NUMBERS), verbose=0), expected)


def test_training_goes_on_with_other_columns_but_not_in_another_order():
    frame = pd.DataFrame(NUMBERS)
    fitted = trained(frame)
    with pytest.raises(DataError, match="train_data's x has other columns"):
        fitted.fit((frame[["rooms", "age", "sold"]], Y), epochs=1, verbose=0)
    other = frame.rename(columns={"age": "years"})
    fitted.fit((other, Y), epochs=1, verbose=0)
    fitted.predict(other, verbose=0)
    with pytest.raises(DataError, match="other columns"):
        fitted.predict(frame, verbose=0)


class Numbered(torch.utils.data.Dataset):
    def __init__(self, third):
        self.third = third

    def __len__(self):
        return ROWS

    def __getitem__(self, number):
        return torch.ones(3), Y[number], self.third(number)


def test_numbers_of_samples_are_not_taken_for_weights():
    for shuffle in (False, True):
        with pytest.raises(DataError, match=r"sample_weight has 12 different integers.*forward="):
            model().fit(Numbered(int), epochs=1, verbose=0, shuffle=shuffle)
    with pytest.raises(DataError, match="different integers"):
        model().evaluate((TRUE, Y, np.arange(ROWS)), verbose=0)


@pytest.mark.parametrize("third", [float, lambda n: n % 3, lambda n: n % 2 == 0, lambda _: 1])
def test_weights_that_are_numbers_of_times_are_taken(third):
    model().fit(Numbered(third), epochs=1, verbose=0)


def half_known():
    return np.array([[1.0, np.nan], [2.0, 3.0], [np.nan, np.nan]], "float32")


NAN_TARGETS = {
    "array": (half_known, "1 in column 0, 2 in column 1"),
    "float64": (lambda: half_known().astype("float64"), "1 in column 0, 2 in column 1"),
    "one column": (lambda: half_known()[:, :1], "1 of 3"),
}


@pytest.mark.parametrize(("make", "said"), NAN_TARGETS.values(), ids=NAN_TARGETS)
@pytest.mark.parametrize(
    "loss", ["mse", nn.L1Loss(), nn.functional.mse_loss, nn.HingeEmbeddingLoss(), nn.HuberLoss()]
)
def test_nan_in_targets_is_refused_before_training(make, said, loss):
    x, y = np.ones((3, 2), "float32"), make()
    fresh = model(2, y.shape[1], loss)
    for weight in ((), (np.array([0.0, 1.0, 0.0]),)):
        with pytest.raises(DataError, match=f"train_data's y has NaN: .*{said}; .* would be NaN"):
            fresh.fit((x, y, *weight), epochs=1, verbose=0)
    with pytest.raises(DataError, match="val_data's y has NaN"):
        fresh.fit((x, np.zeros_like(x[:, : y.shape[1]])), (x, y), epochs=1, verbose=0)
    with pytest.raises(DataError, match=r"val_data\['noisy'\]'s y has NaN"):
        fresh.evaluate({"noisy": (x, y)}, verbose=0)
    fresh.predict((x, y), verbose=0)


def test_nan_in_a_tensor_of_targets_is_found_by_the_loss_with_its_batch():
    y = torch.zeros(40, 1)
    y[25] = math.nan
    fit = {"epochs": 1, "batch_size": 10, "shuffle": False, "verbose": 0}
    with pytest.raises(NonFiniteError, match=r"batch 3 .*first samples \[20, 21, 22\]"):
        model(3, 1, "mse").fit((torch.ones(40, 3), y), **fit)


def test_targets_on_disk_are_not_read_for_nan(tmp_path, monkeypatch):
    from fitorch.data import missing

    looked = []
    monkeypatch.setattr(missing, "_has_nan", lambda part: looked.append(part))
    file = np.memmap(tmp_path / "y", "float32", "w+", shape=(ROWS, 2))
    for y in (file, file[:], np.asarray(file), np.asarray(file)[2:]):
        model(3, loss="mse").fit((TRUE[: len(y)], y), epochs=1, verbose=0)
    assert looked == []
    model(3, loss="mse").fit((TRUE, np.zeros((ROWS, 2))), epochs=1, verbose=0)
    assert len(looked) == 1
