"""Ctrl-C at one call of a function."""

import functools
import itertools


def interrupted(function, at):
    """The function, in place of whose call number `at`, counted from 1, KeyboardInterrupt comes."""
    numbers = itertools.count(1)

    @functools.wraps(function)
    def called(*given, **options):
        if next(numbers) == at:
            raise KeyboardInterrupt
        return function(*given, **options)

    return called
