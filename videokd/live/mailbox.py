"""Hands complete windows from the threads that read sources to the one that labels them: one place for each source."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_LOOKS_SECONDS = 0.1


class Mailbox(Generic[T]):
    """One place for each source; what waits there is replaced, or waited for, as the source wants.

    `stopped` is set to end all waiting.

    Args:
        count: number of sources; each has a number from 0, and is open until `close`.
    """

    def __init__(self, count: int) -> None:
        self._changed = threading.Condition()
        self._places: dict[int, T] = {}
        self._open = set(range(count))
        self.stopped = threading.Event()

    def put(self, number: int, item: T, *, may_wait: Callable[[], bool]) -> bool:
        """Puts an item into the place of a source.

        Args:
            number: of the source.
            item: the item.
            may_wait: asked while another item is there; if it may not wait, that one is replaced.

        Returns:
            Whether an item was replaced.
        """
        with self._changed:
            while number in self._places and may_wait() and not self.stopped.is_set():
                self._changed.wait(_LOOKS_SECONDS)
            replaced = number in self._places
            self._places[number] = item
            self._changed.notify_all()
            return replaced

    def close(self, number: int) -> None:
        """A source gives no further items."""
        with self._changed:
            self._open.discard(number)
            self._changed.notify_all()

    def take(self) -> dict[int, T] | None:
        """All items that are there, by source; nothing after a short wait if there are none; None when no more can come."""
        with self._changed:
            if not self._places and self._open:
                self._changed.wait(_LOOKS_SECONDS)
            if not self._places:
                return {} if self._open else None
            items, self._places = self._places, {}
            self._changed.notify_all()
            return items
