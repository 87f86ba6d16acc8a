"""Every `>>>` in the docstring of a public name is true."""

import doctest
import importlib

import pytest
import torch

import denoisers
import spectral

PACKAGES = [
    "spectral",
    "spectral.operators",
    "spectral.solvers",
    "denoisers",
    *(
        f"denoisers.{name}"
        for name in ("adapters", "evaluation", "images", "networks", "sampling", "training")
    ),
]
FRONT_DOORS = (
    "top_eigs",
    "top_svd",
    "top_eigs_full",
    "trace",
    "sure",
    "spectral_density",
    "jacobian",
    "posterior",
)


def examples():
    """(name, doctest), of the docstrings of public names and of their methods."""
    finder, seen = doctest.DocTestFinder(exclude_empty=True), set()
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            obj = getattr(package, name)
            if id(obj) not in seen and callable(obj):
                seen.add(id(obj))
                # What is public may live in another module than the one that it is taken from.
                found = finder.find(obj, f"{package.__name__}.{name}", module=False, globs={})
                yield from ((test.name, test) for test in found if test.examples)


FOUND = dict(examples())


def test_front_doors_have_examples():
    assert {f"spectral.{name}" for name in FRONT_DOORS} <= set(FOUND)


@pytest.mark.parametrize("name", FOUND)
def test_example(name):
    test = FOUND[name]
    test.globs.update(torch=torch, spectral=spectral, denoisers=denoisers)
    told = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=told.append)
    assert results.attempted and not results.failed, "".join(told)
