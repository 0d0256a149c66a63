"""The git revision of the code in a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

_TIMEOUT = 5.0  # seconds, as on network file systems

# What git has said about each folder, and the state of HEAD then: every fit asks for the revision,
# and a process of git takes as long as a small fit.
_known: dict[Path, tuple[tuple[int, ...], str]] = {}


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
    # A look at folders is faster than a process of git, if there is no repository.
    git = next((p / ".git" for p in (folder, *folder.parents) if (p / ".git").exists()), None)
    if git is None:
        return None
    output = _rev_parse(folder, _head_state(git))
    if output is None:
        return None
    commit, branch = output.split()
    return Revision(commit, "" if branch == "HEAD" else branch, folder)


def is_changed(folder: Path) -> bool | None:
    """Return whether tracked files differ from the commit; None if git cannot tell."""
    # Without locks, so that this does not disturb a commit that someone makes meanwhile.
    output = _git(folder, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return None if output is None else bool(output.strip())


def _rev_parse(folder: Path, head: tuple[int, ...] | None) -> str | None:
    """Return the commit and the branch as git prints them; ask git only if HEAD has changed."""
    known = _known.get(folder)
    if head is not None and known is not None and known[0] == head:
        return known[1]
    output = _git(folder, "rev-parse", "HEAD", "--abbrev-ref", "HEAD")
    # Failures are not kept: git may have been too slow.
    if head is not None and output is not None:
        _known[folder] = head, output
    return output


def _head_state(git: Path) -> tuple[int, ...] | None:
    """Return what changes with every commit and checkout, None if that is not known.

    Git appends both to the reflog of HEAD; a `.git` that is a file leads to a folder elsewhere.
    """
    try:
        stats = [(git / name).stat() for name in ("HEAD", "logs/HEAD")]
    except OSError:
        return None
    return tuple(number for stat in stats for number in (stat.st_mtime_ns, stat.st_size))


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git, None if it fails, is too slow, or is not installed."""
    try:
        process = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            check=True,
            encoding="utf-8",
            # git must not wait for a password.
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return process.stdout
