"""Size, coverage and power of `memgen.significance` beside peers' rules, on the embedded Fashion-MNIST at 28x28.

    python benchmarks/significance.py [--repeats 200] [--power-repeats 10] [--coverage-repeats 1000]

Size: held-out images posing as samples. Power: a share of the samples are training images plus Gaussian noise eps.
Features are centered and scaled images. Each entry is false share / power at q = 5 %, mean over repeats; power is over
the copied training images for the competition and over the copies for rules that judge each sample alone:

    depth, d2/d1       the competition with memgen's magnitude, and with log(d2/d1)
    1/3                d(g, T)_1 / d(g, T)_2 < 1/3 (Yoon et al. 2023)
    5th pct            nearer to T than 95 % of the held-out images are
    AuthPct            nearer to its nearest training image than that is to the rest of T (Alaa et al. 2022)
    C_T                whole sample set: share of repeats with z < -1.645 (Meehan et al. 2020, one cell)
"""

import argparse
import gzip
from importlib.resources import files

import numpy as np

from memgen.intervals import effective_count, grouped, wilson
from memgen.significance import compete, depth, memorized_fraction

SAMPLES, NEIGHBORS = 1000, 10


def features(images):
    centered = images - images.mean(1, keepdims=True)
    return centered / np.linalg.norm(centered, axis=1, keepdims=True)


def embedded():
    packed = (files("memgen") / "embedded" / "fashion-mnist-idx3-ubyte.gz").read_bytes()
    return np.frombuffer(gzip.decompress(packed)[16:], np.uint8).reshape(-1, 784) / 255


def distances(a, b):
    return np.sqrt(np.maximum(2 - 2 * a @ b.T, 0))


def smallest(rows, k):
    index = np.argpartition(rows, k - 1, axis=1)[:, :k]
    order = np.take_along_axis(rows, index, axis=1).argsort(axis=1)
    index = np.take_along_axis(index, order, axis=1)
    return index, np.take_along_axis(rows, index, axis=1)


def competition(to_pool, pool, labels, magnitude):
    index, near = smallest(to_pool, NEIGHBORS)
    if magnitude == "d2/d1":
        return compete(index[:, 0], np.log(near[:, 1] / near[:, 0].clip(1e-7)), labels)
    apart = np.sqrt(np.maximum(2 - 2 * np.einsum("md,mkd->mk", pool[index[:, 0]], pool[index[:, 1:]]), 0))
    return compete(index[:, 0], depth(near, apart), labels)


def permuted(generator, total, n_t, n_h):
    order = generator.permutation(total)
    return order[: n_t + n_h], order[n_t + n_h :], np.arange(n_t + n_h) < n_t


def size(all_features, repeats):
    print(f"Size: {repeats} repeats, 500 held-out images posing as samples")
    for n_t, n_h in ((2000, 2000), (6000, 1500), (6000, 750)):
        found, p, covered = {"depth": 0, "d2/d1": 0}, [], 0
        for seed in range(repeats):
            refs, rest, labels = permuted(np.random.default_rng((1, seed)), len(all_features), n_t, n_h)
            pool = all_features[refs]
            to_pool = distances(all_features[rest[:500]], pool)
            for name in found:
                found[name] += bool(competition(to_pool, pool, labels, name).discovered.any())
            fraction = memorized_fraction(to_pool.argmin(axis=1), labels, seed=seed, permutations=999)
            p.append(fraction.p)
            covered += fraction.low <= 0 <= fraction.high
        rates = "  ".join(f"P(p <= {a}) {np.mean(np.array(p) <= a):.3f}" for a in (0.01, 0.05, 0.1))
        shares = "  ".join(f"any discovery, {name} {count / repeats:.3f}" for name, count in found.items())
        print(f"  {n_t}:{n_h}  {shares}  {rates}  coverage of 0 {covered / repeats:.3f}", flush=True)


def peers(to_t, held_to_t, t):
    index, near = smallest(to_t, 2)
    own = distances(t[index[:, 0]], t)
    own[np.arange(len(own)), index[:, 0]] = np.inf
    held = held_to_t.min(axis=1)
    flagged = {
        "1/3": near[:, 0] < near[:, 1] / 3,
        "5th pct": near[:, 0] < np.quantile(held, 0.05),
        "AuthPct": near[:, 0] <= own.min(axis=1),
    }
    wins = np.searchsorted(np.sort(held), near[:, 0]).sum()  # pairs in which the sample is the farther one
    m, n = len(near), len(held)
    return flagged, (wins - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12) < -1.645


def power(images, repeats):
    print(f"Power: false share / power at q = 5 %, {repeats} repeats, {SAMPLES} samples")
    all_features = features(images)
    for n_t, n_h in ((2000, 2000), (6000, 1500)):
        for share in (0.01, 0.05, 0.3):
            for eps in (0.0, 0.05, 0.1, 0.2):
                table, c_t, k_min = {}, 0, 0
                for seed in range(repeats):
                    generator = np.random.default_rng((2, seed))
                    refs, rest, labels = permuted(generator, len(images), n_t, n_h)
                    k = round(share * SAMPLES)
                    source = generator.choice(refs[:n_t], k, replace=False)
                    copies = images[source] + eps * generator.normal(size=(k, images.shape[1]))
                    samples = np.concatenate([features(copies), all_features[rest[: SAMPLES - k]]])
                    pool = all_features[refs]
                    to_pool = distances(samples, pool)
                    found = {name: competition(to_pool, pool, labels, name) for name in ("depth", "d2/d1")}
                    k_min = found["depth"].k_min
                    held = distances(pool[n_t:][:750], pool[:n_t])
                    flagged, low = peers(to_pool[:, :n_t], held, pool[:n_t])
                    flagged = {name: c.discovered for name, c in found.items()} | flagged
                    for name, flags in flagged.items():
                        table.setdefault(name, []).append((flags[k:].sum() / max(1, flags.sum()), flags[:k].mean()))
                    c_t += low
                means = {name: np.mean(rows, axis=0) for name, rows in table.items()}
                cells = "  ".join(f"{name} {false:.2f}/{right:.2f}" for name, (false, right) in means.items())
                note = f"k_min {k_min}" + (" > copies" if k_min > k else "")
                print(f"  {n_t}:{n_h} {share:4.0%} eps {eps:<4}  {cells}  C_T {c_t / repeats:.2f}  {note}", flush=True)


def hubs(generator, observations):
    weights = 1 / np.arange(1, 61)
    counts = np.bincount(generator.choice(60, observations, p=weights / weights.sum()), minlength=60)
    return counts[counts > 0]


def worlds(generator, m):
    """Groups of samples, whether each is a group of copies, and the true memorized fraction."""
    some, most, half = generator.binomial(m, 0.3), generator.binomial(m, 0.9), generator.binomial(m, 0.5)
    on_five = np.bincount(generator.integers(5, size=half), minlength=5)
    single = np.ones
    return {
        "distinct, no copies": ([], single(m, int), 0.0),
        "hubs, no copies": ([], hubs(generator, m), 0.0),
        "all on one, no copies": ([], [m], 0.0),
        "one image copied by 30 %": ([some], single(m - some, int), 0.3),
        "one image copied by all": ([m], [], 1.0),
        "30 % distinct copies": (single(some, int), single(m - some, int), 0.3),
        "90 % distinct copies": (single(most, int), single(m - most, int), 0.9),
        "90 % distinct copies, rest on hubs": (single(most, int), hubs(generator, m - most), 0.9),
        "90 % distinct copies, rest on one": (single(m * 9 // 10, int), [m - m * 9 // 10], 0.9),
        "5 images copied by half, rest on hubs": (on_five[on_five > 0], hubs(generator, m - half), 0.5),
    }


def coverage(repeats, m=300):
    print(f"Coverage of 95 % intervals of the memorized fraction, {repeats} redraws, {m} samples (mean length)")
    for chance in (1 / 2, 4 / 5, 8 / 9):
        generator = np.random.default_rng((3, round(1000 * chance)))
        rows = {}
        for _ in range(repeats):
            for name, (copied, blind, rho) in worlds(generator, m).items():
                counts = np.concatenate([copied, blind]).astype(int)
                hits = (np.arange(len(counts)) < len(copied)) | (generator.random(len(counts)) < chance)
                ours = grouped(counts, hits, chance)
                theirs = wilson(counts[hits].sum() / m, effective_count(counts))
                truth = chance + (1 - chance) * rho
                ends = [(low - 1e-6 <= truth <= high + 1e-6, high - low) for low, high in (ours, theirs)]
                rows.setdefault(name, []).append(ends)
        for name, ends in rows.items():
            (ours, long), (theirs, other) = np.mean(ends, axis=0)
            lengths = long / (1 - chance), other / (1 - chance)
            print(
                f"  c = {chance:.3f}  {name:38} grouped {ours:.3f} ({lengths[0]:.2f})  "
                f"Wilson at the effective count {theirs:.3f} ({lengths[1]:.2f})",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", default=200, type=int)
    parser.add_argument("--power-repeats", default=10, type=int)
    parser.add_argument("--coverage-repeats", default=1000, type=int)
    arguments = parser.parse_args()
    images = embedded()
    if arguments.power_repeats:
        power(images, arguments.power_repeats)
    if arguments.repeats:
        size(features(images), arguments.repeats)
    if arguments.coverage_repeats:
        coverage(arguments.coverage_repeats)


if __name__ == "__main__":
    main()
