"""Which revision of their code a folder holds, read without git itself where that is possible."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

_PATIENCE = 5.0  # seconds that git may take to look through a folder

_DIGITS = set("0123456789abcdef")


class Revision(NamedTuple):
    """A commit that was checked out.

    Attributes:
        commit: Its hexadecimal number.
        branch: The branch, "" where there is none.
        folder: Where that was asked.
    """

    commit: str
    branch: str
    folder: Path


def revision(folder: Path | None = None) -> Revision | None:
    """Return what is checked out around a folder, None where that can't be told.

    It reads two small files and starts no process, so that a fit can afford it.

    Args:
        folder: The folder; None is the working directory.
    """
    try:
        folder = folder or Path.cwd()
        git = _git_folder(folder)
        return None if git is None else _head(git, folder)
    except (OSError, ValueError):  # no such file, or no text
        return None


def is_changed(folder: Path) -> bool | None:
    """Say whether files that git knows differ from the commit; None where that can't be told."""
    command = ["git", "--no-optional-locks", "status", "--porcelain", "--untracked-files=no"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            timeout=_PATIENCE,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):  # there is no git, or it refuses
        return None
    return bool(done.stdout.strip())


def _git_folder(folder: Path) -> Path | None:
    """Return the `.git` of a folder, or of the nearest that it is in."""
    for parent in (folder, *folder.parents):
        git = parent / ".git"
        if git.is_file():  # of a worktree or a submodule: it names the real one
            return parent / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        if git.is_dir():
            return git
    return None


def _head(git: Path, folder: Path) -> Revision | None:
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref:"):
        return _checked(head, "", folder)
    name = head.removeprefix("ref:").strip()
    common = git / "commondir"
    shared = git / common.read_text(encoding="utf-8").strip() if common.is_file() else git
    branch = name.removeprefix("refs/heads/")
    for place in (git, shared):
        if (place / name).is_file():
            return _checked((place / name).read_text(encoding="utf-8").strip(), branch, folder)
    for line in (shared / "packed-refs").read_text(encoding="utf-8").splitlines():
        commit, _, packed = line.partition(" ")
        if packed == name:
            return _checked(commit, branch, folder)
    return None


def _checked(commit: str, branch: str, folder: Path) -> Revision | None:
    return Revision(commit, branch, folder) if commit and _DIGITS.issuperset(commit) else None
