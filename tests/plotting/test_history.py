"""Panels of a history: the choice of the axis, and an epoch that is not over."""

import io

import matplotlib.image
import pandas as pd
import pytest

from fitorch.plotting.axes import small_png
from fitorch.plotting.history import plot_history


def frame_of(train, val=None):
    columns = {"epoch": range(1, len(train) + 1), "train_loss": train}
    return pd.DataFrame(columns if val is None else columns | {"val_loss": val})


def scale(frame, **given):
    return plot_history(frame, "val_loss", None, **given).axes[0].get_yscale()


FALLING = [2.3 * 0.8**epoch for epoch in range(40)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (FALLING, "log"),
        ([50.0, *[1.0 + 0.01 * epoch for epoch in range(20)]], "log"),  # all but the first
        ([1 / epoch for epoch in range(1, 60)], "log"),
        ([2.3 * 0.97**epoch for epoch in range(40)], "linear"),  # a factor of three
        ([1 - 0.98 * 0.8**epoch for epoch in range(40)], "linear"),  # crowded at the top: accuracy
        ([2.0 - 0.0495 * epoch for epoch in range(40)], "linear"),  # 1.5 decades, evenly
        ([*FALLING, 0.0], "linear"),
        ([*FALLING, -1e-3], "linear"),
        ([*FALLING, float("nan"), float("inf")], "log"),
        (FALLING[:7], "linear"),  # too few to tell
        ([1.0] * 20, "linear"),
        ([float("nan")] * 20, "linear"),
    ],
)
def test_an_axis_is_logarithmic_where_that_shows_more(values, expected):
    assert scale(frame_of(values)) == expected


def test_training_and_validation_decide_together():
    high = [value + 1.0 for value in FALLING]
    assert scale(frame_of(high)) == "linear"
    assert scale(frame_of(high, FALLING)) == "log"


@pytest.mark.parametrize("rising", [[], [0.01 * 1.3**epoch for epoch in range(40)]])
def test_an_axis_changes_once_at_most_while_epochs_come(rising):
    history = FALLING + rising
    scales = [scale(frame_of(history[:epochs])) for epochs in range(1, len(history) + 1)]
    first = scales.index("log")
    assert scales == ["linear"] * first + ["log"] * (len(history) - first)


@pytest.mark.parametrize(
    ("values", "labels"),
    [(FALLING[:22], {"0.05", "0.1", "0.2", "0.5", "1", "2"}), (FALLING, {"0.001", "0.01", "0.1"})],
)
def test_a_logarithmic_axis_has_plain_numbers(values, labels):
    figure = plot_history(frame_of(values), "val_loss", None)
    figure.canvas.draw()
    assert labels <= {label.get_text() for label in figure.axes[0].get_yticklabels()}


def test_a_running_epoch_is_drawn_between_epochs():
    running = {"train_loss": [(2.25, 1.5), (2.5, 1.25)]}
    figure = plot_history(frame_of([3.0, 2.0]), "val_loss", None, running=running)
    curve, measured = figure.axes[0].get_lines()
    assert curve.get_xydata().tolist() == [[2.25, 1.5], [2.5, 1.25]]
    assert measured.get_xydata().tolist() == [[1, 3.0], [2, 2.0]]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["train"]


def test_the_first_epoch_is_drawn_before_there_is_a_history():
    running = {"train_loss": [(0.25, 1.5), (0.5, 1.25)], "train_acc": [(0.25, 0.3), (0.5, 0.6)]}
    figure = plot_history(pd.DataFrame(), "val_loss", None, ["loss"], running=running)
    (axes,) = figure.axes
    assert axes.get_xlim() == (0, 1)
    assert axes.get_lines()[0].get_ydata().tolist() == [1.5, 1.25]


@pytest.mark.parametrize("dpi", [90, 180])
def test_a_small_picture_is_small_and_nothing_is_cut_off(dpi):
    frame = pd.DataFrame({"epoch": range(1, 201), "train_loss": [1e-4 / e for e in range(1, 201)]})
    frame["train_acc"] = frame["train_loss"] * 1e9
    png = small_png(plot_history(frame, "train_loss", 200), dpi)
    assert len(png) < 30_000
    image = matplotlib.image.imread(io.BytesIO(png), format="png")
    assert image.shape[:2] == (3.6 * dpi, 9.6 * dpi)
    edges = (image[0], image[-1], image[:, 0], image[:, -1])
    assert all(edge[..., :3].min() > 0.98 for edge in edges)  # white
    assert image[..., :3].min() < 0.3  # and ink within
