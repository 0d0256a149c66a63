"""Arrays on disk, read by batch: the bits of the same arrays in memory, and never all at once."""

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.data import lazy
from fitorch.errors import DataError

ROWS, COLUMNS = 230, 6
X = np.random.default_rng(0).standard_normal((ROWS, COLUMNS))
Y = np.random.default_rng(1).integers(0, 3, ROWS)


def h5py_array(folder, array):
    h5py = pytest.importorskip("h5py")
    file = h5py.File(folder / f"{len(list(folder.iterdir()))}.h5", "w")
    return file.create_dataset("values", data=array, chunks=True)


def zarr_array(folder, array):
    zarr = pytest.importorskip("zarr")
    path = str(folder / f"{len(list(folder.iterdir()))}.zarr")
    made = zarr.open(path, mode="w", shape=array.shape, dtype=array.dtype, chunks=(50,))
    made[:] = array
    return made


def memory_map(folder, array):
    path = folder / f"{len(list(folder.iterdir()))}.bin"
    made = np.memmap(path, dtype=array.dtype, mode="w+", shape=array.shape)
    made[:] = array
    return made


def swapped_memory_map(folder, array):
    return memory_map(folder, array.astype(array.dtype.newbyteorder()))


def safetensors_slice(folder, array):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = folder / f"{len(list(folder.iterdir()))}.safetensors"
    tensor = torch.from_numpy(array)
    save_file({"values": tensor.float() if tensor.is_floating_point() else tensor}, path)
    return safe_open(path, "pt").get_slice("values")


def dask_array(folder, array):
    dask = pytest.importorskip("dask.array")
    return dask.from_array(array, chunks=50)


KINDS = [
    h5py_array,
    zarr_array,
    memory_map,
    swapped_memory_map,
    safetensors_slice,
    dask_array,
]


def trained(data, val=None, **options):
    torch.manual_seed(0)
    model = KerasModel(nn.Linear(COLUMNS, 3), "cross_entropy", {"acc": "acc"}, "adam")
    frame = model.fit(data, val, epochs=2, batch_size=32, seed=1, verbose=0, **options)
    return model, frame.drop(columns="seconds")


@pytest.mark.parametrize("kind", KINDS)
def test_every_verb_has_the_bits_of_arrays_in_memory(kind, tmp_path):
    stored = kind(tmp_path, X), kind(tmp_path, Y)
    expected_model, expected = trained((X, Y), validation_split=0.2)
    model, frame = trained(stored, validation_split=0.2)
    assert frame.equals(expected)
    assert model.evaluate(stored, verbose=0) == expected_model.evaluate((X, Y), verbose=0)
    assert torch.equal(model.predict(stored[0], verbose=0), expected_model.predict(X, verbose=0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["beside an array", "mapping", "nested", "with weights"])
def test_in_every_form_of_data(kind, form, tmp_path):
    weights = np.linspace(0.5, 1.5, ROWS)
    forms = {
        "beside an array": lambda x: (x, Y),
        "mapping": lambda x: {"input": x, "labels": Y},
        "nested": lambda x: ({"input": x}, Y),
        "with weights": lambda x: (x, Y, weights),
    }
    expected = trained(forms[form](X))[1]
    assert trained(forms[form](kind(tmp_path, X)))[1].equals(expected)


class Noisy(nn.Linear):
    """Draws from NumPy's global generator, which keeps every second normal number for later."""

    def forward(self, x):
        return super().forward(x) * (1 + 0.1 * float(np.random.normal()))


@pytest.mark.parametrize("kind", [h5py_array, memory_map])
def test_a_net_that_draws_has_the_same_bits_with_workers(kind, tmp_path):
    x, frames = kind(tmp_path, X), []
    for workers in (0, 1):
        torch.manual_seed(0)
        model = KerasModel(Noisy(COLUMNS, 3), "cross_entropy", optimizer="adam")
        options = {"epochs": 2, "batch_size": 32, "seed": 1, "verbose": 0, "num_workers": workers}
        frames.append(model.fit((x, Y), **options).drop(columns="seconds"))
    assert frames[0].equals(frames[1])


class Reads:
    """An array that counts its rows that are read, and is never read as a whole."""

    shape, dtype, ndim, rows = (100_000, COLUMNS), np.dtype("float32"), 2, 0

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, places):
        part = np.broadcast_to(np.float32(0), self.shape)[places]
        self.rows += len(part)
        return part

    def __array__(self, dtype=None, copy=None):
        pytest.fail("read as a whole")


@pytest.mark.parametrize("shuffle", [True, False])
def test_only_the_rows_of_the_batches_are_read(shuffle):
    x, y = Reads(), np.zeros(100_000, np.int64)
    options = {"epochs": 1, "steps_per_epoch": 2, "shuffle": shuffle, "num_workers": 0}
    KerasModel(nn.Linear(COLUMNS, 3), "cross_entropy").fit((x, y), verbose=0, **options)
    # Two batches, and the one that the rehearsal looks at.
    assert x.rows <= 3 * 32


def test_rows_are_asked_for_in_order_and_once():
    asked = []

    class Ordered(Reads):
        def __getitem__(self, places):
            asked.append(places)
            return super().__getitem__(places)

    array = lazy.LazyArray(Ordered(), "x", torch.float32, False)
    assert array.read(lazy.Rows.of(np.array([7, 3, 7, 900]))).shape == (4, COLUMNS)
    assert asked[0].tolist() == [3, 7, 900]
    assert array.read(lazy.Rows.of(np.array([12, 10, 11]))).shape == (3, COLUMNS)
    assert asked[1] == slice(10, 13)


def test_a_resumed_epoch_reads_on(tmp_path):
    x = h5py_array(tmp_path, X)
    whole = trained((x, Y))[1]

    def stop(batch, logs):
        if batch == 3:
            raise KeyboardInterrupt

    from fitorch.callbacks import LambdaCallback

    folder = tmp_path / "run"
    options = {"ckpt_path": folder, "save_every_n_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        trained((x, Y), callbacks=[LambdaCallback(on_train_batch_end=stop)], **options)
    resumed = trained((x, Y), resume=True, **options)[1]
    assert resumed.equals(whole)


def test_columns_of_different_lengths_are_refused_before_reading():
    with pytest.raises(DataError, match=r"x has 100000, .*y has 230 samples"):
        KerasModel(nn.Linear(COLUMNS, 3), "cross_entropy").fit((Reads(), Y), verbose=0)


def test_arrays_in_memory_are_not_taken_for_arrays_on_disk():
    pandas = pytest.importorskip("pandas")
    in_memory = [X, torch.ones(2), pandas.DataFrame(X), pandas.Series(Y), [1.0], "text", {"a": X}]
    assert not any(map(lazy.is_lazy, in_memory))


SPARSE = [
    f"{form}_{kind}"
    for form in ("csr", "csc", "coo", "lil", "dok", "bsr", "dia")
    for kind in ("array", "matrix")
]


def sparse_numbers():
    generator = np.random.default_rng(0)
    x = generator.random((50, 8)) * (generator.random((50, 8)) < 0.3)
    return x, np.arange(50) % 2


@pytest.mark.parametrize("kind", SPARSE)
def test_every_verb_has_the_bits_of_a_dense_matrix(kind):
    dense, y = sparse_numbers()

    def results(x):
        torch.manual_seed(0)
        model = KerasModel(nn.Linear(8, 2), "cross_entropy")
        model.fit((x, y), epochs=2, verbose=0, seed=1, validation_split=0.2)
        model.fit((x, y), ((x, y)), epochs=1, verbose=0, seed=2, num_workers=0)
        values = model.evaluate((x, y), verbose=0), model.predict((x, y), verbose=0).tolist()
        history = model.history.frame.drop(columns="seconds").to_dict("list")
        return *values, model.predict(x, verbose=0).tolist(), history

    assert repr(results(getattr(scipy.sparse, kind)(dense))) == repr(results(dense))


def test_a_sparse_matrix_becomes_dense_batch_by_batch(monkeypatch):
    rows = []
    toarray = scipy.sparse.csr_array.toarray

    def counted(self, *args, **options):
        rows.append(self.shape[0])
        return toarray(self, *args, **options)

    monkeypatch.setattr(scipy.sparse.csr_array, "toarray", counted)
    dense, y = sparse_numbers()
    x = scipy.sparse.csr_array(dense)
    model = KerasModel(nn.Linear(8, 2), "cross_entropy")
    model.fit((x, y), (x, y), epochs=1, verbose=0, batch_size=16)
    model.predict(x, batch_size=16, verbose=0)
    assert rows
    assert max(rows) == 16


def test_entries_that_occur_twice_are_added_in_full_precision():
    entries, columns, rows = np.array([1.0, 2.0**-24, 2.0**-24]), np.zeros(3, int), [0, 3]
    x = scipy.sparse.csr_array((entries, columns, rows), shape=(1, 2))
    net = nn.Identity()
    net.weight = nn.Parameter(torch.zeros(1))
    assert KerasModel(net, "mse").predict(x, verbose=0).tolist() == [[1 + 2.0**-23, 0]]
    assert x.nnz == 3


def test_sparse_targets_and_batches_are_taken():
    dense = sparse_numbers()[0]
    x = scipy.sparse.csr_array(dense)
    model = KerasModel(nn.Linear(8, 8), "mse")
    with torch.no_grad():
        model.net.weight.copy_(torch.eye(8))
        model.net.bias.zero_()
    assert model.evaluate((dense, x), verbose=0)["val_loss"] == 0
    assert model.evaluate([(x[:20], x[:20].toarray())] * 2, verbose=0)["val_loss"] == 0


def test_sparse_data_of_other_forms_is_refused():
    model = KerasModel(nn.Linear(8, 2), "cross_entropy")
    dense, y = sparse_numbers()
    x = scipy.sparse.coo_array(dense)
    with pytest.raises(DataError, match="x has 50, y has 9 samples"):
        model.fit((x, y[:9]), verbose=0)
    with pytest.raises(DataError, match=r"x is sparse of shape \(3,\); expected a matrix"):
        model.predict(scipy.sparse.coo_array(np.arange(3)), verbose=0)
    with pytest.raises(TypeError, match="train_data is a list of arrays"):
        model.fit([x, y], verbose=0)
