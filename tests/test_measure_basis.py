"""The bases of a run: what `memgen basis` keeps and shows, on networks and on models whose answer is known."""

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from program import memgen

from memgen import basis, config, figures, measure, noise, results, runs, sheets, steps, sweep, tables
from memgen.errors import DataError
from memgen.report import ReportInput, render
from memgen.runs import Run
from memgen.workspace import RunSettings, Workspace


def prepared(folder, *settings) -> Workspace:
    """A run of the settings with its images and its denoisers, of 8x8 unless said otherwise."""
    chosen = config.load(RunSettings, None, ["split.holdout=32", "basis.n_images=2", *settings])
    workspace = Workspace(runs.create(folder, "bases", chosen.model_dump(mode="json"), "cpu"), chosen, "cpu")
    with workspace.run.working():
        steps.import_data(workspace)
        sweep.execute(workspace, sweep.tasks(chosen.cells, ("train",)), 1, lambda event: None)
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
        measure.measure_basis(workspace, n_train, 0)
    return workspace


def test_eigenvalues_are_those_of_the_covariance(wiener):
    """For Wiener filters the table has lambda / (lambda + sigma^2) of the training images' covariance, at any image."""
    table = wiener.run.table("basis").to_pandas()
    for n_train in (4, 1024):
        for part in ("a", "b"):
            pixels = wiener.images.floats(wiener.indices(f"train_{part}", n_train)).flatten(1).double().numpy()
            variances = np.maximum(np.linalg.eigvalsh(np.cov(pixels.T, bias=True))[::-1], 1e-4)
            for sigma in (0.1, 0.3):
                rows = table.query("n_train == @n_train and part == @part and sigma == @sigma")
                assert len(rows) == 3 * 64
                found = rows.pivot_table(index="image_id", columns="k", values="eigenvalue").to_numpy()
                np.testing.assert_allclose(found, np.tile(variances / (variances + sigma**2), (3, 1)), atol=1e-5)


def principal_axes(workspace: Workspace, n_train: int, parts: str) -> np.ndarray:
    """Eigenvectors of the covariance of a training set, or of all of a and b, in columns, largest first."""
    indices = [
        workspace.indices(f"train_{part}", n_train) if len(parts) == 1 else getattr(workspace.split, part)
        for part in parts
    ]
    pixels = workspace.images.floats(np.concatenate(indices)).flatten(1).double().numpy()
    return np.linalg.eigh(np.cov(pixels.T, bias=True))[1][:, ::-1]


def test_wiener_filters_share_their_basis_at_large_n(wiener):
    """At large N the bases of the twins agree with each other and with the principal components; at small N less."""
    found = {(r.n_train, r.sigma): r for r in basis.readings(wiener.run.table("basis_summary"), 0)}
    assert set(found) == {(4, 0.1), (4, 0.3), (1024, 0.1), (1024, 0.3)}
    large, small = found[1024, 0.3].values, found[4, 0.3].values
    for n_train in (4, 1024):  # the same from the covariances of the training images alone
        a, b, both = (principal_axes(wiener, n_train, parts) for parts in ("a", "b", "ab"))
        rank = wiener.run.table("basis_summary", f"n{n_train}-s0")["overlap_rank"].to_pylist()[-1]
        twin, pca = (((x[:, :rank].T @ y[:, :rank]) ** 2).sum() / rank for x, y in ((a, b), (b, both)))
        last = wiener.run.table("basis_summary", f"n{n_train}-s0").to_pylist()[-1]
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
    large, small = (measure.read_bases(wiener, f"n{n}-s0") for n in (1024, 4))
    np.testing.assert_array_equal(large["noisy"], small["noisy"])
    chosen = wiener.split.holdout[:3]
    clean = wiener.images.floats(chosen).numpy()
    np.testing.assert_array_equal(large["clean"], clean)
    for i, position in enumerate(chosen):
        z = noise.normal(noise.stream(f"image/{wiener.images.ids[position]}", wiener.settings.seed, 0), (1, 8, 8))
        for level, sigma in enumerate((0.1, 0.3)):
            np.testing.assert_allclose(large["noisy"][i, level], clean[i] + sigma * z, atol=1e-6)


def test_arrays_are_those_of_the_tables(wiener):
    """Eigenvectors and denoised images of the arrays are of the denoiser, image and noise level where they stand."""
    arrays, table = measure.read_bases(wiener, "n1024-s0"), wiener.run.table("basis", "n1024-s0").to_pandas()
    table["place"] = table["image_id"].map({wiener.images.ids[p]: i for i, p in enumerate(wiener.split.holdout[:3])})
    assert arrays["eigenvectors"].shape == (3, 2, 2, 64, 1, 8, 8)
    assert arrays["eigenvectors"].dtype == arrays["denoised"].dtype == np.float32
    for i in range(3):
        for level, sigma in enumerate((0.1, 0.3)):
            for twin, part in enumerate("ab"):
                rows = table.query("place == @i and sigma == @sigma and part == @part")
                vectors = arrays["eigenvectors"][i, level, twin].reshape(64, 64)
                np.testing.assert_array_equal(arrays["eigenvalues"][i, level, twin], rows["eigenvalue"])
                coefficients = vectors @ arrays["clean"][i].ravel()
                np.testing.assert_allclose(coefficients, rows["coefficient_clean"], atol=1e-5)
                noisy = torch.from_numpy(arrays["noisy"][i, level])[None]
                denoised = wiener.denoiser(f"n1024-s0-{part}")(noisy, torch.tensor([sigma]))[0]
                np.testing.assert_allclose(arrays["denoised"][i, level, twin], denoised, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "dimensions", "shuffle"), [("discs", 5, False), ("cone", 1, True), ("sinusoids", 2, False)]
)
def test_the_optimum_keeps_the_tangents(tmp_path, monkeypatch, kind, dimensions, shuffle):
    """At small noise the first eigenvectors of the exact optimum span the directions in which the image can move."""
    side = 16 if kind == "discs" else 8
    generated = f"data.generated={{kind='{kind}', side={side}, n_images=80}}"
    workspace = prepared(
        tmp_path, generated, f"data.shuffle={str(shuffle).lower()}", "model.architecture=gaussian",
        "sweep.n_train=[4]", "basis.sigmas=[0.01]", "basis.n_images=1",
    )  # fmt: skip
    optimum = measure._optimum(workspace).eval()
    monkeypatch.setattr(Workspace, "denoiser", lambda self, name: optimum)
    _, summary = measure.measure_basis(workspace, 4, 0)
    (first, second) = summary.to_pylist()
    assert first["overlap_tangent"] > 0.99
    assert first["overlap_tangent_chance"] == dimensions / side**2
    assert round(first["trace"]) == first["overlap_rank"] == dimensions
    assert first["overlap_tangent"] == second["overlap_tangent"]
    assert first["overlap_twin"] == pytest.approx(1)


def test_more_components_than_images_are_not_compared(tmp_path):
    """Principal components beyond those that the images determine are not compared with: the overlap is null."""
    settings = [
        "data.resize=8",
        "data.limit=44",
        "model.architecture=gaussian",
        "sweep.n_train=[4]",
        "split.holdout=32",
    ]
    workspace = prepared(tmp_path, *settings, "basis.sigmas=[0.01, 2]", "basis.n_images=1")
    known = len(workspace.split.a) + len(workspace.split.b) - 1
    assert workspace.principal.shape == (64, known)
    rows = measure.measure_basis(workspace, 4, 0)[1].to_pylist()
    assert {row["overlap_rank"] > known for row in rows} == {True, False}
    for row in rows:
        assert (row["overlap_pca"] is None) == (row["overlap_rank"] > known)


def test_images_too_large_for_a_matrix_are_refused(tmp_path, monkeypatch):
    """Images of more numbers than a Jacobian is made for are refused, with what is possible."""
    monkeypatch.setattr(measure, "_WHOLE", 63)
    workspace = prepared(tmp_path, "data.resize=8", "data.limit=60", "model.architecture=gaussian", "sweep.n_train=[1]")
    with pytest.raises(DataError, match=r"images of 64 numbers, expected at most 63.*data\.resize.*jacobian\.largest"):
        measure.measure_basis(workspace, 1, 0)
    assert not (workspace.run.path / "bases").exists()


def test_readings_are_means_over_images(wiener):
    """Twins are averaged first; a ratio is one of means; images are resampled; one image has no interval."""
    summary = wiener.run.table("basis_summary")
    found = basis.readings(summary, 0)[0]
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
    assert basis.readings(one, 0)[0].values["trace"].low is None
    assert basis.readings(tables.BASIS_SUMMARY.empty_table(), 0) == []


def test_command(tiny, monkeypatch):
    """Tables, arrays and a page; a second call measures nothing; a lost or a cut-short pair is made again, alike."""
    outcome = memgen("basis", "--n", "1", "--n", "4").done()
    assert outcome.path.resolve() == (tiny / "tables" / "basis_summary").resolve()
    assert "overlap_twin" in outcome.err
    assert "(what a random basis would give)" in outcome.err
    run = Run(tiny)
    summary, long = run.table("basis_summary"), run.table("basis")
    assert summary.num_rows == 2 * 2 * 8
    assert long.num_rows == 64 * summary.num_rows
    assert set(summary["denoiser"].to_pylist()) == {"n1-s0-a", "n1-s0-b", "n4-s0-a", "n4-s0-b"}
    assert max(summary["linearity_error"].to_pylist()) < 1e-4
    page = memgen("report", "--sweep").done().path.read_text()
    assert "Geometry: shrinkage in an adaptive basis" in page
    assert "Jacobians were not taken apart" not in page
    assert page.count("overlap_twin") == 1
    for name in ("spectrum", "bases"):
        assert (tiny / "report" / "figures" / f"{name}.png").stat().st_size > 1000

    made = [run.table_path(kind, "n4-s0") for kind in ("basis", "basis_summary")] + [run.bases("n4-s0")]
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
    monkeypatch.setattr("memgen.basis.eigenbasis", lambda *given: calls.append(given) or 1 / 0)
    made[-1].unlink()
    with pytest.raises(ZeroDivisionError):
        memgen("basis", "--n", "1", "--n", "4")
    assert len(calls) == 1  # N = 1 is there already
    workspace = Workspace.of(run, "cpu")
    assert [bases.n_train for bases in results._bases(workspace, None)] == [1]
    made[-1].write_bytes(b"PK damaged")
    with pytest.raises(DataError, match=r"n4-s0\.npz: damaged .* memgen basis"):
        results._bases(workspace, 4)


def test_a_run_without_bases_says_so():
    """The report of a run that was not measured says what command would."""
    page = render(ReportInput("x", {}, {"basis": tables.BASIS.empty_table()}))
    assert "Jacobians were not taken apart: <code>memgen basis</code>" in page


def test_a_missing_twin_is_named(tiny):
    """A pair of which one denoiser is missing is refused, by name."""
    for path in (tiny / "denoisers").glob("n4-s0-b.*"):
        path.unlink()
    memgen("basis", "--n", "4").failed(4, "no denoiser n4-s0-b", "memgen train")


def test_figures(wiener):
    """The spectrum has a curve for each N and twin; the sheet a row for each, with eigenvalues below eigenvectors."""
    table = wiener.run.table("basis")
    figure = figures.figure_spectrum(table)
    assert len(figure.axes) == 4
    factors = {line.get_label(): line for line in figure.axes[0].lines}
    rows = table.to_pandas().query("n_train == 4 and part == 'b' and sigma == 0.1")
    expected = rows.groupby("k")["eigenvalue"].mean()
    np.testing.assert_allclose(factors["N = 4  B"].get_ydata(), expected)
    assert factors["N = 4  B"].get_linestyle() == "--"
    coefficients = {line.get_label(): line for line in figure.axes[1].lines}
    first = rows.query("k == 1")["coefficient_clean"]
    assert coefficients["N = 4  B"].get_ydata()[0] == pytest.approx(np.sqrt((first**2).mean()))

    arrays = measure.read_bases(wiener, "n4-s0")
    at = {name: arrays[name][0, 1] for name in ("noisy", "denoised", "eigenvalues", "eigenvectors")}
    shown = sheets.figure_bases([sheets.Bases(4, 0.3, arrays["clean"][0], **at)])
    texts = [text.get_text() for text in shown.axes[0].texts]
    assert sum(text.startswith("N = 4") for text in texts) == 2
    assert f"{at['eigenvalues'][1, 9]:.3f}".lstrip("0") in texts


def test_eigenvectors_are_drawn_around_gray():
    """Zero is gray, the largest value white or black, and the sign that of the clean image's coefficient."""
    clean = np.array([[[1.0, 0.0, 0.5]]])
    vector = np.array([[[-0.8, 0.2, 0.0]]])
    np.testing.assert_allclose(sheets._signed(vector, clean), [[[1.0, 0.375, 0.5]]])
    np.testing.assert_allclose(sheets._signed(-vector, clean), [[[1.0, 0.375, 0.5]]])
