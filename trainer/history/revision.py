"""The git revision of the code in a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

_TIMEOUT = 5.0  # seconds, as on network file systems


class Revision(NamedTuple):
    """A commit that is checked out.

    Attributes:
        commit: The hexadecimal hash.
        branch: The branch, "" if the HEAD is detached.
        folder: A folder of the worktree.
    """

    commit: str
    branch: str
    folder: Path


def revision(folder: Path | None = None) -> Revision | None:
    """Return the revision that is checked out around a folder, None if there is none.

    Args:
        folder: The folder; None is the working directory.
    """
    try:
        folder = folder or Path.cwd()
    except OSError:  # someone has removed the working directory
        return None
    # Every fit calls this. Outside a repository it costs 20 µs instead of the 5 ms of a process.
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return None
    output = _git(folder, "rev-parse", "HEAD", "--abbrev-ref", "HEAD")
    if output is None:
        return None
    commit, branch = output.split()
    return Revision(commit, "" if branch == "HEAD" else branch, folder)


def is_changed(folder: Path) -> bool | None:
    """Return whether tracked files differ from the commit; None if git cannot tell."""
    # Without locks, so that this does not disturb a commit that someone makes meanwhile.
    output = _git(folder, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return None if output is None else bool(output.strip())


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git, None if it fails, is too slow, or is not installed."""
    try:
        process = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            check=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return process.stdout
