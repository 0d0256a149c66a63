"""What a table of layers looks like, and what is said where there can be none."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from fitorch import KerasModel, ShapeError, flop_summary, summary
from fitorch.summary import Summary
from inspection.tables import Circle, Returns, cells, quiet


def test_a_layer_that_fails_is_named_below_the_layers_up_to_it(capsys):
    net = nn.Sequential(nn.Linear(2, 4), nn.Sequential(nn.ReLU(), nn.Linear(5, 3)), nn.Linear(3, 1))
    with pytest.raises(ShapeError) as caught:
        summary(net, torch.randn(6, 2))
    text = str(caught.value)
    assert "mat1 and mat2 shapes cannot be multiplied (6x4 and 5x3)" in text
    assert "[in 1.1 (Linear), which got float32 (6, 4)]" in text
    assert isinstance(caught.value.__cause__, RuntimeError)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[3:8]] == [
        ["Sequential"],
        ["├─", "0", "(Linear)", "[-1,", "4]", "12"],
        ["└─", "1", "(Sequential)"],
        ["├─", "0", "(ReLU)", "[-1,", "4]", "0"],
        ["└─", "1", "(Linear)", "18", "failed", "here"],
    ]
    assert not any("2 (Linear)" in line for line in lines)


def test_an_error_of_another_kind_keeps_its_type_and_says_where():
    class Broken(nn.Module):
        def forward(self, x):
            return x.no_such_thing

    with pytest.raises(AttributeError) as caught:
        quiet(nn.Sequential(nn.Linear(2, 4), Broken()), torch.randn(6, 2))
    assert "in 1 (Broken), which got float32 (6, 4)" in str(
        [*getattr(caught.value, "__notes__", []), *caught.value.args]
    )


def test_floats_for_an_embedding_are_explained():
    with pytest.raises(RuntimeError) as caught:
        quiet(nn.Sequential(nn.Embedding(9, 5)), input_shape=(4,))
    told = str([*getattr(caught.value, "__notes__", []), *caught.value.args])
    assert "pass them, or input_dtype=torch.long" in told


def test_a_net_that_catches_a_layers_error_goes_on():
    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.wrong, self.right = nn.Linear(9, 9), nn.Linear(2, 3)

        def forward(self, x):
            try:
                return self.wrong(x)
            except RuntimeError:
                return self.right(x)

    table = quiet(Tries(), torch.randn(5, 2))
    assert cells(table, "right")[0] == ["[-1, 3]"]
    assert cells(table, "Tries")[0] == ["[-1, 3]"]


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "text"),
    [
        ((), {}, ValueError, "got neither; pass a batch"),
        ((torch.ones(2, 2),), {"input_shape": (2,)}, ValueError, "but got both"),
        ((3,), {}, TypeError, "features is a int; expected a batch"),
        (("x",), {}, TypeError, "features is a str; expected a batch"),
        (((3, 32, 32),), {}, TypeError, "or input_shape="),
        ((), {"input_shape": 3}, TypeError, "input_shape has 3; expected sizes"),
        ((), {"input_shape": (-1, 3)}, ValueError, "omit the batch dimension"),
        ((), {"input_shape": (2,), "input_dtype": "no"}, TypeError, "input_dtype='no'"),
        ((), {"input_shape": [(2,), "ab"]}, TypeError, "input_shape has 'ab'"),
    ],
)
def test_what_is_no_batch_and_no_shape_is_refused(args, kwargs, error, text):
    with pytest.raises(error, match=text.replace("(", r"\(")):
        quiet(Circle(), *args, **kwargs)


@pytest.mark.parametrize("show", [summary, flop_summary])
def test_what_is_no_net_is_refused(show):
    with pytest.raises(TypeError, match="net is a function; expected a"):
        show(lambda x: x, torch.ones(2, 2))


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_a_compiled_net_is_shown_uncompiled():
    net = Circle()
    assert quiet(torch.compile(net), torch.randn(5, 2)).total_params == 61
    net.compile()
    before = net._compiled_call_impl
    assert cells(quiet(net, torch.randn(5, 2)), "fc1")[0] == ["[-1, 4]"]
    assert net._compiled_call_impl is before


def test_a_model_shows_its_net(capsys):
    model = KerasModel(Circle(), "mse")
    table = model.summary(torch.randn(100, 2))
    assert isinstance(table, Summary)
    assert capsys.readouterr().out == f"{table}\n"
    assert model.summary(input_shape=(2,), verbose=0).total_params == 61


def test_the_interpreter_shows_no_second_table():
    assert repr(quiet(Circle(), input_shape=(2,))) == "<Summary of Circle: 61 parameters>"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_text_keeps_to_its_width(width):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a_rather_long_name = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64))
            self.again = self.a_rather_long_name[1]

        def forward(self, x):
            return {"features": self.again(self.a_rather_long_name(x))}

    table = quiet(Net(), torch.randn(128, 3, 128, 128)[:2])
    flops = flop_summary(Net(), torch.randn(2, 3, 128, 128), backward=True, verbose=0)
    for shown in (table, flops):
        lines = shown.text(width).splitlines()
        assert max(map(len, lines)) <= width
        assert shown.text(200) == str(shown)
    assert "same as a_rather_long_name.1"[:20] in table.text(width)


def test_a_terminal_without_line_drawing_gets_plain_letters(capsys, monkeypatch):
    class Ascii:
        encoding = "ascii"

        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stdout", Ascii())
    summary(Circle(), torch.randn(5, 2))
    assert "|- fc1 (Linear)" in sys.stdout.text
    sys.stdout.text.encode("ascii")


@pytest.fixture
def notebook(monkeypatch):
    """IPython as it is in a notebook's kernel: what was published, and the number of the cell."""
    published = []
    shell = type("ZMQInteractiveShell", (), {"execution_count": 1})()
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: shell
    display.publish_display_data = published.append
    display.display = lambda shown: shown._ipython_display_()
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shell, published


def test_a_notebook_shows_the_table_once(notebook, capsys):
    shell, published = notebook
    table = summary(Circle(), torch.randn(5, 2))
    table._ipython_display_()  # as the last line of the cell
    assert len(published) == 1
    assert published[0]["text/plain"] == str(table)
    assert published[0]["text/html"].count("<tr>") >= 4
    assert capsys.readouterr().out == ""
    shell.execution_count = 2
    table._ipython_display_()  # `table` in a cell of its own
    assert len(published) == 2


def test_what_comes_from_the_net_is_escaped_in_html():
    kind = type("<script>alert(1)</script>", (nn.ReLU,), {})
    net = nn.Sequential()
    net.add_module("<b>'\"&", kind())
    html = quiet(Returns(lambda y: {"<i>": net(y)}), torch.randn(4, 3))._repr_html_()
    html += quiet(net, torch.randn(4, 3))._repr_html_()
    assert "<script" not in html
    assert "<i>" not in html
    assert "<b>" not in html
    assert "&lt;b&gt;&#39;&#34;&amp;" in html


def test_the_document_shows_what_is_printed(capsys):
    page = (Path(__file__).parents[2] / "docs" / "summary.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(python|text)\n(.*?)```", page, flags=re.DOTALL)
    assert [kind for kind, _ in blocks[:4]] == ["python", "text", "python", "text"]
    namespace = {}
    for program, text in ((blocks[0][1], blocks[1][1]), (blocks[2][1], blocks[3][1])):
        exec(compile(program, "summary.md", "exec"), namespace)
        assert capsys.readouterr().out == text
