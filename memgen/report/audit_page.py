"""The page of an audit: the answer, the pairs behind it, and what would have been found. It works offline.

The page loads nothing: styles, pictures, data and scripts are part of it; see `webpage`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from memgen.findings.audit import Answer, Pair
from memgen.report import charts, gallery, tiles, webpage
from memgen.report.charts import Spec
from memgen.report.downloads import LIMITS, Download
from memgen.report.gallery import Gallery
from memgen.report.live import Live
from memgen.report.page import flat
from memgen.report.tiles import ImageOf, Tiles

PAIRS_SHOWN = 40
_AT_RISK_SHOWN = 50
_SIDE = 96  # smallest side of a picture on the page, in pixels; smaller images are enlarged by a whole factor


@dataclass(frozen=True, eq=False)
class AuditInput:
    """What the page of an audit is made of.

    Attributes:
        title: heading of the page.
        answer: what the audit says.
        manifest: settings and provenance of the run as JSON (run.json).
        pairs: samples and training images, those first that a test reports.
        at_risk: rows of an AT_RISK table.
        planted: how many planted copies were found; see `findings.audit.powers`.
        gaps: rows of a GAPS table.
        shrinkage: what Jacobians say at each noise level; see `findings.shrinkage.compare`.
        eigenvectors: the first ones near an image of T and of H, (k, C, H, W), and their eigenvalues, (k,), under the
            names train_vectors, train_values, holdout_vectors and holdout_values; empty to show none.
        skipped: rows of a SUBJECT_SKIPPED table.
        image_of: gives an image (C, H, W) of the set samples, train or held_out by its position; None shows no images.
        significance: a SIGNIFICANCE table; without rows where nothing was tested.
        gallery: all samples with the images beside them.
        command: the command that makes the audit again.
        downloads: the tables of the run.
        live: the state of work that is still under way; None where there is none.
    """

    title: str
    answer: Answer
    manifest: Mapping[str, Any]
    pairs: Sequence[Pair]
    at_risk: Sequence[Mapping[str, Any]]
    planted: Sequence[Mapping[str, Any]]
    gaps: Sequence[Mapping[str, Any]]
    shrinkage: Sequence[Mapping[str, Any]]
    eigenvectors: Mapping[str, NDArray[np.float64]]
    skipped: Sequence[Mapping[str, Any]]
    image_of: ImageOf | None
    significance: pa.Table
    gallery: Gallery
    command: str
    downloads: Sequence[Download]
    live: Live | None = None


def render(found: AuditInput) -> str:
    """The whole page as one string."""
    packed, specs = Tiles(found.gallery.image_of), draw(found)
    shown = gallery.payload(found.gallery, packed)
    return webpage.render(
        "audit.html.j2",
        {"gallery": shown},
        specs,
        {name: charts.svg(spec) for name, spec in specs.items()},
        packed,
        title=found.title,
        live=found.live,
        answer=found.answer,
        sets=found.manifest["data"]["sets"],
        rule=found.manifest["data"]["rule"],
        warnings=found.manifest["data"]["warnings"],
        pairs=[(pair, _pictures(pair, found.image_of)) for pair in found.pairs],
        shows_images=found.image_of is not None,
        at_risk=found.at_risk[:_AT_RISK_SHOWN],
        n_at_risk=len(found.at_risk),
        power=_by_kind(found.planted),
        skipped=found.skipped[:20],
        n_skipped=len(found.skipped),
        gaps=found.gaps,
        shrinkage=found.shrinkage,
        eigenvectors=_eigenvectors(found.eigenvectors),
        unit="image" if found.manifest["data"]["sets"]["train"]["groups"] is None else "group",
        settings=_stated(found.manifest["config"]),
        versions=found.manifest["versions"],
        gallery=shown,
        command=found.command,
        downloads=found.downloads,
        limits=LIMITS,
    )


def draw(found: AuditInput) -> dict[str, Spec]:
    """The charts that the audit has data for, by name."""
    specs = {}
    if found.significance.num_rows:
        specs["evidence"] = charts.draw_evidence(found.significance)
        specs["closeness"] = charts.draw_closeness(found.significance)
    if found.gaps:
        specs["gaps"] = charts.draw_gaps(found.gaps)
    return specs


def _stated(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings that are set; groups of them are about a model, so they are left out without one."""
    kept = {
        key: value
        for key, value in settings.items()
        if value is not None and (settings["model"] is not None or not isinstance(value, Mapping))
    }
    return [(key, value) for key, value in flat(kept) if value]


def _by_kind(planted: Sequence[Mapping[str, Any]]) -> dict[str, dict[float, Mapping[str, Any]]]:
    """The powers of each kind of copy, by the share planted."""
    found: dict[str, dict[float, Mapping[str, Any]]] = {}
    for row in planted:
        found.setdefault(row["kind"], {})[row["share"]] = row
    return found


def _pictures(pair: Pair, image_of: ImageOf | None) -> dict[str, str]:
    """The pictures of a pair as data addresses, by their titles; none without images."""
    if image_of is None:
        return {}
    sample, train = image_of("samples", pair.sample), image_of("train", pair.train)
    pictures = {"sample": _address(sample), "training image": _address(train)}
    if pair.held_out is not None:
        pictures["nearest held out"] = _address(image_of("held_out", pair.held_out))
    difference = np.abs(_floats(sample) - _floats(train))
    return pictures | {"difference in pixels": _address(difference.astype(np.float32))}


def _eigenvectors(found: Mapping[str, NDArray[np.float64]]) -> dict[str, list[tuple[str, str]]]:
    """The eigenvectors of each side as data addresses with their eigenvalues; none for what is no picture."""
    if not found or found["train_vectors"].shape[1] not in (1, 3):
        return {}
    shown = {}
    for side, title in (("train", "near a training image"), ("holdout", "near a held-out image")):
        pairs = zip(found[f"{side}_vectors"], found[f"{side}_values"], strict=True)
        shown[title] = [(_address(_gray_at_zero(vector)), f"{value:.2f}") for vector, value in pairs]
    return shown


def _gray_at_zero(vector: NDArray[np.float64]) -> NDArray[np.float32]:
    return (0.5 + vector / (2 * max(float(np.abs(vector).max()), 1e-12))).astype(np.float32)


def _floats(image: NDArray[Any]) -> NDArray[np.float64]:
    scaled = image.astype(np.float64)
    return scaled / 255 if image.dtype == np.uint8 else scaled


def _address(image: NDArray[Any]) -> str:
    """An image (C, H, W) as a PNG in a data address."""
    picture = Image.fromarray(np.ascontiguousarray(tiles.as_bytes(image)))
    factor = max(1, -(-_SIDE // max(picture.size)))
    size = (picture.width * factor, picture.height * factor)
    return tiles.address(picture.resize(size, Image.Resampling.NEAREST))
