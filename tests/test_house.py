"""The house itself: who imports whom, what is public, what the README and the help promise."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import program
import pytest
from PIL import Image

import memgen

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_import_contract():
    """Every module stands on its line of the house and imports lower ones only; only the command line uses rich."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-logo"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "4 kept, 0 broken" in done.stdout


def test_public_names():
    """Everything in __all__ exists, and every public home is listed."""
    for name in memgen.__all__:
        assert getattr(memgen, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = memgen.nothing_of_the_kind


def test_every_module_says_what_it_is_for():
    """Each module has a docstring of more than a line's worth, and imports without a side effect on stdout."""
    for path in (ROOT / "memgen").rglob("*.py"):
        if path.stem != "__main__":
            dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            module = importlib.import_module(dotted)
            assert module.__doc__, dotted
            assert len(module.__doc__) > 30, dotted


def commands() -> list[str]:
    from memgen.cli.root import app

    found = [command.name or command.callback.__name__ for command in app.registered_commands]
    for group in app.registered_groups:
        found += [f"{group.name} {command.name}" for command in group.typer_instance.registered_commands]
    return found


def test_every_command_is_in_the_readme_and_has_help():
    """The README names every command; each has a help text of its own."""
    assert len(commands()) == 32
    for command in commands():
        assert f"memgen {command}" in README, command
    from memgen.cli.root import app

    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    for command in (command for group in groups for command in group.registered_commands):
        assert command.callback.__doc__, command.name


def test_every_room_is_in_the_readme():
    """The README's list for readers of the code leaves no room out."""
    rooms = {path.parent.name for path in (ROOT / "memgen").glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"`(\w+)/`", README))


def test_the_library_example_runs(tmp_path, monkeypatch, capsys):
    """The README's example runs as written, on folders of pictures, and prints an answer and a headline.

    No other default test renders every picture of a sweep.
    """
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert 'memgen.sweep("configs/smoke.toml"' in example
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    program.write_config(tmp_path / "configs", program.write_digits(tmp_path / "digits.npy"))
    (tmp_path / "configs" / "tiny.toml").rename(tmp_path / "configs" / "smoke.toml")
    digits = np.load(tmp_path / "digits.npy")
    for name, chosen in (("train", digits[:40]), ("held-out", digits[40:]), ("generated", digits[:30])):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for i, pixels in enumerate(chosen):
            Image.fromarray(pixels).save(tmp_path / "faces" / name / f"{i}.png")
    exec(example, {})
    answer, headline = capsys.readouterr().out.splitlines()
    assert answer.split()[0] == "Found:"  # the generated images are training images
    assert headline.endswith(".")
    report = tmp_path / "outputs" / "smoke" / "report"
    assert (report / "report.html").exists()
    pictures = list((report / "figures").glob("*.*"))
    assert {path.suffix for path in pictures} == {".png", ".svg", ".pdf"}
    assert min(path.stat().st_size for path in pictures) > 1000


def test_the_stub_tells_what_the_package_gives():
    """The stub file lists every public name with its home, so that type checkers see what is loaded lazily."""
    tree = ast.parse((ROOT / "memgen" / "__init__.pyi").read_text())
    homes = {alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert homes == {name: f"memgen.{home}" for name, home in memgen._HOMES.items()}


def test_one_version():
    """The version in the project file is the one that the package and the changelog tell."""
    assert memgen.__version__ == PROJECT["project"]["version"]
    assert f"## {memgen.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_pins_cover_every_requirement():
    """Each dependency and each extra that is installed here has a pin, and pins name versions only."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line), line
            name, _, version = line.partition("==")
            pins[name.lower().replace("_", "-")] = version
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["cpu"], *extras["dev"], *extras["docs"]]
    for requirement in wanted:
        assert re.match(r"[A-Za-z0-9_-]+", requirement)[0].lower() in pins, requirement
    assert pins["torch"] == "2.13.0"


def test_no_address_or_path_of_a_machine_in_what_installs():
    """What installs names packages, never where they come from."""
    for name in ("constraints.txt", "make.py", ".ci/run", "pyproject.toml", ".pre-commit-config.yaml", "zensical.toml"):
        assert not re.search(r"https?://", (ROOT / name).read_text()), name
