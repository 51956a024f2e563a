"""The pages of the documentation as tests read them: their blocks, how each runs, and the commands in them.

A block is what stands between two fences. A comment before it says how it runs:

    <!-- given: TRAIN, HELD_OUT -->                    with these files and names (tests/given.py makes them)
    <!-- not run: it trains for 3 hours on a GPU -->   it does not run, and why
    <!-- varies: another processor rounds otherwise --> what is shown was printed once, and is not compared

A block of `bash` or `python` without a comment runs as it stands. The blocks of a page run in their order, in one folder.
If a block of Python begins with a comment that names a file, it is kept under that name too. README.md has no room for
comments, so `README` says the same of its blocks, by their first lines.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

from memgen.base import config
from memgen.cli import app
from memgen.experiment.audit_settings import AuditSettings
from memgen.experiment.settings import RunSettings

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", *sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")
))  # fmt: skip
LANGUAGES = ("bash", "python", "text", "json", "toml", "yaml")
RUN = ("bash", "python")
README = {
    "python3 make.py demo": (
        "bash",
        "not run: .ci/run makes the environment and runs the tests; the demo takes minutes",
    ),
    "Estimates with intervals that hold together with 95 %": ("text", ""),
    "memgen audit SAMPLES TRAIN --holdout HELD_OUT --calibrate 1     # folders, archives or files; docs/audit.md": (
        "bash",
        "given: SAMPLES, TRAIN, HELD_OUT, MODEL, outputs/AUDIT",
    ),
    "memgen data import faces/ --resize 32 --run faces     # a folder, .zip, .tar, .parquet, .npy, IDX or .pt; docs/images.md": (
        "bash",
        "not run: it trains for minutes; docs/start.md imports and sweeps images with a small config",
    ),
    "memgen import MODEL --trained-on FOLDER [--holdout FOLDER]          # a denoiser and the images it was trained on": (
        "bash",
        "not run: the brackets say what may be left out; docs/models.md imports a model",
    ),
    "import memgen": ("python", "not run: tests/test_house.py runs it"),
}
_FENCE = re.compile(
    r"(?:^<!-- (?P<how>[^>]*?) -->\n+)?^(?P<fence>```)(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_INLINE = re.compile(r"`(memgen [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        page: the page, from the root of the repository.
        line: of its first line, counted from 1.
        language: what it is written in.
        text: what it says.
        given: what it needs before it runs.
        not_run: why it does not run, or what is shown is not compared; empty for a block that runs or is compared.
    """

    page: str
    line: int
    language: str
    text: str
    given: tuple[str, ...]
    not_run: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether it is run as it stands."""
        return self.language in RUN and not self.not_run

    @property
    def kept_as(self) -> str | None:
        """The file that a block of Python names in its first line."""
        found = re.match(r"# (\w+\.py)\n", self.text) if self.language == "python" else None
        return found[1] if found else None


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in their order."""
    text = (ROOT / page).read_text()
    found = []
    for match in _FENCE.finditer(text):
        language, how = match["language"], match["how"] or ""
        if page == "README.md":
            language, how = README[match["text"].splitlines()[0]]
        kind, _, rest = how.partition(": ")
        assert kind in ("", "given", "not run", "varies"), f"{page}: <!-- {how} --> is not known"
        given = tuple(rest.split(", ")) if kind == "given" else ()
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(page, line, language, match["text"], given, rest if kind in ("not run", "varies") else ""))
    assert 2 * len(found) == len(re.findall("^```", text, re.M)), f"{page}: a fence is not closed, or indented"
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The words of every call of memgen in lines of a shell, without `memgen` itself."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\||[;|](?=\s)", line):
            yield from _calls(shlex.split(part, comments=True))


def _calls(words: list[str]) -> Iterator[list[str]]:
    for i, word in enumerate(words):
        if word == "memgen":
            yield words[i + 1 :]
            return
        if word.startswith("memgen "):  # a command in quotes, for another shell
            yield from commands(word)


def inline_commands(page: str) -> Iterator[list[str]]:
    """The words of every call of memgen in the sentences of a page; brackets around what may be left out are removed."""
    text = _FENCE.sub("", (ROOT / page).read_text())
    for match in _INLINE.finditer(text):
        yield bare(shlex.split(match[1].replace("\n", " ")))[1:]


def bare(words: list[str]) -> list[str]:
    """Words without the brackets around what may be left out."""
    return [
        word.removeprefix("[").removesuffix("]" if "[" not in word[1:] else "")
        if word.startswith("[-") or (word.endswith("]") and "[" not in word)
        else word
        for word in words
    ]


def check(words: list[str], complete: bool = True) -> None:
    """Parse a command as memgen does, without doing it, and read its settings.

    Args:
        words: what follows `memgen`.
        complete: whether its arguments must be there; a sentence may name a command alone.
    """
    command: Any = typer.main.get_command(app)
    rest = [re.sub("^.*configs/NAME.toml$", "configs/smoke.toml", word) for word in words]
    name = "memgen"
    if len(rest) > 1 and rest[0].startswith("-"):  # options of memgen itself, before the command
        context = command.make_context(name, rest)
        rest = [*context._protected_args, *context.args]
        if rest[0] == "COMMAND":
            return
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"memgen {' '.join(words)}: no command {rest[0]}"
        command, name, rest = command.commands[rest[0]], f"{name} {rest[0]}", rest[1:]
    if hasattr(command, "commands"):
        known = {"--help", *(name for parameter in command.params for name in parameter.opts)}
        assert set(rest) <= known, f"memgen {' '.join(words)}"
        return
    try:
        context = command.make_context(name, rest)
    except SystemExit:  # of --help
        return
    except Exception as error:
        if not complete and type(error).__name__ in ("MissingParameter", "BadOptionUsage"):  # no value, or no argument
            return
        raise AssertionError(f"memgen {' '.join(words)}: {getattr(error, 'message', error)}") from error
    given = context.params
    if overrides := given.get("overrides"):
        kind, must = (AuditSettings, {"train": "T", "samples": "S"}) if name == "memgen audit" else (RunSettings, {})
        config.load(kind, None, overrides, must)
    if (path := given.get("config")) and str(path).startswith("configs/"):
        assert (ROOT / path).exists(), f"memgen {' '.join(words)}: {path} does not exist"
