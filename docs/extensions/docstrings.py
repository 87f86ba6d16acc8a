"""Docstrings are plain text with formulas; Sphinx reads reStructuredText. What lies between.

A bar, a star or a final underscore of a formula is no markup here; an indented paragraph is a formula, set
as it stands; a name between backticks is a link where it is a public name or a method of one, code elsewhere.
"""

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring

from spectral.base import Result

SECTION = re.compile(r"(Args|Returns|Raises|Attributes|Example|Examples|Yields|Note|Notes):$")
SEVERAL = re.compile(r"(\s+)(\w+(?:, \w+)+): (.*)")
CODE = re.compile(r"(`+)(.+?)\1")
MARKUP = re.compile(r"[\\*|]|(?<=\w)_(?!\w)")


class Names:
    """What is documented, and under which name.

    Args:
        modules: names of modules, of which `__all__`, or else what they define, is documented; an object of
            several is documented in the first.
    """

    def __init__(self, modules: Iterable[str]) -> None:
        self.modules = tuple(modules)

    @cached_property
    def documented(self) -> dict[int, str]:
        """The full name of each public object, by its id."""
        found: dict[int, str] = {}
        for module in map(importlib.import_module, self.modules):
            for name in public(module):
                found.setdefault(id(getattr(module, name)), f"{module.__name__}.{name}")
        return found

    def target(self, name: str, within: Any, whole: str) -> str | None:
        """The full name that `name` stands for in the docstring of `within`, whose name is `whole`."""
        head, *rest = name.removesuffix("()").split(".")
        if not head.isidentifier():
            return None
        owners = [within] if inspect.isclass(within) else [_owner(whole)]
        for owner in owners:
            if not rest and owner is not None and _is_member(owner, head) and id(owner) in self.documented:
                return f"{self.documented[id(owner)]}.{head}"
        scopes = [vars(_module(within, whole)), *(vars(importlib.import_module(m)) for m in self.modules)]
        for scope in scopes:
            found = self._along(scope.get(head), rest)
            if found is not None:
                return found
        return self._along(_imported(head), rest) if head in ("spectral", "denoisers") else None

    def _along(self, obj: Any, rest: list[str]) -> str | None:
        for i, part in enumerate(rest):
            if id(obj) in self.documented and i == len(rest) - 1 and _is_member(obj, part):
                return f"{self.documented[id(obj)]}.{part}"
            obj = _imported(f"{obj.__name__}.{part}") if isinstance(obj, ModuleType) else None
        return None if isinstance(obj, ModuleType) else self.documented.get(id(obj))


def public(module: ModuleType) -> list[str]:
    """The names that a module documents: `__all__`, or the functions and classes that it defines."""
    listed = getattr(module, "__all__", None)
    if listed is None:
        kinds = (inspect.isclass, inspect.isfunction)
        listed = [
            name
            for name, obj in vars(module).items()
            if not name.startswith("_")
            and any(kind(obj) for kind in kinds)
            and obj.__module__ == module.__name__
        ]
    return [name for name in listed if name != "__version__" and not inspect.ismodule(getattr(module, name))]


def converted(lines: list[str], names: Names, within: Any, whole: str) -> Iterator[str]:
    """A docstring as reStructuredText with Google's sections, as napoleon takes it."""
    section, formula, example, before = False, False, False, ""
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if SECTION.match(line):
            section, formula = True, False
        elif line and not indent:
            section, formula = False, False
        if line.lstrip().startswith(">>>"):
            example = True
        elif not line.strip():
            example = False
        if indent and not section and not formula and not before.strip() and not example:
            formula = True
            yield from ("::", "")
        if formula or example:
            yield line
        else:
            yield from _split(_prose(line, names, within, whole))
        before = line


def _split(line: str) -> Iterator[str]:
    """An entry of several exceptions as several entries."""
    several = SEVERAL.fullmatch(line)
    if several is None or "Error" not in several[2]:
        yield line
    else:
        yield from (f"{several[1]}{name}: {several[3]}" for name in several[2].split(", "))


def _prose(line: str, names: Names, within: Any, whole: str) -> str:
    parts, end = [], 0
    for code in CODE.finditer(line):
        parts.append(MARKUP.sub(r"\\\g<0>", line[end : code.start()]))
        target = names.target(code[2], within, whole)
        parts.append(f":py:obj:`{code[2]} <{target}>`" if target else f"``{code[2]}``")
        end = code.end()
    parts.append(MARKUP.sub(r"\\\g<0>", line[end:]))
    return "".join(parts)


def _module(within: Any, whole: str) -> ModuleType:
    named = inspect.getmodule(within)
    while named is None and "." in whole:
        whole = whole.rpartition(".")[0]
        found = _imported(whole)
        named = found if isinstance(found, ModuleType) else inspect.getmodule(found)
    return named or importlib.import_module("spectral")


def _owner(whole: str) -> Any:
    """The class that a method or property belongs to."""
    found = _imported(whole.rpartition(".")[0])
    return found if inspect.isclass(found) else None


def _is_member(owner: Any, name: str) -> bool:
    """Whether a class of this project's has a method or property that is documented with it."""
    if not inspect.isclass(owner) or name.startswith("_"):
        return False
    found = [(kind, vars(kind)[name]) for kind in owner.__mro__ if name in vars(kind)]
    if not found or not found[0][0].__module__.startswith(("spectral", "denoisers")):
        return False
    member = found[0][1]
    return isinstance(member, (property, classmethod, staticmethod)) or inspect.isfunction(member)


def _imported(name: str) -> Any:
    """A module, or what is in one, by its full name; None where there is none."""
    head, _, last = name.rpartition(".")
    try:
        module = importlib.import_module(name)
    except ImportError:
        return getattr(_imported(head), last, None) if head else None
    owner = _imported(head) if head else None
    return getattr(owner, last, module) if owner is not None else module


def setup(app: Sphinx) -> dict[str, Any]:
    """Convert each docstring before napoleon reads it."""
    app.add_config_value("documented_modules", [], "env")
    names: list[Names] = []

    def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        if not names:
            names.append(Names(app.config.documented_modules))
        if what == "data":
            lines.clear()  # that of its type
        lines[:] = converted(lines, names[0], obj, name)

    def unsigned(app: Sphinx, what: str, name: str, obj: Any, *_: Any) -> tuple[str, None] | None:
        """Results are made by the library: their fields are told once, as attributes."""
        return ("", None) if what == "class" and issubclass(obj, Result) else None

    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-process-signature", unsigned)
    # In a property's first line a colon is a colon, and what is before it no type.
    GoogleDocstring._parse_attribute_docstring = lambda self: list(self._consume_to_end())  # type: ignore
    return {"parallel_read_safe": True, "parallel_write_safe": True}
