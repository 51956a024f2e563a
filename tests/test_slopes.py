"""Slopes against known laws: power laws, the identity, manifolds; baselines on noise; the command on a tiny run."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from plotted import of_mark, ranges
from program import memgen
from synthetic_run import role_of

from memgen.base import noise, schemas, tables, wording
from memgen.base.errors import ConfigError, DataError, ShapeError
from memgen.experiment import geometry, make, present
from memgen.experiment.geometry import theory
from memgen.experiment.runs import create
from memgen.experiment.settings import RunSettings
from memgen.experiment.workspace import Workspace
from memgen.findings import slopes
from memgen.findings.slopes import Theory, summarize
from memgen.images.shuffle import permutation
from memgen.models.known import generate
from memgen.models.known.classes import CAlphaSettings, ConeSettings, DiscSettings, SinusoidSettings, TextureSettings
from memgen.models.known.oracles import Oracle, oracle_shrinkage
from memgen.models.known.wavelets import WaveletDenoiser, WaveletTransform
from memgen.report import charts, figures

pytestmark = pytest.mark.usefixtures("unrendered")

INPUTS = np.linspace(0, 34, 8)
UNKNOWN = Theory(None, None)
ORACLE = "wavelet_oracle"


def psnr(name: str, outputs: np.ndarray, n_train: int | None = None, inputs: np.ndarray = INPUTS, **more) -> pa.Table:
    """A PSNR table of outputs (images, levels) in dB."""
    image, level = (index.ravel() for index in np.indices(outputs.shape))
    columns = {
        "subject": name,
        "role": role_of(name, n_train),
        "n_train": n_train,
        "part": n_train and "a",
        "train_seed": n_train and 0,
    }
    columns |= {"kind": "holdout", "image_id": [f"i{i:03}" for i in image], "noise_draw": 0}
    columns |= {"sigma": 10 ** (-inputs[level] / 20), "input_psnr_db": inputs[level], "output_psnr_db": outputs.ravel()}
    return tables.make(schemas.PSNR, columns | more)


def summary(*parts: pa.Table, expected: Theory = UNKNOWN, low: float = 0, high: float = 34) -> dict[str, dict]:
    found = summarize(pa.concat_tables(parts), expected, 0, low, high)
    tables.check(found, schemas.SLOPES, "test")
    return {row["subject"] or slopes.label(row): row for row in found.to_pylist()}


@pytest.mark.parametrize("alpha", [1, 2, 5])
def test_the_oracle_of_a_power_law_has_its_slope(alpha):
    """c_k² = k^-(α+1) in 6400 dimensions comes within .02 of the slope α / (α + 1), whatever the images' contrasts."""
    squares = torch.arange(1, 6401, dtype=torch.float64) ** -(alpha + 1)
    scales = torch.linspace(300, 500, 9, dtype=torch.float64)[:, None]
    coefficients, sigmas = (scales * squares / squares.sum()).sqrt(), 10 ** (-INPUTS / 20)
    errors = torch.stack([sigma**2 * oracle_shrinkage(coefficients, sigma).mean(dim=-1) for sigma in sigmas], dim=1)
    expected = theory(CAlphaSettings(alpha=alpha))
    row = summary(psnr("x", -10 * errors.log10().numpy()), expected=expected)["x"]
    assert row["slope"] == pytest.approx(expected.slope, abs=0.02)
    assert row["theory"] == pytest.approx(alpha / (alpha + 1))
    assert row["low"] < row["slope"] < row["high"]


def test_the_identity_has_slope_one():
    """An output equal to the input has slope 1 and gain 0 in every image, and no width."""
    row = summary(psnr("x", np.tile(INPUTS, (7, 1))), expected=Theory(1.0, 3.0))["x"]
    assert [row[key] for key in ("slope", "low", "high")] == pytest.approx([1, 1, 1])
    assert [row[key] for key in ("gain_db", "gain_low", "gain_high")] == pytest.approx([0, 0, 0], abs=1e-9)
    assert (row["n"], row["n_levels"], row["gain_theory"]) == (7, 8, 3.0)


@pytest.mark.parametrize(
    ("input_psnr", "output_psnr"),
    [([0.0, 10.0], np.zeros(2)), ([0.0, 10.0], np.zeros((4, 3))), ([10.0, 10.0], np.zeros((4, 2)))],
)
def test_a_slope_needs_curves(input_psnr, output_psnr):
    """One row for each image, as many columns as there are input PSNRs, and two that differ."""
    with pytest.raises(ShapeError) as error:
        slopes.slope(input_psnr, output_psnr, 0)
    assert str(error.value) == (
        f"found output PSNR of shape {output_psnr.shape} and input PSNR of shape (2,). Expected (m, s) and (s,), with "
        "at least two different input PSNRs."
    )


def test_a_slope_needs_finite_values():
    """An infinite PSNR is named, with what to do."""
    with pytest.raises(DataError, match=r"^found an output PSNR that is not finite. Leave out that image or noise lev"):
        slopes.slope([0.0, 10.0], np.array([[0.0, np.inf]]), 0)


def test_curves_are_paired_by_image():
    """Equal curves differ by exactly 0 from the oracle's; .1 steeper ones by .1, however much images differ."""
    own = np.random.default_rng(0).normal(30, 5, (20, 1)) + np.random.default_rng(1).normal(0.7, 0.2, (20, 1)) * INPUTS
    parts = [psnr(ORACLE, own), psnr("same", own), psnr("steep", own + 0.1 * INPUTS)]
    found = summary(*parts)
    for name, expected in (("same", 0.0), ("steep", 0.1)):
        ends = [found[name][key] for key in ("over_oracle", "over_oracle_low", "over_oracle_high")]
        assert ends == pytest.approx([expected] * 3, abs=1e-12)
    assert found["steep"]["high"] - found["steep"]["low"] > 0.05


def test_images_without_a_twin_are_left_out_of_differences():
    """The oracle measured on some of the images only is compared on these, whatever the order of rows."""
    own = np.random.default_rng(0).normal(30, 5, (6, 8))
    shuffled = psnr("x", own).take(np.random.default_rng(1).permutation(48))
    found = summary(psnr(ORACLE, own[:4]), shuffled)
    assert found["x"]["over_oracle"] == pytest.approx(0, abs=1e-12)
    assert (found["x"]["n"], found[ORACLE]["n"]) == (6, 4)


def test_without_an_oracle_there_is_no_difference():
    """The columns are null, and so are those of a theory that is not known."""
    row = summary(psnr("x", np.tile(INPUTS, (3, 1))))["x"]
    assert [row[key] for key in ("over_oracle", "over_oracle_low", "theory", "gain_db", "gain_theory")] == [None] * 5
    assert (row["n_subjects"], row["n_train"]) == (1, None)


def test_only_the_baseline_is_the_oracle():
    """Neither another baseline nor an imported denoiser of the oracle's name takes the oracle's place."""
    flat = np.tile(INPUTS, (3, 1))
    found = summary(psnr("tangent_oracle", 0.5 * flat), psnr(ORACLE, flat, role="imported"), psnr("x", flat))
    assert [row["over_oracle"] for row in found.values()] == [None] * 3


def test_twins_and_draws_are_averaged_first():
    """Both twins count as one curve of each image: their mean slope, an interval over images, and one row for each N."""
    a, b = np.tile(INPUTS, (5, 1)), np.tile(0.5 * INPUTS + 20, (5, 1))
    parts = [psnr("n4-s0-a", a, 4), psnr("n4-s0-b", b, 4), psnr("n4-s0-b", b + 2, 4, noise_draw=1)]
    parts += [psnr("n9-s0-a", b, 9), psnr("n4-s0-a", 99 + a, 4, kind="train")]
    found = summary(*parts)
    assert list(found) == ["N = 4", "N = 9"]
    row = found["N = 4"]
    assert row["slope"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert (row["n"], row["n_subjects"], found["N = 9"]["n_subjects"]) == (5, 2, 1)


def test_only_the_range_counts():
    """A curve that saturates above 20 dB has slope 1 below; the ends stated are those of the noise levels used."""
    curve = psnr("x", np.tile(np.minimum(INPUTS, 20), (3, 1)))
    row = summary(curve, high=20)["x"]
    assert row["slope"] == pytest.approx(1)
    assert (row["low_db"], row["high_db"]) == (0, max(x for x in INPUTS if x <= 20))
    assert summary(curve)["x"]["slope"] < 0.8


def test_the_range_of_the_paper_is_the_default():
    """Without a range, levels from 0 to 34 dB count, ends included up to rounding, and no others."""
    inputs = np.array([-1.0, -1e-7, 17.0, 34.0 + 1e-7, 34.001])
    row = summarize(psnr("x", np.zeros((3, 5)), inputs=inputs), UNKNOWN, 0).to_pylist()[0]
    assert (row["low_db"], row["high_db"], row["n_levels"]) == (inputs[1], inputs[3], 3)


def test_a_range_without_two_levels_is_refused_in_words():
    """The message says how many levels lie in the range, which range that is, and what the run has."""
    curve = psnr("x", np.zeros((3, 3)), inputs=np.array([0.0, 17.04, 34.0]))
    with pytest.raises(ConfigError) as error:
        summary(curve, low=33.5)
    assert str(error.value) == (
        "found 1 noise levels with an input PSNR from 33.5 to 34 dB, expected at least 2. The run has 0.0, 17.0, 34.0 "
        "dB. Choose a wider range."
    )


def test_nothing_measured_gives_no_rows():
    """Before anything was measured there is an empty table."""
    assert summary(schemas.PSNR.empty_table()) == {}


def test_an_infinite_psnr_leaves_its_image_out():
    """Images of undefined PSNR are left out, and the number of images says so; if all are, the slope is null."""
    outputs = np.tile(INPUTS, (4, 1))
    outputs[1, 3] = np.inf
    assert summary(psnr("x", outputs))["x"]["n"] == 3
    row = summary(psnr("x", outputs[1:2]))["x"]
    assert (row["slope"], row["level_db"], row["n"]) == (None, None, 0)


def test_the_gain_averages_errors_before_the_logarithm():
    """Errors that are chi-squared over k dimensions have the gain 10 log10(d / k), though single draws lie higher."""
    d, k, m = 400, 2, 4000
    energy = np.random.default_rng(0).chisquare(k, (m, 1)) * 10 ** (-INPUTS / 10) / d
    row = summary(psnr("x", -10 * np.log10(energy)), expected=Theory(1.0, 10 * math.log10(d / k)))["x"]
    assert row["gain_db"] == pytest.approx(row["gain_theory"], abs=4 * 10 / math.log(10) / m**0.5)
    assert row["gain_low"] < row["gain_theory"] < row["gain_high"]
    assert row["level_low"] < row["level_db"] < row["level_high"]
    assert row["level_db"] - INPUTS.mean() > row["gain_theory"] + 2


def test_what_theory_knows():
    """The rougher of contour and background decides; manifolds have slope 1 and 10 log10(d / k); others nothing."""
    assert theory(CAlphaSettings(alpha=3, beta=8)).slope == pytest.approx(3 / 4)
    assert theory(CAlphaSettings(alpha=3, beta=1)).slope == pytest.approx(1 / 2)
    for settings, k in ((DiscSettings(side=20), 5), (ConeSettings(side=20), 1), (SinusoidSettings(side=20), 2)):
        assert theory(settings) == Theory(1.0, pytest.approx(10 * math.log10(400 / k)))
    assert theory(TextureSettings()) == theory(None) == UNKNOWN


# ------------------------------------------------------------------------------------------------ baselines


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("settings", [DiscSettings(side=16), ConeSettings(side=16), SinusoidSettings(side=16)])
def test_tangents_are_the_directions_in_which_images_differ(settings, shuffle):
    """Near images of the class differ by little off the tangent space; cone and sinusoids not at all."""
    axes = generate.tangents(settings, 3, [4, 7], shuffle)
    images = torch.from_numpy(generate.generate(settings, 3, range(8))).double()
    order = permutation(3, 256) if shuffle else np.arange(256)
    if isinstance(settings, DiscSettings):
        uniforms = torch.from_numpy(noise.stream("class/discs", 3, 4).random((1, 6)))
        disc = settings.prior.draw(uniforms)
        moved = disc + 1e-5 * torch.tensor([[1.0, -2, 1, 3, -1]])
        difference = (settings.prior.render(moved) - settings.prior.render(disc)).flatten()[order]
    else:
        difference = (images[4] - images[5]).flatten()[order]
    q = torch.linalg.qr(axes[0])[0]
    off = difference - q @ (q.T @ difference)
    assert float(off.norm()) < 1e-4 * float(difference.norm())
    assert axes.shape == (2, 256, q.shape[1])


def test_an_oracle_treats_each_noise_level_apart():
    """Each image meets the rule with its own noise level; a noise level for each image is needed."""
    oracle = Oracle((1, 2, 2), lambda noisy, sigma: noisy * sigma)
    noisy, sigma = torch.rand(5, 1, 2, 2), torch.tensor([0.1, 0.5, 0.1, 0.2, 0.5])
    assert torch.allclose(oracle(noisy, sigma), noisy * sigma[:, None, None, None])
    for wrong in (None, sigma[:2]):
        with pytest.raises(ShapeError, match="one noise level for each"):
            oracle(noisy, wrong)


def workspace(tmp_path, *overrides: str) -> Workspace:
    """A run with its images imported, of two noise levels, and no network."""
    from memgen.base import config

    given = ["split.holdout=6", "psnr.sigmas=[0.05,0.2]", "psnr.n_images=5", "sweep.n_train=[2]", *overrides]
    settings = config.load(RunSettings, None, [f"data.generated.{given[-1]}", *given[:-1]])
    made = Workspace(create(tmp_path, "run", settings.model_dump(mode="json"), "cpu"), settings, "cpu")
    with made.run.working():
        make.import_data(made)
    return made


def means(made: Workspace, kind: str) -> np.ndarray:
    """Mean output PSNR of a baseline at the two noise levels, ascending in input PSNR."""
    found = made.run.table("psnr", f"baseline-{kind}").to_pandas()
    return found.groupby("input_psnr_db")["output_psnr_db"].mean().to_numpy()


def test_baselines_beat_the_noise(tmp_path):
    """On smooth images in much noise each baseline is above the input, and the oracle above thresholding."""
    more = ["psnr.sigmas=[0.2,0.5]", "data.generated.n_images=20", "data.generated.side=32"]
    made = workspace(tmp_path, *more, "data.generated.alpha=4", 'kind="c_alpha"')
    geometry.measure_baselines(made)
    inputs = -20 * np.log10([0.5, 0.2])
    for kind in ("wavelet_oracle", "soft_threshold", "hard_threshold"):
        assert (means(made, kind) > inputs).all(), kind
    assert (
        means(made, "wavelet_oracle") > np.maximum(means(made, "soft_threshold"), means(made, "hard_threshold"))
    ).all()
    assert not made.run.has_table("psnr", "baseline-tangent_oracle")


def test_baselines_meet_the_noise_of_psnr(tmp_path):
    """The rows of a baseline are those of its denoiser, made here image by image from the noise of `noise.image_draws`."""
    made = workspace(tmp_path, "data.generated.n_images=20", "data.generated.side=16", 'kind="c_alpha"')
    geometry.measure_baselines(made)
    chosen = made.split.holdout[:5]
    ids, clean = [made.images.ids[i] for i in chosen], made.images.floats(chosen)
    soft = WaveletDenoiser(WaveletTransform((1, 16, 16)), "soft")
    expected = {}
    for image, draw, level, normal in noise.image_draws(ids, (1, 16, 16), 2, 3, 0, 7):
        sigma = torch.tensor([0.05, 0.2])[torch.from_numpy(level)]
        x = clean[torch.from_numpy(image)]
        denoised = soft(x + sigma[:, None, None, None] * torch.from_numpy(normal), sigma)
        for row in range(len(image)):
            error = float((denoised[row] - x[row]).double().square().mean())
            expected[ids[image[row]], draw[row], round(float(sigma[row]), 3)] = -10 * math.log10(error)
    rows = made.run.table("psnr", "baseline-soft_threshold").to_pylist()
    found = {(row["image_id"], row["noise_draw"], row["sigma"]): row["output_psnr_db"] for row in rows}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shuffle", ["false", "true"])
def test_the_tangent_space_has_its_gain(tmp_path, shuffle):
    """On discs, shuffled or not, the projection has slope 1 and the gain 10 log10(d / 5) within 4 standard errors."""
    more = [f"data.shuffle={shuffle}", "data.generated.n_images=60", "split.holdout=50", "psnr.n_images=50"]
    made = workspace(tmp_path, *more, "data.generated.side=16", 'kind="discs"')
    generated = made.settings.data.generated
    geometry.measure_baselines(made)
    row = summary(made.run.table("psnr"), expected=theory(generated))[schemas.BASELINES[1]]
    assert row["slope"] == pytest.approx(1, abs=1e-4)
    error = 10 / math.log(10) * math.sqrt(2 / 5 / 150)
    assert row["gain_db"] == pytest.approx(10 * math.log10(256 / 5), abs=4 * error)


def test_odd_images_have_no_wavelets(tmp_path):
    """Images of 15x15 have a tangent space and no wavelet baseline."""
    made = workspace(tmp_path, "data.generated.n_images=20", "data.generated.side=15", 'kind="cone"')
    geometry.measure_baselines(made)
    assert sorted(path.stem for path in made.run.table_path("psnr", "x").parent.glob("*")) == [
        "baseline-tangent_oracle"
    ]


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run on C^α images of 8x8 with the Wiener filter of the training images, of which part a alone is fitted."""
    folder = tmp_path_factory.mktemp("slopes")
    sets = ["data.generated.kind=c_alpha", "data.generated.side=8", "data.generated.n_images=80", "split.holdout=8"]
    sets += ["model.architecture=gaussian", "sweep.n_train=[32]", "psnr.n_images=8"]
    given = [part for value in sets for part in ("--set", value)]
    memgen("train", "--part", "a", "--outputs", folder, "--run", "tiny", *given).done()
    return folder


def test_the_command_measures_what_is_missing(tiny):
    """With one part fitted there is a row for N, the references and the baselines; again, nothing changes."""
    given = ("slopes", "--outputs", tiny, "--run", "tiny")
    first = memgen(*given).done()
    assert first.path == tiny / "tiny" / "tables" / "slopes" / "slopes.parquet"
    before = {path: path.read_bytes() for path in (tiny / "tiny" / "tables").rglob("*.parquet")}
    rows = {row["subject"] or slopes.label(row): row for row in memgen(*given, "--json").done().json["slopes"]}
    assert before == {path: path.read_bytes() for path in (tiny / "tiny" / "tables").rglob("*.parquet")}
    known = {ORACLE, schemas.BASELINES[2], schemas.BASELINES[3], schemas.REFERENCES["to_linear"]}
    assert set(rows) == {"N = 32"} | known
    assert {row["theory"] for row in rows.values()} == {2 / 3}
    assert 0.2 < rows[ORACLE]["slope"] < 0.9
    assert rows["N = 32"]["n_subjects"] == 1
    assert rows[ORACLE]["high_db"] == pytest.approx(33.13, abs=0.01)


def test_the_range_is_an_option(tiny):
    """Another range gives other slopes; one without noise levels is a mistake of the person who asked."""
    given = ("slopes", "--outputs", tiny, "--run", "tiny")
    wide, narrow = (memgen(*given, "--high-db", high, "--json").done().json["slopes"] for high in ("34", "16"))
    assert wide[0]["slope"] != narrow[0]["slope"]
    assert narrow[0]["high_db"] <= 16
    assert memgen(*given, "--low-db", "50", "--high-db", "60").code == 2


def test_the_report_shows_slopes_and_no_baseline_as_a_denoiser(tiny):
    """The page has a section once the table exists; baselines are in its figure, and not among the PSNR curves."""
    from memgen.experiment.runs import Run

    made = Workspace.of(Run(tiny / "tiny"), "cpu")
    with made.run.working():
        present.measure_slopes(made)
        _, transition, paths = present.write_report(made)
    page = paths[0].read_text()
    assert '<h2 id="optimality">' in page
    assert wording.KNOWN_SUBJECTS[ORACLE] in page
    assert set(transition["n_train"].drop_null().to_pylist()) == {32}
    assert [cell.name for cell in made.run.cells()] == ["n32-s0-a"]
    (line,) = of_mark(charts.draw_psnr(made.run.table("psnr"))["concat"][1], "line")
    assert set(ranges(line)) == {"N = 32", wording.KNOWN_SUBJECTS["best_linear"], "identity"}


def test_a_run_without_slopes_has_no_such_section():
    """Nothing is said of what was not measured."""
    from memgen.report.page import ReportInput, render

    assert "optimality" not in render(ReportInput("x", {}, {"slopes": schemas.SLOPES.empty_table()}))


def test_fitted_lines_meet_their_points():
    """In the figure the line of a denoiser runs through points that lie on a line, and theory has the slope asked for."""
    table = pa.concat_tables([psnr("n4-s0-a", np.tile(0.6 * INPUTS + 20, (3, 1)), 4)])
    figure = figures.figure_slopes(summarize(table, Theory(0.75, None), 0, 0, 30), table)
    points, fitted, best = figure.axes[0].get_lines()
    at = np.asarray(points.get_xdata()) <= 30
    line = np.interp(np.asarray(points.get_xdata())[at], fitted.get_xdata(), fitted.get_ydata())
    assert line == pytest.approx(np.asarray(points.get_ydata())[at])
    assert np.diff(best.get_ydata()) / np.diff(best.get_xdata()) == pytest.approx([0.75])
