"""What a public project keeps beside its code: citation, hooks, the hosted checks, completion."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from program import environment

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
yaml = pytest.importorskip("yaml", reason="needs the extra docs")


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def test_the_citation_is_of_this_version():
    """It has the keys that its format requires, the version of the package, and the paper among its references."""
    cited = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert (cited["title"], cited["version"], cited["license"]) == (
        PROJECT["name"],
        PROJECT["version"],
        PROJECT["license"],
    )
    (paper,) = cited["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Kadkhodaie", "Guth", "Simoncelli", "Mallat"]
    assert paper["url"] in (ROOT / "README.md").read_text()


def test_hooks_download_nothing_and_do_what_lint_does():
    """Each hook is local and runs a program of .venv, the same as `make.py lint`."""
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    calls = [hook["entry"].removesuffix(" --force-exclude") for hook in repository["hooks"]]
    assert all(hook["language"] == "system" for hook in repository["hooks"])
    lint = (ROOT / "make.py").read_text().split("def lint()")[1].split("\ndef ")[0]
    for call in calls:
        program, *arguments = call.removeprefix(".venv/bin/").split()
        assert f'folder / "{program}"' in lint
        assert all(f'"{argument}"' in lint for argument in arguments), call
    assert len(calls) == lint.count("run(")


def test_the_hosted_checks_are_those_of_ci():
    """The workflow runs each task of .ci/run, on the Pythons that the project supports and three systems."""
    jobs = read(".github/workflows/ci.yml")["jobs"]
    hosted = {step["run"].removeprefix("python ") for job in jobs.values() for step in job["steps"] if "run" in step}
    ours = {
        line.removeprefix("python3 ") for line in (ROOT / ".ci" / "run").read_text().splitlines() if "make.py" in line
    }
    assert hosted == ours
    matrix = jobs["test"]["strategy"]["matrix"]
    assert matrix["python"][0] == PROJECT["requires-python"].removeprefix(">=")
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert {system.split("-")[0] for system in matrix["os"]} == {"ubuntu", "macos", "windows"}


def test_completion():
    """The program prints a completion for bash, and completes commands and options."""
    call = "import sys; sys.argv = ['memgen', *sys.argv[1:]]; from memgen.__main__ import main; main()"

    def printed(*arguments, **asked):
        # The program asks which shell called it, so one does, whatever started the tests.
        command = ["bash", "-c", '"$@"; true', "bash", sys.executable, "-c", call, *arguments]
        given = environment() | asked | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, env=given).stdout

    assert "_MEMGEN_COMPLETE=complete_bash" in printed("--show-completion", "bash")
    # What the script of the shell sets: the words before the cursor, and which of them is completed.
    for words, expected in (("memgen ver", {"verdict", "verify"}), ("memgen audit --calib", {"--calibrate"})):
        asked = {"_MEMGEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        assert set(printed(**asked).split()) == expected
