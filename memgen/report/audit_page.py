"""The page of an audit: the answer, the pairs behind it, and what would have been found. It works offline.

The page loads nothing: styles and pictures are part of it, and it contains no script.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from memgen.base import wording
from memgen.findings.audit import Answer, Pair
from memgen.report.live import Live
from memgen.report.page import flat

PAIRS_SHOWN = 40
_AT_RISK_SHOWN = 50
_SIDE = 96  # smallest side of a picture on the page, in pixels; smaller images are enlarged by a whole factor

ImageOf = Callable[[str, int], NDArray[Any]]


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
        skipped: rows of a SKIPPED table.
        image_of: gives an image (C, H, W) of the set samples, train or held_out by its position; None shows no images.
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
    live: Live | None = None


def render(found: AuditInput) -> str:
    """The whole page as one string."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("memgen.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("audit.html.j2").render(
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
        wording=wording,
        gaps=found.gaps,
        shrinkage=found.shrinkage,
        eigenvectors=_eigenvectors(found.eigenvectors),
        unit="group" if found.manifest["config"]["groups"] else "image",
        settings=_stated(found.manifest["config"]),
        versions=found.manifest["versions"],
    )


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
    pixels = (_floats(image).clip(0, 1) * 255).round().astype(np.uint8)
    pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    factor = max(1, -(-_SIDE // max(pixels.shape[:2])))
    picture = Image.fromarray(pixels)
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
