"""fitorch, as contenders.py builds it; imported here, so that its import is timed."""

from __future__ import annotations

from contenders import fitorch_compiled, fitorch_loader, fitorch_tensors

import fitorch

__all__ = ["fitorch", "fitorch_compiled", "fitorch_loader", "fitorch_tensors"]
