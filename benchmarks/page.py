"""Tables in pages: a command's output goes between two markers, and never in by hand."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
LAB = ROOT / "../shared/data/lab"  # the published networks, where they are at hand
BFCNN = LAB / "bfcnn21_celeba160_gray.npz"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---:"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def rows(page: Path, name: str) -> list[dict[str, str]]:
    """The table between <!-- name --> and <!-- /name --> of a page, a row a dict of cells by head.

    Heads that are there twice are numbered: "angle", "angle 2".
    """
    text = page.read_text().split(f"<!-- {name} -->", 1)[1].split(f"<!-- /{name} -->", 1)[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    head = [
        cell + f" {n}" * (n > 1) for i, cell in enumerate(lines[0]) for n in [lines[0][: i + 1].count(cell)]
    ]
    return [dict(zip(head, cells, strict=True)) for cells in lines[2:]]


def insert(page: Path, name: str, text: str) -> None:
    """Put `text` between <!-- name --> and <!-- /name --> of a page."""
    before, rest = page.read_text().split(f"<!-- {name} -->", 1)
    after = rest.split(f"<!-- /{name} -->", 1)[1]
    page.write_text(f"{before}<!-- {name} -->\n{text}\n<!-- /{name} -->{after}")
