"""What mkdocs does beside its own: pages made of files outside of docs/, and links to them.

Each example and benchmark has a page that shows it; what stands between `<!-- include README.md: A
title -->` and `<!-- end -->` becomes that section of the README, so that no table is kept twice.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
SHOWN = ("examples", "benchmarks")
COPIED = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")
_OUTSIDE = re.compile(r"\]\(\.\./((?:examples/|benchmarks/)?\w+)\.(?:py|md)(#[\w-]+)?\)")
_INCLUDED = re.compile(r"<!-- include (\S+): (.+?) -->.*?<!-- end -->", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of what lies outside of docs/."""
    for folder in SHOWN:
        for path in sorted((ROOT / folder).glob("*.py")):
            add(files, config, f"{folder}/{path.stem}.md", source_page(path))
    add(files, config, "examples/index.md", examples_page())
    for name in COPIED:
        text = (ROOT / name).read_text(encoding="utf-8")
        add(files, config, name, re.sub(r"\]\((\.\./)?docs/", r"](\1", text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put included sections in, and lead links that leave docs/ to the pages made of their ends."""
    markdown = _INCLUDED.sub(lambda found: section(found[1], found[2]), markdown)
    if page.file.src_uri == "errors.md":  # long lines, which are no pictures: they may wrap
        markdown = markdown.replace("```text\n", "``` {.text .messages}\n")
    return markdown if "/" in page.file.src_uri else _OUTSIDE.sub(inside, markdown)


def add(files: Files, config: MkDocsConfig, name: str, text: str) -> None:
    """Add a page that is in no file of docs/."""
    files.append(File.generated(config, name, content=text))


def source_page(path: Path) -> str:
    """Return a page that shows a program, below what its docstring says."""
    text = path.read_text(encoding="utf-8")
    told = ast.get_docstring(ast.parse(text)) or ""
    return f"# {path.parent.name}/{path.name}\n\n{told}\n\n````python\n{text}````\n"


def examples_page() -> str:
    """Return the list of the examples, with the first lines of their docstrings."""
    rows = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        told = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")
        rows.append(f"| [{path.name}]({path.stem}.md) | {' '.join(told[0].split())} |")
    return "# Examples\n\n| program | what it shows |\n|---|---|\n" + "\n".join(rows) + "\n"


def section(name: str, title: str) -> str:
    """Return what stands below a title of a file in the project's folder, links led to docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if found is None:
        message = f"{name} has no section {title!r}"
        raise ValueError(message)
    return found[1].replace("](docs/", "](").strip()


def inside(found: re.Match[str]) -> str:
    """Return a link to the page that stands for a file outside of docs/."""
    return f"]({found[1]}.md{found[2] or ''})"
