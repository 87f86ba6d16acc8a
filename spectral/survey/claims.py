"""Who works on which image: a byte of one file for each, locked as long as a process works on it.

The system lets go of a process's locks when it ends, however it ends, so that no claim outlives its holder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
from pathlib import Path
from typing import IO, Self

try:
    import fcntl
except ImportError:  # where there are no such locks, images are shared out by rank alone
    fcntl = None  # type: ignore[assignment]

HELD = (errno.EAGAIN, errno.EACCES)


class Claims:
    """Locks of bytes of a file, one a name, between processes.

    Attributes:
        shared: whether others see them: the system and the disk have such locks.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.shared = path, fcntl is not None
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        # Closing any other handle on the file would let go of all: it is opened here and nowhere else.
        self._file = self.path.open("a+b")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def take(self, name: str) -> bool:
        """Whether the name is now this process's."""
        if fcntl is None or self._file is None or not self.shared:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(name))
        except OSError as failure:
            if failure.errno in HELD:
                return False
            self.shared = False
        return True

    def release(self, name: str) -> None:
        """Let others have it."""
        if fcntl is not None and self._file is not None and self.shared:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(name))


def _place(name: str) -> int:
    """A byte of its own for every name, but for one chance in 2^60."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 4
