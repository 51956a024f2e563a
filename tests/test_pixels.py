"""Every picture format: known pixels go into a file, and come out of the import with the range that the file states."""

import numpy as np
import picture_files
import pytest
from picture_files import LONG, SHORT, levels, packed, png, ramp, saved, tags, tiff, written
from PIL import Image

from memgen.base.errors import DataError
from memgen.images.importing import ImportSettings, import_images

PLAIN = ImportSettings(deduplicate=False)


def reasons(found):
    return {row["source"]: row["reason"] for row in found.skipped.to_pylist()}


@pytest.mark.parametrize("group", ["_png", "_packed_tiff", "_tiff", "_tiff_colors", "_portable", "_others"])
def test_table_of_files(tmp_path, group):
    """Whatever the bits, the sign, the photometric interpretation and the container: the pixels are right, or a reason says why not."""
    seen, wrong = 0, []
    for case in getattr(picture_files, group)():
        image, reason = picture_files.read(case, tmp_path)
        seen += 1
        if case.expected is None:
            right = image is None and case.reason in reason
        else:
            wanted = case.expected[None] if case.expected.ndim == 2 else case.expected.transpose(2, 0, 1)
            right = image is not None and np.array_equal(image, wanted)
        wrong += [] if right else [(case.name, case.suffix, reason)]
    assert wrong == []
    assert seen > 10


def test_every_page_is_an_image_of_its_own(tmp_path):
    """Pages of a TIFF, deep or not, and frames of a GIF, PNG and WebP are images, named by number; one alone is not numbered."""
    stack = np.stack([ramp(0, 255, np.uint8) // (i + 1) for i in range(4)])
    (tmp_path / "a.tif").write_bytes(written(stack, photometric="minisblack"))
    deep = np.stack([ramp(0, 65535, np.uint16) // (i + 1) for i in range(3)])
    (tmp_path / "b.tif").write_bytes(written(deep, photometric="miniswhite", compression="zlib"))
    frames = [Image.fromarray(page) for page in stack]
    for suffix, options in (("gif", {}), ("png", {}), ("webp", {"lossless": True})):
        data = saved(frames[0], suffix, save_all=True, append_images=frames[1:], **options)
        (tmp_path / f"c.{suffix}").write_bytes(data)
    (tmp_path / "d.png").write_bytes(saved(frames[0], "png"))
    found = import_images(tmp_path, PLAIN)
    names = [f"a.tif#{i}" for i in (1, 2, 3, 4)] + [f"b.tif#{i}" for i in (1, 2, 3)]
    names += [f"c.{suffix}#{i}" for suffix in ("gif", "png", "webp") for i in (1, 2, 3, 4)] + ["d.png"]
    assert list(found.images.sources) == names
    wanted = [*stack, *(levels(page, 0, 65535, True) for page in deep), *stack, *stack, *stack, stack[0]]
    np.testing.assert_array_equal(found.images.pixels[:, 0], wanted)
    assert found.skipped.num_rows == 0
    assert len(import_images(tmp_path, ImportSettings(limit=6, deduplicate=False)).images) == 6


def test_damaged_pages_are_listed(tmp_path):
    """A damaged page is left out with its reason, and the others are imported."""
    gray = ramp(0, 65535, np.uint16)
    page = (tags(5, 7, 16, 1), gray.astype("<u2").tobytes())
    whole = tiff([page, page, page])
    (tmp_path / "a.tif").write_bytes(whole)
    assert len(import_images(tmp_path, PLAIN).images) == 3
    at = whole.rindex(gray.astype("<u2").tobytes())
    place = whole.index(at.to_bytes(4, "little"), whole.rindex((273).to_bytes(2, "little")))
    (tmp_path / "a.tif").write_bytes(whole[:place] + (2**30).to_bytes(4, "little") + whole[place + 4 :])
    found = import_images(tmp_path, PLAIN)
    assert found.images.sources == ("a.tif#1", "a.tif#2")
    assert reasons(found) == {"a.tif#3": "damaged (Truncated File Read)"}
    frames = [Image.fromarray(ramp(0, 255, np.uint8) // i) for i in (1, 2, 3)]
    data = saved(frames[0], "gif", save_all=True, append_images=frames[1:])
    (tmp_path / "b.gif").write_bytes(data[:-8])
    found = import_images(tmp_path / "b.gif", PLAIN)
    assert found.images.sources == ("b.gif#1", "b.gif#2")
    assert reasons(found)["b.gif#3"].startswith("damaged")


def test_frames_that_are_no_images_are_listed(tmp_path):
    """Reduced copies of a page, slices without a page, and the second pictures of a camera are left out with a reason."""
    gray = ramp(0, 255, np.uint8).tobytes()
    small = ramp(0, 255, np.uint8, (3, 3)).tobytes()
    (tmp_path / "a.tif").write_bytes(tiff([(tags(5, 7, 8, 1), gray), (tags(3, 3, 8, 1, t254=(LONG, [1])), small)]))
    frames = [
        Image.fromarray(picture_files.color(0, 255, np.uint8)),
        Image.fromarray(picture_files.color(0, 99, np.uint8)),
    ]
    (tmp_path / "b.jpg").write_bytes(saved(frames[0], "mpo", save_all=True, append_images=frames[1:]))
    data = written(ramp(0, 255, np.uint8), description="ImageJ=1.53\nimages=3\nslices=3\n")
    (tmp_path / "c.tif").write_bytes(data)
    found = import_images(tmp_path, PLAIN)
    assert found.images.sources == ("a.tif#1", "b.jpg#1", "c.tif#1")
    why = reasons(found)
    assert "smaller copy" in why["a.tif#2"]
    assert "gain map" in why["b.jpg#2"]
    assert "ImageJ" in why["c.tif#2"]
    assert set(why) == {"a.tif#2", "b.jpg#2", "c.tif#2", "c.tif#3"}


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_dark_sets_are_noticed(tmp_path, suffix):
    """Twelve bits in sixteen are imported as the file says, and the warning says which range they seem to have."""
    for i in range(3):
        (tmp_path / f"{i}.{suffix}").write_bytes(saved(Image.fromarray(ramp(0, 4095 // (i + 1), np.uint16)), suffix))
    found = import_images(tmp_path, PLAIN)
    assert found.images.pixels.max() == 16
    (warning,) = found.warnings
    assert "only the values 0 to 4,095 of the range 0 to 65,535" in warning
    assert "--range 0,4095" in warning
    assert found.images.recipe["warnings"] == [warning]
    found = import_images(tmp_path, ImportSettings(deduplicate=False, range="0,4095"))
    assert found.warnings == []
    assert found.images.pixels.max() == 255
    assert list(found.images.recipe["range"]) == [0, 4095]
    (tmp_path / "whole.png").write_bytes(saved(Image.fromarray(ramp(0, 255, np.uint8)), "png"))
    (warning,) = import_images(tmp_path, PLAIN).warnings
    assert "3 of 4 images use only the values 0 to 4,095" in warning
    (warning,) = import_images(tmp_path, ImportSettings(deduplicate=False, range="0,4095")).warnings
    assert "1 of 4 images use only the values 0 to 255 of the range 0 to 4,095" in warning
    (tmp_path / "bright.png").write_bytes(saved(Image.fromarray(ramp(0, 65535, np.uint16)), "png"))
    assert import_images(tmp_path, PLAIN).warnings == []


@pytest.mark.parametrize(
    ("array", "seen", "wanted"),
    [
        (np.arange(50, dtype=np.uint8).reshape(2, 5, 5) % 2, "0 to 1 of the range 0 to 255", "--range 0,1"),
        (np.arange(50, dtype=np.float32).reshape(2, 5, 5) / 49 / 255, "0 to 0.00392157 of the range 0 to 1", "--range 0,0.00392157"),
        (np.arange(50, dtype=np.uint8).reshape(2, 5, 5) + 190, "190 to 239 of the range 0 to 255", "--range 190,239"),
    ],
    ids=["bits", "divided twice", "bright"],
)  # fmt: skip
def test_dark_arrays_are_noticed(tmp_path, array, seen, wanted):
    """Arrays that use hardly any of their range come in as they are, and the warning names the range to give."""
    np.save(tmp_path / "a.npy", array)
    (warning,) = import_images(tmp_path / "a.npy", PLAIN).warnings
    assert seen in warning
    assert wanted in warning
    given = ImportSettings(deduplicate=False, range=wanted.removeprefix("--range "))
    found = import_images(tmp_path / "a.npy", given)
    assert (found.images.pixels.min(), found.images.pixels.max()) == pytest.approx((0, 1))
    assert found.warnings == []


def test_a_missing_range_is_named_for_all_files_together(tmp_path):
    """Signed pictures need a range; each reason says what it found, and the error names one range for all."""
    for i in (1, 2, 3):
        (tmp_path / f"{i}.tif").write_bytes(written(ramp(-500 * i, 1000 * i, np.int16), photometric="minisblack"))
    with pytest.raises(DataError, match=r"values from -500 to 1,000.*together: --range -1500,3000"):
        import_images(tmp_path, PLAIN)
    given = ImportSettings(deduplicate=False, range=(-1500, 3000))
    images = import_images(tmp_path, given).images
    for i, image in enumerate(images.pixels, start=1):
        np.testing.assert_array_equal(image[0], levels(ramp(-500 * i, 1000 * i, np.int16), -1500, 3000))
    partly = import_images(tmp_path, ImportSettings(deduplicate=False, range=(-1000, 2000)))
    assert len(partly.images) == 2
    assert "values from -1,500 to 3,000, beyond --range -1000,2000" in reasons(partly)["3.tif"]


def test_color_is_decided_by_pixels(tmp_path):
    """Gray stays gray, whether it is kept as RGB, with a palette or with opacity; one colored pixel makes all RGB."""
    gray = ramp(0, 255, np.uint8)
    for i in range(30):
        picture = Image.fromarray(np.roll(gray, i))
        picture = [picture, picture.convert("P"), picture.convert("RGB"), picture.convert("LA")][i % 4]
        picture.save(tmp_path / f"{i:02}.png")
    found = import_images(tmp_path, PLAIN)
    assert found.images.image_shape == (1, 5, 7)
    assert found.warnings == []
    np.testing.assert_array_equal(found.images.pixels[:, 0], [np.roll(gray, i) for i in range(30)])
    spot = np.repeat(gray[..., None], 3, axis=2)
    spot[2, 3] = (1, 2, 3)
    Image.fromarray(spot).save(tmp_path / "15.png")
    found = import_images(tmp_path, PLAIN)
    np.testing.assert_array_equal(found.images.pixels[14], np.repeat(np.roll(gray, 14)[None], 3, axis=0))
    np.testing.assert_array_equal(found.images.pixels[15], spot.transpose(2, 0, 1))
    np.testing.assert_array_equal(found.images.pixels[16], np.repeat(np.roll(gray, 16)[None], 3, axis=0))
    (warning,) = found.warnings
    assert "Color was found in only 1 of 30 images (15.png)" in warning
    Image.fromarray(spot).save(tmp_path / "16.png")
    assert import_images(tmp_path, PLAIN).warnings == []
    assert import_images(tmp_path, ImportSettings(color="gray", deduplicate=False)).images.image_shape[0] == 1


def test_six_samples_and_other_oddities_have_reasons(tmp_path):
    """A page with samples that mean nothing known is left out with its reason, not read as something else."""
    data = bytes(5 * 7 * 2)
    (tmp_path / "a.tif").write_bytes(tiff([(tags(5, 7, 16, 6), data)]))
    (tmp_path / "b.tif").write_bytes(tiff([(tags(5, 7, 16, 1, t339=(SHORT, [5])), data)]))
    (tmp_path / "c.tif").write_bytes(tiff([(tags(5, 7, 16, 1) | {259: (SHORT, [34712])}, data)]))
    (tmp_path / "d.png").write_bytes(png((7, 5, 8, 0), packed(ramp(0, 255, np.uint16), 8)))
    found = import_images(tmp_path, PLAIN)
    assert found.images.sources == ("d.png",)
    assert "photometric interpretation 6" in reasons(found)["a.tif"]
    assert "unknown type" in reasons(found)["b.tif"]
    assert "compression 34712" in reasons(found)["c.tif"]
