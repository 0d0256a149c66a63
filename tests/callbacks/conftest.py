"""What several tests of callbacks compare with."""

import os

import pytest


@pytest.fixture(scope="session")
def theirs(tmp_path_factory):
    """keras.callbacks on torch; importing it leaves no file and no variable behind."""
    before = dict(os.environ)
    os.environ |= {"KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path_factory.mktemp("keras"))}
    try:
        keras = pytest.importorskip("keras")
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
    return keras.callbacks
