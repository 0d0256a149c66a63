"""What the documents say is true: the README's programs run, the docstrings' examples hold."""

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import fitorch
from versions import since_torch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = (
    ["fitorch"]
    + [m.name for m in pkgutil.walk_packages(fitorch.__path__, "fitorch.")]
    + [
        f"fitorch.{package}.{module.name}"
        for package in ("callbacks", "losses", "metrics")
        for module in pkgutil.iter_modules(importlib.import_module(f"fitorch.{package}").__path__)
    ]
)


def pages():
    """Return the documents for parametrize; some compile or shard nets, or start processes."""
    since = since_torch("2.13")
    marks = {"distributed.md": [since, pytest.mark.slow], "faster.md": [since]}
    found = sorted((ROOT / "docs").glob("*.md"))
    return [pytest.param(page, id=page.name, marks=marks.get(page.name, ())) for page in found]


def test_the_readmes_programs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    programs = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(programs) >= 2
    namespace: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        for program in programs:
            exec(compile(program, "README.md", "exec"), namespace)
    assert "val_loss" in shown.getvalue()
    assert namespace["probability"].shape == (5000, 1)
    assert (tmp_path / "runs/first/best.safetensors").is_file()


@pytest.mark.parametrize("page", pages())
def test_the_pages_programs_run_and_their_links_lead_somewhere(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    text = page.read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert programs
    namespace: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for program in programs:
            exec(compile(program, page.name, "exec"), namespace)
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


def test_the_readmes_circle_is_learned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict = {}
    program = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(program, "README.md", "exec"), namespace)
    assert namespace["history"]["val_acc"].max() > 0.95


def test_the_readmes_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_readmes_commands_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, flags=re.MULTILINE), command


@pytest.mark.parametrize("name", sorted(set(MODULES)))
def test_the_docstrings_examples_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
