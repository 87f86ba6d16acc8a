"""What a process has once: torch's forward mode, and the flags, attributes and hooks of a model."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Alone:
    """A lock that the thread which holds it may take again, and threads that it waits for may do without.

    On a GPU torch goes back through a graph in a thread of its own, of which the caller's waits for the end.
    """

    def __init__(self) -> None:
        self._lock, self._here = threading.RLock(), threading.local()

    def __enter__(self) -> None:
        """Take it."""
        if not self._works:
            self._lock.acquire()

    def __exit__(self, *told: object) -> None:
        """Give it back."""
        if not self._works:
            self._lock.release()

    @contextlib.contextmanager
    def working_for(self, thread: int) -> Iterator[None]:
        """This thread works for the one that holds the lock, by its number, where it is another."""
        before = self._works
        self._here.works = before or threading.get_ident() != thread
        try:
            yield
        finally:
            self._here.works = before

    @property
    def _works(self) -> bool:
        return getattr(self._here, "works", False)


# Held by the thread that calls a model, or differentiates an operation forwards.
ALONE = Alone()
