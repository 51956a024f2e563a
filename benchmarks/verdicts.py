"""How often the verdict on a sweep is right, for sweeps whose answer is known.

    python benchmarks/verdicts.py [--sweeps N] [--only KIND | --scores]

A sweep has two models at each of the default sizes, with 128 samples each. Models are replaced by their samples, so
that only the verdict is tried; the tests for copies, the summary and the rules are memgen's own.

The images are the embedded ones at 16x16. 512 of them are set aside, and all others make the pool. For each sweep, the
pool is divided anew into a, b and the holdout, and 128 images set aside are drawn, which no training set contains: they
are the samples of a model that generalizes. Both models have the same ones, with a similarity of about .97 in place of
1.

generalizes     at every N all samples are images set aside
smooth          the same, blurred by a Gaussian of standard deviation 1 pixel: less detail than real images have
memorizes       at every N all samples are training images, drawn at random
2 %, 5 %, 10 %  of the samples of each model are exact copies of different training images, at every N
one, 5 %        of the samples are exact copies of a single training image, at every N
one, 30 %       the same, with 30 %

For each kind and N: the regimes, and in how many sweeps each was given. The last column counts sweeps in which every N
has the regime named in its head. Rates come with Wilson's 95 % interval. 100 sweeps of each kind take about 20 minutes
on one core.

--scores compares two scores for the conformal test at N = 4,096, without any sweep: the depth that memgen uses, and the
correlation with the nearest training image. Samples are images set aside: as they are, blurred, faded towards the mean,
or with 5 % copies plus noise. Printed is the share of redraws in which samples lead held-out images so far that chance
alone would do so with a probability below .001.
"""

import argparse
import time
from collections import Counter

import numpy as np
import pyarrow as pa
from scipy.ndimage import gaussian_filter

from memgen.base import noise, schemas, tables
from memgen.base.intervals import wilson
from memgen.base.strings import Strings
from memgen.experiment.settings import SweepSettings
from memgen.findings.transition import summarize
from memgen.findings.verdict import verdict
from memgen.images.importing import ImportSettings, import_images
from memgen.measures.copies.competition import compete, depth, memorized_fraction
from memgen.measures.copies.examiner import JUDGED_BY, Examination, judge, to_tables
from memgen.measures.copies.lead import lead, probability, reach
from memgen.measures.copies.pool import Pool
from memgen.measures.copies.sight import Chosen, Sight
from memgen.models.sampling import SampleSettings

SIZES, SAMPLES = SweepSettings().n_train, SampleSettings().n_samples
ASIDE, HOLDOUT, NEIGHBORS = 512, 1024, 10
# What a table of the test says beside the test: no image is looked at here.
EVIDENCE = dict.fromkeys(("closeness", "found_train_id", "found_train", "found_held_out_id", "found_held_out"))
EVIDENCE |= {"space": "pixels", "compared": "whole", "mirrored": False, "negative": False, "zoom": 1.0}
EVIDENCE |= dict.fromkeys(("shift_x", "shift_y", "rotation"), 0.0)
COPIED = {"2 %": 0.02, "5 %": 0.05, "10 %": 0.1}
ONE = {"one, 5 %": 0.05, "one, 30 %": 0.3}
KINDS = {"generalizes": "generalizes", "smooth": "generalizes", "memorizes": "memorizes"} | dict.fromkeys(
    (*COPIED, *ONE), "mixed"
)


class Placed:
    """Stands where an `Examiner` does: all images were placed before, with any labels. Exact copies have depth 1."""

    names = ("pixels",)

    def __init__(self, pool, held_out, n):
        self.pool, self.held_out, self.exact_copies = pool, held_out, np.ones(n)

    def reaches(self, found):
        contest = found.competition
        return (
            reach(self.exact_copies, -contest.score[contest.competes]),
            reach(self.exact_copies, np.maximum(self.held_out, 0)),
        )

    def evidence(self, found):
        return EVIDENCE


def unit(rows):
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class World:
    """The pool with the depths of its own images, each left out, and the images set aside with theirs."""

    def __init__(self):
        pixels = import_images(None, ImportSettings(resize=16)).images.floats().numpy()[:, 0].astype(np.float64)
        order = noise.stream("verdicts", 0).permutation(len(pixels))
        aside, pooled = pixels[order[:ASIDE]], pixels[order[ASIDE:]]
        self.images, self.set_aside = pooled, aside
        self.pool = unit(pooled.reshape(len(pooled), -1))
        self.nearest, self.depth = self.place(self.pool, leave_out=True)
        blurred = gaussian_filter(aside, (0, 1, 1), mode="nearest")
        self.aside = {kind: unit(images.reshape(ASIDE, -1)) for kind, images in (("plain", aside), ("smooth", blurred))}
        self.placed = {kind: self.place(rows) for kind, rows in self.aside.items()}

    def place(self, rows, leave_out=False):
        """The nearest image of the pool, and the depth, of each row."""
        nearest, depths = [], []
        for start in range(0, len(rows), 512):
            alike = rows[start : start + 512] @ self.pool.T
            if leave_out:
                alike[np.arange(len(alike)), start + np.arange(len(alike))] = -1
            near = np.argsort(-alike, axis=1, kind="stable")[:, :NEIGHBORS]
            distances = np.sqrt(np.maximum(0, 2 - 2 * np.take_along_axis(alike, near, axis=1)))
            apart = np.linalg.norm(self.pool[near[:, :1]] - self.pool[near[:, 1:]], axis=2)
            nearest.append(near[:, 0])
            depths.append(depth(distances, apart))
        return np.concatenate(nearest), np.concatenate(depths)


def sweep(world, kind, seed):
    """The regime at each N of one sweep."""
    generator = noise.stream("verdicts", seed + 1)
    order = generator.permutation(len(world.pool))
    half = (len(order) - HOLDOUT) // 2
    sets = {"a": order[:half], "b": order[half : 2 * half]}
    holdout = order[2 * half :][:HOLDOUT]
    fresh = generator.permutation(ASIDE)[:SAMPLES]
    found = {name: [] for name in ("neighbors", "similarity", "samples", "significance", "copies")}
    for n in SIZES:
        drawn = {}
        for part in "ab":
            train = sets[part][:n]
            drawn[part] = model(world, kind, train, fresh, generator)
            add_model(found, world, drawn[part], n, part, train, holdout, seed)
        add_pair(found, n, drawn, generator)
    made = {name: pa.concat_tables(parts) for name, parts in found.items()}
    return verdict(summarize(made, seed), made["copies"]).regimes


def model(world, kind, train, fresh, generator):
    """Samples as vectors (m, d), the image of the pool nearest to each (m,), and the depths (m,)."""
    which = "smooth" if kind == "smooth" else "plain"
    vectors = world.aside[which][fresh].copy()
    nearest, depths = (values[fresh].copy() for values in world.placed[which])
    copied = np.empty(0, dtype=np.int64)
    if kind == "memorizes":
        copied = generator.choice(train, SAMPLES)
    elif kind in COPIED:
        copied = generator.permutation(train)[: round(COPIED[kind] * SAMPLES)]
    elif kind in ONE:
        copied = np.repeat(train[0], round(ONE[kind] * SAMPLES))
    vectors[: len(copied)], nearest[: len(copied)], depths[: len(copied)] = world.pool[copied], copied, 1.0
    return vectors, nearest, depths


def add_model(found, world, samples, n, part, train, holdout, seed):
    vectors, nearest, depths = samples
    keys = {"subject": f"n{n}-s0-{part}", "role": "cell", "n_train": n, "part": part, "train_seed": 0}
    in_train = np.zeros(len(world.pool), dtype=bool)
    in_train[train] = True
    closeness, of_holdout = (vectors @ world.pool[train].T).max(axis=1), world.pool[holdout] @ world.pool[train].T
    own = neighbors(keys, "sample", f"train_{part}", closeness, n)
    nobody = dict.fromkeys(keys) | {"n_train": n}
    found["neighbors"] += [own, neighbors(nobody, "holdout", f"train_{part}", of_holdout.max(axis=1), n)]
    fraction = memorized_fraction(nearest, in_train, seed)
    contest = compete(nearest, depths, in_train)
    chosen = Chosen(nearest, depths, np.zeros(SAMPLES, dtype=np.int64))
    examined = Examination(Sight(()), chosen, contest, fraction)
    everyone = np.arange(len(in_train))
    ids = Strings(list(map(str, everyone)))
    pooled = Pool(everyone, ids, in_train, everyone, everyone, 0, everyone, in_train, everyone, everyone, False)
    rest = everyone[~in_train][:JUDGED_BY]
    held_out = np.where(in_train[world.nearest[rest]], world.depth[rest], -world.depth[rest])
    judged = judge(contest.score, held_out)
    placed = Placed(pooled, held_out, n)
    made = to_tables(keys, np.arange(SAMPLES), placed, examined, judged, own)
    for name, table in zip(("significance", "copies"), made, strict=True):
        found[name].append(table)
    columns = {"sample": np.arange(SAMPLES), "noise_seed": 0, "updates": 80, "sigma": 0.05, "residual_sigma": 0.05}
    found["samples"].append(tables.make(schemas.SAMPLES, keys | columns | {"status": "converged"}))


def neighbors(keys, kind, reference, value, n):
    index = np.arange(len(value))
    columns = {"query_kind": kind, "query": index, "query_id": [f"{kind} {i}" for i in index], "reference": reference}
    columns |= {"n_reference": n, "n_clusters": n, "metric": "correlation", "rank": 1, "reference_id": "x"}
    columns |= dict.fromkeys(("query_source", "reference_source"))
    return tables.make(
        schemas.NEIGHBORS, keys | columns | {"reference_index": 0, "cluster": 0, "value": np.minimum(1, value)}
    )


def add_pair(found, n, drawn, generator):
    a, b = drawn["a"][0], drawn["b"][0]
    same = (a * b).sum(axis=1)
    same[same > 0.999] = generator.uniform(0.95, 0.99, (same > 0.999).sum())  # no two models are quite equal
    keys = {"subject_a": f"n{n}-s0-a", "subject_b": f"n{n}-s0-b", "role": "cell", "n_train": n, "train_seed": 0}
    index, shifted = np.arange(SAMPLES), (np.arange(SAMPLES) + 1) % SAMPLES
    for kind, j, value in (
        ("same_noise", index, same),
        ("different_noise", shifted, (a * b[shifted]).sum(axis=1)),
    ):
        columns = {"kind": kind, "item_a": index, "item_b": j, "metric": "correlation", "value": value}
        found["similarity"].append(tables.make(schemas.SIMILARITY, keys | columns))


def compare_scores(world, redraws):
    """How often samples lead held-out images by their depth, and by their correlation with T."""
    n, found = SIZES[-1], Counter()
    mean = world.images.mean(axis=0)
    for redraw in range(redraws):
        generator = noise.stream("scores", redraw)
        order, fresh = generator.permutation(len(world.pool)), generator.permutation(ASIDE)[:SAMPLES]
        train, rest = order[:n], order[n:][:JUDGED_BY]
        plain, copied = world.set_aside[fresh], round(0.05 * SAMPLES)
        tried = {"as they are": plain, "faded to .8": mean + 0.8 * (plain - mean)}
        for sigma in (0.5, 1.0):
            tried[f"blurred by {sigma:g}"] = gaussian_filter(plain, (0, sigma, sigma), mode="nearest")
        for eps in (0.0, 0.1, 0.2):
            copies = world.images[train[:copied]] + eps * generator.standard_normal((copied, *plain.shape[1:]))
            tried[f"5 % copies, noise {eps:g}"] = np.concatenate([plain[copied:], copies])
        in_train = np.isin(np.arange(len(world.pool)), train)
        for name, images in tried.items():
            rows = unit(images.reshape(len(images), -1))
            nearest, depths = world.place(rows)
            scores = {
                "depth": (depths * in_train[nearest], (world.depth * in_train[world.nearest])[rest]),
                "correlation": tuple((x @ world.pool[train].T).max(axis=1) for x in (rows, world.pool[rest])),
            }
            for score, (ours, others) in scores.items():
                ahead = lead(np.concatenate([ours, others]), np.arange(len(ours) + len(others)) < len(ours))
                found[name, score] += probability(ahead, len(ours), len(others)) < 0.001
    for name in tried:
        print(f"{name:20s}" + "".join(f"  {score} {found[name, score] / redraws:.2f}" for score in scores))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=100, help="number of sweeps of each kind")
    parser.add_argument("--only", choices=KINDS, help="try this kind alone")
    parser.add_argument("--scores", action="store_true", help="compare scores instead, in as many redraws")
    arguments = parser.parse_args()
    world = World()
    if arguments.scores:
        compare_scores(world, arguments.sweeps)
        return
    for kind in [arguments.only] if arguments.only else KINDS:
        start, regimes, right = time.perf_counter(), {n: Counter() for n in SIZES}, Counter()
        for seed in range(arguments.sweeps):
            given = sweep(world, kind, seed)
            for n, regime in given.items():
                regimes[n][regime] += 1
            right["every N right"] += set(given.values()) == {KINDS[kind]}
            right["generalizes at some N"] += "generalizes" in given.values()
        print(f"{kind}: {arguments.sweeps} sweeps, {time.perf_counter() - start:.0f} s")
        for n, counts in regimes.items():
            print(f"  N = {n:5,}: {', '.join(f'{regime} {count}' for regime, count in counts.most_common())}")
        for what, hits in right.items():
            low, high = wilson(hits / arguments.sweeps, arguments.sweeps)
            print(f"  {what}: {hits / arguments.sweeps:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
