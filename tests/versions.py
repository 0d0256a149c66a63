"""Marks of tests for what the oldest torch that is allowed can't do."""

import pytest
import torch


def since_torch(version):
    """Return a mark that skips a test where torch is older."""
    return pytest.mark.skipif(torch.__version__ < version, reason=f"needs torch {version}")
