"""The gallery of a page: every sample with the images beside it, to be sorted and filtered in the browser.

A large gallery is cut so that its pictures stay below a number of bytes, and its samples below a number. Samples that a
test reports are kept first, and then as many of each model as fit. The page says how many it shows of how many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memgen.report import tiles
from memgen.report.tiles import ImageOf, Place, Tiles

BUDGET = 14 * 2**20  # bytes of all pictures of a gallery; they take a third more on the page
MOST = 50_000  # samples of a gallery
_TRIED = 48  # samples whose pictures are packed to learn how many bytes one takes


@dataclass(frozen=True)
class Measure:
    """A number that samples are sorted and filtered by.

    Attributes:
        name: column of the table that it comes from.
        title: what readers call it.
        definition: what it is, in a sentence.
    """

    name: str
    title: str
    definition: str


@dataclass(frozen=True, eq=False)
class Gallery:
    """Samples in the order in which they are first shown. All sequences have one entry for each sample at hand.

    Attributes:
        pictures: titles of the pictures beside each other, the sample first; empty to show none.
        measures: the numbers of each sample.
        values: for each measure its values, NaN where undefined.
        places: for each picture where its image is; None where a sample has none.
        names: what each sample is called.
        notes: what else is said of it, such as how it was changed so as to fit; may be empty.
        panels: the training-set size or imported subject that it belongs to; see `labels.panel`.
        models: what drew it.
        spaces: space in which it is judged.
        reported: whether a test for copies reports it.
        image_of: gives the image of a place.
        total: number of all samples; None where all are at hand, and not only the first ones.
        reported_total: how many of them a test reports; None where all are at hand.
    """

    pictures: Sequence[str]
    measures: Sequence[Measure]
    values: Mapping[str, NDArray[np.float64]]
    places: Sequence[Sequence[Place | None]]
    names: Sequence[str]
    notes: Sequence[str]
    panels: Sequence[str]
    models: Sequence[str]
    spaces: Sequence[str]
    reported: NDArray[np.bool_]
    image_of: ImageOf = field(default=lambda kind, position: np.zeros((1, 1, 1), np.uint8))
    total: int | None = None
    reported_total: int | None = None

    def __len__(self) -> int:
        return len(self.names)


def payload(gallery: Gallery, packed: Tiles, budget: int = BUDGET) -> dict[str, Any]:
    """The gallery as the page's script reads it; its pictures become tiles.

    Args:
        gallery: the samples.
        packed: takes the tiles.
        budget: bytes that all pictures may take.
    """
    chosen = _fitting(gallery, budget)
    texts = {"panel": gallery.panels, "model": gallery.models, "space": gallery.spaces}
    return {
        "total": len(gallery) if gallery.total is None else gallery.total,
        "reported_total": int(gallery.reported.sum()) if gallery.reported_total is None else gallery.reported_total,
        "pictures": list(gallery.pictures),
        "measures": [vars(measure) for measure in gallery.measures],
        "values": {m.name: [_plain(gallery.values[m.name][i]) for i in chosen] for m in gallery.measures},
        "tiles": _numbered(gallery, chosen, packed),
        "names": [gallery.names[i] for i in chosen],
        "notes": [gallery.notes[i] for i in chosen],
        "reported": [int(gallery.reported[i]) for i in chosen],
        **{name: _listed([values[i] for i in chosen]) for name, values in texts.items()},
    }


def _numbered(gallery: Gallery, chosen: Sequence[int], packed: Tiles) -> list[list[int]]:
    """For each picture the numbers of the tiles; -1 for none. The tiles of a sample stand side by side."""
    found: list[list[int]] = [[] for _ in gallery.pictures]
    for i in chosen:
        for numbers, places in zip(found, gallery.places, strict=True):
            place = places[i]
            numbers.append(-1 if place is None else packed.at(place))
    return found


def _fitting(gallery: Gallery, budget: int) -> list[int]:
    """The samples whose pictures fit: those reported first, and then the first ones of each model, in order."""
    count = len(gallery)
    if not count:
        return []
    most = min(MOST, _pictured(gallery, budget)) if gallery.pictures else MOST
    if count <= most:
        return list(range(count))
    ranks, seen = [], dict[tuple[str, str], int]()
    for key in zip(gallery.panels, gallery.models, strict=True):
        seen[key] = seen.get(key, -1) + 1
        ranks.append(seen[key])
    order = sorted(range(count), key=lambda i: (not gallery.reported[i], ranks[i], i))
    return sorted(order[:most])


def _pictured(gallery: Gallery, budget: int) -> int:
    """About how many samples have pictures that fit."""
    count = len(gallery)
    tried = np.unique(np.linspace(0, count - 1, min(count, _TRIED)).round().astype(int))
    places = [places[i] for i in tried for places in gallery.places]
    images = [gallery.image_of(*place) for place in places if place is not None]
    return max(1, int(budget * len(tried) / tiles.bytes_of(images)))


def _listed(values: Sequence[str]) -> dict[str, Any]:
    """Texts that repeat, as a list of the different ones and the position of each in it."""
    different = list(dict.fromkeys(values))
    place = {value: i for i, value in enumerate(different)}
    return {"list": different, "of": [place[value] for value in values]}


def _plain(value: float) -> float | None:
    """A number with six digits, as JSON holds it; None for NaN."""
    return float(f"{value:.6g}") if np.isfinite(value) else None
