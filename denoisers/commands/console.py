"""What the commands share: options, the problem to solve, timing in forward passes, errors in one line."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from typer.core import TyperGroup

import denoisers
from denoisers.images import folder
from denoisers.images.pictures import read_colour
from spectral.errors import OptionError, SpectralError
from spectral.options import seed_of
from spectral.progress import working
from spectral.solvers.search import interrupted

SIGMA_AT_MOST = 1e6  # beyond, float32 noise buries the picture
USAGE: Any = typer.BadParameter.__base__  # what a parser raises, click's or typer's own
INTERRUPTED, ABOVE_TOLERANCE = 130, 3  # exit codes


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(version("jacobian-spectra"))
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="print it", is_eager=True, callback=_print_version)]
Denoiser = Annotated[str, typer.Option(help="a shipped network's name, a run's folder, or a weights file")]
Picture = Annotated[
    Path | None,
    typer.Option(
        help="a picture; of one in colour the luminance for a grey network",
        show_default="the shipped photograph",
    ),
]
Crop = Annotated[
    tuple[int, int, int] | None, typer.Option(metavar="TOP LEFT SIDE", help="a square of the picture")
]
Region = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|TOP,LEFT,HEIGHT,WIDTH",
        help="only these pixels may move: the white ones of a grey picture of the same size, or a box",
    ),
]
Sigma = Annotated[float, typer.Option(help="noise level, the picture being in [0, 1]")]
Seed = Annotated[int, typer.Option(help="of the noise, and of the random vectors")]
Out = Annotated[Path | None, typer.Option(help="folder for the figure and the saved result")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


_options: ContextVar[dict[str, Any]] = ContextVar("options")


class Commands(TyperGroup):
    """A command line whose parser, too, refuses in one line."""

    def main(self, *args: Any, **more: Any) -> Any:
        """As a program: what is wrong on standard error, and the exit code."""
        if not more.get("standalone_mode", True):
            return super().main(*args, **more)
        try:
            code = super().main(*args, **more | {"standalone_mode": False})
        except USAGE as refused:
            if told := " ".join(refused.format_message().split()):  # nothing where help was printed instead
                typer.echo(f"error: {told}", err=True)
            code = refused.exit_code
        sys.exit(code)


def name_flags(context: typer.Context) -> None:
    """Let `in_flags` know the options of the command that is called; of an app's callback."""
    app: Any = context.command
    parameters = app.commands[context.invoked_subcommand].params
    _options.set({p.name: p for p in parameters if p.opts[0].startswith("-")})


def in_flags(text: str) -> str:
    """What the library says of its keywords, of the command's flags: `name=value` and names_of_words.

    And the keyword that a sentence begins with; but nothing that is quoted, as keys of dictionaries are, and
    no values that a command line does not take.
    """
    options = _options.get({})

    def flag(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        option = options.get(name)
        if option is None:
            return found[0]
        subject = found.start() == 0 and re.match(r" (is|must|lies) ", text[found.end() :])
        if value is None and "_" not in name and not subject:
            return found[0]
        on = option.opts[0]
        if not value or (option.is_flag and value == "True"):
            return on
        if option.is_flag:
            return option.secondary_opts[0] if option.secondary_opts else f"no {on}"
        if value == "None" or value[0] in "{[(":
            return found[0]
        quoted = len(value) > 2 and value[0] in "'\"" and value[-1] == value[0]
        return f"{on} {value[1:-1] if quoted else value}"

    return re.sub(
        r"(?<![\w./'\"-])(?P<name>[a-z]\w*)(?:=(?P<value>[^\s,;:)]*))?(?![\w/'\"]|\.\w)", flag, text
    )


def device_at_hand() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Problem:
    """A denoiser and an image: clean x, noisy y = x + sigma z and denoised f(y), each (1, channels, H, W).

    name: the denoiser's, for titles.
    unit: seconds of a forward pass; NaN where they were not asked for.
    asked: what the command was given, and the version, for its JSON.
    told: the network's keywords: its noise level, where it is told one.
    """

    name: str
    model: nn.Module
    clean: Tensor
    noisy: Tensor
    denoised: Tensor
    sigma: float
    notes: list[str]
    asked: dict[str, object]
    unit: float
    told: dict[str, float]

    @property
    def keyword(self) -> str | None:
        """By which the network is told the noise level; None for one that is blind."""
        return next(iter(self.told), None)

    @property
    def title(self) -> str:
        """Of tables and figures."""
        return f"{self.name}, {_size(self.clean)}, sigma {self.sigma:g}"

    def passes(self, seconds: float) -> tuple[str, str]:
        """The line that tells a time, in forward passes too."""
        count, each = seconds / self.unit, 1e3 * self.unit
        return "time", f"{seconds:.1f} s, as long as {count:.0f} forward passes of {each:.1f} ms"


def load_problem(
    denoiser: str,
    image: Path | None,
    sigma: float,
    seed: int,
    crop: tuple[int, int, int] | None = None,
    timed: bool = False,
) -> Problem:
    """Load a denoiser and a picture, and add noise.

    A picture whose sides the network does not take is continued by reflection to the next that it does.

    Args:
        denoiser: a shipped network's name, a run's folder, or a weights file.
        image: a picture, turned grey for a grey network; None for the shipped photograph.
        sigma: standard deviation of the noise, images being in [0, 1].
        seed: of the noise.
        crop: (top, left, side) of the square to use.
        timed: whether a forward pass is timed, in the unit of which times are told.

    Raises:
        OptionError: sigma is not positive, or the crop lies outside the picture.
        FileContentError, FileNotFoundError: see `denoisers.load` and `denoisers.images.folder.read_grey`.
    """
    if not 0 < sigma <= SIGMA_AT_MOST:
        raise OptionError(
            "sigma is a standard deviation in the units of the image, positive and at most "
            f"{SIGMA_AT_MOST:g}; got {sigma}"
        )
    seed = seed_of(seed)
    model = denoisers.load(denoiser)
    clean = picture_of(image, model.channels)
    if crop is not None:
        top, left, side = crop
        if side < 1:
            raise OptionError(f"the side of a crop is positive, got {side}")
        if min(top, left) < 0 or top + side > clean.shape[2] or left + side > clean.shape[3]:
            raise OptionError(f"a crop of {side} at ({top}, {left}) leaves the {_size(clean)} picture")
        clean = clean[:, :, top : top + side, left : left + side].contiguous()
    notes = []
    padded = continued(clean, model.side_multiple)
    if padded.shape != clean.shape:
        notes.append(
            f"picture of {_size(clean)} continued by reflection to {_size(padded)}: "
            f"{denoiser} takes sides that are multiples of {model.side_multiple}"
        )
    device = device_at_hand()
    # Convolutions run up to twice as fast with channels last, on CPUs and GPUs alike.
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    noise = torch.randn(padded.shape, generator=torch.Generator().manual_seed(seed), device="cpu")
    noisy = (padded + sigma * noise).to(device)
    asked: dict[str, object] = {
        "denoiser": denoiser,
        "image": None if image is None else str(image),
        "crop": crop,
        "sigma": sigma,
        "seed": seed,
        "version": version("jacobian-spectra"),
    }
    told = {"sigma": sigma} if model.told else {}
    at_level = functools.partial(model, **told)
    with torch.no_grad():
        images = padded.to(device), noisy, at_level(noisy)
    unit = forward_seconds(at_level, noisy) if timed else math.nan
    return Problem(Path(denoiser).stem, model, *images, sigma, notes, asked, unit, told)


def picture_of(image: Path | None, channels: int) -> Tensor:
    """A picture (1, C, H, W) in a network's colours; None for the shipped photograph.

    Raises FileContentError, FileNotFoundError: see `denoisers.images`.
    """
    if image is None:
        return torch.from_numpy(folder.photograph(colour=channels > 1))
    return _grey(image) if channels == 1 else torch.from_numpy(read_colour(image))


def _grey(path: Path) -> Tensor:
    """A picture as (1, 1, H, W); of one in colour the luminance, as of a folder's pictures, which is told."""
    picture = folder.opened(path)
    found = folder.grey_of(picture, str(path), convert=True)
    if folder.in_colour(picture):
        typer.echo(f"{path} is in colour: its luminance is taken", err=True)
    return torch.from_numpy(found)[None, None]


def continued(x: Tensor, multiple: int) -> Tensor:
    """An image (1, C, H, W) whose sides are continued by reflection to multiples of `multiple`.

    Raises:
        OptionError: it is too small for that.
    """
    down, right = (-x.shape[2]) % multiple, (-x.shape[3]) % multiple
    if down >= x.shape[2] or right >= x.shape[3]:
        raise OptionError(f"a picture of {_size(x)} is too small: its sides must reach {multiple} pixels")
    return torch.nn.functional.pad(x, (0, right, 0, down), mode="reflect") if down or right else x


def region(told: str | None, problem: Problem, option: str = "--mask") -> Tensor | None:
    """The mask (H, W) that an option names: white pixels of a picture, or a box TOP,LEFT,HEIGHT,WIDTH.

    Raises:
        OptionError: the box leaves the picture, or the file is of another size.
        FileContentError, FileNotFoundError: see `denoisers.images.folder.read_grey`.
    """
    if told is None:
        return None
    rows, columns = problem.clean.shape[-2:]
    box = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+)", told)
    if box is None:
        if "," in told and not Path(told).exists():
            raise OptionError(
                f"{option} is a picture, or a box TOP,LEFT,HEIGHT,WIDTH of whole numbers; got {told}"
            )
        mask = _grey(Path(told))[0, 0] > 0.5
        if mask.shape != (rows, columns):
            raise OptionError(
                f"{told} has {mask.shape[0]}x{mask.shape[1]} pixels, the picture {rows}x{columns}: a mask is "
                "of the same size"
            )
        return mask
    top, left, height, width = (int(side) for side in box.groups())
    if min(height, width) < 1 or top + height > rows or left + width > columns:
        raise OptionError(f"a box of {height}x{width} at ({top}, {left}) leaves the {rows}x{columns} picture")
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def forward_seconds(model: Callable[[Tensor], Tensor], y: Tensor, repeats: int = 5) -> float:
    """Median wall time of model(y) without gradient, the unit in which products are told."""

    def once() -> float:
        began = time.perf_counter()
        model(y)
        if y.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    with torch.no_grad():
        once()
        return statistics.median(once() for _ in range(repeats))


def given(context: typer.Context, option: str) -> bool:
    """Whether an option is in the command line, be it with its default."""
    source = context.get_parameter_source(option.lstrip("-").replace("-", "_"))
    return source is not None and source.name == "COMMANDLINE"


def tell(lines: Iterable[tuple[str, str]]) -> None:
    """Lines with a word in front of each, of the command's flags where the library speaks of keywords."""
    for name, text in lines:
        Console().print(f"{name:13} {in_flags(text)}", highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One line of JSON on standard output; numbers that JSON does not know, infinities and NaN, are null."""
    typer.echo(json.dumps(_finite(value), allow_nan=False))


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input, too little memory or disk: one line on standard error and exit code 2; 130 for Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (SpectralError, OSError, ImportError, MemoryError, torch.OutOfMemoryError) as failure:
        told = in_flags(" ".join(str(failure).split()))
        typer.echo(f"error: {told or 'out of memory'}", err=True)
        raise typer.Exit(2) from None
    except RuntimeError as failure:
        if "DefaultCPUAllocator" not in str(failure):  # torch has no type of its own for the CPU's memory
            raise
        wanted = re.search(r"allocate (\d+) bytes", str(failure))
        size = f": {int(wanted[1]) / 1e9:.3g} GB were asked for at once" if wanted else ""
        typer.echo(f"error: out of memory{size}; give a smaller --crop, or fewer pairs", err=True)
        raise typer.Exit(2) from None


def write_files(
    files: list[Path], as_json: bool, write: Callable[[], object], label: str = f"{'wrote':13}"
) -> None:
    """Write what was asked for, after the answer, which is not lost where it cannot be written."""
    with one_line_errors():
        if files:
            try:
                with working(not as_json, "writing"):
                    write()
            except OSError as failure:
                told = ", ".join(file.name for file in files)
                raise OSError(f"not all of {told} could be written to {files[0].parent}: {failure}") from None
    if not as_json:
        for path in files:
            typer.echo(f"{label} {path}")


def end(notes: list[str], converged: Tensor) -> None:
    """End with the exit code of an interruption, or of results above their tolerance, if there are any."""
    if interrupted(notes):
        raise typer.Exit(INTERRUPTED)
    if not converged.all():
        raise typer.Exit(ABOVE_TOLERANCE)


def check_writable(out: Path | None) -> None:
    """Try the folder for results before they are computed.

    Raises:
        OSError: it cannot be made, or written to.
    """
    if out is not None:
        if out.is_file():
            raise NotADirectoryError(f"{out} is a file: --out is a folder")
        try:
            out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=out) as file:
                file.write(b"x")
                file.flush()
        except OSError as failure:
            raise OSError(f"the folder {out} cannot be written to: {failure.strerror}") from failure


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _size(x: Tensor) -> str:
    return f"{x.shape[2]}x{x.shape[3]}"
