"""Groups of images: where they come from, that a split keeps them whole, and where names suggest them."""

import collections
import csv
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from program import memgen

from memgen.base.config import validate
from memgen.base.errors import ConfigError, DataError, ShapeError
from memgen.experiment import audit, runs
from memgen.experiment.settings import RunSettings
from memgen.experiment.subjects import prepared
from memgen.experiment.workspace import Workspace
from memgen.images import readers
from memgen.images.groups import file_of, group_of, suspected
from memgen.images.imageset import ImageSet
from memgen.images.importing import ImportSettings, import_images, read_images
from memgen.images.split import PARTS, Split

SOURCES = ["p1/a.png", "p1/deep/b.png", "p2/c.tif#1", "p2/c.tif#2", "d.npz[0]", "e.png"]
WITHOUT_GROUPS = {"holdout": [6, 1, 0], "a": [10, 2, 11, 8, 7], "b": [3, 9, 5, 4]}
FAST = settings(max_examples=60, deadline=None, derandomize=True)


def random_images(n, groups=None, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 1, 6, 5), dtype=np.uint8)
    return ImageSet.from_pixels(pixels, groups=groups)


def table(path, rows, columns=("file", "group")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return str(path)


# ------------------------------------------------------------------------------------------------ where they come from


def test_by_name_and_by_what_files_state():
    """The folder or the file of an image is its group, or what the files state, or nothing is."""
    assert group_of(SOURCES, "folder") == ("p1", "p1/deep", "p2", "p2", ".", ".")
    assert group_of(SOURCES, "file") == ("p1/a.png", "p1/deep/b.png", "p2/c.tif", "p2/c.tif", "d.npz", "e.png")
    assert group_of(SOURCES, None) is None
    assert group_of(SOURCES[:2], None, ["x", "y"]) == ("x", "y")
    assert group_of(["s.tar/k/a.png", "s.tar/b.png"], "folder") == ("s.tar/k", "s.tar")
    assert file_of("x.parquet[17]#2") == "x.parquet"
    assert file_of("a\\u00233") == "a\\u00233"


def test_by_the_beginning_of_the_name():
    """The number at the end does not count, the folder does; a name without a beginning is a group of its own."""
    sources = ["p1_slice_01.png", "p1_slice_02.png", "p2_slice_01.png", "b/p1_slice_03.png", "7.png", "a.npz[3]"]
    assert group_of(sources, "name") == ("p1", "p1", "p2", "b/p1", "7.png", "a.npz")


def test_a_table_names_images_or_files(tmp_path):
    """A row holds for an image, or for all images of a file; columns may have any order, and there may be more."""
    rows = [("x", "p1/a.png", 1), ("x", "./p1/deep/b.png", 1), ("y", "p2/c.tif", 2), ("z", "p2/c.tif#2", 3)]
    rows += [("x y,", "d.npz[0]", 1), ("z", "e.png", 0)]
    path = table(tmp_path / "g.csv", rows, ("group", "file", "age"))
    assert group_of(SOURCES, path) == ("x", "x", "y", "z", "x y,", "z")


def test_a_table_takes_names_as_they_are_on_disk(tmp_path):
    """A file of an odd name is found under its name on disk and under the one that memgen shows."""
    for name in ("a\nb.png", "a\\nb.png"):
        assert group_of(["a\\nb.png"], table(tmp_path / "g.csv", [(name, "x")])) == ("x",)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("p1/a.png", "x")], r"5 of 6 images have no row \(the first is p1/deep/b\.png\)"),
        ([(name, "x") for name in [*SOURCES, "gone", "too"]], r"2 of 8 rows name no image \(the first is gone\)"),
        ([(name, "") for name in SOURCES], "row 1 has no file or no group"),
        ([*((name, "x") for name in SOURCES), ("e.png", "y")], r"e\.png is in two groups, x and y"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, rows, message):
    """Images without rows, rows without images, and unclear rows are errors that count them and name the first."""
    path = table(tmp_path / "g.csv", rows)
    with pytest.raises(DataError, match=rf"g\.csv: .*{message}"):
        group_of(SOURCES, path)


def test_rows_of_files_that_were_not_read(tmp_path):
    """A table of all files fits though some were skipped, or only the first ones were wanted."""
    path = table(tmp_path / "g.csv", [(name, "x") for name in [*SOURCES, "bad.png"]])
    assert group_of(SOURCES, path, skipped=["bad.png"]) == ("x",) * 6
    assert group_of(SOURCES[:2], path, partial=True) == ("x",) * 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"file;group\na;b\n", "found columns file;group, expected file and group"),
        (b"", "found columns none"),
        (b"\xff\xfe\x00", "not a CSV file in UTF-8"),
        (b'file,group\n"' + b"x" * 200_000 + b'",y\n', "not a CSV file"),
        (None, "cannot be read .*--groups takes folder, file, name, or the path of a CSV file"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, data, message):
    """A file that is no such table, or is not there, is refused by name."""
    if data is not None:
        (tmp_path / "g.csv").write_bytes(data)
    with pytest.raises(DataError, match=message):
        group_of(SOURCES, str(tmp_path / "g.csv"))


def test_a_table_is_read_before_images(tmp_path, monkeypatch):
    """A wrong path, or a table without the columns, is told before a file is opened: of an import and of an audit."""
    given = {name: tmp_path / name for name in ("samples", "train")}
    for folder in given.values():
        folder.mkdir()
    monkeypatch.setattr(readers, "read", None)
    (tmp_path / "rows.csv").write_text("name,patient\na,b\n")
    for name, message in (("gone.csv", "gone"), ("rows.csv", "file and group")):
        with pytest.raises(DataError, match=message):
            import_images(given["train"], ImportSettings(groups=str(tmp_path / name)))
        with pytest.raises(DataError, match=message):
            audit.audit(given["samples"], given["train"], outputs=tmp_path / "o", groups=str(tmp_path / name))


def test_groups_stay_with_their_images(tmp_path):
    """Taking, saving and loading keep each image's group; a set without groups has none."""
    images = random_images(5, list("xyxzy"))
    assert images.take([4, 0]).groups == ("y", "x")
    images.save(tmp_path)
    assert ImageSet.load(tmp_path).groups == tuple("xyxzy")
    random_images(5).save(tmp_path)
    assert ImageSet.load(tmp_path).groups is None
    with pytest.raises(ShapeError, match="found 2 groups, expected 5"):
        random_images(5, ["x", "y"])


@pytest.fixture
def folders(tmp_path):
    """Three pictures in each of five folders; the second of each is nearly the first one of the next folder."""
    generator = np.random.default_rng(0)
    first = generator.integers(0, 256, (6, 8, 8), dtype=np.uint8)
    for index in range(5):
        (tmp_path / f"p{index}").mkdir()
        near = np.clip(first[index + 1].astype(int) + generator.integers(-2, 3, (8, 8)), 0, 255).astype(np.uint8)
        pixels = [first[index], near, generator.integers(0, 256, (8, 8), dtype=np.uint8)]
        for number, each in enumerate(pixels):
            Image.fromarray(each).save(tmp_path / f"p{index}" / f"{number}.png")
    return tmp_path


def test_near_duplicates_across_groups_are_told(folders):
    """Near-duplicates are removed as ever; those of another group are counted, with an example."""
    plain = import_images(folders, ImportSettings())
    found = import_images(folders, ImportSettings(groups="folder", shuffle=True))
    assert found.images.sources == plain.images.sources
    assert found.images.groups == tuple(source.partition("/")[0] for source in found.images.sources)
    assert plain.images.groups is None
    assert plain.warnings == []
    (warning,) = found.warnings
    assert "4 near-duplicates of an image in another group were removed, over 4 pairs of groups" in warning
    assert "p1/0.png (group p1) looks like p0/1.png (group p0)" in warning
    assert found.images.recipe["warnings"] == found.warnings
    assert found.images.recipe["groups"] == "folder"


def test_the_library_reads_groups(folders, tmp_path):
    """read_images takes the same setting."""
    (folders / "p0" / "bad.png").write_bytes(b"no")
    files = [f"p{i}/{j}.png" for i in range(5) for j in range(3)]
    path = table(tmp_path / "g.csv", [(name, f"group {i % 4}") for i, name in enumerate([*files, "p0/bad.png"])])
    images = read_images(folders, groups=path, deduplicate=False)
    assert images.groups == tuple(f"group {i % 4}" for i in range(15))
    assert read_images(folders, groups=path, limit=2, deduplicate=False).groups == ("group 0", "group 1")


def test_the_command_keeps_groups(folders, monkeypatch):
    """The option takes folder, file or a table, and the run keeps the groups, in its images and in its split."""
    monkeypatch.chdir(folders.parent)
    files = [f"p{i}/{j}.png" for i in range(5) for j in range(3)]
    table(folders.parent / "g.csv", [(name, f"group {i % 4}") for i, name in enumerate(files)])
    sets = ("--set", "split.holdout=2", "--set", "sweep.n_train=[1]", "--set", "data.deduplicate=false")
    for how, count in (("folder", 5), ("g.csv", 4), ("file", 15)):
        run = folders.parent / "outputs" / how.removesuffix(".csv")
        memgen("data", "import", folders, "--groups", how, *sets, "--run", run.name).done()
        images = ImageSet.load(run / "images")
        assert len(set(images.groups)) == count
        split = pd.read_parquet(run / "tables" / "split")
        split["group"] = [images.groups[i] for i in split["index"]]
        assert (split.groupby("group")["part"].nunique() == 1).all()
    for run, groups in (("g", None), ("folder", (".",) * 3)):  # a table is of the run's images, and of no others
        workspace = Workspace.of(runs.find(folders.parent / "outputs", run), "cpu")
        assert prepared(workspace, folders / "p0").images.groups == groups
    failed = memgen("data", "import", folders, "--groups", "gone.csv", *sets, "--run", "x")
    failed.failed(3, "gone.csv: cannot be read", "--groups takes folder, file, name, or the path of a CSV file")
    one = memgen(
        "data", "import", folders / "p0", "--groups", "folder", *sets, "--set", "split.holdout=1", "--run", "y"
    )
    one.failed(3, "found 1 group of images")


def test_generated_images_have_no_groups():
    """The setting is refused where images are drawn, each by itself."""
    with pytest.raises(ConfigError, match="groups is not for generated images"):
        validate(RunSettings, {"data": {"generated": {"kind": "discs"}, "groups": "folder"}}, source="x")


# ------------------------------------------------------------------------------------------------------------ the split


@FAST
@given(st.lists(st.integers(0, 12), min_size=8, max_size=60), st.integers(1, 6), st.integers(0, 3), st.randoms())
def test_no_group_is_on_two_sides(numbers, holdout, seed, order):
    """Parts share no group and use all images; the holdout is large enough, and no larger than it must be."""
    images = random_images(len(numbers), [f"g{number}" for number in numbers])
    try:
        split = Split.make(images, holdout, seed)
    except DataError as error:
        message = str(error)
        sizes = sorted(collections.Counter(numbers).values())
        assert re.search("groups? of images", message)
        assert len(sizes) < 3 or sum(sizes[:-2]) < holdout + sizes[-1]
        return
    parts = {part: [images.groups[i] for i in getattr(split, part)] for part in PARTS}
    assert sorted(i for part in PARTS for i in getattr(split, part)) == list(range(len(images)))
    assert sum(len(set(groups)) for groups in parts.values()) == len(set(images.groups))
    sizes = collections.Counter(images.groups)
    assert holdout <= len(split.holdout) < holdout + max(sizes.values())
    assert abs(len(split.a) - len(split.b)) <= max(sizes[group] for group in [*parts["a"], *parts["b"]])
    permutation = order.sample(range(len(images)), len(images))
    permuted = Split.make(images.take(permutation), holdout, seed)
    for part in PARTS:
        ids = [permuted.images.ids[i] for i in getattr(permuted, part)]
        assert ids == [images.ids[i] for i in getattr(split, part)]


def test_images_without_groups_are_split_as_ever():
    """These parts were made before there were groups."""
    split = Split.make(random_images(12), 3, 7)
    assert {part: getattr(split, part).tolist() for part in PARTS} == WITHOUT_GROUPS


def test_a_small_training_set_has_many_groups():
    """The training set for N is not the first group: images of a part are in the order of their own hashes."""
    images = random_images(200, [f"g{i // 10}" for i in range(200)])
    split = Split.make(images, 20, 0)
    assert len({images.groups[i] for i in split.training_indices("a", 10)}) > 4
    with pytest.raises(DataError, match=r"groups are kept whole, and found \d+ in a, \d+ in b and \d+ in the holdout"):
        split.training_indices("a", 150)


def test_too_few_groups_are_refused():
    """One group, or two, cannot be on three sides."""
    for groups in (["g"] * 9, ["g", "h"] * 4 + ["g"]):
        with pytest.raises(DataError, match=r"found \d groups? of images \(the largest, g, has \d\)"):
            Split.make(random_images(9, groups), 2, 0)


def test_a_stored_split_that_divides_a_group_is_refused():
    """A table made without groups does not pass for one with them."""
    plain = random_images(12)
    grouped = random_images(12, ["g"] * 6 + ["h"] * 3 + ["i"] * 3)
    with pytest.raises(DataError, match="groups are in more than one part"):
        Split.from_table(grouped, Split.make(plain, 3, 0).to_table())
    split = Split.make(grouped, 2, 0)
    again = Split.from_table(grouped, split.to_table())
    assert all(getattr(again, part).tolist() == getattr(split, part).tolist() for part in PARTS)


# ------------------------------------------------------------------------------------------------- suspected groups

QUIET = {
    "plain numbers": ([f"{i:06}.png" for i in range(50)], [f"{i:06}.png" for i in range(50, 70)]),
    "one word": ([f"img_{i}.png" for i in range(50)], [f"img_{i}.png" for i in range(50, 70)]),
    "another word": ([f"picture{i}.png" for i in range(50)], []),
    "a word for each side": ([f"train_{i}.png" for i in range(9)], [f"test_{i}.png" for i in range(9)]),
    "a folder for each side": ([f"train/{i}.png" for i in range(9)], [f"test/{i}.png" for i in range(9)]),
    "a stem for each image": ([f"patient{i}_1.png" for i in range(9)], [f"patient{i}_1.png" for i in range(9, 20)]),
    "names": (["cat.png", "dog.png", "bird.jpg"], ["tree.png"]),
    "an array": ([f"a.npz[{i}]" for i in range(9)], [f"a.npz[{i}]" for i in range(9, 15)]),
    "rows of several files": ([f"t-{i % 3}.parquet[{i}]" for i in range(9)], [f"t-{i % 3}.parquet[{i}]" for i in range(9, 15)]),
    "nothing": ([], []),
    "one image": (["a_1.png"], []),
}  # fmt: skip
LOUD = {
    "slices": ([f"patient{i % 4}_slice_{i:03}.png" for i in range(20)], [f"patient{i}_slice_900.png" for i in range(4)],
               "24 of 24 images share 4 beginnings of names, of which 4 have images on both sides "
               r"\(for example patient0_slice_000.png and patient0_slice_900.png\).*Hold out whole ones"),
    "patients": ([f"pat{i // 2}_{i % 2}.png" for i in range(14)], [f"pat{i // 2}_{i % 2}.png" for i in range(14, 28)],
                 r"28 of 28 images share 14 beginnings.*\. Each is on one side\..*--groups name"),
    "few patients": ([f"pat{i // 2}_{i % 2}.png" for i in range(4)], [f"pat{i // 2}_{i % 2}.png" for i in range(4, 8)],
                     r"share 4 beginnings of names \(for example \S+ and \S+\. If these.*--groups name"),
    "videos": ([f"vid{i % 3}-{i:04}.jpg" for i in range(12)], [], "12 of 12 images share 3 beginnings.*vid0-0000.jpg"),
    "people": (["A_B_0001.jpg", "A_B_0002.jpg", "C_D_0001.jpg"], ["A_B_0003.jpg", "C_D_0002.jpg"], "share 2 beginnings"),
    "folders": ([f"p{i % 3}/{i}.png" for i in range(12)], [f"p{i}/900.png" for i in range(2)],
                "14 of 14 images share 3 folders, of which 2 have images on both sides.*Hold out whole ones"),
    "frames": ([f"s{'abc'[i % 3]}.tif#{i + 1}" for i in range(12)], [], "share 3 files with several frames.*--groups file"),
}  # fmt: skip


@pytest.mark.parametrize("case", QUIET)
def test_names_that_suggest_nothing(case):
    """Plain numbers, one word for all, one word for each side, and positions in a file are no groups."""
    assert suspected(*QUIET[case]) == []


@pytest.mark.parametrize("case", LOUD)
def test_names_that_suggest_groups(case):
    """One sentence says how many images share what, gives an example from both sides, and the remedy."""
    names_a, names_b, expected = LOUD[case]
    (found,) = suspected(names_a, names_b)
    assert re.search(expected, found.text), found.text
    assert found.whole == (case == "patients")


@FAST
@given(
    st.sets(st.integers(0, 10**9), max_size=40), st.sampled_from(["", "img_", "IMG-", "frame", "x"]), st.integers(1, 12)
)
def test_numbering_is_quiet(numbers, word, width):
    """Whatever the numbers are, and however they are spread over the sides."""
    files = [f"{word}{number:0{width}}.png" for number in numbers]
    assert suspected(files[::2], files[1::2]) == []


@FAST
@given(
    st.lists(st.integers(2, 6), min_size=2, max_size=6),
    st.sampled_from(["_", "-", "_slice_", "-frame", ".", " z"]),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_planted_groups_are_found_in_any_order(sizes, between, order, in_folders):
    """Groups that names show are found, and counted, whatever the order of the images."""
    glue = "/" if in_folders else between
    files = [f"vol{'abcdef'[i]}{glue}{number:03}.png" for i, size in enumerate(sizes) for number in range(size)]
    shuffled = order.sample(files, len(files))
    (found,) = suspected(shuffled)
    assert f"{len(files)} of {len(files)} images share {len(sizes)} " in found.text
    assert suspected(sorted(files)) == [found]
    half = len(files) // 2
    both = suspected(files[:half], files[half:])
    assert both == suspected(files[:half][::-1], files[half:][::-1])


@FAST
@given(st.integers(0, 2**32), st.integers(4, 32))
def test_random_names_are_quiet(seed, length):
    """Names of random digits and letters, as content hashes are, suggest nothing."""
    generator = np.random.default_rng(seed)
    files = {"".join(generator.choice(list("0123456789abcdef"), length)) + ".png" for _ in range(300)}
    assert suspected(sorted(files)[::2], sorted(files)[1::2]) == [] or length < 6
