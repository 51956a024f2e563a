"""The images of an audit: samples, T and H, prepared alike, and kept in its run."""

from pathlib import Path
from typing import Any

from memgen.base.config import validate
from memgen.base.errors import DataError, ShapeError
from memgen.experiment import audit_model, runs
from memgen.experiment.audit_settings import NAME, AuditSettings, OnStage, settings_of
from memgen.images import groups
from memgen.images.imageset import ImageSet
from memgen.images.importing import Imported, ImportSettings, import_images, skipped_of_sets
from memgen.images.names import escaped
from memgen.images.prepare import ReadSettings
from memgen.measures.copies import matching

_MIXED = 64  # side to which all images are resized if they have different sizes
_IN_WORDS = {"samples": "samples", "train": "training images", "held_out": "held-out images"}


def load(run: runs.Run, report: OnStage, device: str = "cpu") -> dict[str, ImageSet]:
    """The image sets `samples`, `train` and `held_out` of an audit, read and prepared alike unless they are there.

    The samples of a model are drawn.

    Raises:
        ConfigError: there is no space of a name.
        DataError: a set cannot be used, a group has images in both T and H, or the file of a space cannot be used.
        ShapeError: the model takes images of another shape.
    """
    settings = settings_of(run)
    made_of = matching.records(settings.spaces)
    if run.manifest["data"] is None:
        read, data = prepare(settings, report)
        for kind, found in read.items():
            found.images.save(run.image_set(kind))
        run.write_table("subject_skipped", NAME, skipped_of_sets(read))
        if settings.model is not None:
            real = [found.images for found in read.values()]
            drawn, more = audit_model.draw(run, settings, real, report, device)
            drawn.save(run.image_set("samples"))
            identical = _identical({"samples": drawn, "train": read["train"].images})
            data["identical"] = identical | data["identical"]
            data["sets"] = {"samples": _about(settings.model, drawn, 0), **data["sets"]}
            data["warnings"] += more
        run.update(data=data)
    elif changed := [name for name, record in run.manifest["data"]["spaces"].items() if made_of[name] != record]:
        raise DataError(
            f"{run.path}: the file of the space {changed[0]}, or a package that reads it, has changed since the audit "
            "began. Bring it back, or choose another name with --run to start a new audit."
        )
    return {kind: ImageSet.load(run.image_set(kind)) for kind in run.manifest["data"]["sets"]}


def prepare(settings: AuditSettings, report: OnStage) -> tuple[dict[str, Imported], dict[str, Any]]:
    """The image sets of an audit that are read from files, and what its run says of them. Nothing is written.

    Raises:
        ConfigError: there is no space of a name.
        DataError: a set cannot be used, a group has images in both T and H, or the file of a space cannot be used.
    """
    made_of = matching.records(settings.spaces)
    groups.check(settings.groups)  # of training images, before samples are read
    sources = {"samples": settings.samples, "train": settings.train, "held_out": settings.holdout}
    given = {kind: source for kind, source in sources.items() if source is not None}
    read, rule = _read(given, settings, report)
    warnings, undeclared = _warnings(read, settings)
    return read, {
        "sets": {kind: _about(given[kind], found.images, found.skipped.num_rows) for kind, found in read.items()},
        "rule": rule,
        "warnings": warnings,
        "spaces": made_of,
        "undeclared": undeclared,
        "identical": _identical({kind: found.images for kind, found in read.items()}),
    }


def _identical(sets: dict[str, ImageSet]) -> dict[str, dict[str, Any]]:
    """For samples and held-out images, how many have the pixels of a training image, with a pair as an example.

    Raises:
        DataError: all held-out images have.
    """
    train, found = sets["train"], dict[str, dict[str, Any]]()
    for kind in ("samples", "held_out"):
        if kind not in sets:
            continue
        same = sets[kind].ids.among(train.ids)
        if not same.any():
            continue
        first = int(same.argmax())
        identity = sets[kind].ids[first]
        example = [sets[kind].sources[first], train.sources[train.ids.places([identity])[identity]]]
        if kind == "held_out" and same.all():
            raise DataError(
                f"--holdout: all {len(same):,} held-out images are training images too (for example {example[0]} and "
                f"{example[1]}), expected images that the model never saw."
            )
        found[kind] = {"count": int(same.sum()), "example": example}
    return found


def _about(source: str, images: ImageSet, skipped: int) -> dict[str, Any]:
    """What the run says of one of its sets."""
    return {
        "source": escaped(source),
        "images": len(images),
        "skipped": skipped,
        "groups": None if images.groups is None else images.groups.different(),
        "image_shape": list(images.image_shape),
        "digest": images.digest,
    }


def _warnings(read: dict[str, Imported], settings: AuditSettings) -> tuple[list[str], bool]:
    """What to know of the images that were read, in sentences, and whether undeclared groups were divided as a whole.

    Raises:
        DataError: a group has images in both T and H.
    """
    train, held_out = read["train"].images, read["held_out"].images if "held_out" in read else None
    warnings = list(dict.fromkeys(warning for found in read.values() for warning in found.warnings))
    if train.groups is None:
        suspected = groups.suspected(train.sources, () if held_out is None else held_out.sources)
        return warnings + [each.text for each in suspected], any(each.whole for each in suspected)
    if held_out is not None:
        _check_groups(train, held_out, stated=settings.groups is None)
    return warnings, False


def _read(sources: dict[str, str], settings: AuditSettings, report: OnStage) -> tuple[dict[str, Imported], str]:
    """All sets, prepared alike, and the rule by which they were, in a sentence."""
    side = settings.resize
    try:
        read = {kind: _read_set(kind, source, settings, side, "auto", report) for kind, source in sources.items()}
        shapes = {found.images.image_shape[1:] for found in read.values()}
    except ShapeError:
        shapes = set()
    if len(shapes) != 1:
        side = _MIXED
        read = {kind: _read_set(kind, source, settings, side, "auto", report) for kind, source in sources.items()}
    channels = max(found.images.image_shape[0] for found in read.values())
    if any(found.images.image_shape[0] != channels for found in read.values()):
        read = {
            kind: found
            if found.images.image_shape[0] == channels
            else _read_set(kind, sources[kind], settings, side, "rgb", report)
            for kind, found in read.items()
        }
    height, width = next(iter(read.values())).images.image_shape[1:]
    if side is None:
        rule = f"All images have {width} x {height} pixels and were left at that size."
    elif settings.resize is None:
        rule = (
            f"The images differ in size, so all were resized to {side} x {side} pixels (the short side, bicubic with "
            "antialiasing, and the center of the long side). --resize chooses another size."
        )
    else:
        rule = (
            f"All images were resized to {side} x {side} pixels (the short side, bicubic with antialiasing, and the "
            "center of the long side)."
        )
    return read, rule


def read_like(images: ImageSet, source: str, settings: AuditSettings, report: OnStage) -> ImageSet:
    """Held-out images of one more source, prepared as images of the audit were: in their size and with their channels.

    Raises:
        DataError: the source cannot be used.
    """
    color = "gray" if images.image_shape[0] == 1 else "rgb"
    return _read_set("held_out", source, settings, images.image_shape[1], color, report).images


def _read_set(
    kind: str, source: str, settings: AuditSettings, side: int | None, color: str, report: OnStage
) -> Imported:
    values = {name: getattr(settings, name) for name in ReadSettings.model_fields}
    values |= {"resize": side, "deduplicate": False, "color": settings.color if color == "auto" else color}
    values |= {"groups": settings.groups if kind != "samples" else None}
    chosen = validate(ImportSettings, values, source="audit")
    found = import_images(
        Path(source),
        chosen,
        lambda done, total: report(f"reading {_IN_WORDS[kind]}", done, total),
        settings.seed,
        shared_table=True,  # one table has the groups of training and of held-out images
    )
    if kind == "samples" and found.images.groups is not None:
        images = found.images  # samples have no patients
        return Imported(
            ImageSet(images.pixels, images.ids, images.sources, images.recipe),
            found.skipped,
            found.duplicates,
            found.warnings,
        )
    return found


def _check_groups(train: ImageSet, held_out: ImageSet, stated: bool) -> None:
    """Refuse groups with images on both sides; the pool would too, but only after all images were read.

    Args:
        train: T.
        held_out: H.
        stated: whether files state the groups, and not the person.
    """
    assert train.groups is not None
    both = [] if held_out.groups is None else train.groups.shared(held_out.groups)
    if both:
        remedy = (
            "These groups are patients or volumes that the files state. If files were divided one by one, give "
            "--groups file."
            if stated
            else "If the images were divided one by one, leave out --groups."
        )
        raise DataError(
            f"--groups: found images of {len(both):,} groups among both the training and the held-out images (for "
            f"example {both[0]}), expected each group on one side. {remedy}"
        )
