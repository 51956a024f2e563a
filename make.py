"""Build file: `python3 make.py TASK` makes the environment .venv and does one task. Needs Python 3.11 only.

demo     install memgen and run its main job on the embedded images
test     install memgen with its development tools and run the tests
lint     ruff, mypy and the import contract (after test)
docs     build the documentation site into build/site, and run the blocks of all pages and the notebook
wheel    build the wheel, install it alone in an empty environment, and try it (after test)
"""

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PINS = ["-c", str(ROOT / "constraints.txt")]


def main() -> None:
    tasks = {"demo": demo, "test": test, "lint": lint, "docs": docs, "wheel": wheel}
    if len(sys.argv) < 2 or sys.argv[1] not in tasks:
        sys.exit(__doc__)
    if sys.version_info < (3, 11):
        sys.exit(f"memgen needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    tasks[sys.argv[1]](*sys.argv[2:])


def demo(*arguments: str) -> None:
    folder = environment(ROOT / ".venv", "-e", f"{ROOT}[cpu]")
    run(folder / "memgen", "demo", *arguments)


def test(*arguments: str) -> None:
    folder = environment(ROOT / ".venv", "-e", f"{ROOT}[cpu,dev]")
    run(folder / "python", "-m", "pytest", "-n", "2", *arguments)


def lint() -> None:
    folder = programs(ROOT / ".venv")
    run(folder / "ruff", "check", ".")
    run(folder / "ruff", "format", "--check", ".")
    run(folder / "mypy")
    run(folder / "lint-imports", "--no-logo")


def docs() -> None:
    folder = environment(ROOT / ".venv", "-e", f"{ROOT}[cpu,dev,docs]")
    run(folder / "python", ROOT / "docs" / "build_site.py")
    pages = ["tests/test_docs.py", "tests/test_site.py", "tests/test_examples.py"]
    run(folder / "python", "-m", "pytest", "-n", "2", "-m", "slow or not slow", *pages)


def wheel() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        built = Path(temporary)
        run(programs(ROOT / ".venv") / "python", "-m", "build", "--no-isolation", "--wheel", "--outdir", built, ROOT)
        (file,) = built.glob("*.whl")
        folder = environment(built / "venv", f"{file}[cpu]")
        run(folder / "memgen", "--version", cwd=built)
        smoke = ROOT / "configs" / "smoke.toml"
        run(folder / "memgen", "sweep", "--config", smoke, "--outputs", built / "outputs", cwd=built)


def environment(folder: Path, *requirements: str) -> Path:
    """Make a virtual environment unless it is there, install into it, and return the folder of its programs."""
    if not (folder / "pyvenv.cfg").exists():
        venv.create(folder, with_pip=True)
    python = programs(folder) / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS, *requirements)
    return programs(folder)


def programs(folder: Path) -> Path:
    return folder / ("Scripts" if sys.platform == "win32" else "bin")


def run(program: Path, *arguments: str | Path, cwd: Path = ROOT) -> None:
    command = [shutil.which(str(program)) or str(program), *map(str, arguments)]
    code = subprocess.run(command, cwd=cwd).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
