"""Rendezvous of processes that torchrun has restarted after a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Any

_SCHEME = "fitorch-restart"


def init_method() -> str | None:
    """Return torch's `init_method` for restarted processes, None for the default.

    torchrun may keep its store, which still holds the addresses of the processes that failed.
    Restarted processes must not read them, so they use keys with another prefix.
    """
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    _register()
    return f"{_SCHEME}://"


# torch refuses to register a scheme twice.
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
