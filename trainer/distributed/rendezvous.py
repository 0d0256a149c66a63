"""Where processes meet that torchrun has started again after a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Any

_SCHEME = "fitorch-again"


def meeting_point() -> str | None:
    """Return where processes meet, None for the usual place.

    torchrun may keep its store, in which still stand the addresses of those who are gone. Those of
    a second start must not read them.
    """
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    _register()
    return f"{_SCHEME}://"


@cache
def _register() -> None:
    from torch.distributed.rendezvous import register_rendezvous_handler

    register_rendezvous_handler(_SCHEME, _meet)


def _meet(_url: str, **options: Any) -> Iterator[tuple[Any, int, int]]:
    from torch.distributed import PrefixStore  # type: ignore[attr-defined] # public, but untyped
    from torch.distributed.rendezvous import rendezvous

    start = os.environ["TORCHELASTIC_RESTART_COUNT"]
    for store, rank, count in rendezvous("env://", **options):
        yield PrefixStore(f"start-{start}", store), rank, count
