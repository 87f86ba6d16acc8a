"""A notebook, run without a screen: results show as tables, figures as pictures, long solves as bars."""

import textwrap

import pytest

pytest.importorskip("ipykernel")
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

CELLS = {
    "given": """
        import time
        import torch, spectral, denoisers
        from denoisers.images import photograph
        model, x = denoisers.load("photos"), torch.from_numpy(photograph())[..., 60:84, 180:204]
        y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        pairs = spectral.top_eigs(model, y, k=4)""",
    "table": "pairs",
    "figure": "pairs.plot()",
    "density": "spectral.spectral_density(model, y, probes=2, steps=8).plot()",
    "bar": """
        def slow(x):
            time.sleep(0.05)
            return model(x)
        spectral.top_eigs(spectral.jacobian(slow, y, method="jvp"), k=8, progress=True).spent""",
}


@pytest.fixture(scope="module")
def shown():
    """What each cell displays: one {MIME type: content} an output."""
    sources = [textwrap.dedent(text).strip() for text in CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return {
        name: [output.get("data", {}) for output in cell.outputs]
        for name, cell in zip(CELLS, notebook.cells, strict=True)
    }


def test_a_result_is_a_table(shown):
    (output,) = shown["table"]
    assert "<table>" in output["text/html"] and "EigenPairs(4 largest" in output["text/plain"]


@pytest.mark.parametrize("cell", ["figure", "density"])
def test_a_figure_is_a_picture(shown, cell):
    (output,) = shown[cell]
    assert len(output["image/png"]) > 10_000


def test_a_long_solve_shows_a_bar(shown):
    *bars, spent = shown["bar"]
    assert bars and "solve" in spent["text/plain"]
