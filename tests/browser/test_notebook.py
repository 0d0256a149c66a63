"""A notebook with a fit, executed and exported as a page: what a reader of it sees."""

import nbformat
import pytest
from nbclient import NotebookClient

from browser.chromium import share_of

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]
BLUE = "#0b6bcb"  # of the line of validation
CELLS = (
    """
import torch
from torch import nn
from fitorch import KerasModel

torch.manual_seed(0)
x = torch.randn(512, 3)
model = KerasModel(nn.Linear(3, 1), "mse", {"mae": "mae"}, "adam")
frame = model.fit((x, x[:, :1]), validation_split=0.25, epochs=50, seed=0)
""",
    "'the cell after it'",
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    exporters = pytest.importorskip("nbconvert", reason="pip install nbconvert")
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    text, _ = exporters.HTMLExporter().from_notebook_node(notebook)
    path = folder / "notebook.html"
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


def test_a_fit_is_one_output_with_its_last_picture(page, exported):
    page.open(exported)
    outputs = page.texts(".jp-Cell:first-of-type .jp-OutputArea-output")
    assert len(outputs) == 1
    assert "trained 50 epochs" in outputs[0]
    assert "50/50" in outputs[0]
    assert outputs[0].count("training Linear") == 1
    sizes = page.pictures(".jp-OutputArea-output img")
    assert len(sizes) == 1
    assert min(sizes[0]) > 200
    assert share_of(page.look(".jp-OutputArea-output img"), BLUE) > 0.001
    assert page.texts(".jp-OutputArea-output")[1:] == ["'the cell after it'"]


def test_the_picture_stands_within_the_cell(page, exported):
    page.open(exported)
    left, top, right, bottom = page.evaluate(
        "(() => { const box = document.querySelector('.jp-OutputArea-output img')"
        ".getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]; })()"
    )
    cell = page.evaluate(
        "(() => { const box = document.querySelector('.jp-Cell').getBoundingClientRect();"
        "return [box.left, box.top, box.right, box.bottom]; })()"
    )
    assert cell[0] <= left < right <= cell[2]
    assert cell[1] < top < bottom <= cell[3]
