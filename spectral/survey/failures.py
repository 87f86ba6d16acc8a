"""What went wrong with images: a file each, so that processes tell each other without a connection."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from spectral.errors import FileContentError
from spectral.survey.folder import Folder

log = logging.getLogger("spectral")

WHOLLY = ""  # the noise level of a failure that is of none


class Failures:
    """Failures since a time; those from before are tried again, and forgotten when they are.

    Args:
        folder: the survey's.
        since: by the clock of the folder's disk, in nanoseconds.
    """

    def __init__(self, folder: Folder, since: int) -> None:
        self.folder, self.since = folder, since
        self.own: dict[str, dict[str, str]] = {}  # of this process, whatever becomes of the disk's clock

    def of(self, name: str) -> dict[str, str]:
        """What went wrong with an image, by noise level."""
        path, own = self.folder.failure(name), self.own.get(name, {})
        try:
            if path.stat().st_mtime_ns < self.since:
                return own
            return self.folder.errors(path)[1] | own
        except (FileNotFoundError, FileContentError):
            return own

    def add(self, name: str, level: str, error: Exception) -> None:
        """Note an error at a noise level, or WHOLLY."""
        text = f"{type(error).__name__}: {error}"
        log.warning("%s%s: %s", name, f" at sigma {level}" if level else "", text)
        self.own[name] = self.of(name) | {level: text}
        self.folder.write(self.folder.failure(name), {"image": name, "errors": self.own[name]})

    def forget(self, name: str) -> None:
        """Forget what is from before."""
        if not self.of(name):
            self.folder.failure(name).unlink(missing_ok=True)

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget failures of images that are not asked for any more."""
        asked = {self.folder.failure(name) for name in names}
        for path in self.folder.failures():
            if path not in asked:
                path.unlink(missing_ok=True)
