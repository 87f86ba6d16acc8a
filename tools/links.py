"""That links lead somewhere: in README and docs, in the built site, and, with --outside, on the net.

python tools/links.py               # files, and headings in them
python tools/links.py build/site    # pages, what they show, and places in them
python tools/links.py --outside     # addresses anywhere in the sources, by asking for each
"""

import argparse
import functools
import re
import sys
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)\s]+)\)")
ADDRESS = re.compile(r"https?://[^\s)>\]\"'`]+[^\s)>\]\"'`.,;:]")
SOURCES = ("*.md", "*.cff", "*.toml", "docs/**/*.md", "spectral/**/*.py", "denoisers/**/*.py")


def pages(root: Path) -> list[Path]:
    """The Markdown that is written by hand, or by benchmarks."""
    return [page for page in (*root.glob("*.md"), *root.glob("docs/**/*.md")) if "gallery" not in page.parts]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    """Names of a page's headings, as Markdown's renderers make them."""
    titles = (title.replace("`", "") for title in re.findall(r"^#+ +(.*)", prose(page), re.MULTILINE))
    return frozenset(re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles)


def dangling(root: Path) -> list[str]:
    """Links of Markdown that lead to no file, or to no heading of one."""
    found = []
    for page in pages(root):
        for link in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page))):
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            there = target.exists()
            if there and parts.fragment:
                there = target.suffix == ".md" and parts.fragment in anchors(target)
            if not there:
                found.append(f"{page.relative_to(root)}: {link}")
    return found


class _Page(HTMLParser):
    """Names of places in a page, and what it links to and shows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places, self.links = set[str](), set[str]()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (name == "name" and tag == "a"):
                self.places.add(value or "")
            elif name in ("href", "src", "poster", "data-src"):
                self.links.add(value or "")


def broken(site: Path) -> list[str]:
    """Links of built pages that lead to no file, or to no place in a page."""
    made = (path for path in site.rglob("*.html") if "_static" not in path.parts)  # the theme's
    built = {path.resolve(): _Page(path) for path in made}
    found = []
    for path, page in built.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = target.is_file()
            if there and parts.fragment and target in built:
                there = unquote(parts.fragment) in built[target].places
            if not there:
                found.append(f"{path.relative_to(site.resolve())}: {link}")
    if not built:
        found.append(f"{site}: no pages")
    return found


def addresses(root: Path) -> list[str]:
    """What is named on the net, anywhere in the sources."""
    files = (path for pattern in SOURCES for path in root.glob(pattern))
    return sorted({address for path in files for address in ADDRESS.findall(path.read_text())})


def unanswered(asked: list[str], seconds: float = 30.0) -> list[str]:
    """Addresses that give no page, and why."""
    found = []
    for address in asked:
        request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (links)"})
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                pass
        except (urllib.error.URLError, OSError, ValueError) as failure:
            found.append(f"{address}: {failure}")
    return found


def main() -> None:
    """Check what is asked for; exit code 1 where a link leads nowhere."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("site", nargs="?", type=Path, help="a built site")
    parser.add_argument("--outside", action="store_true", help="ask the net")
    told = parser.parse_args()
    if told.outside:
        found = unanswered(addresses(ROOT))
    else:
        found = broken(told.site) if told.site else dangling(ROOT)
    sys.exit("\n".join(["links that lead nowhere:", *found]) if found else 0)


if __name__ == "__main__":
    main()
