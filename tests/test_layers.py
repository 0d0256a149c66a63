"""Imports run one way: a package imports only what stands above it in `LAYERS`."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch

import pytest

from architecture import RANK, ROOT, SIDE_FOLDERS, cycles, imports, modules, unit

# Packages whose `__init__` exports names. Any other `__init__` is a docstring alone.
# Modules of the root that the picture draws as one row, its names shortened.
FOLDED = {"checks", "environment", "files", "randomness"}
EXPORTING = {"", "checkpoint", "sklearn", *SIDE_FOLDERS}


def test_every_module_has_its_layer():
    assert {unit(name) for name in modules()} == RANK.keys()


def test_imports_run_downward():
    upward = [
        f"{each.importer}:{each.line} imports {each.name} ({each.kind})"
        for each in imports()
        for importer, imported in [(unit(each.importer), unit(each.imported))]
        if importer != imported and RANK[imported] >= RANK[importer]
    ]
    assert not upward


@pytest.mark.parametrize("kinds", [("top",), ("top", "function")])
def test_no_modules_import_each_other(kinds):
    assert cycles(*kinds) == []


def test_no_private_name_crosses_a_file():
    private = re.compile(r"_[^_]")
    crossing = [
        f"{each.importer}:{each.line} imports {each.name}"
        for each in imports()
        if private.match(each.name.rpartition(".")[2])
    ]
    assert not crossing


def test_a_package_is_its_docstring():
    with_code = [
        name
        for name, file in modules().items()
        if name.endswith("__init__")
        and name.removesuffix("__init__").rstrip(".") not in EXPORTING
        and len(ast.parse(file.read_text(encoding="utf-8")).body) != 1
    ]
    assert not with_code


def test_the_wheel_contains_every_package():
    table = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("\npackages = [")[1]
    packages = {
        ".".join(["fitorch", *name.split(".")[:-1]])
        for name in modules()
        if name.endswith("__init__")
    }
    assert set(re.findall(r'"(fitorch[a-z_.]*)"', table.split("]")[0])) == packages


def test_the_wheel_contains_every_template():
    table = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("\npackage-data = ")[1]
    patterns = re.findall(r'"(\*\.[a-z]+)"', table.splitlines()[0])
    files = {file.name for file in (ROOT / "trainer/templates").iterdir() if file.is_file()}
    packaged = {name for name in files if any(fnmatch(name, pattern) for pattern in patterns)}
    assert files - packaged == {"__init__.py", "rendering.py"}


def test_the_design_names_files_and_packages_that_exist():
    page = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    files = set(re.findall(r"(?<![\w/])((?:[a-z_]+/)*[a-z_]+\.py)\b", page))
    folders = (ROOT / "trainer", ROOT)
    gone = [file for file in files if not any((folder / file).is_file() for folder in folders)]
    assert len(files) > 40
    assert not gone
    picture = (ROOT / "docs/images/architecture.svg").read_text(encoding="utf-8")
    assert [name for name in RANK if name.strip("_") not in picture and name not in FOLDED] == []


# Types of accelerators, and names in torch that exist for one of them alone.
DEVICE_TYPES = {"cuda", "mps", "xpu", "npu", "hpu", "mtia", "mlu", "musa"}


def device_names(tree):
    """Yield the lines of a module that name a type of device."""
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        named = isinstance(text, str) and text.partition(":")[0] in DEVICE_TYPES
        base = node.value if isinstance(node, ast.Attribute) else None
        of_torch = isinstance(base, ast.Name) and base.id == "torch"
        if named or (of_torch and node.attr in DEVICE_TYPES):
            yield node.lineno
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute):
            compared = any(isinstance(each, ast.Constant) for each in node.comparators)
            if node.left.attr == "type" and compared:
                yield node.lineno


def test_only_the_package_of_devices_names_types_of_devices():
    naming = [
        f"{name}:{line}"
        for name, file in modules().items()
        if unit(name) != "devices"
        for line in device_names(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert naming == []


@pytest.mark.parametrize(
    "line", ['x.to("cuda")', 'f("cuda:1")', "torch.xpu.x()", 'd.type == "cpu"', "torch.mps.f"]
)
def test_a_line_that_names_a_device_is_found(line):
    assert list(device_names(ast.parse(line)))
