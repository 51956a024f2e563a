"""What an audit finds in all of its spaces together, in pixels alone, and in each space at q / S; how often it errs.

    python benchmarks/spaces.py [--source FOLDER] [--repeats N] [--power | --size | --speed] [--space NAME=FILE]

Power: T and H of 2,000 images and 1,000 samples, all real and different, of which 5, 10 and 30 % are replaced by copies
of images of T, of each kind in `memgen.measures.copies.planting`. The tables give the share of the copies found by the
competition at q = 5 %, and the share of false ones among all that it finds. `together` is the audit; `q / S` is what is
found in any of S spaces by a competition at q / S in each. The rules of other groups stand beside it, each with the
threshold that gives the same false share on the same samples, or 5 % where that is more: an oracle that nobody has,
since it looks at which samples are copies.

    1/3 rule     ratio of the distances to the first and second nearest training image (Yoon et al. 2023)
    percentile   distance to the nearest training image, below a quantile of that of held-out images
    AuthPct      the same, divided by the distance of that training image to its nearest (Alaa et al. 2022)

Each --space adds three columns to the power: the competition in it alone, together with the four others, and the rule
that calls a sample a copy whose similarity in that space is above a threshold (as SSCD is used; Pizzi et al. 2022).

Size: 2,000 images without copies are divided anew into T and H, at least 200 times, at 1:1, 4:1 and 10:1, and 500
others are the samples; with and without groups, as patients of 200, 100, 50 and 5 images; in all spaces together and in
each alone, and together as if the images had been divided one by one, which is wrong where there are groups. All finds
are false here, so the share of redraws with a find is the expected false share, which is at most q if the test is
right. Images are drawn --draws times.

Speed: 10,000 samples in a pool of 100,000 images, half of them in T, made of pairs of the given images by averaging.
For each space, the time of the search and its ratio to the float32 matrix products that it needs, which are timed by
turns with it for the first two blocks of 1,024 samples; and the time and the peak memory of the whole test.

Without --source, the images are the embedded ones at 28x28.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch

from memgen.base.intervals import clopper_pearson
from memgen.images.imageset import ImageSet
from memgen.images.importing import ImportSettings, import_images
from memgen.measures.copies.competition import Q, compete
from memgen.measures.copies.examiner import Examiner, judge
from memgen.measures.copies.matching import EVERY, called
from memgen.measures.copies.planting import KINDS, planted
from memgen.measures.copies.sight import Sight

SHARES = (0.05, 0.1, 0.3)
GROUPED = {"single": 1, "400 patients x 5": 5, "40 x 50": 50, "20 x 100": 100, "10 x 200": 200}
LABELS = 200  # redraws of the labels
TURNS = 2  # blocks of samples whose matrix products are timed
RATIOS = {"1 : 1": 1 / 2, "4 : 1": 4 / 5, "10 : 1": 10 / 11}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="folder or file of images")
    parser.add_argument("--repeats", type=int, default=3, help="redraws of the images for the power")
    parser.add_argument(
        "--space", action="append", default=[], help="a further space of the power, as memgen audit has"
    )
    parser.add_argument("--draws", type=int, default=3, help="draws of the images for the size")
    parser.add_argument("--images", type=int, default=2000, help="images of T, and of H; samples are half as many")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--power", action="store_true")
    only.add_argument("--size", action="store_true")
    only.add_argument("--speed", action="store_true")
    parser.add_argument("--samples", type=int, default=10_000, help="samples of --speed")
    parser.add_argument("--pool", type=int, default=100_000, help="images of the pool of --speed")
    arguments = parser.parse_args()
    images = import_images(arguments.source, ImportSettings(deduplicate=False, limit=20000)).images
    print(f"{len(images)} images of {images.image_shape}")
    if arguments.speed:
        speed(images, arguments.pool, arguments.samples)
        return
    if not arguments.size:
        power(images, arguments.images, arguments.repeats, arguments.space)
    if not arguments.power:
        size(images, arguments.draws)


def found_in(examiner, sight, names, q):
    """Which samples compete and are found in some spaces together."""
    nearest, magnitude = strength(examiner, sight, names)
    return compete(examiner.pool.unit[nearest], magnitude, examiner.pool.unit_in_train, q).discovered


def strength(examiner, sight, names):
    """The image that each sample is nearest to in some spaces together, and how much it stands out there."""
    magnitudes = examiner.searcher.standing_out(sight)
    of = [i for i, space in enumerate(examiner.searcher.space_of) if space in names]
    chosen = np.argmax([magnitudes[i] for i in of], axis=0)
    nearest = np.stack([sight.matches[i].candidates[:, 0] for i in of])[chosen, np.arange(len(sight))]
    # Alone, a space needs no scale.
    magnitude = sight.matches[of[0]].depth if len(of) == 1 else np.max([magnitudes[i] for i in of], axis=0)
    return nearest, magnitude


def power(images, n, repeats, further):
    """Print the power of the audit, of its spaces, and of other rules, for each kind of copy."""
    rng, m = np.random.default_rng(0), n // 2
    rows = {kind: {share: [] for share in SHARES} for kind in KINDS}
    for _ in range(repeats):
        order = rng.permutation(len(images))
        train, held_out = images.take(order[:n]), images.take(order[n : 2 * n])
        samples = images.floats(order[2 * n : 2 * n + m])
        examiner = Examiner(train, held_out, 0.99, names=(*EVERY, *further))
        plain, rules = examiner.see(samples), Rules(train, held_out)
        plain_scores = rules.scores(samples)
        for kind in KINDS:
            most = round(max(SHARES) * m)
            copies = planted(kind, train.floats(rng.permutation(n)[:most]), samples[:most], rng)
            seen, scores = examiner.see(copies), rules.scores(copies)
            for share in SHARES:
                count = round(share * m)
                sight = Sight.joined([seen.take(slice(count)), plain.take(slice(count, None))])
                copied = np.arange(m) < count
                results = {"together": found_in(examiner, sight, EVERY, Q)}
                results["pixels"] = found_in(examiner, sight, ("pixels",), Q)
                results["q / S"] = np.any(
                    [found_in(examiner, sight, (name,), Q / len(EVERY)) for name in EVERY], axis=0
                )
                for label in map(called, further):
                    results[label] = found_in(examiner, sight, (label,), Q)
                    results[f"with {label}"] = found_in(examiner, sight, (*EVERY, label), Q)
                false = (results["together"] & ~copied).sum() / max(1, results["together"].sum())
                line = {name: found[copied].mean() for name, found in results.items()} | {"false": false}
                both = {
                    rule: np.concatenate([value[:count], plain_scores[rule][count:]]) for rule, value in scores.items()
                }
                for label in map(called, further):
                    (of,) = np.flatnonzero(examiner.searcher.space_of == label)
                    closeness = sight.matches[of].closeness[:, 0]
                    nearer = examiner.searcher._matchers[of]._space.larger_is_closer
                    both[f"{label} threshold"] = -closeness if nearer else closeness
                line |= {rule: power_at(value, copied, max(false, Q)) for rule, value in both.items()}
                rows[kind][share].append(line)
    columns = list(line)
    for share in SHARES:
        print(f"\ncopies in {share:.0%} of {m} samples; mean over {repeats} redraws\n")
        print("| kind of copy | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
        for kind, found in rows.items():
            means = [np.mean([line[name] for line in found[share]]) for name in columns]
            print(f"| {kind} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |", flush=True)


class Rules:
    """Scores of other groups' rules: the smaller, the more likely a copy."""

    def __init__(self, train, held_out):
        self.train = train.floats().flatten(1)
        distances = torch.cdist(self.train, self.train)
        self.own = distances.fill_diagonal_(torch.inf).min(dim=1).values.clamp(min=1e-9)

    def scores(self, samples):
        nearest, index = torch.cdist(samples.flatten(1), self.train).topk(2, largest=False)
        first = nearest[:, 0]
        return {
            "1/3 rule": (first / nearest[:, 1].clamp(min=1e-9)).numpy(),
            "percentile": first.numpy(),
            "AuthPct": (first / self.own[index[:, 0]]).numpy(),
        }


def power_at(score, copied, false_share):
    """Share of copies below the largest threshold at which the share of false ones among all below is small enough."""
    order = np.argsort(score, kind="stable")
    right = np.cumsum(copied[order])
    total = np.arange(1, len(order) + 1)
    allowed = np.flatnonzero((total - right) / total <= false_share)
    return right[allowed[-1]] / copied.sum() if len(allowed) else 0.0


def size(images, draws):
    """Print the mean false share of what is found where nothing is copied, in all spaces together and in each alone."""
    columns = {"together": EVERY, **{name: (name,) for name in EVERY}}
    shown = [*columns, "groups ignored"]
    print("\n| images | T : H | " + " | ".join(shown) + " |\n|---|---|" + "---|" * len(shown))
    for label, per_group in (
        ("single", 1),
        ("400 patients x 5", 5),
        ("40 patients x 50", 50),
        ("20 x 100", 100),
        ("10 x 200", 200),
    ):
        rng = np.random.default_rng(1)
        outcomes = {(ratio, column): [] for ratio in RATIOS for column in shown}
        for _ in range(draws):
            pooled, groups, samples = drawn(images, rng, per_group)
            half = len(pooled) // 2
            sides = [grouped(pooled, groups, slice(0, half)), grouped(pooled, groups, slice(half, None))]
            examiner = Examiner(*sides, 0.999, names=EVERY)
            seen = {name: strength(examiner, examiner.see(samples), names) for name, names in columns.items()}
            count = len(examiner.pool.unit_in_train)
            for ratio, share in RATIOS.items():
                for _ in range(-(-LABELS // draws)):
                    in_train = np.zeros(count, dtype=bool)
                    in_train[rng.permutation(count)[: max(1, min(count - 1, round(share * count)))]] = True
                    for column, (nearest, magnitude) in seen.items():
                        unit = examiner.pool.unit[nearest]
                        outcomes[ratio, column].append(compete(unit, magnitude, in_train).discovered.any())
                    nearest, magnitude = seen["together"]
                    naive = compete(nearest, magnitude, in_train[examiner.pool.unit])
                    outcomes[ratio, "groups ignored"].append(naive.discovered.any())
        for ratio in RATIOS:
            cells = []
            for column in shown:
                found = outcomes[ratio, column]
                low, high = clopper_pearson(int(sum(found)), len(found))
                cells.append(f"{np.mean(found):.3f} [{low:.3f}, {high:.3f}]")
            print(f"| {label} | {ratio} | " + " | ".join(cells) + " |", flush=True)


def drawn(images, rng, per_group):
    """2,000 images in groups, the group of each, and 500 samples of other groups of the same kind."""
    if per_group == 1:
        order = rng.permutation(len(images))
        return images.floats(order[:2000]), None, images.floats(order[2000:2500])
    groups = 2000 // per_group
    bases = images.floats(rng.permutation(len(images))[: groups + 50])
    own = images.floats(rng.permutation(len(images))[:2500])
    number = np.concatenate([np.repeat(np.arange(groups), per_group), groups + np.arange(500) % 50])
    mixed = 0.8 * bases[number] + 0.2 * own  # images of one patient resemble each other
    return mixed[:2000], number[:2000], mixed[2000:]


def grouped(images, groups, rows):
    found = ImageSet.from_pixels(images[rows].numpy())
    if groups is None:
        return found
    return ImageSet(found.pixels, found.ids, found.sources, found.recipe, tuple(str(i) for i in groups[rows]))


def speed(images, n, m):
    """Print how long the test takes, and the ratio of each space to the matrix products that it needs."""
    rng = np.random.default_rng(0)
    mixed = images.pixels[rng.integers(len(images), size=n + m)] // 2
    mixed += images.pixels[rng.integers(len(images), size=n + m)] // 2
    made = ImageSet.from_pixels(mixed)
    train, held_out, samples = made.take(slice(0, n // 2)), made.take(slice(n // 2, n)), made.floats(slice(n, None))
    begun = time.perf_counter()
    examiner = Examiner(train, held_out, 0.99, names=EVERY)
    clusters = len(examiner.pool.ids)
    print(f"pool of {n:,} images: {time.perf_counter() - begun:.0f} s, {clusters:,} clusters; peak {peak():.1f} GiB")
    channels, height, width = images.image_shape
    small = min(height, 16) * min(width, 16)
    products = {  # of each matcher: numbers of an image, and how often all images are multiplied
        "pixels": (channels * height * width, 1),
        "blurred": (channels * small, 2),
        "aligned": (small, 62),
        "halves": (channels * height * width // 2, 1),
    }
    vectors = {name: torch.randn(n, d) for name, (d, _) in products.items()}
    seconds, bare_seconds = {name: [] for name in EVERY}, {name: [] for name in EVERY}
    parts = []
    for start in range(0, m, 1024):
        block, seen = samples[start : start + 1024], []
        for matcher, name in zip(examiner.searcher._matchers, examiner.searcher.space_of, strict=True):
            before = time.perf_counter()
            seen.append(matcher.match(block))
            seconds[name].append(time.perf_counter() - before)
            if start < TURNS * 1024:
                bare_seconds[name].append(product(vectors[name], len(block), products[name][1]))
        parts.append(Sight(tuple(seen)))
    sight = Sight.joined(parts)
    before = time.perf_counter()
    found = examiner.contest(sight, 0)
    judged = judge(examiner.depths(sight), examiner.held_out_depths, Q)
    after = time.perf_counter()
    print(f"\n| space | {m:,} samples, s | times its matrix products |\n|---|---|---|")
    for name in EVERY:
        ratios = np.divide(seconds[name][: len(bare_seconds[name])], bare_seconds[name])
        print(f"| {name} | {sum(seconds[name]):.0f} | {ratios.min():.2f} to {ratios.max():.2f} |")
    bare = sum(map(sum, bare_seconds.values()))
    print(f"\n{after - before:.0f} s for {judged.judged_by:,} held-out images, 1,024 images of the pool, and the tests")
    print(f"{after - begun - bare:.0f} s for all, without the {bare:.0f} s of bare products; peak {peak():.1f} GiB")
    print(f"samples reported: {found.competition.discovered.sum()}, {judged.flagged.sum()}")


def product(vectors, count, times):
    """Seconds of the matrix products of so many queries with all vectors, so many times."""
    query = torch.randn(count, vectors.shape[1])
    begun = time.perf_counter()
    for _ in range(times):
        for first in range(0, len(vectors), 8192):
            query @ vectors[first : first + 8192].T
    return time.perf_counter() - begun


def peak():
    """The largest memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
