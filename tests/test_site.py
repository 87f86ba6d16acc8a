"""What the site promises, as far as it can be told without building it."""

import functools
import http.server
import importlib.util
import inspect
import re
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
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
def links():
    """tools/links.py."""
    spec = importlib.util.spec_from_file_location("links", ROOT / "tools/links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_of_pages_lead_to_files_and_headings(links, tmp_path):
    assert len(links.pages(ROOT)) > 30 and links.dangling(ROOT) == []
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/other.md").write_text("# Other\n\n## `top_eigs`: pairs, and J'\n")
    (tmp_path / "README.md").write_text(
        "# One\n[a](docs/other.md#top_eigs-pairs-and-j), [b](#one), [c](docs), [d](#two),\n"
        "[e](docs/gone.md), [f](docs/other.md#gone), `[g](gone)`\n```\n[h](gone)\n# Two\n```\n"
    )
    assert links.dangling(tmp_path) == [
        "README.md: #two",
        "README.md: docs/gone.md",
        "README.md: docs/other.md#gone",
    ]


def test_links_of_a_built_site_lead_to_places(links, tmp_path):
    assert links.broken(tmp_path) == [f"{tmp_path}: no pages"]
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">1</a> <a href="b.html#gone">2</a> <img src="c.png"> <a href="https://x.org">3</a>'
    )
    (tmp_path / "b.html").write_text('<p id="here"><a href="a.html">4</a><a href="#">5</a>')
    assert links.broken(tmp_path) == ["a.html: b.html#gone", "a.html: c.png"]


def test_addresses_that_do_not_answer_are_told(links, tmp_path):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    (tmp_path / "page").write_text("here")
    handler = functools.partial(Handler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}"
        told = links.unanswered([f"{host}/page", f"{host}/gone"], seconds=10)
        server.shutdown()
    assert len(told) == 1 and told[0].startswith(f"{host}/gone: HTTP Error 404")
    assert "https://arxiv.org/abs/2310.02557" in links.addresses(ROOT)


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
