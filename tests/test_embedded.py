import gzip
import importlib.resources
import runpy
from pathlib import Path

import numpy as np
import pytest

from memgen.images.duplicates import area_average
from memgen.images.importing import EMBEDDED, ImportSettings, import_images

FOLDER = importlib.resources.files("memgen") / "embedded"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "make_embedded.py"))


def test_embedded_images_are_those_the_script_states(script):
    """The carried images are as many, and hash to the same digest, as the script that makes them says."""
    images = import_images(None).images
    assert len(images) == script["N_IMAGES"] >= 2 * 4096 + 1024
    assert images.digest == script["DIGEST"]
    assert images.image_shape == (1, 28, 28)
    assert images.pixels.dtype == np.uint8
    assert len(set(images.ids)) == len(images)
    assert images.recipe["source"] == "embedded Fashion-MNIST"


@pytest.mark.parametrize("side", [None, 16])
def test_embedded_images_hold_no_near_duplicates(side):
    """At 28 x 28 and resized to 16 x 16 no two images correlate above .95, by a plain float64 product."""
    found = import_images(None, ImportSettings(resize=side))
    assert found.duplicates.num_rows == found.skipped.num_rows == 0
    rows = area_average(found.images).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    largest = 0.0
    for start in range(0, len(rows), 2048):
        product = rows[start : start + 2048] @ rows[: start + 2048].T
        product[np.arange(len(product)), start + np.arange(len(product))] = 0
        largest = max(largest, product.max())
    assert 0.949 < largest <= 0.95 + 1e-6


def test_embedded_file_is_small_and_reproducible(script, tmp_path):
    """The file is below 5 MB, bears no time stamp, and writing its images again gives the same pixels."""
    data = (FOLDER / EMBEDDED).read_bytes()
    assert len(data) < 5_000_000
    assert data[4:8] == bytes(4)
    script["write_idx"](tmp_path / "again", import_images(None, ImportSettings(limit=50)).images)
    again = gzip.decompress((tmp_path / "again").read_bytes())
    assert again[16:] == gzip.decompress(data)[16 : 16 + 50 * 784]


def test_embedded_license_stands_beside_the_images():
    """The images' own license is carried with them."""
    text = (FOLDER / "LICENSE").read_text()
    assert "Copyright (c) 2017 Zalando SE" in text
    assert "Permission is hereby granted, free of charge" in text
