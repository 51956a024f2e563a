"""The denoising gap and its attack, against brute force and known truth; audits of a model that memorizes, and resume."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from program import memgen as command
from sklearn.datasets import load_digits

import memgen
from memgen.base import schemas, tables
from memgen.base.errors import ConfigError, ShapeError
from memgen.experiment import audit as auditing
from memgen.experiment import audit_images, audit_model, runs
from memgen.experiment.audit_settings import AuditSettings
from memgen.findings import audit as findings
from memgen.findings.gaps import gaps
from memgen.images.imageset import ImageSet
from memgen.models import checkpoints, networks, sampling
from memgen.models.networks import UNetSettings
from memgen.models.training import Training, TrainSettings, train

pytestmark = pytest.mark.usefixtures("unrendered")


def psnr_table(train_values, held_out_values, sigma=0.1, draws=2):
    """Rows of two noise draws whose mean is the value, for images t0, t1, ... and h0, h1, ..."""
    rows = []
    for kind, letter, values in (("train", "t", train_values), ("holdout", "h", held_out_values)):
        for i, value in enumerate(values):
            rows += [(kind, f"{letter}{i}", draw, value + (draw - (draws - 1) / 2)) for draw in range(draws)]
    kind, image_id, draw, value = zip(*rows, strict=True)
    columns = {"subject": "x", "role": "imported", "n_train": 1, "part": None, "train_seed": None, "kind": kind}
    columns |= {"image_id": image_id, "sigma": sigma, "noise_draw": draw, "input_psnr_db": 0.0, "output_psnr_db": value}
    return tables.make(schemas.PSNR, columns, len(rows))


def test_gap_auc_and_attack_by_brute_force():
    """Against loops over all pairs; the threshold is the second largest of 200 held-out images."""
    rng = np.random.default_rng(0)
    train_values, held_out_values = rng.normal(1, 1, 50).round(1), rng.normal(0, 1, 200).round(1)
    (row,) = gaps(psnr_table(train_values, held_out_values)).to_pylist()
    assert row["gap"] == pytest.approx(train_values.mean() - held_out_values.mean())
    pairs = train_values[:, None] - held_out_values[None, :]
    assert row["auc"] == pytest.approx(np.mean((pairs > 0) + 0.5 * (np.abs(pairs) < 1e-9)))
    limit = np.sort(held_out_values)[-2]  # a new one of 201 exceeds it with a probability of at most 2 / 201
    assert row["tpr"] == np.mean(train_values > limit + 1e-9)
    assert row["tpr_low"] < row["tpr"] < row["tpr_high"]
    assert (row["n_train"], row["n_held_out"]) == (50, 200)


def test_intervals_hold_together_and_units_are_groups():
    """Without a gap, all intervals of 5 noise levels contain 0 in 95 % of tables; groups widen what belongs together."""
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(100):
        table = [psnr_table(rng.normal(size=40), rng.normal(size=40), sigma, 1) for sigma in (0.1, 0.2, 0.3, 0.4, 0.5)]
        rows = gaps(pa.concat_tables(table)).to_pylist()
        missed += any(not row["low"] <= 0 <= row["high"] for row in rows)
    assert missed <= 11  # of 100 at 5 %: more with a probability of 1 %
    values = np.repeat(rng.normal(size=20), 10)
    shared = psnr_table(values[:100], values[100:])
    names = {f"{side}{i}": f"{side}{i // 10}" for side in "th" for i in range(100)}
    (alone,), (grouped,) = gaps(shared).to_pylist(), gaps(shared, names).to_pylist()
    assert grouped["high"] - grouped["low"] > 2 * (alone["high"] - alone["low"])
    assert (grouped["n_train"], grouped["tpr"]) == (10, None)  # 1 % of 10 groups is less than one


def test_one_image_has_no_interval():
    (row,) = gaps(psnr_table([1.0], [0.0, 2.0])).to_pylist()
    assert (row["gap"], row["low"], row["high"], row["tpr"]) == (0, None, None, None)


def said_of(*intervals):
    """What an audit says of gaps in the middle of some intervals, at the noise levels .1, .2 and so on."""
    rows = dict.fromkeys(schemas.GAPS.names, 0.5) | {"n_train": 20, "n_held_out": 30, "tpr": None}
    columns = {name: [value] * len(intervals) for name, value in rows.items()}
    columns["sigma"] = [0.1 * (i + 1) for i in range(len(intervals))]
    columns |= {end: [interval[i] for interval in intervals] for i, end in enumerate(("low", "high"))}
    columns["gap"] = [0.3 if low is None else (low + high) / 2 for low, high in intervals]
    (sentence,) = findings._gaps(tables.make(schemas.GAPS, columns, len(intervals)))
    return sentence


@pytest.mark.parametrize(
    ("intervals", "beginning", "part"),
    [
        (((-0.2, 0.4), (0.15, 0.35)), "As a denoiser, the model memorizes: ", "level of 0.2, its PSNR on"),
        (((0.02, 0.06), (-1, 1)), "As a denoiser, the model does a little better on training", "0.04 dB [0.02, 0.06]"),
        (((-0.05, 0.09), (-0.2, 0.04)), "As a denoiser, the model does not do better", "2 noise levels, the gap of PSNR is at most 0.09 dB"),
        (((-0.5, 0.9), (-2, 3)), "Whether the model does better as a denoiser", "one of up to 3.00 dB could have gone unseen, at a noise level of 0.2"),
        (((-3, -2), (-0.1, 0.2)), "Whether the model does better as a denoiser", "20 training and 30 held-out"),
        (((None, None),), "Whether the model does better as a denoiser", "20 and 30 images or groups were measured"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_gap_follows_its_interval(intervals, beginning, part):
    """A gap above 0 alone says nothing: neither that the model memorizes nor, where noise hides it, that it does not."""
    sentence = said_of(*intervals)
    assert sentence.startswith(beginning)
    assert part in sentence
    assert ("cannot be told" in sentence) == beginning.startswith("Whether")


# ------------------------------------------------------------------------------------------------- audits


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of 8x8 digits, and the checkpoint of a network that was trained on 12 of them for long."""
    folder = tmp_path_factory.mktemp("model")
    pixels = (load_digits().images * 15.9).astype(np.uint8)
    for name, chosen in (("train", pixels[:12]), ("holdout", pixels[200:400])):
        (folder / name).mkdir()
        for i, image in enumerate(chosen):
            Image.fromarray(image).save(folder / name / f"{i:03}.png")
    settings = UNetSettings(architecture="unet", blocks=1, width=24)
    training = Training(networks.build(settings, (1, 8, 8)), TrainSettings(images_seen=6_000), (0, 0))
    for _ in train(training, torch.from_numpy(pixels[:12, None])):
        pass
    checkpoints.save(folder / "model.safetensors", training.result.eval(), settings, {})
    return folder


@pytest.fixture(scope="module")
def audited(trained, tmp_path_factory):
    arguments = ("audit", trained / "train", "--model", trained / "model.safetensors", "--holdout", trained / "holdout")
    arguments += (
        "--count",
        60,
        "--set",
        "sample.micro_batch=8",
        "--set",
        "psnr.sigmas=[0.05,0.2]",
        "--space",
        "pixels",
    )
    arguments += ("--outputs", tmp_path_factory.mktemp("outputs"), "--run", "mine", "--json")
    return arguments, command(*arguments).done().json


def test_a_model_that_memorizes(audited):
    """Its samples are drawn and audited, its gap is measured, and audit.json follows the schema."""
    arguments, document = audited
    assert document["sets"]["samples"]["images"] == 60
    assert [row["sigma"] for row in document["gaps"]] == [0.05, 0.2]
    assert document["gaps"][1]["low"] > 1
    assert any(sentence.startswith("As a denoiser, the model memorizes") for sentence in document["sentences"])
    schema = json.loads((Path(__file__).parents[1] / "docs" / "audit.schema.json").read_text())
    jsonschema.validate(document, schema)
    run = runs.Run(Path(arguments[arguments.index("--outputs") + 1]) / "mine")
    samples = ImageSet.load(run.image_set("samples"))
    assert samples.pixels.dtype == np.uint8
    assert run.table("samples")["status"].to_pylist() == ["converged"] * 60
    (near,) = document["shrinkage"]
    assert (near["sigma"], near["n_train"], near["n_held_out"]) == (0.1, 12, 16)
    assert near["difference"] < 0  # near what it knows by heart, it keeps fewer dimensions
    assert near["difference"] == pytest.approx(near["trace_train"] - near["trace_held_out"])
    table = run.table("shrinkage").to_pandas()
    assert near["trace_train"] == pytest.approx(table[table.kind == "train"].trace.mean())
    page = (run.report / "report.html").read_text()
    assert f"<th>0.100</th><td>{near['trace_train']:.1f}</td><td>{near['trace_held_out']:.1f}</td>" in page
    assert 'id="film-view"' in page
    assert 'id="bases-view"' in page
    assert f"<th>0.050</th><td>{document['gaps'][0]['train']:.2f}</td>" in page
    assert "sample.sigma_end" in page


def test_the_film_ends_at_the_samples(audited):
    """The first frame is an average of images, the last one the sample as it is before the last update."""
    arguments, _ = audited
    run = runs.Run(Path(arguments[arguments.index("--outputs") + 1]) / "mine")
    (film,) = audit_model.film(run)
    samples = ImageSet.load(run.image_set("samples")).pixels[:8].astype(float)
    updates = run.table("samples")["updates"].to_pylist()[:8]
    assert film.frames.shape == (len(film.updates), 8, 1, 8, 8)
    assert film.frames.dtype == np.uint8
    assert (film.updates[0], film.updates[-1] < max(updates), len(film.updates) <= 40) == (0, True, True)
    assert film.sigmas[-1] < 0.1 < 0.9 < film.sigmas[0]
    error = [np.sqrt(np.mean((frame - samples) ** 2)) / 255 for frame in film.frames.astype(float)]
    assert error[-1] < 0.02 < 0.1 < error[0]


def test_the_bases_are_those_of_the_model(audited, trained):
    """At each noise level, near an image of T and one of H: J e = λ e, by differences of the denoiser."""
    arguments, _ = audited
    run = runs.Run(Path(arguments[arguments.index("--outputs") + 1]) / "mine")
    found = audit_model.bases(run)
    assert [(each.name, each.sigma) for each in found] == [
        ("near a training image", 0.1),
        ("near a held-out image", 0.1),
    ]
    denoiser = audit_model.references.load(run, "audit", "cpu")
    for each in found:
        assert each.eigenvectors.shape == (1, 32, 1, 8, 8)
        assert each.denoised.shape == (1, 1, 8, 8)
        value, step = each.eigenvalues[0, 0], 1e-2 * each.eigenvectors[0, 0]
        at = [torch.from_numpy((each.noisy + sign * step)[None].astype(np.float32)) for sign in (1, -1)]
        with torch.inference_mode():
            ahead, behind = (denoiser(y, torch.tensor([each.sigma])).numpy()[0] for y in at)
        slope = np.vdot(ahead - behind, each.eigenvectors[0, 0]) / (2 * 1e-2)
        assert slope == pytest.approx(value, abs=0.05)


def test_no_film_without_images(trained, tmp_path):
    """With --no-images nothing is drawn again, and the page shows neither film nor eigenvectors."""
    settings = {"model": str(trained / "model.safetensors"), "spaces": ("pixels",), "images": False}
    settings |= {"sample": {"n_samples": 4, "micro_batch": 4}, "psnr": {"sigmas": [0.2]}, "basis": {"n_images": 2}}
    memgen.audit(None, trained / "train", trained / "holdout", tmp_path, "none", **settings)
    run = runs.Run(tmp_path / "none")
    assert audit_model.film(run) == []
    page = (run.report / "report.html").read_text()
    assert 'id="film-view"' not in page
    assert 'id="bases-view"' not in page


def test_drawn_samples_with_the_pixels_of_training_images_are_counted(trained, tmp_path, monkeypatch):
    """As those of files are: of three samples that are drawn, two are training images."""
    names = ("train/004.png", "holdout/000.png", "train/007.png")
    drawn = ImageSet.from_pixels(np.stack([np.asarray(Image.open(trained / name))[None] for name in names]))
    monkeypatch.setattr(audit_model, "draw", lambda *_: (drawn, []))
    settings = AuditSettings(train=str(trained / "train"), model="model.safetensors")
    run = auditing.start(tmp_path, "mine", settings)
    audit_images.load(run, lambda *_: None)
    assert run.manifest["data"]["identical"]["samples"] == {"count": 2, "example": ["image[0]", "004.png"]}


def test_drawing_goes_on_where_it_stopped(trained, tmp_path, monkeypatch, audited):
    """Killed after the first part of the samples, the audit draws the others only, and ends with the same tables."""
    _, document = audited
    real, drawn = sampling.sample, []

    def stop(denoiser, mean, chosen, *more, **named):
        drawn.append(chosen)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return real(denoiser, mean, chosen, *more, **named)

    settings = {"model": str(trained / "model.safetensors"), "spaces": ("pixels",), "psnr": {"sigmas": [0.05, 0.2]}}
    settings |= {"sample": {"n_samples": 60, "micro_batch": 8}}
    monkeypatch.setattr(sampling, "sample", stop)
    given = (None, trained / "train", trained / "holdout", tmp_path, "again")
    with pytest.raises(KeyboardInterrupt):
        memgen.audit(*given, **settings)
    again = memgen.audit(*given, **settings)
    assert drawn == [range(32), range(32, 60), range(32, 60), range(8)]  # at last the film
    for name, digest in document["files"].items():
        if not name.endswith("set.json"):
            assert again.document["files"][name] == digest, name


def test_models_and_samples_that_do_not_go_together(trained, tmp_path):
    arguments = ["audit", trained / "train", "--model", trained / "model.safetensors", "--outputs", tmp_path]
    command(*arguments, trained / "holdout").failed(2, "expected one of them")
    command("audit", "--model", trained / "model.safetensors", "--outputs", tmp_path).failed(2, "or memgen audit TRAIN")
    holdout = ("--holdout", trained / "holdout")
    planned = command(*arguments, *holdout, "--count", 7, "--dry-run", "--json").done().json["audit"]
    assert (planned["samples"], planned["comparisons"]) == (7, 7 * 212)
    assert planned["tests"][2:] == ["denoising of training and held-out images", "Jacobians"]
    command(*arguments, "--dry-run", "--set", "color=rgb").failed(3, "takes images of 1 channels and 8 x 8 pixels")
    command("audit", trained / "train", "--model", tmp_path / "no.pt", "--dry-run").failed(3, "no.pt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ShapeError, match="takes images of 1 channels and 8 x 8 pixels, but the training images have 3"):
        memgen.audit(None, trained / "train", outputs=tmp_path, model=str(trained / "model.safetensors"), color="rgb")
    with pytest.raises(ConfigError, match="exactly one of samples and model"):
        memgen.audit(trained / "train", trained / "train", model="x")


def test_a_damaged_part_is_named(trained, tmp_path):
    """A part of the samples that cannot be read is named, with what to do."""
    path = tmp_path / "00000000.npz"
    path.write_bytes(b"PK")
    with pytest.raises(memgen.MemgenError, match=r"00000000\.npz: damaged"):
        audit_model._read(path)
