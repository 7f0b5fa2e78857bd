"""Somebody else who acts between two I/Os of the code under test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from model_release.repository.store import ObjectStore


@contextmanager
def acting_before(nth: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let `act` happen just before the `nth` read or write of an object; raises AssertionError when there was none."""
    seen, acted = 0, False

    def hooked(whole: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(store: ObjectStore, *arguments: Any, **named: Any) -> Any:
            nonlocal seen, acted
            seen += 1
            if seen == nth and not acted:
                acted = True
                act()
            return whole(store, *arguments, **named)

        return stepped

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "get", hooked(ObjectStore.get))
        patch.setattr(ObjectStore, "put", hooked(ObjectStore.put))
        yield
    assert acted, f"it had {seen} I/Os, which are fewer than {nth}"
