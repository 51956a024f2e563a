"""The bases of a run: what `memgen basis` keeps and shows, on networks and on models whose answer is known."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from program import memgen

from memgen.base import config, noise, schemas
from memgen.base.errors import ConfigError, DataError
from memgen.experiment import executors, geometry, make, present, runs, subjects, sweep, tasks
from memgen.experiment.runs import Run
from memgen.experiment.settings import RunSettings
from memgen.experiment.workspace import Workspace
from memgen.findings import bases
from memgen.images.imageset import ImageSet
from memgen.measures.geometry import basis, harmonics
from memgen.report import sheets, spectra, style
from memgen.report.page import ReportInput, render


def twins(n_train: int) -> tuple[str, str]:
    return f"n{n_train}-s0-a", f"n{n_train}-s0-b"


def prepared(folder, *settings) -> Workspace:
    """A run of the settings with its images and its denoisers, of 8x8 unless said otherwise."""
    chosen = config.load(RunSettings, None, ["split.holdout=32", "basis.n_images=2", *settings])
    workspace = Workspace(runs.create(folder, "bases", chosen.model_dump(mode="json"), "cpu"), chosen, "cpu")
    with workspace.run.working():
        make.import_data(workspace)
        sweep.execute(workspace, tasks.tasks(chosen.cells, ("train",)), executors.find("local"), lambda event: None)
    return workspace


@pytest.fixture(scope="module")
def wiener(tmp_path_factory) -> Workspace:
    """Wiener filters of halves of the embedded images at 8x8, measured at two noise levels and two sizes."""
    settings = [
        "data.resize=8",
        "data.limit=2200",
        "data.deduplicate=false",
        "model.architecture=gaussian",
        "sweep.n_train=[4, 1024]",
    ]
    workspace = prepared(tmp_path_factory.mktemp("wiener"), *settings, "basis.sigmas=[0.1, 0.3]", "basis.n_images=3")
    for n_train in (4, 1024):
        for sigma in workspace.settings.basis.sigmas:
            geometry.measure_basis(workspace, twins(n_train), sigma)
    return workspace


def test_eigenvalues_are_those_of_the_covariance(wiener):
    """For Wiener filters the table has lambda / (lambda + sigma^2) of the training images' covariance, at any image."""
    table = wiener.run.table("basis").to_pandas()
    for n_train in (4, 1024):
        for part in ("a", "b"):
            pixels = wiener.images.floats(wiener.split.training_indices(part, n_train)).flatten(1).double().numpy()
            variances = np.maximum(np.linalg.eigvalsh(np.cov(pixels.T, bias=True))[::-1], 1e-4)
            for sigma in (0.1, 0.3):
                rows = table.query("n_train == @n_train and part == @part and sigma == @sigma")
                assert len(rows) == 3 * 64
                found = rows.pivot_table(index="image_id", columns="k", values="eigenvalue").to_numpy()
                np.testing.assert_allclose(found, np.tile(variances / (variances + sigma**2), (3, 1)), atol=1e-5)


def principal_axes(workspace: Workspace, n_train: int, parts: str) -> np.ndarray:
    """Eigenvectors of the covariance of a training set, or of all of a and b, in columns, largest first."""
    indices = [
        workspace.split.training_indices(part, n_train) if len(parts) == 1 else getattr(workspace.split, part)
        for part in parts
    ]
    pixels = workspace.images.floats(np.concatenate(indices)).flatten(1).double().numpy()
    return np.linalg.eigh(np.cov(pixels.T, bias=True))[1][:, ::-1]


def test_wiener_filters_share_their_basis_at_large_n(wiener):
    """At large N the bases of the twins agree with each other and with the principal components; at small N less."""
    found = {(r.n_train, r.sigma): r for r in bases.readings(wiener.run.table("basis_summary"), 0)}
    assert set(found) == {(4, 0.1), (4, 0.3), (1024, 0.1), (1024, 0.3)}
    large, small = found[1024, 0.3].values, found[4, 0.3].values
    for n_train in (4, 1024):  # the same from the covariances of the training images alone
        a, b, both = (principal_axes(wiener, n_train, parts) for parts in ("a", "b", "ab"))
        last = wiener.run.table("basis_summary", f"n{n_train}-s0-a+n{n_train}-s0-b.sigma0.3").to_pylist()[-1]
        rank = last["overlap_rank"]
        twin, pca = (((x[:, :rank].T @ y[:, :rank]) ** 2).sum() / rank for x, y in ((a, b), (b, both)))
        assert (last["sigma"], last["part"]) == (0.3, "b")
        assert (last["overlap_twin"], last["overlap_pca"]) == pytest.approx((twin, pca), abs=1e-5)
    assert large["overlap_twin"].estimate > 0.85 > 0.6 > small["overlap_twin"].estimate
    assert large["overlap_pca"].estimate > 0.9 > 0.7 > small["overlap_pca"].estimate
    assert found[4, 0.3].chance["overlap_twin"] < small["overlap_twin"].estimate
    assert large["asymmetry"].estimate < 1e-6
    assert large["negative_part"].estimate == 0
    assert large["overlap_tangent"].n == 0
    assert "overlap_tangent" not in found[4, 0.1].chance


def test_noise_is_that_of_psnr(wiener):
    """The noisy images have the noise of the first draw of PSNR, and are given to both twins of every N."""
    chosen = wiener.split.holdout[:3]
    clean = wiener.images.floats(chosen).numpy()
    for sigma in (0.1, 0.3):
        large, small = (geometry.read_bases(wiener, twins(n), sigma) for n in (1024, 4))
        np.testing.assert_array_equal(large["noisy"], small["noisy"])
        np.testing.assert_array_equal(large["clean"], clean)
        for i, position in enumerate(chosen):
            z = noise.normal(noise.stream(f"image/{wiener.images.ids[position]}", wiener.settings.seed, 0), (1, 8, 8))
            np.testing.assert_allclose(large["noisy"][i], clean[i] + sigma * z, atol=1e-6)


def test_arrays_are_those_of_the_tables(wiener):
    """Eigenvectors and denoised images of the arrays are of the denoiser, image and noise level where they stand."""
    table = wiener.run.table("basis").to_pandas()
    table["place"] = table["image_id"].map({wiener.images.ids[p]: i for i, p in enumerate(wiener.split.holdout[:3])})
    for sigma in (0.1, 0.3):
        arrays = geometry.read_bases(wiener, twins(1024), sigma)
        assert arrays["eigenvectors"].shape == (3, 2, 64, 1, 8, 8)
        assert arrays["eigenvectors"].dtype == arrays["denoised"].dtype == np.float32
        for i in range(3):
            for twin, part in enumerate("ab"):
                rows = table.query("n_train == 1024 and place == @i and sigma == @sigma and part == @part")
                vectors = arrays["eigenvectors"][i, twin].reshape(64, 64)
                np.testing.assert_array_equal(arrays["eigenvalues"][i, twin], rows["eigenvalue"])
                coefficients = vectors @ arrays["clean"][i].ravel()
                np.testing.assert_allclose(coefficients, rows["coefficient_clean"], atol=1e-5)
                noisy = torch.from_numpy(arrays["noisy"][i])[None]
                denoised = subjects.find(wiener, f"n1024-s0-{part}").denoiser(noisy, torch.tensor([sigma]))[0]
                np.testing.assert_allclose(arrays["denoised"][i, twin], denoised, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "dimensions", "shuffle"), [("discs", 5, False), ("cone", 1, True), ("sinusoids", 2, True)]
)
def test_the_optimum_keeps_the_tangents(tmp_path, monkeypatch, kind, dimensions, shuffle):
    """At small noise the first eigenvectors of the exact optimum span the directions in which the image can move."""
    side = 16 if kind == "discs" else 8
    generated = f"data.generated={{kind='{kind}', side={side}, n_images=80}}"
    workspace = prepared(
        tmp_path, generated, f"data.shuffle={str(shuffle).lower()}", "model.architecture=gaussian",
        "sweep.n_train=[4]", "basis.n_images=1",
    )  # fmt: skip
    optimum = geometry._optimum(workspace).eval()
    monkeypatch.setattr(subjects.KeptSubject, "denoiser", optimum)
    _, summary = geometry.measure_basis(workspace, twins(4), 0.01)
    (first, second) = summary.to_pylist()
    assert first["overlap_tangent"] > 0.99
    assert first["overlap_tangent_chance"] == dimensions / side**2
    assert round(first["trace"]) == first["overlap_rank"] == dimensions
    assert first["overlap_tangent"] == second["overlap_tangent"]
    assert first["overlap_twin"] == pytest.approx(1)


def test_shuffled_pixels_are_measured_in_place(tmp_path):
    """The covariance of shuffled images is that of the plain ones, shuffled: no number in place depends on the order."""
    chosen = ["data.generated={kind='texture', side=8, n_images=300}", "model.architecture=gaussian"]
    chosen += ["sweep.n_train=[128]", "basis.n_images=8"]
    means = {}
    for shuffle in ("false", "true"):
        workspace = prepared(tmp_path / shuffle, *chosen, f"data.shuffle={shuffle}")
        _, summary = geometry.measure_basis(workspace, twins(128), 0.3)
        rows = summary.to_pandas().mean(numeric_only=True)
        means[shuffle] = rows[["local_frequency", "overlap_dct", "overlap_pca", "contour_direction"]]
    np.testing.assert_allclose(means["true"], means["false"], rtol=0.1)
    assert means["true"]["local_frequency"] < 0.8 * harmonics.chance_frequency((1, 8, 8))
    assert means["true"]["overlap_dct"] > 0.5 > summary["overlap_chance"][0].as_py()


def test_more_components_than_images_are_not_compared(tmp_path):
    """Principal components beyond those that the images determine are not compared with: the overlap is null."""
    settings = [
        "data.resize=8",
        "data.limit=44",
        "model.architecture=gaussian",
        "sweep.n_train=[4]",
        "split.holdout=32",
    ]
    workspace = prepared(tmp_path, *settings, "basis.n_images=1")
    known = len(workspace.split.a) + len(workspace.split.b) - 1
    assert workspace.principal.shape == (64, known)
    rows = [row for sigma in (0.01, 2) for row in geometry.measure_basis(workspace, twins(4), sigma)[1].to_pylist()]
    assert {row["overlap_rank"] > known for row in rows} == {True, False}
    for row in rows:
        assert (row["overlap_pca"] is None) == (row["overlap_rank"] > known)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own, for forward mode
def test_large_images(wiener, monkeypatch, tmp_path):
    """Without the matrix the same largest eigenpairs are found, and sums within their errors; the rest is null."""
    workspace = prepared(
        tmp_path, "data.resize=8", "data.limit=2200", "data.deduplicate=false", "model.architecture=gaussian",
        "sweep.n_train=[1024]", "basis.n_images=3", "basis.vectors=8", "basis.probes=50",
    )  # fmt: skip
    monkeypatch.setattr(basis, "WHOLE", 63)
    long, summary = geometry.measure_basis(workspace, twins(1024), 0.3)
    assert long.num_rows == 2 * 3 * 8
    assert pc.all(pc.is_null(long["singular_value"])).as_py()
    key = "n1024-s0-a+n1024-s0-b.sigma0.3"
    for found, exact in zip(summary.to_pylist(), wiener.run.table("basis_summary", key).to_pylist(), strict=True):
        assert (found["eigenpairs"], exact["eigenpairs"]) == (8, 64)
        assert found["converged"]
        assert found["residual"] < 1e-4
        assert 0 < found["trace_error"] < 0.1 * exact["trace"]
        assert abs(found["trace"] - exact["trace"]) < 4 * found["trace_error"]
        assert found["dimension_squares"] == pytest.approx(exact["dimension_squares"], rel=0.05)
        assert abs(found["sure"] - exact["sure"]) < 4 * 2 * 0.3**2 * found["trace_error"] / 64
        for name in ("squared_error", "linearity_error"):
            assert found[name] == pytest.approx(exact[name], rel=1e-5)
        assert found["asymmetry"] < 1e-5
        assert found["overlap_rank"] == 8 < exact["overlap_rank"]
        assert [found[name] for name in ("dimension_99", "negative_part", "overlap_pca")] == [None] * 3
        assert found["overlap_twin"] > 0.8
    values = long.to_pandas()["eigenvalue"].to_numpy().reshape(6, 8)
    expected = wiener.run.table("basis", key).to_pandas()["eigenvalue"].to_numpy().reshape(6, 64)[:, :8]
    np.testing.assert_allclose(values, expected, atol=1e-4)
    (reading,) = bases.readings(summary, 0)
    assert (reading.unconverged, reading.values["negative_part"].n) == (0, 0)


def test_bases_that_did_not_converge_are_counted(wiener):
    """A basis whose eigenpairs are not as precise as asked for is kept, counted and said."""
    summary = wiener.run.table("basis_summary", "n4-s0-a+n4-s0-b.sigma0.1")
    marks = pa.array([False, True, True, False, True, True])
    marked = summary.set_column(summary.column_names.index("converged"), "converged", marks)
    assert [reading.unconverged for reading in bases.readings(marked, 0)] == [2]


def test_a_noise_level_of_zero_is_refused(wiener):
    """Without noise there is nothing to shrink."""
    with pytest.raises(ConfigError, match=r"--sigma 0: expected more than 0"):
        geometry.measure_basis(wiener, twins(4), 0.0)


def test_readings_are_means_over_images(wiener):
    """Twins are averaged first; a ratio is one of means; images are resampled; one image has no interval."""
    summary = wiener.run.table("basis_summary")
    found = bases.readings(summary, 0)[0]
    rows = [row for row in summary.to_pylist() if (row["n_train"], row["sigma"]) == (found.n_train, found.sigma)]
    assert (len(rows), found.images) == (6, 3)
    assert found.values["trace"].estimate == pytest.approx(np.mean([row["trace"] for row in rows]))
    errors = [np.sum([row[name] for row in rows]) for name in ("sure", "squared_error")]
    assert found.values["sure_ratio"].estimate == pytest.approx(errors[0] / errors[1])
    of_image = [
        np.mean([r["squared_error"] for r in rows if r["image_id"] == i]) for i in {r["image_id"] for r in rows}
    ]
    interval = found.values["squared_error"]
    assert interval.n == 3
    assert min(of_image) <= interval.low < interval.estimate < interval.high <= max(of_image)
    one = summary.filter(pc.equal(summary["image_id"], rows[0]["image_id"]))
    assert bases.readings(one, 0)[0].values["trace"].low is None
    assert bases.readings(schemas.BASIS_SUMMARY.empty_table(), 0) == []


@pytest.mark.usefixtures("unrendered")
def test_command(tiny, monkeypatch):
    """Tables, arrays and a page; a second call measures nothing; a lost or a cut-short pair is made again, alike."""
    outcome = memgen("basis", "--n", "1", "--n", "4").done()
    assert outcome.path.resolve() == (tiny / "tables" / "basis_summary").resolve()
    assert "overlap with the other" in outcome.err
    assert "In parentheses: the value of a random basis." in " ".join(outcome.err.split())
    run = Run(tiny)
    summary, long = run.table("basis_summary"), run.table("basis")
    assert summary.num_rows == 2 * 2 * 8
    assert long.num_rows == 64 * summary.num_rows
    assert set(summary["subject"].to_pylist()) == {"n1-s0-a", "n1-s0-b", "n4-s0-a", "n4-s0-b"}
    assert max(summary["linearity_error"].to_pylist()) < 1e-4
    page = memgen("report", "--sweep").done().path.read_text()
    assert "Geometry: shrinkage in an adaptive basis" in page
    assert "were not analyzed" not in page
    assert page.count("overlap with the other model&#39;s basis") == 2  # in the table, and where it is explained
    for name in ("spectrum", "bases"):
        assert (tiny / "report" / "figures" / f"{name}.png").exists()  # rendered by test_figures

    key = "n4-s0-a+n4-s0-b.sigma0.1"
    made = [run.table_path(kind, key) for kind in ("basis", "basis_summary")] + [run.bases_path(key)]
    before, stats = [path.read_bytes() for path in made], [path.stat() for path in made]
    shown = memgen("basis", "--json").done().json
    assert [reading["n_train"] for reading in shown["readings"]] == [4]
    assert shown["readings"][0]["values"]["trace"]["n"] == 8
    assert [path.stat() for path in made] == stats
    for lost in made:
        lost.unlink()
        memgen("basis").done()
        assert [path.read_bytes() for path in made] == before

    calls = []
    monkeypatch.setattr("memgen.measures.geometry.basis.eigenbasis", lambda *given: calls.append(given) or 1 / 0)
    made[-1].unlink()
    with pytest.raises(ZeroDivisionError):
        memgen("basis", "--n", "1", "--n", "4")
    assert len(calls) == 1  # N = 1 is there already
    workspace = Workspace.of(run, "cpu")
    with pytest.raises(DataError, match=r"n4-s0-a\+n4-s0-b\.sigma0\.1\.npz: damaged .*No such file.* memgen basis"):
        present._bases(workspace, None)
    made[-1].write_bytes(b"PK damaged")
    with pytest.raises(DataError, match=r"n4-s0-a\+n4-s0-b\.sigma0\.1\.npz: damaged .* memgen basis"):
        present._bases(workspace, 4)


def test_own_images(tiny, tmp_path):
    """A person's own images are measured and drawn, each once, and are not counted with the held-out ones."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "mine.npy", pixels)
    outcome = memgen("basis", tmp_path / "mine.npy", "--n", "4", "--sigma", "0.2", "--json").done()
    (reading,) = outcome.json["readings"]
    assert (reading["n_train"], reading["sigma"], reading["images"]) == (4, 0.2, 3)
    picture = Path(outcome.json["path"])
    assert picture.stat().st_size > 1000
    run = Run(tiny)
    assert run.table("basis_summary").num_rows == 0
    workspace, own = Workspace.of(run, "cpu"), ImageSet.from_pixels(pixels, ["", "", ""], {})
    arrays = geometry.read_bases(workspace, twins(4), 0.2, own)
    np.testing.assert_allclose(arrays["clean"], pixels / 255, atol=1e-6)
    z = noise.normal(noise.stream(f"image/{own.ids[2]}", workspace.settings.seed, 0), (1, 8, 8))
    np.testing.assert_allclose(arrays["noisy"][2], pixels[2] / 255 + 0.2 * z, atol=1e-6)
    before = picture.stat().st_mtime_ns
    assert memgen("basis", tmp_path / "mine.npy", "--sigma", "0.2", "--json").done().json["readings"] == [reading]
    assert picture.stat().st_mtime_ns != before
    memgen("basis", tmp_path / "none.npy").failed(3, "none.npy")


@pytest.mark.usefixtures("unrendered")
def test_an_imported_denoiser(tiny):
    """An imported denoiser is measured by its name, has no twin, and stands beside the trained ones in the report."""
    weights = tiny / "denoisers" / "n4-s0-a.safetensors"
    memgen("import", str(weights), "--name", "theirs").done()
    outcome = memgen("basis", "--subject", "theirs", "--sigma", "0.1", "--sigma", "0.2", "--json").done()
    assert [(r["n_train"], r["subject"], r["sigma"]) for r in outcome.json["readings"]] == [
        (None, "theirs", 0.1),
        (None, "theirs", 0.2),
    ]
    assert "theirs" in outcome.err
    memgen("basis", "--n", "4").done()
    run = Run(tiny)
    theirs, own = (run.table("basis_summary", f"{name}.sigma0.1").to_pylist() for name in ("theirs", "n4-s0-a+n4-s0-b"))
    own = [row for row in own if row["part"] == "a"]
    for one, other in zip(theirs, own, strict=True):  # the same weights
        assert one["overlap_twin"] is None is not other["overlap_twin"]
        assert one["trace"] == pytest.approx(other["trace"], abs=1e-4)
    sheet = present._bases(Workspace.of(run, "cpu"), None)
    assert [(bases.name, bases.sigma, len(bases.denoised)) for bases in sheet] == [
        ("N = 4", 0.1, 2),
        ("theirs", 0.1, 1),
        ("theirs", 0.2, 1),
    ]
    figure = spectra.figure_spectrum(run.table("basis"))
    lines = {line.get_label(): line.get_linestyle() for line in figure.axes[0].lines}
    assert (lines["N = 4  B"], lines["theirs"]) == ("--", "-.")
    assert "<th>theirs</th>" in memgen("report", "--sweep").done().path.read_text()
    memgen("psnr", "--subject", "theirs").done()
    for kind in ("neighbors", "similarity", "psnr", "distances", "copies", "significance", "samples"):
        for table in (tiny / "tables" / kind).glob("[!t]*.parquet"):
            table.unlink()
    alone = memgen("report", "--sweep").done().path.read_text()
    assert "The measurements do not decide whether the model theirs memorizes its training set." in alone
    assert "<th>theirs</th>" in alone
    memgen("basis", "--subject", "n4-s0-a").failed(2, "expected an imported denoiser")
    memgen("basis", "--subject", "other").failed(4, "no subject 'other'")


def test_a_run_without_bases_says_so():
    """The report of a run that was not measured says what command would."""
    page = render(ReportInput("x", {}, {"basis": schemas.BASIS.empty_table()}))
    assert "Jacobians of the models were not analyzed. To analyze them, run <code>memgen basis</code>." in page


def test_a_missing_twin_is_named(tiny):
    """A pair of which one denoiser is missing is refused, by name."""
    (tiny / "tables" / "subjects" / "n4-s0-b.parquet").unlink()
    memgen("basis", "--n", "4").failed(4, "no subject 'n4-s0-b'", "memgen train")


def test_figures(wiener):
    """The spectrum has a curve for each N and twin; the sheet a row for each, with eigenvalues below eigenvectors."""
    table = wiener.run.table("basis")
    figure = spectra.figure_spectrum(table)
    assert len(figure.axes) == 8
    factors = {line.get_label(): line for line in figure.axes[0].lines}
    rows = table.to_pandas().query("n_train == 4 and part == 'b' and sigma == 0.1")
    expected = rows.groupby("k")["eigenvalue"].mean()
    np.testing.assert_allclose(factors["N = 4  B"].get_ydata(), expected)
    assert factors["N = 4  B"].get_linestyle() == "--"
    coefficients = {line.get_label(): line for line in figure.axes[1].lines}
    first = rows.query("k == 1")["coefficient_clean"]
    assert coefficients["N = 4  B"].get_ydata()[0] == pytest.approx(np.sqrt((first**2).mean()))
    firsts = rows.query("k == 1")
    frequencies, contours = ({line.get_label(): line for line in figure.axes[i].lines} for i in (2, 3))
    frequency = np.sqrt((firsts["local_frequency"] ** 2).mean())
    assert frequencies["N = 4  B"].get_ydata()[0] == pytest.approx(frequency)
    assert contours["N = 4  B"].get_ydata()[0] == pytest.approx(firsts["contour_energy"].mean())

    arrays = geometry.read_bases(wiener, twins(4), 0.3)
    at = {name: arrays[name][0] for name in ("clean", "noisy", "denoised", "eigenvalues", "eigenvectors")}
    shown = sheets.figure_bases([sheets.Bases("N = 4", 0.3, **at)])
    texts = [text.get_text() for text in shown.axes[0].texts]
    assert sum(text.startswith("N = 4") for text in texts) == 2
    assert f"{at['eigenvalues'][1, 9]:.3f}".lstrip("0") in texts
    for drawn in (figure, shown):
        assert len(style.encode(drawn, ".png")) > 1000


def test_eigenvectors_are_drawn_around_gray():
    """Zero is gray, the largest value white or black, and the sign that of the clean image's coefficient."""
    clean = np.array([[[1.0, 0.0, 0.5]]])
    vector = np.array([[[-0.8, 0.2, 0.0]]])
    np.testing.assert_allclose(sheets.signed(vector, clean), [[[1.0, 0.375, 0.5]]])
    np.testing.assert_allclose(sheets.signed(-vector, clean), [[[1.0, 0.375, 0.5]]])
