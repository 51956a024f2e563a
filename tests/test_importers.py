import gzip
import logging
import os
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from memgen.base import schemas
from memgen.base.config import validate
from memgen.base.errors import ConfigError, DataError
from memgen.experiment.make import generate_images
from memgen.experiment.settings import DataSettings
from memgen.images import duplicates, shuffle
from memgen.images.imageset import content_id
from memgen.images.importing import ImportSettings, import_images
from memgen.models.known import classes, generate

PLAIN = ImportSettings(deduplicate=False)


def photo(height=20, width=20, seed=0, channels=3):
    """A smooth random picture, (H, W, 3) or (H, W), uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return picture if channels == 3 else np.ascontiguousarray(picture[..., 0])


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def chw(array):
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def reasons(imported):
    return {row["source"]: row["reason"] for row in imported.skipped.to_pylist()}


# Folders.


def test_folder_gives_the_pixels_in_sorted_order(tmp_path):
    """Pictures in nested folders come out unchanged, in the order of their names, with their names as sources."""
    names = ["b.png", "a/z.bmp", "a/b.tiff", "c.PNG", "no_suffix"]
    pictures = {name: photo(seed=index) for index, name in enumerate(names)}
    for name, picture in pictures.items():
        save(tmp_path / name, picture, format=None if "." in name else "PNG")
    images = import_images(tmp_path, PLAIN).images
    assert images.sources == tuple(sorted(names))
    np.testing.assert_array_equal(images.pixels, np.stack([chw(pictures[name]) for name in sorted(names)]))
    assert images.recipe["source"] == str(tmp_path)


def png(header, rows):
    """A PNG made by hand: `header` is (width, height, depth, color type), `rows` the raw bytes of each row."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = b"".join(b"\0" + row for row in rows)
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def test_16_bit_is_scaled_not_clipped(tmp_path):
    """16-bit gray, whether PNG, TIFF or PGM, becomes v / 257, rounded."""
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    expected = np.floor(deep / 257 + 0.5).astype(np.uint8)
    Image.fromarray(deep).save(tmp_path / "a.tiff")
    (tmp_path / "b.png").write_bytes(png((8, 8, 16, 0), [row.astype(">u2").tobytes() for row in deep]))
    (tmp_path / "c.pgm").write_bytes(b"P5 8 8 65535\n" + deep.astype(">u2").tobytes())
    images = import_images(tmp_path, PLAIN).images
    assert len(images) == 3
    for image in images.pixels:
        np.testing.assert_array_equal(image[0], expected)


@pytest.mark.parametrize(("alpha", "behind"), [("white", 255), ("black", 0)])
def test_transparency_is_composited(tmp_path, alpha, behind):
    """RGBA, LA, palette and color-key transparency show the background, and opaque pixels stay."""
    color, gray = photo(), photo(channels=1)
    mask = np.where(np.indices((20, 20))[1] < 10, 0, 255).astype(np.uint8)
    save(tmp_path / "a.png", np.dstack([color, mask]))
    Image.merge("LA", [Image.fromarray(gray), Image.fromarray(mask)]).save(tmp_path / "b.png")
    palette = Image.fromarray(np.where(mask == 0, 7, 3).astype(np.uint8)).convert("P")
    palette.putpalette([value for index in range(256) for value in (index, 2 * index % 256, 90)])
    palette.save(tmp_path / "c.png", transparency=7)
    keyed = np.where(mask[..., None] == 0, 9, 120).astype(np.uint8).repeat(3, axis=2)
    save(tmp_path / "d.png", keyed, transparency=(9, 9, 9))
    images = import_images(tmp_path, ImportSettings(alpha=alpha, deduplicate=False)).images
    assert len(images) == 4
    assert (images.pixels[..., :10] == behind).all()
    np.testing.assert_array_equal(images.pixels[0, ..., 10:], chw(color)[..., 10:])
    np.testing.assert_array_equal(images.pixels[1, :, :, 10:], gray[None, :, 10:].repeat(3, axis=0))
    np.testing.assert_array_equal(images.pixels[2, :, 0, 15], [3, 6, 90])
    np.testing.assert_array_equal(images.pixels[3, :, 0, 15], [120, 120, 120])


def test_transparency_can_be_skipped(tmp_path):
    """With alpha = skip such files are reported and the others imported."""
    save(tmp_path / "a.png", photo())
    save(tmp_path / "b.png", np.dstack([photo(), photo(channels=1)]))
    found = import_images(tmp_path, ImportSettings(alpha="skip"))
    assert found.images.sources == ("a.png",)
    assert reasons(found) == {"b.png": "has transparent pixels"}


def test_16_bit_color_key_is_transparent(tmp_path):
    """A transparent 16-bit gray is replaced by the background, whatever its value."""
    deep = np.full((4, 4), 1000, np.uint16)
    deep[0] = 60000
    image = Image.fromarray(deep)
    image.info["transparency"] = 1000
    image.save(tmp_path / "a.png", transparency=1000)
    images = import_images(tmp_path, PLAIN).images
    assert images.pixels[0, 0].tolist() == [[233] * 4] + [[255] * 4] * 3


def test_exif_rotation_is_applied(tmp_path):
    """A picture stored lying on its side with a note to turn it comes out upright."""
    upright = photo(24, 16)
    lying = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(tmp_path / "a.png", exif=exif)
    images = import_images(tmp_path, PLAIN).images
    np.testing.assert_array_equal(images.pixels[0], chw(upright))


def test_other_modes(tmp_path):
    """CMYK, palette and bilevel pictures become RGB or gray as Pillow converts them; animations give frame one."""
    cmyk = Image.fromarray(photo()).convert("CMYK")
    cmyk.save(tmp_path / "a.tiff")
    palette = Image.fromarray(photo()).quantize(16)
    palette.save(tmp_path / "b.png")
    Image.fromarray(photo(channels=1)).convert("1").save(tmp_path / "c.png")
    frames = [Image.fromarray(photo(seed=seed)) for seed in (1, 2)]
    frames[0].save(tmp_path / "d.png", save_all=True, append_images=frames[1:])
    images = import_images(tmp_path, PLAIN).images
    np.testing.assert_array_equal(images.pixels[0], chw(np.asarray(cmyk.convert("RGB"))))
    np.testing.assert_array_equal(images.pixels[1], chw(np.asarray(palette.convert("RGB"))))
    assert set(np.unique(images.pixels[2])) == {0, 255}
    np.testing.assert_array_equal(images.pixels[3], chw(photo(seed=1)))


def test_color_auto_is_gray_only_for_gray_folders(tmp_path):
    """A folder of gray pictures has one channel; a colored one among them makes all RGB."""
    save(tmp_path / "a.png", photo(channels=1))
    assert import_images(tmp_path).images.image_shape == (1, 20, 20)
    save(tmp_path / "b.png", photo(seed=1))
    images = import_images(tmp_path).images
    assert images.image_shape == (3, 20, 20)
    np.testing.assert_array_equal(images.pixels[0], photo(channels=1)[None].repeat(3, axis=0))


def test_color_gray_is_the_plain_mean(tmp_path):
    """Gray is the mean of R, G and B, rounded, not a luma; rgb repeats gray."""
    save(tmp_path / "a.png", photo())
    gray = import_images(tmp_path, ImportSettings(color="gray")).images
    np.testing.assert_array_equal(gray.pixels[0, 0], np.rint(photo().astype(float).mean(axis=2)))
    np.save(tmp_path / "g.npy", photo(channels=1)[None])
    repeated = import_images(tmp_path / "g.npy", ImportSettings(color="rgb")).images
    np.testing.assert_array_equal(repeated.pixels[0], photo(channels=1)[None].repeat(3, axis=0))


@pytest.mark.parametrize(("height", "width"), [(60, 60), (60, 90), (101, 47), (16, 12)])
def test_resize_is_pillows_bicubic_and_center_crop(tmp_path, height, width):
    """The short side is resized with antialiasing, as Pillow does to one gray level, and the middle is cut out."""
    save(tmp_path / "a.png", photo(height, width))
    found = import_images(tmp_path, ImportSettings(resize=24)).images.pixels[0]
    scale = 24 / min(height, width)
    size = (round(width * scale), round(height * scale))
    reference = np.asarray(Image.fromarray(photo(height, width)).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - 24) // 2, (size[0] - 24) // 2
    reference = chw(reference)[:, top : top + 24, left : left + 24]
    assert found.shape == (3, 24, 24)
    assert np.abs(found.astype(int) - reference).max() <= 1


def test_mixed_sizes_are_resized_or_refused_by_name(tmp_path):
    """Without a size the error names two files, their sizes and the remedy; with one all come through."""
    save(tmp_path / "a.png", photo(20, 30))
    save(tmp_path / "b.png", photo(40, 30))
    with pytest.raises(DataError, match=r"a\.png has 30 x 20 .*b\.png has 30 x 40.*--resize 64") as caught:
        import_images(tmp_path)
    assert "\n" not in str(caught.value)
    assert import_images(tmp_path, ImportSettings(resize=8, deduplicate=False)).images.pixels.shape == (2, 3, 8, 8)


def test_every_unusable_file_is_reported(tmp_path, monkeypatch):
    """Each file that cannot be used stands in the table with its reason, and the good ones are all imported."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    save(tmp_path / "good.png", photo(20, 20))
    save(tmp_path / "sub" / "good.jpg", photo(20, 20, seed=1), quality=95)
    save(tmp_path / "large.png", photo(120, 120))
    save(tmp_path / "bomb.png", photo(160, 160))
    for kind in ("jpg", "png", "tiff", "gif", "webp"):
        save(tmp_path / f"cut.{kind}", photo(80, 80))
        data = (tmp_path / f"cut.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello, I am not a picture")
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    Image.fromarray(np.zeros((20, 20), np.float32)).save(tmp_path / "float.tiff")
    for name in ("README.txt", "meta.json", "Thumbs.db", ".hidden.png"):
        (tmp_path / name).write_text("x")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "linked").symlink_to(tmp_path / "sub")
    found = import_images(tmp_path)
    assert found.images.sources == ("good.png", "sub/good.jpg")
    assert found.skipped.schema.equals(schemas.SKIPPED)
    why = reasons(found)
    assert list(why) == sorted(why)
    for name, reason in {
        "large.png": "too large", "bomb.png": "too large", "empty.png": "empty file",
        "cut.jpg": "damaged", "cut.png": "damaged", "cut.tiff": "damaged", "cut.gif": "damaged", "cut.webp": "",
        "text.png": "not an image", "script.eps": "not an image", "float.tiff": "has float 32-bit pixels",
        "README.txt": "not an image (suffix .txt)", "meta.json": "not an image", "Thumbs.db": "not an image",
        ".hidden.png": "not an image (hidden, or one of the system)", "pipe.png": "not an image (not a regular file)",
        "dangling.png": "not an image (not a regular file)", "linked": "a link to a folder, not followed",
    }.items():  # fmt: skip
        assert why.pop(name).startswith(reason), name
    assert why == {}


def patch_tiff(path, tag, kind, count, value):
    """Change the value (or offset) of a little-endian TIFF tag in place."""
    data = path.read_bytes()
    entry = struct.pack("<HHI", tag, kind, count)
    at = data.index(entry) + len(entry)
    path.write_bytes(data[:at] + struct.pack("<I", value) + data[at + 4 :])


def test_pillow_neither_warns_nor_logs(tmp_path, monkeypatch):
    """Odd metadata does not keep a picture out, cut metadata does, and Pillow says nothing to the terminal itself."""
    logged = []
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.lastResort, "emit", logged.append)
    broken = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"
    save(tmp_path / "exif.jpg", photo(), exif=broken)
    save(tmp_path / "cut.tiff", photo(seed=1), tiffinfo={270: "x" * 40})
    patch_tiff(tmp_path / "cut.tiff", 270, 2, 41, (tmp_path / "cut.tiff").stat().st_size - 5)
    save(tmp_path / "samples.tiff", photo(seed=2))
    patch_tiff(tmp_path / "samples.tiff", 277, 3, 1, 2048)
    found = import_images(tmp_path)
    assert found.images.sources == ("exif.jpg",)
    assert reasons(found)["cut.tiff"] == "damaged (Truncated File Read)"
    assert set(reasons(found)) == {"cut.tiff", "samples.tiff"}
    assert logged == []


def test_nothing_usable_names_the_folder_and_reasons(tmp_path):
    """Where no image comes through, the error says why, in one line."""
    for name in ("a.txt", "b.png", "c.json", "d.md"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"no usable image \(a\.txt: not.*and 1 more\)") as caught:
        import_images(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="empty"):
        import_images(tmp_path / "void")


def test_limit_progress_and_duplicates(tmp_path):
    """The limit counts images before de-duplication, progress ends at the total, and removed files are named."""
    for index, seed in enumerate([0, 1, 0, 2, 3]):
        save(tmp_path / f"{index}.png", photo(seed=seed))
    calls = []
    found = import_images(tmp_path, ImportSettings(limit=4), progress=lambda *call: calls.append(call))
    assert found.images.sources == ("0.png", "1.png", "3.png")
    assert found.duplicates.column("removed_source").to_pylist() == ["2.png"]
    assert found.duplicates.column("kept_source").to_pylist() == ["0.png"]
    np.testing.assert_array_equal(found.images.pixels[2], chw(photo(seed=2)))
    assert calls[0] == (0, 5)
    assert calls[-1] == (5, 5)
    assert import_images(tmp_path, PLAIN).duplicates.num_rows == 0
    assert len(import_images(tmp_path, ImportSettings(threshold=0.01)).images) < 4


def test_long_sets_keep_pixels_with_their_ids(tmp_path):
    """De-duplication in place leaves every kept image with its own id, over several blocks."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (900, 1, 4, 4), dtype=np.uint8)
    pixels = np.concatenate([pixels, pixels])[generator.permutation(1800)]
    np.savez(tmp_path / "a.npz", pixels)
    images = import_images(tmp_path / "a.npz", ImportSettings(threshold=1)).images
    assert len(images) == 900
    again = type(images).from_pixels(images.pixels)
    assert again.ids == images.ids


# Arrays.


def write_array(path, array):
    """Write an array in the kind of file that the suffix names."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, images=array)
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(array), path)
    elif path.suffix == ".pth":
        torch.save({"images": torch.from_numpy(array)}, path)
    else:
        header = b"\0\0\x08\x03" + np.array(array.shape, ">u4").tobytes()
        data = header + array.tobytes()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "a.pth", "a-idx3-ubyte", "a-idx3-ubyte.gz"])
def test_array_files_give_their_pixels(tmp_path, name):
    """Gray images come unchanged out of every kind of array file."""
    array = np.stack([photo(seed=seed, channels=1) for seed in range(5)])
    found = import_images(write_array(tmp_path / name, array), PLAIN)
    np.testing.assert_array_equal(found.images.pixels[:, 0], array)
    assert found.images.sources[3] == f"{name}[3]"
    assert found.skipped.num_rows == 0
    limited = import_images(tmp_path / name, ImportSettings(limit=2, resize=10, deduplicate=False)).images
    assert limited.pixels.shape == (2, 1, 10, 10)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("last", [False, True])
def test_layouts_and_types(tmp_path, dtype, last):
    """NHWC and NCHW give the same images; uint8 stays, floats become float32."""
    array = np.stack([chw(photo(20, 24, seed)) for seed in range(3)])
    array = array if dtype == np.uint8 else (array / 255).astype(dtype)
    np.save(tmp_path / "a.npy", np.moveaxis(array, 1, 3) if last else array)
    images = import_images(tmp_path / "a.npy", PLAIN).images
    assert images.pixels.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    np.testing.assert_array_equal(images.pixels, array.astype(images.pixels.dtype))


def test_bfloat16_tensor_with_gradient(tmp_path):
    """A tensor type that NumPy lacks is read as float32."""
    torch.save(torch.rand(3, 1, 8, 8).bfloat16().requires_grad_(), tmp_path / "a.pt")
    assert import_images(tmp_path / "a.pt", PLAIN).images.pixels.dtype == np.float32


def test_legacy_torch_file(tmp_path):
    """Tensors in torch's old file format are read without a warning."""
    torch.save(torch.rand(3, 1, 8, 8), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert len(import_images(tmp_path / "a.pt", PLAIN).images) == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resize_of_arrays_is_independent_of_blocks_and_bounded(tmp_path, dtype):
    """Each image is resized as if alone; floats stay in [0, 1] although bicubic overshoots."""
    generator = np.random.default_rng(0)
    array = (generator.random((1100, 1, 8, 8)) < 0.5).astype(dtype) * (255 if dtype == np.uint8 else 1)
    np.save(tmp_path / "a.npy", array.astype(dtype))
    images = import_images(tmp_path / "a.npy", ImportSettings(resize=12, deduplicate=False)).images
    assert images.pixels.min() == 0
    assert images.pixels.max() == array.max()
    for index in (0, 511, 512, 1099):
        np.save(tmp_path / "one.npy", array[index : index + 1].astype(dtype))
        alone = import_images(tmp_path / "one.npy", ImportSettings(resize=12)).images
        assert alone.ids[0] == images.ids[index]


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def fail(path, message):
    """Importing the path raises a DataError of one line that names it."""
    with pytest.raises(DataError, match=message) as caught:
        import_images(path, PLAIN)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.npy", "a.npz", "a.pkl", "a-idx3-ubyte.gz"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_pickles_are_refused_and_never_run(tmp_path, name, wrapped):
    """A pickle posing as an array or tensor is refused and what it holds is not executed."""
    trap = tmp_path / "executed"
    if not wrapped:
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(trap)))
    elif name.endswith(("pt", "pth")):
        torch.save({"images": Bomb(trap)}, tmp_path / name)
    elif name.endswith(("npy", "npz")):
        save_array = np.save if name.endswith("npy") else np.savez
        save_array(tmp_path / name, np.array([Bomb(trap)], dtype=object))
    else:
        (tmp_path / name).write_bytes(gzip.compress(pickle.dumps(Bomb(trap))))
    fail(tmp_path / name, "never opens|not a kind of file")
    assert not trap.exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "a-idx3-ubyte", "a-idx3-ubyte.gz"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.9])
def test_truncated_array_files_are_refused(tmp_path, name, share):
    """A file cut short anywhere is an error that names it."""
    write_array(tmp_path / name, np.random.default_rng(0).integers(0, 256, (9, 20, 20), dtype=np.uint8))
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    fail(tmp_path / name, "damaged|found|not a kind|empty file")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_named(tmp_path, bad):
    """NaN and infinite pixels are refused, naming the first image that has one, in any block."""
    array = np.random.default_rng(0).random((700, 1, 4, 4), dtype=np.float32)
    array[650, 0, 1, 2] = array[690, 0, 0, 0] = bad
    np.save(tmp_path / "a.npy", array)
    fail(tmp_path / "a.npy", "image 650 has NaN or infinite")


@pytest.mark.parametrize(
    ("low", "high", "wanted"), [(-1, 1, "-1,1"), (0, 255, "0,255"), (0, 254.3, "0,255"), (0, 1.001, "0,1.001")]
)
def test_floats_outside_the_unit_interval_are_refused(tmp_path, low, high, wanted):
    """Floats of another range are refused with what was found and the range to give; with it they are scaled."""
    array = np.full((4, 1, 4, 4), 0.5)
    array[2, 0, 0, :2] = low, high
    np.save(tmp_path / "a.npy", array)
    fail(tmp_path / "a.npy", f"has values from {low} to {high}, beyond 0 to 1.*--range {wanted} .*such image is 2")
    images = import_images(tmp_path / "a.npy", ImportSettings(deduplicate=False, range=wanted)).images
    black, white = map(float, wanted.split(","))
    np.testing.assert_allclose(images.pixels, (array - black) / (white - black), atol=1e-7)


def test_rounding_beyond_the_range_is_clipped(tmp_path):
    """Floats that lie beyond [0, 1] by rounding alone are taken for 0 and 1."""
    array = np.linspace(0, 1, 48, dtype=np.float32).reshape(2, 4, 6)
    np.save(tmp_path / "a.npy", array * np.float32(1 + 3e-7) - np.float32(1e-7))
    images = import_images(tmp_path / "a.npy", PLAIN).images
    assert (images.pixels.min(), images.pixels.max()) == (0, 1)
    np.testing.assert_allclose(images.pixels[:, 0], array, atol=1e-6)


@pytest.mark.parametrize(
    "shape", [(5, 9), (5, 3, 8, 3), (5, 1, 1, 1), (5, 2, 8, 8), (5, 4, 8, 4), (64, 64, 3), (0, 8, 8), (5, 1, 2, 8, 8)]
)
def test_unclear_shapes_are_refused(tmp_path, shape):
    """A shape that is not clearly a stack of images is refused with the shape."""
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    fail(tmp_path / "a.npy", r"shape \(")


@pytest.mark.parametrize("dtype", [np.complex64, "U3", "M8[s]", "V2"])
def test_what_is_no_number_is_refused(tmp_path, dtype):
    """Complex numbers, text, dates and raw bytes are no pixels."""
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 8), dtype))
    fail(tmp_path / "a.npy", "found values of type .*, expected whole numbers, floats or bool")


@pytest.mark.parametrize("dtype", ["u2", ">u2", "i2", "u4", "i4", "u8", "i8", "i1"])
def test_whole_numbers_need_a_range(tmp_path, dtype):
    """No type of whole numbers but uint8 says what its white is; with the range that the error names, the pixels are right."""
    top = 100 if dtype == "i1" else 3000
    array = np.linspace(0, top, 48).reshape(2, 4, 6).round().astype(dtype)
    np.save(tmp_path / "a.npy", array)
    wanted = 255 if dtype == "i1" else 4095
    fail(tmp_path / "a.npy", f"values from 0 to {top:,}, and does not state which value is white.*--range 0,{wanted}")
    images = import_images(tmp_path / "a.npy", ImportSettings(deduplicate=False, range=f"0,{wanted}")).images
    assert images.pixels.dtype == np.float32
    np.testing.assert_allclose(images.pixels[:, 0], array / wanted, atol=1e-7)


def test_bool_is_black_and_white(tmp_path):
    """False is black and true is white, in 8 bits."""
    array = np.random.default_rng(0).random((3, 8, 8)) < 0.5
    np.save(tmp_path / "a.npy", array)
    images = import_images(tmp_path / "a.npy", PLAIN).images
    assert images.pixels.dtype == np.uint8
    np.testing.assert_array_equal(images.pixels[:, 0], array * 255)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_opacity_of_arrays(tmp_path, last, dtype):
    """The fourth channel is opacity: white shows through, or such images are left out by their position."""
    array = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 7))
    array[1, 3] = 255
    unit = array / 255
    wanted = unit[:, :3] * unit[:, 3:] + 1 - unit[:, 3:]
    stored = array.astype(dtype) / dtype(1 if dtype == np.uint8 else 255)
    np.save(tmp_path / "a.npy", (np.moveaxis(stored, 1, 3) if last else stored).astype(dtype))
    images = import_images(tmp_path / "a.npy", PLAIN).images
    assert images.pixels.dtype == dtype
    scale = 255 if dtype == np.uint8 else 1
    np.testing.assert_allclose(images.pixels / scale, wanted, atol=0.51 / 255 if scale > 1 else 1e-6)
    found = import_images(tmp_path / "a.npy", ImportSettings(alpha="skip", deduplicate=False))
    assert found.images.sources == ("a.npy[1]",)
    assert reasons(found) == {"a.npy[0]": "has transparent pixels", "a.npy[2]": "has transparent pixels"}


def test_gray_in_three_channels_is_gray(tmp_path):
    """An array whose channels are all equal has one; a single colored image keeps three."""
    gray = np.random.default_rng(0).integers(0, 256, (600, 1, 5, 5), dtype=np.uint8).repeat(3, axis=1)
    np.save(tmp_path / "a.npy", gray)
    np.testing.assert_array_equal(import_images(tmp_path / "a.npy", PLAIN).images.pixels, gray[:, :1])
    gray[590, 1, 2, 2] ^= 255
    np.save(tmp_path / "a.npy", gray)
    found = import_images(tmp_path / "a.npy", PLAIN)
    np.testing.assert_array_equal(found.images.pixels, gray)
    assert "only 1 of 600 images (a.npy[590])" in found.warnings[0]


@pytest.mark.parametrize("name", ["a.npz", "a.pt"])
def test_an_array_of_several_is_chosen_by_name(tmp_path, name):
    """Of several arrays, the only one that can be images is taken; otherwise the person names one."""
    array, other = (np.random.default_rng(seed).integers(0, 256, (5, 6, 7), dtype=np.uint8) for seed in (0, 1))
    path = tmp_path / name

    def write(**arrays):
        if name.endswith("npz"):
            np.savez(path, **arrays)
        else:
            torch.save({key: torch.as_tensor(value) for key, value in arrays.items()}, path)

    write(x=array, labels=np.arange(5), epoch=np.array(3))
    np.testing.assert_array_equal(import_images(path, PLAIN).images.pixels[:, 0], array)
    write(x=array, y=other)
    fail(path, rf"found arrays x 5x6x7, y 5x6x7, expected one.*for example {name}:x")
    found = import_images(tmp_path / f"{name}:y", PLAIN).images
    np.testing.assert_array_equal(found.pixels[:, 0], other)
    assert found.sources[2] == f"{name}[2]"
    with pytest.raises(DataError, match=r"found arrays x 5x6x7, y 5x6x7, expected z\. Name one"):
        import_images(tmp_path / f"{name}:z", PLAIN)
    write(x=np.zeros(3), y=np.zeros(3))
    fail(path, r"found arrays x 3, y 3, expected images \(N, H, W\)")
    with pytest.raises(DataError, match="no such file"):
        import_images(tmp_path / f"gone-{name}:x", PLAIN)


def test_a_colon_in_the_name_of_a_file(tmp_path):
    """A file whose own name holds a colon is read as that file."""
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 7), dtype=np.uint8)
    np.save(tmp_path / "a:b.npy", array)
    (tmp_path / "a").write_text("another file, of which b.npy is no part")
    np.savez(tmp_path / "c.npz", x=np.zeros((2, 3, 3)), y=array)
    (tmp_path / "c.npz").rename(tmp_path / "c:d.npz")
    np.testing.assert_array_equal(import_images(tmp_path / "a:b.npy", PLAIN).images.pixels[:, 0], array)
    np.testing.assert_array_equal(import_images(tmp_path / "c:d.npz:y", PLAIN).images.pixels[:, 0], array)
    fail_message = "without a name. Leave out :x"
    with pytest.raises(DataError, match=fail_message):
        import_images(tmp_path / "a:b.npy:x", PLAIN)


def test_collections_of_tensors(tmp_path):
    """Images with their labels, as MNIST keeps them, and lists of single images are read; nested names have dots."""
    images, labels = torch.randint(0, 256, (5, 6, 7), dtype=torch.uint8), torch.arange(5)
    for kept in ((images, labels), [images, {"labels": labels}], {"data": {"images": images, "n": 5}, "names": ["a"]}):
        torch.save(kept, tmp_path / "a.pt")
        np.testing.assert_array_equal(import_images(tmp_path / "a.pt", PLAIN).images.pixels[:, 0], images)
    colors = torch.randint(0, 256, (4, 3, 8, 9), dtype=torch.uint8)
    torch.save(list(colors), tmp_path / "a.pt")
    np.testing.assert_array_equal(import_images(tmp_path / "a.pt", PLAIN).images.pixels, colors)
    torch.save({"train": {"x": images, "y": colors}, "test": [images, labels]}, tmp_path / "a.pt")
    fail(tmp_path / "a.pt", r"train\.x 5x6x7, train\.y 4x3x8x9, test\.0 5x6x7, test\.1 5, expected one.*a\.pt:train\.x")
    np.testing.assert_array_equal(import_images(tmp_path / "a.pt:train.y", PLAIN).images.pixels, colors)
    torch.save([torch.zeros(3)], tmp_path / "b.pt")
    fail(tmp_path / "b.pt", "shape")
    torch.save("words", tmp_path / "b.pt")
    fail(tmp_path / "b.pt", "found no array of numbers")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.float8_e4m3fn])
def test_types_of_tensors(tmp_path, dtype):
    """Whatever the type of the tensor, its pixels are those that torch sees."""
    tensor = (torch.arange(48).reshape(2, 4, 6) / 47).to(dtype)
    torch.save(tensor, tmp_path / "a.pt")
    found = import_images(tmp_path / "a.pt", PLAIN).images
    np.testing.assert_allclose(found.floats()[:, 0], tensor.float(), atol=1e-6)


def test_idx_headers_are_checked(tmp_path):
    """Labels, sizes that do not match the file, and files of other kinds are refused."""
    path = tmp_path / "labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x02ab"))
    fail(path, "1 dimensions.*labels")
    path.write_bytes(b"\0\0\x08\x03" + b"\xff" * 12)
    fail(path, "found 16 bytes")
    path.write_bytes(b"\0\0\x08\x03\0")
    fail(path, "found 5 bytes")
    path.write_text("hello")
    fail(path, "not a kind of file")
    fail(tmp_path / "missing.npy", "no such file or folder")


def test_settings_are_checked():
    """Sizes, thresholds and choices outside their range are refused by key."""
    for key, value in [("resize", 0), ("limit", 0), ("threshold", 1.5), ("threshold", 0), ("color", "blue")]:
        with pytest.raises(ConfigError, match=key):
            validate(ImportSettings, {key: value}, "test")


@pytest.mark.parametrize("kind", ["texture", "mixture", "discs", "c_alpha", "cone", "sinusoids"])
def test_generated_images(kind: str):
    """A class gives as many images as asked for, named by index, none removed, and its recipe says how to make them."""
    settings = validate(DataSettings, {"generated": {"kind": kind, "n_images": 60, "side": 16}}, "test")
    found = generate_images(settings.generated, shuffle=False, seed=5)
    assert found.skipped.num_rows == found.duplicates.num_rows == 0
    assert found.images.sources[17] == f"{kind}[17]"
    assert len(set(found.images.ids)) == 60
    np.testing.assert_array_equal(found.images.pixels, generate.generate(settings.generated, 5, range(60)))
    recipe = found.images.recipe
    assert (recipe["source"], recipe["seed"], recipe["shuffle"]) == (f"generated: {kind}", 5, False)
    assert "kept" in recipe["near_duplicates"]
    again = validate(DataSettings, {"generated": recipe["generated"]}, "recipe")
    assert again.generated == settings.generated
    near, _ = duplicates.near_duplicates(found.images, 0.95)
    assert kind != "cone" or len(near) == 1  # removing them would leave one image of the ray


def test_generated_images_are_shuffled_by_their_seed():
    """Shuffled images are the plain ones in the order that the reference of the shuffled class knows."""
    settings = classes.TextureSettings(n_images=8, side=8, channels=3)
    plain, found = (generate_images(settings, shuffle, seed=2).images for shuffle in (False, True))
    order = shuffle.permutation(2, 64)
    np.testing.assert_array_equal(found.pixels, shuffle.shuffled(plain.pixels, order))
    assert found.ids == tuple(content_id(image) for image in found.pixels)
    assert (found.sources, found.recipe["shuffle_seed"]) == (plain.sources, 2)


def test_any_images_can_be_shuffled(tmp_path):
    """The pixels of imported images, too, come in one order that the seed draws; duplicates are removed before that."""
    plain = import_images(None, ImportSettings(resize=12, limit=40))
    found = import_images(None, ImportSettings(resize=12, limit=40, shuffle=True), seed=9)
    order = shuffle.permutation(9, 144)
    np.testing.assert_array_equal(found.images.pixels, shuffle.shuffled(plain.images.pixels, order))
    assert found.images.pixels.dtype == np.uint8
    assert found.images.sources == plain.images.sources
    assert found.images.recipe["shuffle"]
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).random((5, 6, 10)).astype(np.float32))
    wide = import_images(tmp_path / "wide.npy", ImportSettings(shuffle=True), seed=1).images.pixels
    before = import_images(tmp_path / "wide.npy").images.pixels
    np.testing.assert_array_equal(wide, shuffle.shuffled(before, shuffle.permutation(1, 60)))
    assert not np.array_equal(wide, before)


def test_a_single_picture(tmp_path):
    """One image file gives one image, the same as from its folder; a damaged one is named."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    found = import_images(tmp_path / "mine.png", ImportSettings()).images
    assert found.ids == import_images(tmp_path, ImportSettings()).images.ids
    assert found.sources == ("mine.png",)
    np.testing.assert_array_equal(found.pixels[0], pixels.transpose(2, 0, 1))
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 no")
    with pytest.raises(DataError, match=r"bad\.jpg: no usable image \(bad\.jpg: "):
        import_images(tmp_path / "bad.jpg", ImportSettings())


# Adding to an earlier import.


def test_images_are_added_to_an_earlier_import(tmp_path):
    """The result is that of all images at once, in the order of the two imports."""
    pictures = np.stack([photo(seed=seed, channels=1) for seed in range(12)])
    pictures[9], pictures[11] = pictures[2], pictures[8]
    np.save(tmp_path / "all.npy", pictures)
    np.save(tmp_path / "first.npy", pictures[:7])
    np.save(tmp_path / "more.npy", pictures[7:])
    import_images(tmp_path / "first.npy").images.save(tmp_path / "images")
    settings = ImportSettings(add_to=str(tmp_path / "images"))
    whole, added = import_images(tmp_path / "all.npy"), import_images(tmp_path / "more.npy", settings)
    assert added.images.ids == whole.images.ids
    np.testing.assert_array_equal(added.images.pixels, whole.images.pixels)
    assert added.images.sources == (*(f"first.npy[{i}]" for i in range(7)), *(f"more.npy[{i}]" for i in (0, 1, 3)))
    assert added.duplicates["removed_source"].to_pylist() == ["more.npy[2]", "more.npy[4]"]
    assert added.duplicates["kept_source"].to_pylist() == ["first.npy[2]", "more.npy[1]"]


@pytest.mark.parametrize(("earlier", "now", "known"), [(0.9, 0.95, 5), (0.95, 0.9, 0), (None, 0.95, 0)])
def test_earlier_images_are_compared_again_where_they_must_be(tmp_path, monkeypatch, earlier, now, known):
    """With a lower threshold now, or near-duplicates kept before, nothing is known of the earlier images."""
    np.save(tmp_path / "first.npy", np.stack([photo(seed=seed) for seed in range(5)]))
    np.save(tmp_path / "more.npy", np.stack([photo(seed=seed) for seed in range(5, 8)]))
    before = PLAIN if earlier is None else ImportSettings(threshold=earlier)
    import_images(tmp_path / "first.npy", before).images.save(tmp_path / "images")
    found, inner = [], duplicates.near_duplicates
    monkeypatch.setattr(duplicates, "near_duplicates", lambda *given: (found.append(given[2]), inner(*given))[1])
    import_images(tmp_path / "more.npy", ImportSettings(threshold=now, add_to=str(tmp_path / "images")))
    assert found == [known]


def test_images_of_another_kind_cannot_be_added(tmp_path):
    """Another size or type, or pixels in another order: the message says what was found and expected."""
    np.save(tmp_path / "first.npy", np.stack([photo(seed=seed) for seed in range(3)]))
    np.save(tmp_path / "more.npy", np.stack([photo(30, 30, seed=seed) for seed in range(3)]))
    import_images(tmp_path / "first.npy").images.save(tmp_path / "images")
    with pytest.raises(DataError, match="found images 3x30x30 of uint8 without groups, expected 3x20x20 of uint8"):
        import_images(tmp_path / "more.npy", ImportSettings(add_to=str(tmp_path / "images")))
    import_images(tmp_path / "first.npy", ImportSettings(shuffle=True)).images.save(tmp_path / "shuffled")
    with pytest.raises(DataError, match="shuffled"):
        import_images(tmp_path / "first.npy", ImportSettings(add_to=str(tmp_path / "shuffled")))
