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
from memgen.report import charts, gallery, tiles, viewers, webpage
from memgen.report.charts import Spec
from memgen.report.downloads import LIMITS, Download
from memgen.report.gallery import Gallery
from memgen.report.live import Live
from memgen.report.page import flat
from memgen.report.sheets import Bases
from memgen.report.tiles import ImageOf, Tiles
from memgen.report.viewers import Film

PAIRS_SHOWN = 40
OF_SAMPLES = ("sample", "nearest_in", "W", "p", "q", "space", "found_train", "found_held_out")
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
        films: denoised images on the way of the sampler.
        bases: eigenvectors of the model near an image of T and one of H.
        skipped: rows of a SUBJECT_SKIPPED table.
        image_of: gives an image (C, H, W) of the set samples, train or held_out by its position; None shows no images.
        significance: at least the columns OF_SAMPLES of a SIGNIFICANCE table; without rows where nothing was tested.
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
    films: Sequence[Film]
    bases: Sequence[Bases]
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
    data = {
        "gallery": gallery.payload(found.gallery, packed),
        "films": viewers.film_payload(found.films, packed),
        "bases": viewers.bases_payload(found.bases, packed),
    }
    return webpage.render(
        "audit.html.j2",
        data,
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
        films=data["films"],
        viewed=data["bases"],
        unit="image" if found.manifest["data"]["sets"]["train"]["groups"] is None else "group",
        settings=_stated(found.manifest["config"]),
        versions=found.manifest["versions"],
        gallery=data["gallery"],
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


def _floats(image: NDArray[Any]) -> NDArray[np.float64]:
    scaled = image.astype(np.float64)
    return scaled / 255 if image.dtype == np.uint8 else scaled


def _address(image: NDArray[Any]) -> str:
    """An image (C, H, W) as a PNG in a data address."""
    picture = Image.fromarray(np.ascontiguousarray(tiles.as_bytes(image)))
    factor = max(1, -(-_SIDE // max(picture.size)))
    size = (picture.width * factor, picture.height * factor)
    return tiles.address(picture.resize(size, Image.Resampling.NEAREST))
