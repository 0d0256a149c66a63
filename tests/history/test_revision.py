"""The revision that is checked out, compared with what git itself says."""

import os
import shutil
import subprocess

import pytest

from fitorch.history.revision import is_changed, revision
from repositories import git

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init")
    (folder / "train.py").write_text("1\n")
    git(folder, "add", "train.py")
    git(folder, "commit", "-m", "first")
    return folder


def test_the_commit_and_its_branch_are_found_from_a_folder_within(folder):
    (folder / "deep").mkdir()
    found = revision(folder / "deep")
    assert found.commit == git(folder, "rev-parse", "HEAD")
    assert found.branch == "trunk"


def test_packed_branches_are_found_too(folder):
    git(folder, "checkout", "-b", "with/slash")
    git(folder, "pack-refs", "--all")
    assert not (folder / ".git/refs/heads/with/slash").exists()
    found = revision(folder)
    assert (found.commit, found.branch) == (git(folder, "rev-parse", "HEAD"), "with/slash")


def test_without_a_branch_there_is_the_commit(folder):
    git(folder, "checkout", "--detach")
    assert revision(folder)[:2] == (git(folder, "rev-parse", "HEAD"), "")


def test_a_worktree_has_its_own(folder, tmp_path):
    git(folder, "worktree", "add", "-b", "side", str(tmp_path / "side"))
    (tmp_path / "side/train.py").write_text("2\n")
    git(tmp_path / "side", "commit", "-am", "second")
    found = revision(tmp_path / "side")
    assert (found.commit, found.branch) == (git(tmp_path / "side", "rev-parse", "HEAD"), "side")
    assert revision(folder).commit != found.commit


def test_changes_are_seen_and_files_that_git_does_not_know_are_none(folder):
    (folder / "new.txt").write_text("")
    assert is_changed(folder) is False
    (folder / "train.py").write_text("2\n")
    assert is_changed(folder) is True


def test_before_the_first_commit_there_is_none(tmp_path):
    git(tmp_path, "init")
    assert revision(tmp_path) is None


def test_nothing_is_known_of_other_folders(tmp_path):
    assert revision(tmp_path) is None
    assert is_changed(tmp_path) is None
    assert is_changed(tmp_path / "gone") is None


def test_without_git_nothing_is_known(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert revision(folder) is None
    assert is_changed(folder) is None


def test_a_git_that_hangs_is_given_up(folder, tmp_path, monkeypatch):
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("fitorch.history.revision._TIMEOUT", 0.1)
    assert revision(folder) is None
    assert is_changed(folder) is None


def test_git_is_asked_again_once_head_has_changed(folder, monkeypatch):
    first, run = revision(folder), subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process"))
    assert revision(folder) == first
    monkeypatch.setattr(subprocess, "run", run)
    git(folder, "commit", "--allow-empty", "-m", "second")
    second = revision(folder)
    assert second.commit == git(folder, "rev-parse", "HEAD") != first.commit
    git(folder, "checkout", "-b", "other")
    assert revision(folder) == (second.commit, "other", folder)
    git(folder, "reset", "--hard", first.commit)
    assert revision(folder) == (first.commit, "other", folder)


def test_outside_a_repository_no_process_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process"))
    assert revision(tmp_path) is None


@pytest.mark.parametrize("head", [b"", b"\xff\xfe", b"ref: refs/heads/none", b"nonsense"])
def test_a_broken_repository_has_none(folder, head):
    (folder / ".git/HEAD").write_bytes(head)
    assert revision(folder) is None


def test_a_working_directory_that_is_gone_has_none(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert revision() is None
