"""Tables in pages: a command's output goes between two markers, and never in by hand."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spectral.storage import replacing

ROOT = Path(__file__).parents[1]
LAB = ROOT / "../shared/data/lab"  # the published networks, where they are at hand
BFCNN = LAB / "bfcnn21_celeba160_gray.npz"


class Page:
    """A page of docs as the command that measures it: it prints its tables, and with --write puts them there.

    Args:
        name: of the page, from the root.
        doc: the command's text.
        options: by name with their defaults: a bool is a switch, a list takes several.
    """

    def __init__(self, name: str, doc: str | None, **options: Any) -> None:
        self.path = ROOT / name
        parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
        parser.add_argument("--write", action="store_true", help=f"put the tables into {name}")
        for option, default in options.items():
            flag = f"--{option}" if len(option) > 1 else f"-{option}"
            if default is False:
                parser.add_argument(flag, action="store_true")
            elif isinstance(default, list):
                parser.add_argument(flag, nargs="*", type=type((default or [""])[0]), default=default)
            else:
                parser.add_argument(flag, type=type(default), default=default)
        self.options = parser.parse_args()

    def tell(self, name: str, text: str) -> None:
        """Print a table, and write it between the page's markers of that name where that was asked for."""
        print(text, end="\n\n", flush=True)
        if self.options.write:
            insert(self.path, name, text)


def in_a_process(module: str, *arguments: str) -> Any:
    """What `python -m module ...` prints last, as JSON; what one keeps is not in the way of the next."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


class Rows:
    """Cells by what was measured, in a file where one is named: a command that was stopped goes on there.

    Args:
        file: "" for none.
        total: how many there will be, told as they come; 0: unknown.
    """

    def __init__(self, file: str, total: int = 0) -> None:
        self.file = Path(file) if file else None
        self.total, self.told = total, 0
        there = self.file is not None and self.file.is_file()
        self.rows: dict[str, list[Any]] = json.loads(Path(file).read_text()) if there else {}

    def row(self, key: str, measure: Callable[[], list[Any]]) -> list[Any]:
        """The row of that key, measured unless it is at hand."""
        if key not in self.rows:
            self.rows[key] = measure()
            if self.file:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with replacing(self.file) as whole:
                    whole.write_text(json.dumps(self.rows))
        self.told += 1
        count = f"{self.told}/{self.total}  " if self.total else ""
        print(f"{count}{key}: {' | '.join(map(str, self.rows[key]))}", file=sys.stderr, flush=True)
        return self.rows[key]


def records(rows: list[dict[str, str]]) -> str:
    """A table of rows that name their cells."""
    return table(list(rows[0]), [list(row.values()) for row in rows])


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
