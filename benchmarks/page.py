"""Tables in pages: a command's output goes between two markers, and never in by hand."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
LAB = ROOT / "../shared/data/lab"  # the published networks, where they are at hand
BFCNN = LAB / "bfcnn21_celeba160_gray.npz"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---:"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def insert(page: Path, name: str, text: str) -> None:
    """Put `text` between <!-- name --> and <!-- /name --> of a page."""
    before, rest = page.read_text().split(f"<!-- {name} -->", 1)
    after = rest.split(f"<!-- /{name} -->", 1)[1]
    page.write_text(f"{before}<!-- {name} -->\n{text}\n<!-- /{name} -->{after}")
