import math
import pickle

import pandas as pd
import pytest
import torch
from torch import nn

from fitorch import History, KerasModel
from fitorch.callbacks import Callback
from fitorch.plotting.history import plot_history

NAN = math.nan


def make_history(*rows, sets=("val_",), monitor="val_loss", mode="min"):
    history = History()
    history.begin(monitor, mode, 7, sets=sets)
    for epoch, row in enumerate(rows):
        history.on_epoch_begin(epoch)
        history.on_epoch_end(epoch, row)
    return history


def losses(*values):
    return [
        {"train_loss": 1.0, "lr": 0.1} | ({} if value is None else {"val_loss": value})
        for value in values
    ]


def data(samples=12):
    x = torch.randn(samples, 2)
    return x, x[:, :1]


def test_there_is_a_row_per_epoch():
    frame = make_history(*losses(3.0, 2.0)).frame
    assert isinstance(frame, pd.DataFrame)
    assert list(frame) == ["epoch", "train_loss", "lr", "val_loss", "seconds"]
    assert frame["epoch"].tolist() == [1, 2]
    assert frame["epoch"].dtype == "int64"
    assert frame["val_loss"].tolist() == [3.0, 2.0]
    assert frame["seconds"].between(0, 1).all()
    assert frame.attrs["seed"] == 7


def test_what_was_not_measured_is_nan_in_the_same_columns():
    history = make_history(*losses(None, 2.0))
    assert list(history.frame) == ["epoch", "train_loss", "lr", "val_loss", "seconds"]
    assert history.frame["val_loss"].isna().tolist() == [True, False]


def test_before_the_first_epoch_it_is_empty():
    history = History()
    assert len(history) == 0
    assert history.frame.empty
    assert history.best == {}


def test_figures_that_callbacks_add_are_columns():
    class Adds(Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["norm"] = torch.tensor(epoch / 2)
            if epoch == 1:
                logs["late"] = 4
            logs["note"] = "no number"

    model = KerasModel(nn.Linear(2, 1), "mse")
    frame = model.fit(data(), epochs=3, callbacks=[Adds()], verbose=0)
    assert frame["norm"].tolist() == [0.0, 0.5, 1.0]
    assert frame["late"].isna().tolist() == [True, False, True]
    assert "note" not in frame


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", (3.0, 1.0, 2.0), 2),
        ("max", (3.0, 1.0, 2.0), 1),
        ("min", (NAN, 5.0, NAN, 4.0), 4),
        ("min", (2.0, 2.0), 1),
        ("max", (2.0, 2.0), 1),
        ("max", (-math.inf, None, -3.0), 3),
    ],
)
def test_the_best_epoch_is_found(mode, values, best):
    row = make_history(*losses(*values), mode=mode).best
    assert row["epoch"] == best
    assert row["val_loss"] == values[best - 1]


def test_nothing_is_best_where_all_is_nan():
    assert make_history(*losses(NAN, NAN)).best == {}


def test_the_state_comes_back():
    history, other = make_history(*losses(3.0, None, 2.0)), History()
    other.load_state_dict(history.state_dict())
    pd.testing.assert_frame_equal(other.frame, history.frame)
    assert other.best == history.best
    other.on_epoch_begin(3)
    other.on_epoch_end(3, losses(1.0)[0])
    assert len(other) == 4
    assert len(history) == 3


def test_the_state_holds_plain_values():
    state = make_history(*losses(3.0)).state_dict()
    state["columns"] = {name: values.tolist() for name, values in state["columns"].items()}
    assert state == {
        "seconds": 0.0,
        "columns": {
            "epoch": [1.0],
            "train_loss": [1.0],
            "lr": [0.1],
            "val_loss": [3.0],
            "seconds": state["columns"]["seconds"],
        },
        "monitor": "val_loss",
        "mode": "min",
        "seed": 7,
    }


def test_it_pickles():
    model = KerasModel(nn.Linear(2, 1), "mse")
    model.fit(data(), epochs=2, verbose=0)
    frame = pickle.loads(pickle.dumps(model.history.frame))
    assert len(frame) == 2


def test_a_second_fit_may_measure_more():
    model = KerasModel(nn.Linear(2, 1), "mse")
    model.fit(data(), epochs=1, verbose=0)
    frame = model.fit(data(), data(), epochs=1, verbose=0)
    assert frame["val_loss"].isna().tolist() == [True, False]
    assert frame["epoch"].tolist() == [1, 2]


def test_the_frame_is_a_copy():
    history = make_history(*losses(3.0))
    frame = history.frame
    frame.loc[0, "val_loss"] = 0.0
    assert history.frame["val_loss"].tolist() == [3.0]


def lines(figure):
    return [{line.get_label() for line in axes.get_lines()} for axes in figure.axes]


def test_training_and_validation_are_drawn_together_and_the_best_is_marked():
    figure = make_history(*losses(3.0, 1.5, 2.0)).plot()
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "loss"
    values = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert [3.0, 1.5, 2.0] in values.values()
    assert [1.0, 1.0, 1.0] in values.values()
    assert values["best: 1.5 in epoch 2"] == [1.5]


def test_each_figure_has_a_panel():
    rows = [row | {"train_acc": 0.5, "val_acc": 0.6} for row in losses(3.0, 2.0)]
    history = make_history(*rows)
    assert [axes.get_title(loc="left") for axes in history.plot().axes] == ["loss", "acc"]
    assert len(history.plot(metrics=["acc"]).axes) == 1


@pytest.mark.parametrize(
    ("panels", "rows", "columns"),
    [(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 2), (5, 2, 3), (6, 2, 3), (7, 3, 3), (10, 4, 3)],
)
def test_panels_stand_in_rows_of_three_at_most(panels, rows, columns):
    named = {f"train_{name}": 0.5 for name in "abcdefghij"[: panels - 1]}
    figure = make_history(*[row | named for row in losses(3.0, 2.0)]).plot()
    assert len(figure.axes) == panels
    assert figure.axes[0].get_gridspec().get_geometry() == (rows, columns)
    assert tuple(figure.get_size_inches()) == pytest.approx((4.8 * columns, 3.6 * rows))
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    overlaps = [a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(overlaps)


def test_epochs_that_were_not_validated_leave_no_hole():
    figure = make_history(*losses(None, 2.0, None, 1.0)).plot()
    drawn = [list(line.get_xdata()) for line in figure.axes[0].get_lines()]
    assert [2, 4] in drawn


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_picture_is_saved_in_the_format_of_its_name(tmp_path, suffix):
    make_history(*losses(3.0, 2.0)).plot(tmp_path / f"history.{suffix}")
    assert (tmp_path / f"history.{suffix}").stat().st_size > 1000


def test_an_empty_history_cant_be_drawn():
    with pytest.raises(ValueError, match="the history is empty; fit the model first"):
        History().plot()


def test_an_unknown_figure_lists_those_there_are():
    with pytest.raises(ValueError, match=r"no metric 'acc'; it has \['loss'\]"):
        plot_history(make_history(*losses(1.0)).frame, "val_loss", None, ["acc"])


@pytest.mark.parametrize("plot", [True, "picture"])
def test_fit_draws_the_history(tmp_path, plot):
    path = tmp_path / "history.png" if plot is True else tmp_path / "deep" / "picture.pdf"
    KerasModel(nn.Linear(2, 1), "mse").fit(
        data(),
        epochs=2,
        ckpt_path=tmp_path,
        plot=True if plot is True else path,
        verbose=0,
    )
    assert path.stat().st_size > 1000


def test_a_picture_that_cant_be_written_warns_and_keeps_the_result(tmp_path):
    (tmp_path / "file").write_text("")
    model = KerasModel(nn.Linear(2, 1), "mse")
    with pytest.warns(UserWarning, match="cannot save the plot .*history"):
        frame = model.fit(data(), epochs=2, plot=tmp_path / "file" / "history.png", verbose=0)
    assert len(frame) == 2


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_the_history_is_drawn_when_an_error_ends_training(tmp_path, error):
    class Fails(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise error

    model = KerasModel(nn.Linear(2, 1), "mse")
    with pytest.raises(error):
        model.fit(data(), epochs=5, plot=tmp_path / "history.png", callbacks=[Fails()], verbose=0)
    assert len(model.history) == 2
    assert (tmp_path / "history.png").exists()


def test_each_validation_set_has_a_line_in_the_panels_of_its_figures():
    rows = [
        {"train_loss": 3.0 - i, "val_a_loss": 2.0, "val_a_b_loss": 1.5, "val_a_acc": 0.5 + i / 10}
        for i in range(3)
    ]
    sets = ("val_a_", "val_a_b_")
    figure = make_history(*rows, sets=sets, monitor="val_a_acc", mode="max").plot()
    panels = {
        axes.get_title(loc="left"): axes.get_legend_handles_labels()[1] for axes in figure.axes
    }
    assert panels == {
        "loss": ["train", "a", "a_b"],
        "acc": ["a", "best: 0.7 in epoch 3"],  # measured in validation alone
    }


def test_a_notebook_shows_the_plot_without_pyplot():
    figure = make_history(*losses(3.0, 2.0)).plot()
    assert figure._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_figure_that_was_never_measured_has_an_empty_panel():
    history = make_history(*losses(math.nan, math.nan))
    figure = history.plot(metrics=["loss"])
    assert len(figure.axes) == 1
    assert figure._repr_png_()
