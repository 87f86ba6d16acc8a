"""What a user gets: the wheel, built from the source archive, in an environment that holds nothing else.

    python tools/wheel_test.py [--python python3.12 ...] [--constraints constraints.txt]

For each Python: installs the wheel in a new environment, runs `pip check`, and, in an empty folder, the
README's Python, the README's command lines, and the examples of every --help.  Tells the sizes, what is in
the wheel that the repository has not, or lacks, and how long importing takes.  Needs `build` where it runs.
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 900  # seconds for one command, with kernels to compile

INSIDE = """
import sys
from importlib.metadata import metadata
from pathlib import Path
import torch, denoisers, spectral
from denoisers.images.folder import photograph
for package in (spectral, denoisers):
    folder = Path(package.__file__).parent
    assert folder.is_relative_to(sys.prefix), folder
    assert (folder / "py.typed").is_file(), folder
assert metadata("jacobian-spectra")["Version"] == spectral.__version__ == denoisers.__version__
assert photograph().shape == (1, 1, 512, 512)
for name in denoisers.available():
    assert (Path(denoisers.__file__).parent / "weights" / f"{name}.md").is_file(), name
    model = denoisers.load(name)
    assert model(torch.rand(1, 1, 16, 16), **({"sigma": 0.1} if model.told else {})).shape == (1, 1, 16, 16)
assert len(denoisers.available()) >= 3
print(f"{sys.version.split()[0]}, torch {torch.__version__}: {', '.join(denoisers.available())}")
"""

EXAMPLES = "from denoisers.commands.examples import EXAMPLES as all; print(*sum(all.values(), []), sep='\\n')"


def build(folder: Path) -> tuple[Path, Path]:
    """The source archive, and the wheel that is built from it."""
    run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], ROOT)
    (archive,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    for path in (archive, wheel):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    return archive, wheel


def check_contents(wheel: Path) -> None:
    """Every tracked file that is to be imported is in the wheel, and nothing else."""
    tracked = run(["git", "ls-files", "spectral", "denoisers", "jacobian_spectra.py"], ROOT).split()
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if held != set(tracked):
        raise SystemExit(f"wheel and repository differ in {sorted(held ^ set(tracked))}")
    print(f"{len(held)} files, as in the repository")


def check_in(python: str, wheel: Path, constraints: Path) -> None:
    """Install the wheel for this Python, and use it."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        empty = place / "empty"
        empty.mkdir()
        if Path(python).resolve() == Path(sys.executable).resolve():
            venv.create(place / "venv", with_pip=True)
        else:
            run([python, "-m", "venv", str(place / "venv")], empty)
        inside = place / "venv/bin"
        print(f"installing for {python}")
        run([str(inside / "pip"), "install", "-q", "-c", str(constraints), str(wheel)], empty)
        run([str(inside / "pip"), "check"], empty)
        print(run([str(inside / "python"), "-c", INSIDE], empty).strip())
        for module in ("torch", "spectral"):  # which imports torch
            print(f"import {module}: {seconds(inside, module):.2f} s")
        (place / "readme.py").write_text("import matplotlib\nmatplotlib.use('agg')\n" + readme_python())
        run([str(inside / "python"), str(place / "readme.py")], empty)
        lines = readme_commands() + run([str(inside / "python"), "-c", EXAMPLES], empty).splitlines()
        for line in lines:
            command, *arguments = shlex.split(line, comments=True)
            began = time.perf_counter()
            run([str(inside / command), *arguments], empty)
            print(f"{time.perf_counter() - began:5.1f} s  {line}")
        for command, word, whole in (("spectral", "tr", "trace"), ("denoisers", "ev", "evaluate")):
            asked = [
                f"_{command.upper()}_COMPLETE=complete_bash",
                f"COMP_WORDS={command} {word}",
                "COMP_CWORD=1",
            ]
            if run(["env", *asked, str(inside / command)], empty).split() != [whole]:
                raise SystemExit(f"{command} {word} is not completed")
        print(f"{len(lines)} command lines ran")


def readme_python() -> str:
    """The Python of README, in its order."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S))


def readme_commands() -> list[str]:
    """Its lines that call the two commands."""
    return re.findall(r"^    ((?:spectral|denoisers) .*)", (ROOT / "README.md").read_text(), re.M)


def seconds(inside: Path, module: str) -> float:
    """Median time of a process that imports a module, less that of one that does not."""

    def once(code: str) -> float:
        began = time.perf_counter()
        run([str(inside / "python"), "-c", code], inside)
        return time.perf_counter() - began

    return statistics.median(once(f"import {module}") - once("pass") for _ in range(3))


def run(command: list[str], folder: Path) -> str:
    """What a command prints; it must end well, and sees nothing of this repository."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", nargs="+", default=[sys.executable])
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt")
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # told as it goes, in a log too
    with tempfile.TemporaryDirectory() as folder:
        _, wheel = build(Path(folder))
        check_contents(wheel)
        for python in options.python:
            check_in(python, wheel, options.constraints.resolve())
