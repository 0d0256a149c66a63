"""The loops by hand of contenders.py, and the usual one with a fused optimizer."""

from __future__ import annotations

from functools import partial
from unittest import mock

import torch
from contenders import Run, ceiling, loader
from workloads import Workload

__all__ = ["ceiling", "loader", "loader_fused"]


def loader_fused(workload: Workload) -> Run:
    """Build the usual loop with the fused Adam that the peers get."""
    with mock.patch("torch.optim.Adam", partial(torch.optim.Adam, fused=True)):
        return loader(workload)
