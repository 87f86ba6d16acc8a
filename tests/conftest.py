"""Settings of all tests."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings

# A machine that is slow, or busy, or compiling, is not wrong.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """torch's number of threads is left as it was: more than cores make all that follows ten times slower."""
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


class Told:
    """Why a test failed, as soon as it did: where many run at once pytest keeps that for the end."""

    def __init__(self, terminal: Any) -> None:
        self.terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Its last lines."""
        if report.failed:
            self.terminal.write_line("\n" + "\n".join(report.longreprtext.splitlines()[-12:]))


def pytest_sessionstart(session: pytest.Session) -> None:
    """With -vv."""
    config = session.config
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None and config.get_verbosity() > 0 and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Told(terminal))
