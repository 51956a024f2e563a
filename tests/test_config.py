"""Settings: defaults, then a TOML file, then flags; unknown keys are errors that suggest the right one."""

from pathlib import Path

import pytest
from pydantic import Field

from memgen.base import config
from memgen.base.errors import ConfigError
from memgen.experiment.settings import RunSettings
from memgen.models.networks import UNetSettings

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))


class Inner(config.Settings):
    steps: int = Field(5, ge=1)
    rate: float = 0.1


class Outer(config.Settings):
    name: str = "x"
    inner: Inner = Inner()


def test_defaults_file_and_flags_in_this_order(tmp_path):
    """A flag beats the file, the file beats the default."""
    path = tmp_path / "a.toml"
    path.write_text('name = "file"\n[inner]\nsteps = 7\nrate = 0.5\n')
    assert config.load(Outer) == Outer()
    found = config.load(Outer, path, ["inner.steps=9", "name=flag"])
    assert (found.name, found.inner.steps, found.inner.rate) == ("flag", 9, 0.5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.step=3", r"unknown key inner\.step; did you mean inner\.steps\?"),
        ("zebra=3", r"unknown key zebra; known here: name, inner"),
        ("inner.steps=0", r"inner\.steps: .*greater than or equal to 1.*got 0"),
        ("inner.steps=many", r"inner\.steps: .*got 'many'"),
        ("inner.rate=nan", r"inner\.rate: "),
        ("nothing", r"expected key=value"),
        ("name.first=3", r"name"),
    ],
)
def test_a_wrong_setting_is_explained(override, message):
    """The message names the key, what was found, and what would do."""
    with pytest.raises(ConfigError, match=message):
        config.load(Outer, None, [override])


def test_all_wrong_settings_are_named_at_once(tmp_path):
    """Three mistakes, three lines, each with the name of the file."""
    path = tmp_path / "a.toml"
    path.write_text("nme = 1\n[inner]\nstep = 1\nrate = 'x'\n")
    with pytest.raises(ConfigError) as caught:
        config.load(Outer, path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(str(path)) for line in lines)


def test_unreadable_files_are_named(tmp_path):
    """A missing file and one that is not TOML are errors that name it."""
    with pytest.raises(ConfigError, match=r"none\.toml"):
        config.load(Outer, tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = \n")
    with pytest.raises(ConfigError, match=r"broken\.toml: not valid TOML"):
        config.load(Outer, broken)


def test_settings_are_frozen():
    """A setting cannot be changed after it was read."""
    with pytest.raises(ValueError, match="frozen"):
        Outer().name = "y"  # type: ignore[misc]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_loads_and_says_what_it_costs(path):
    """Each file in configs/ is valid, and its header states cost and expected values."""
    config.load(RunSettings, path)
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert "# Cost: " in header
    assert "# Expect" in header


def test_there_are_configs():
    """The parametrization above is not empty."""
    assert len(CONFIGS) >= 3


def test_settings_survive_json():
    """A run's settings written to run.json and read back are equal."""
    settings = config.load(RunSettings, None, ["train.preset=paper", "model.architecture=bf_cnn", "data.source=faces"])
    assert config.validate(RunSettings, settings.model_dump(mode="json"), "run.json") == settings


def test_embedded_images_are_shrunk_and_a_persons_are_not():
    """The default size is 16 for the embedded images, and their own for others; 0 keeps it too."""
    assert config.load(RunSettings).data.resize == 16
    assert config.load(RunSettings, None, ["data.source=faces"]).data.resize is None
    assert config.load(RunSettings, None, ["data.resize=0"]).data.resize is None
    assert config.load(RunSettings, None, ["data.source=faces", "data.resize=40"]).data.resize == 40


def test_generated_images_instead_of_a_source():
    """A generated class has a size of its own and keeps near-duplicates; its settings survive run.json."""
    settings = config.load(RunSettings, None, ["data.generated.kind=discs", "data.generated.side=20"])
    assert (settings.data.resize, settings.data.deduplicate, settings.data.name) == (None, False, "generated: discs")
    assert settings.data.generated.side == 20
    assert config.validate(RunSettings, settings.model_dump(mode="json"), "run.json") == settings
    assert config.load(RunSettings, None, ["data.generated.kind=cone", "data.resize=0"]).data.resize is None
    assert config.load(RunSettings).data.name == "embedded Fashion-MNIST subset"


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("data.source=faces", "one of them"),
        ("data.resize=8", r"generated\.side"),
        ("data.limit=8", r"generated\.n_images"),
        ("data.color=rgb", r"generated\.channels"),
        ("data.deduplicate=true", "distribution"),
    ],
)
def test_what_does_not_go_with_generated_images(override, remedy):
    """A source, a resize and whatever else would do nothing are refused, with what to set instead."""
    with pytest.raises(ConfigError, match=remedy):
        config.load(RunSettings, None, ["data.generated.kind=texture", override])


def test_metric_must_be_known():
    """The metric of the search is the name of a space; another is refused with the names there are."""
    with pytest.raises(ConfigError, match=r"search\.metric: .*correlation, cosine, rmse \(got 'l2'\)"):
        config.load(RunSettings, None, ["search.metric=l2"])


def test_keys_within_a_choice_are_explained():
    """An unknown key of an architecture is named as a person writes it, with the nearest known one."""
    with pytest.raises(ConfigError, match=r"unknown key model\.widht; did you mean model\.width\?"):
        config.load(RunSettings, None, ["model.architecture=unet", "model.widht=3"])
    with pytest.raises(ConfigError, match=r"model\.width: Input should be greater"):
        config.load(RunSettings, None, ["model.architecture=unet", "model.width=0"])


def test_the_default_architecture_need_not_be_named():
    """The width of the default architecture is set by itself; a key of another one is an error that names it."""
    assert config.load(RunSettings, None, ["model.width=24"]).model == UNetSettings(width=24)
    with pytest.raises(ConfigError, match=r"model\.layers"):
        config.load(RunSettings, None, ["model.layers=5"])


def test_the_header_of_a_file_is_its_first_comment(tmp_path):
    """Lines up to the first that is no comment, without the marks; aligned lines stay so."""
    path = tmp_path / "x.toml"
    path.write_text("# What it is.\n#   a  1\n#\n# End.\n\n# not this\n[sweep]\n")
    assert config.header(path) == "What it is.\n  a  1\n\nEnd."
    path.write_text("[sweep]\n# not this\n")
    assert config.header(path) == ""
