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
    """Which test failed, and why, as soon as it did: where many run at once pytest keeps that for the end.

    A run that is cut, or whose processes do not come to their end, has then told it.
    """

    def __init__(self, terminal: Any) -> None:
        self.terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Its name, and the last lines."""
        if report.failed:
            lines = [f"{report.nodeid} ({report.when}):", *report.longreprtext.splitlines()[-12:]]
            self.terminal.write_line("\n" + "\n".join(lines))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Where several processes run tests, in the one that hears of them all."""
    config = session.config
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None and config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Told(terminal))
