"""The notebooks run from top to bottom on a real kernel, and show what they promise."""

import base64
import io
from pathlib import Path

import matplotlib.image
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "examples" / "notebooks"
PROMISES = {
    # how many pictures it shows, the files it leaves
    "first_steps.ipynb": (4, ["runs/first_steps/best.safetensors", "runs/first_steps/history.csv"]),
    "live_plots.ipynb": (5, ["runs/live_plots.html"]),
    "objective.ipynb": (6, []),
}
SLOW = {"first_steps.ipynb", "live_plots.ipynb"}


def read(name):
    return nbformat.read(NOTEBOOKS / name, as_version=4)


def pictures(notebook):
    """Return all pictures, those within an HTML output too, as arrays."""
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", [])
             if "data" in output]  # fmt: skip
    found = [data["image/png"] for data in shown if "image/png" in data]
    for data in shown:
        parts = data.get("text/html", "").split("data:image/png;base64,")[1:]
        found += [part.partition('"')[0] for part in parts]
    return [matplotlib.image.imread(io.BytesIO(base64.b64decode(each))) for each in found]


def test_every_notebook_is_tested():
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} == set(PROMISES)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PROMISES],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_notebook_runs_and_shows_its_pictures(name, tmp_path):
    count, files = PROMISES[name]
    notebook = read(name)
    # Its own assertions compare figures with torch, scikit-learn and formulas; a wrong one raises.
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    images = pictures(notebook)
    assert len(images) == count
    assert all(image[..., :3].std() > 0.05 for image in images)  # none is blank
    streams = [o for cell in notebook.cells for o in cell.get("outputs", []) if "name" in o]
    assert [o.text for o in streams if o.name == "stderr"] == []
    for file in files:
        assert (tmp_path / file).stat().st_size > 0


@pytest.mark.parametrize("name", PROMISES)
def test_notebook_is_kept_small_and_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert [cell.id for cell in notebook.cells] == [
        f"cell-{number}" for number in range(1, len(notebook.cells) + 1)
    ]
    assert (NOTEBOOKS / name).stat().st_size < 50_000


@pytest.mark.parametrize("name", PROMISES)
def test_no_cell_is_long(name):
    code = [cell.source for cell in read(name).cells if cell.cell_type == "code"]
    assert max(len(source.splitlines()) for source in code) < 40
