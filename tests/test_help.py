"""The help texts: they are sentences, they name what there is, and the defaults that they state are the defaults."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.main import get_command

from memgen.base import config
from memgen.cli import app
from memgen.experiment import measure
from memgen.experiment.settings import RunSettings
from memgen.measures.copies import controls
from memgen.measures.geometry import basis
from memgen.models import inverse
from memgen.spaces import lpips

ROOT = Path(__file__).parents[1]
# Words that stand in the help and nowhere else.
OWN_WORDS = {"afterwards", "asking", "brightness", "extend", "predicts", "resizing", "theirs"}


class Option(NamedTuple):
    """An option or argument of a command, as Click knows it."""

    flags: tuple[str, ...]
    help: str
    panel: str | None
    shown: str | None
    least: int | None


class Command(NamedTuple):
    """A command with its help."""

    help: str
    panel: str | None
    options: dict[str, Option]

    @property
    def flags(self) -> set[str]:
        """All names of its options."""
        return {flag for option in self.options.values() for flag in option.flags}


def read_commands() -> dict[str, Command]:
    """All commands, by their names as they are typed; the program itself has an empty one, a group its own."""
    found = {}

    def read(command, name):
        options = {
            each.name: Option(
                tuple(flag for flag in (*each.opts, *each.secondary_opts) if flag.startswith("-")),
                each.help or "",
                each.rich_help_panel,
                each.metavar,
                getattr(each, "min", None),
            )
            for each in command.params
            if "completion" not in each.name  # two options of Typer itself
        }
        found[name] = Command(command.help or "", command.rich_help_panel, options)
        for key, child in getattr(command, "commands", {}).items():
            read(child, f"{name} {key}".strip())

    read(get_command(app), "")
    return found


COMMANDS = read_commands()
TEXTS = {name: command.help for name, command in COMMANDS.items()} | {
    f"{name} {option}": found.help for name, command in COMMANDS.items() for option, found in command.options.items()
}


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def test_every_help_text_is_made_of_sentences_and_known_words():
    """It begins with a capital or a name in code, ends with a full stop, and has no word that is misspelled."""
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "memgen").glob("[!c]*/**/*.py")]
    known = words(" ".join(path.read_text() for path in documents)) | OWN_WORDS
    assert len(TEXTS) > 150
    for name, text in TEXTS.items():
        assert re.match(r"[A-Z]|train_a", text), name
        assert text.rstrip().endswith((".", "?")) or text.startswith("Does an image denoiser"), name
        assert words(text) <= known, (name, words(text) - known)


def test_the_help_names_what_there_is():
    """Commands, options, settings, folders and examples of values in the help exist and are accepted."""
    settings = RunSettings().model_dump()
    counts = dict.fromkeys(("commands", "options", "settings"), 0)
    for name, text in TEXTS.items():
        named = {word for word in re.findall(r"memgen ([a-z-]+)", text) if word != "measures"}
        assert named <= {command.split()[0] for command in COMMANDS if command}, name
        owner = max((command for command in COMMANDS if f"{name} ".startswith(f"{command} ")), key=len)
        allowed = set.union(*(COMMANDS[each].flags for each in (owner, *named)))
        allowed |= {"--set"} if owner else {"--run"}  # said of runs that are yet to be made, and of all commands
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
        assert options <= allowed, (name, options - allowed)
        given = re.findall(r"\b([a-z]+)\.([a-z_]+)(=\[[^\]]*\]|=\w+)?", text)
        found = [(section, key, value) for section, key, value in given if section in settings]
        for section, key, value in found:
            assert key in settings[section], (name, section, key)
            if value:
                loaded = config.load(RunSettings, None, [f"{section}.{key}{value}"])
                assert loaded.model_dump()[section][key] != settings[section][key]
        for kind, some in (("commands", named), ("options", options), ("settings", found)):
            counts[kind] += len(some)
    assert min(counts.values()) > 5, counts
    assert "configs/" in TEXTS["sweep config"]
    assert list((ROOT / "configs").glob("*.toml"))
    examples = re.findall(r"-?\d+,\d+", TEXTS["data import value_range"])
    assert len(examples) == 2
    for example in examples:
        low, high = map(float, example.split(","))
        assert config.load(RunSettings, None, [f"data.range={example}"]).data.range == (low, high)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("sweep seed", f"Default: {RunSettings().seed}."),
        ("index name", f"{', '.join(measure.REFERENCES[:-1])} or {measure.REFERENCES[-1]}. Default: all three."),
        ("nn-search index", f"{', '.join(measure.REFERENCES)}, or own"),
        ("nn-search lpips_net", " or ".join(lpips._LAYERS)),
        ("restore task", f"{', '.join(list(inverse.TASKS)[:-1])} or {list(inverse.TASKS)[-1]}."),
        ("calibrate repeats", f"({controls.REPEATS})"),
        ("slopes high_db", "0 to 34"),
        ("basis", f"{basis.WHOLE:,} numbers"),
    ],
)
def test_defaults_and_choices_in_the_help_are_those_of_the_program(name, part):
    """What the help states about values is what the settings and the registries of the program hold."""
    assert part in " ".join(TEXTS[name].split())


def test_amounts_in_the_help_are_the_defaults_of_the_tasks():
    """The number in parentheses behind each task is what is taken if none is given."""
    text = TEXTS["restore amount"]
    for task in inverse.TASKS:
        (shown,) = re.findall(rf"{task}: [^.]*\((?:default: )?([\w. ]+)\)", text)
        amount = inverse.choose(task, None, (1, 8, 8)).amount
        assert amount == (4 if shown == "half the image" else float(shown)), task


SAID = {
    "data import source": "Default: the embedded images.",
    "data import run": "is continued if it exists",
    "data import": "the machines of a cluster share the search for near-duplicates",
    "data import jobs": "Searches at the same time. Default: one",
    "data import executor": "local (processes on this machine), ray (a Ray cluster) or slurm",
    "data import address": "auto, HOST:PORT or ray://HOST:PORT",
    "audit": "share the search for copies and for near-duplicates",
    "data inspect run": "Default: the newest run.",
    "runs show run": "Default: the newest run.",
    "runs remove yes": "without asking",
    "runs remove": "everything in it",
    "runs list": "oldest first",
    "sweep as_json": "on standard output as JSON",
    "sweep dry_run": "but write nothing",
    "sweep overrides": "several times",
    "train sizes": "Default: every N.",
    "sample sizes": "Default: the largest trained N.",
    "report n_train": "Default: the largest trained N.",
    "sample part": "a or b. Default: both.",
    "sweep device": "auto, cpu, cuda or cuda:0",
    "sweep jobs": "one for each CPU core, or 1 on a GPU",
    "import trained_on": "that the model was trained on",
    "import holdout": "that the model never saw",
    "import kind": "denoiser or samples",
    "nn-search metric": "such as correlation or rmse",
    "nn-search lpips": "the weights of its trunk",
    "slopes low_db": "Lowest input PSNR",
    "slopes high_db": "Highest input PSNR",
}


def test_the_help_says_what_an_option_does():
    """What an option changes, and what happens without it."""
    for name, part in SAID.items():
        assert part in " ".join(TEXTS[name].split()), name


def test_commands_and_options_stand_in_their_panels():
    """The help groups commands by what they are for, and options by whether they choose or make a run."""
    panels = {}
    for name, command in COMMANDS.items():
        if name and " " not in name:
            panels.setdefault(command.panel, []).append(name)
    assert panels == {
        "The whole experiment": ["sweep", "demo", "report", "verdict", "watch"],
        "Audit": ["audit", "verify", "canaries"],
        "Models and samples": ["train", "import", "subjects", "sample", "restore", "index"],
        "Measures": [
            "nn-search",
            "psnr",
            "basis",
            "peers",
            "calibrate",
            "slopes",
            "compare",
            "likelihood",
            "membership",
            "diversity",
            "monitor",
        ],
        "Images and runs": ["weights", "data", "runs"],
    }
    wanted = {"outputs": "Which run", "run": "Which run"}
    wanted |= dict.fromkeys(("config", "overrides", "dry_run"), "Settings of a new run")
    for name, command in COMMANDS.items():
        for key, option in command.options.items():
            if option.flags:  # the run that runs show and runs remove take is an argument
                assert option.panel == wanted.get(key), (name, key)


def test_options_have_the_same_names_in_every_command():
    """An option that several commands share is typed alike and takes the same values: counts from 1, redraws from 2."""
    flags = {
        "as_json": ("--json",), "run": ("--run",), "config": ("--config", "-c"), "overrides": ("--set",),
        "sizes": ("--n",), "n_train": ("--n",), "dry_run": ("--dry-run",), "sigmas": ("--sigma",),
        "value_range": ("--range",), "every": ("--sweep",), "kind": ("--as",), "yes": ("--yes", "-y"),
        "seconds": ("--every",),
        "first_layer_linear": ("--first-layer-linear", "--first-layer-relu"),
    }  # fmt: skip
    least = dict.fromkeys(("sizes", "n_train", "jobs", "k", "count", "trajectories", "calibrate", "each", "probes"), 1)
    least |= {"repeats": 2, "n": 2, "label": 0, "guidance": 0, "seconds": 0.2}
    seen = set()
    for name, command in COMMANDS.items():
        for key, option in command.options.items():
            if option.flags:
                assert option.flags == flags.get(key, ("--" + key.replace("_", "-"),)), (name, key)
            assert option.least == least.get(key), (name, key)
            assert key != "value_range" or option.shown == "LOW,HIGH"
            seen.add(key)
    assert seen >= flags.keys() | least.keys()
