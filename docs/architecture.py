"""Read which module of fitorch imports which, and draw the packages for docs/design.md.

`python docs/architecture.py` prints the sizes, the longest chain of imports and the cycles;
`python docs/architecture.py docs/images/architecture.svg` draws them. tests/test_layers.py checks
the same imports against `LAYERS`.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import networkx as nx  # installed with torch

ROOT = Path(__file__).parent.parent
SIDE_FOLDERS = ("callbacks", "losses", "metrics")  # imported as fitorch.callbacks and so on

# A package may import what stands in a line above its own; names in one line do not import each
# other. The first lines know nothing of training.
LAYERS = (
    "version",
    "errors",
    "templates",
    "tree",
    "internals",
    "devices",
    "randomness",
    "files",
    "checks",
    "signatures",
    "environment",
    "distributed",
    "nets",
    "losses metrics",
    "data",
    "optim",
    "deepspeed",
    "plotting",
    "checkpoint",
    "callbacks",
    "history",
    "engine",
    "resume",
    "fitting",
    "inspection",
    "summary",
    "model",
    "compat vlog sklearn selfcheck",
    "__init__",
    "__main__",
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer.split()}


class Import(NamedTuple):
    """One import of a module by another.

    Attributes:
        importer: The module that imports, as "engine.loop".
        imported: The module that it imports from.
        name: The dotted name that it imports.
        kind: "top" if it runs when the importer is imported, "function" if it runs when a function
            is called, "type" if it is for type checkers alone.
        line: Its line in the importer.
    """

    importer: str
    imported: str
    name: str
    kind: str
    line: int


def unit(module: str) -> str:
    """Return the package of a module, or the module itself if it lies in the root."""
    return module.partition(".")[0]


@cache
def modules() -> dict[str, Path]:
    """Return the file of each module, by the module's name within fitorch."""
    files = {}
    for folder in ("trainer", *SIDE_FOLDERS):
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            files[".".join(parts if folder in SIDE_FOLDERS else parts[1:])] = file
    return files


@cache
def imports() -> list[Import]:
    """Return all imports of fitorch's modules among each other."""
    return [each for name in modules() for each in _Reader(name).imports()]


class _Reader(ast.NodeVisitor):
    """Collects the imports of one module."""

    def __init__(self, module: str) -> None:
        self._module, self._package = module, module.split(".")[:-1]
        self._kind = "top"
        self._found: list[Import] = []

    def imports(self) -> list[Import]:
        self.visit(ast.parse(modules()[self._module].read_text(encoding="utf-8")))
        return self._found

    def visit_If(self, node: ast.If) -> None:
        if not ast.unparse(node.test).endswith("TYPE_CHECKING"):
            self.generic_visit(node)
            return
        self._visit_as("type", node.body)
        self._visit_as(self._kind, node.orelse)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_as("function" if self._kind == "top" else self._kind, node.body)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.partition(".")[0] == "fitorch":
                self._add(alias.name.partition(".")[2], node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module.split(".") if node.module else []
        if node.level:
            base = self._package[: len(self._package) - node.level + 1] + base
        elif base[0] == "fitorch":
            base = base[1:]
        else:
            return
        for alias in node.names:
            self._add(".".join([*base, alias.name]), node.lineno)

    def _visit_as(self, kind: str, nodes: list[ast.stmt]) -> None:
        before, self._kind = self._kind, kind
        for node in nodes:
            self.visit(node)
        self._kind = before

    def _add(self, name: str, line: int) -> None:
        self._found.append(Import(self._module, _module_of(name), name, self._kind, line))


def _module_of(name: str) -> str:
    """Return the module that an imported dotted name is, or is defined in."""
    while name and name not in modules():
        if f"{name}.__init__" in modules():
            return f"{name}.__init__"
        name = name.rpartition(".")[0]
    return name or "__init__"


def graph(*kinds: str) -> nx.DiGraph:
    """Return the graph of the modules with the imports of some kinds."""
    edges = ((i.importer, i.imported) for i in imports() if i.kind in kinds)
    found = nx.DiGraph(edge for edge in edges if edge[0] != edge[1])
    found.add_nodes_from(modules())
    return found


def cycles(*kinds: str) -> list[list[str]]:
    """Return the groups of modules that import each other by imports of some kinds."""
    groups = nx.strongly_connected_components(graph(*kinds))
    return [sorted(group) for group in groups if len(group) > 1]


def sizes() -> dict[str, tuple[int, int]]:
    """Return the files and the lines of each package."""
    files, lines = Counter(), Counter()
    for name, file in modules().items():
        files[unit(name)] += 1
        lines[unit(name)] += len(file.read_text(encoding="utf-8").splitlines())
    return {name: (files[name], lines[name]) for name in sorted(files, key=RANK.__getitem__)}


def report() -> Iterator[str]:
    """Yield the lines of a report on the architecture."""
    for name, (files, lines) in sizes().items():
        yield f"{name:12} {files:4} files {lines:6} lines"
    chain = nx.dag_longest_path(graph("top"))
    edges = graph("top", "function", "type").number_of_edges()
    yield f"{len(modules())} modules, {edges} imports"
    yield f"longest chain, {len(chain)} modules: {' > '.join(chain)}"
    for kinds in (("top",), ("top", "function"), ("top", "function", "type")):
        yield f"cycles by imports of kind {', '.join(kinds)}: {cycles(*kinds)}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        from architecture_picture import draw

        draw(Path(sys.argv[1]))
    else:
        sys.stdout.write("\n".join(report()) + "\n")
