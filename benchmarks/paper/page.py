"""docs/reproduction: a JSON and a PNG for each figure, and the page that is made of them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.page import ROOT, insert, table
from benchmarks.paper.figure import Made, PaperFigure, Row
from benchmarks.paper.need import Need, chain
from benchmarks.paper.networks import Scale
from benchmarks.paper.registry import FIGURES

DOCS = ROOT / "docs/reproduction"
HEAD = ["", "the paper", "here", "difference"]


def record(figure: PaperFigure, scale: Scale, made: Made, runs: Path) -> dict[str, Any]:
    """What the JSON of a figure holds."""
    return {
        "name": figure.file,
        "number": figure.number,
        "title": f"{figure.title}, of `{figure.of}`" if figure.of else figure.title,
        "scale": scale,
        "settings": made.settings,
        "command": f"python -m benchmarks.paper {figure.name} --scale {scale}"
        + (" --images PATH" if figure.of else ""),
        "networks": [network(need, runs) for need in chain(figure.needs(scale))],
        "rows": [asdict(row) for row in made.rows],
        "beside": [asdict(row) for row in made.beside],
        "audits": {name: [asdict(row) for row in rows] for name, rows in made.audits.items()},
        "data": made.data,
        "note": made.note,
        "torch": torch.__version__,
    }


def network(need: Need, runs: Path) -> dict[str, Any]:
    """A network in words, and its configuration."""
    c = need.config
    configuration = json.loads(c.to_json())
    configuration["data"] = Path(c.data).name  # of pictures; where they lie is nobody's matter
    return {
        "name": need.name,
        "images_seen": c.batch * c.steps,
        "minutes": need.minutes(runs),
        "configuration": configuration,
        "start": need.start.name if need.start else None,
    }


def save(folder: Path, told: dict[str, Any], made: Made) -> list[Path]:
    """Write NAME.json, NAME.png and, but into docs, NAME-pictures.png into a folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    table_file, picture = (folder / f"{told['name']}.{end}" for end in ("json", "png"))
    table_file.write_text(json.dumps(_finite(told), separators=(",", ":")) + "\n")
    made.drawn.savefig(picture, pil_kwargs={"optimize": True})
    if made.pictures is None or folder.resolve() == DOCS.resolve():
        return [table_file, picture]
    pictures = folder / f"{told['name']}-pictures.png"
    made.pictures.savefig(pictures)
    return [table_file, picture, pictures]


def better(folder: Path, name: str, scale: Scale) -> str:
    """The scale of the figure that lies in a folder where that is above this one; else ""."""
    file = folder / f"{name}.json"
    if not file.is_file():
        return ""
    there, scales = json.loads(file.read_text())["scale"], get_args(Scale)
    return there if scales.index(there) > scales.index(scale) else ""


def tables(told: dict[str, Any]) -> str:
    """The numbers of a figure as Markdown: beside the paper's, and what the paper leaves out."""
    parts = [table(HEAD, [_cells(r) for r in told["rows"]])]
    if told["beside"] or told["audits"]:
        parts.append("What the paper leaves out:")
    if told["beside"]:
        parts.append(table(["", "here"], [[cells[0], cells[2]] for cells in map(_cells, told["beside"])]))
    if told["audits"]:
        columns = [[_cells(r) for r in rows] for rows in told["audits"].values()]
        rows = [[cells[0][0], *(c[2] for c in cells)] for cells in zip(*columns, strict=True)]
        parts.append(table(["", *told["audits"]], rows))
    return "\n\n".join(parts)


def section(told: dict[str, Any]) -> str:
    """The part of the page that is about one figure."""
    trained = _in_words(told["networks"])
    parts = [
        f"## {told['number'].capitalize()}: {told['title']}",
        f"![{told['title']}]({told['name']}.png)",
        tables(told),
        *([told["note"]] if told.get("note") else []),
        f"{told['settings']}. Scale `{told['scale']}`."
        + (f" Networks: {trained}." if trained else "")
        + f" Made by `{told['command']} --write`.",
    ]
    return "\n\n".join(parts)


def publish(folder: Path = DOCS) -> None:
    """Make the page anew from all that lies in the folder."""
    found = {name: folder / f"{name}.json" for name in FIGURES}
    files = [file for name, own in found.items() for file in (own, *sorted(folder.glob(f"{name}-*.json")))]
    told = [json.loads(file.read_text()) for file in files if file.is_file()]
    missing = [
        [FIGURES[name].number, FIGURES[name].title + ": not run yet"]
        for name, p in found.items()
        if not p.is_file()
    ]
    text = "\n\n".join(section(each) for each in told)
    if missing:
        text += "\n\n## Missing\n\n" + table(["", "what"], missing)
    insert(folder / "README.md", "figures", text)


def _in_words(networks: list[dict[str, Any]]) -> str:
    """Networks of a figure, those of a kind together, with the wall clock of all."""
    kinds: dict[str, list[float]] = {}
    for told in networks:
        c = told["configuration"]
        arguments = ", ".join(f"{k} {v}" for k, v in (c["network_config"] or {}).items())
        words = f"{c['network']} ({arguments}), {told['images_seen']:,} images of {c['size']}x{c['size']}"
        words += ", from trained weights" if told["start"] else ""
        words += f", sigma^-{c['emphasis']:g} times the squared error" if c.get("emphasis") else ""
        words += ", in bfloat16" if c.get("precision") == "bfloat16" else ""
        kinds.setdefault(words, []).append(told["minutes"])
    return "; ".join(
        f"{len(minutes)} of {words}, in {sum(minutes):.0f} min" for words, minutes in kinds.items()
    )


def _cells(told: dict[str, Any]) -> list[str]:
    return _row(told).cells()


def _row(told: dict[str, Any]) -> Row:
    return Row(**{**told, "half": math.nan if told["half"] is None else told["half"]})


def _finite(value: Any) -> Any:
    """Numbers to seven digits; JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
