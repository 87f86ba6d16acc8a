"""Where the commands begin, outside of both packages, whose import takes seconds: Ctrl-C may come then."""

import importlib
import sys

INTERRUPTED = 130


def spectral() -> None:
    """The command `spectral`."""
    _run("denoisers.commands.spectra")


def denoisers() -> None:
    """The command `denoisers`."""
    _run("denoisers.commands.networks")


def _run(module: str) -> None:
    try:
        importlib.import_module(module).app()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)
