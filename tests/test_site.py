"""What the site promises, as far as it can be told without building it."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PACKAGES = [
    "spectral",
    "spectral.solvers",
    "spectral.operators",
    "spectral.bases",
    "denoisers",
    "denoisers.adapters",
    "denoisers.networks",
    "denoisers.images",
    "denoisers.training",
    "denoisers.sampling",
    "denoisers.evaluation",
]


def listed():
    """The objects that the reference's pages name, by their ids; a name that leads nowhere is an error."""
    found = {}
    for page in (DOCS / "reference").glob("*.rst"):
        module = None
        for line in page.read_text().splitlines():
            if line.startswith(".. currentmodule::"):
                module = importlib.import_module(line.split("::")[1].strip())
            elif module and (name := re.fullmatch(r"   (\w+)|\.\. py:data:: (\w+)", line)):
                found[id(getattr(module, name[1] or name[2]))] = f"{page.stem}: {line.strip()}"
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_reference_has_every_public_name(package):
    module, reference = importlib.import_module(package), listed()
    public = {name: getattr(module, name) for name in module.__all__ if name != "__version__"}
    missing = [n for n, obj in public.items() if not inspect.ismodule(obj) and id(obj) not in reference]
    assert missing == []


def test_every_page_is_in_a_table_of_contents():
    """Sphinx says so too; here it is said to whoever adds a page and does not build the site."""
    told = {"index"}
    for page in DOCS.glob("*.md"):
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
            told |= {re.sub(r".*<(.*)>", r"\1", line) for line in block.splitlines()}
    written = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md")}
    assert {page for page in written if not page.startswith("gallery")} - told == set()


@pytest.fixture
def extension(monkeypatch):
    """A module of docs/extensions by its name; what needs Sphinx is skipped where `make site` never ran."""
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(DOCS / "extensions")
    return importlib.import_module


def test_docstrings_lose_nothing_to_markup(extension):
    import spectral

    docstrings = extension("docstrings")
    names = docstrings.Names(["spectral", "spectral.solvers"])
    text = [
        "|J - J'| / |J|, see `top_svd` and `max_products`.",
        "",
        "    A V' = V' T + X' C",
        "",
        "Raises:",
        "    NotLinearError, CheckpointError: x_ * y.",
    ]
    lines = list(docstrings.converted(text, names, spectral.top_eigs, "spectral.top_eigs"))
    assert lines[0] == r"\|J - J'\| / \|J\|, see :py:obj:`top_svd <spectral.top_svd>` and ``max_products``."
    assert lines[2:5] == ["::", "", "    A V' = V' T + X' C"]
    assert lines[-2:] == [r"    NotLinearError: x\_ \* y.", r"    CheckpointError: x\_ \* y."]


def test_formulas_are_drawings_with_their_source(extension):
    from xml.etree import ElementTree

    drawn = ElementTree.fromstring(extension("mathtext").svg(r"\lambda_k < \frac{1}{2}"))
    assert drawn.get("aria-label") == r"\lambda_k < \frac{1}{2}"
    assert len(drawn[0].get("d")) > 100 and "nan" not in drawn[0].get("d")
