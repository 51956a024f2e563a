"""Measure the test for copies on images with known answers: false alarms, coverage of its interval, and power.

    python benchmarks/significance.py [--images FILE [--keep-duplicates]] [--bf-cnn FILE.pt] [--dncnn FILE.mpk]
                                      [--only SECTION]

T is a training set and H a set of held-out images. Both are real images; they are pooled, clustered and searched by
`memgen.measures.copies.examiner`, and samples are images too. FILE is any file that `memgen data import` reads, such as
train-images-idx3-ubyte.gz. The default is the embedded Fashion-MNIST, whose 9,728 images are too few for some rows of
the power table.

Near-duplicates are removed from FILE unless --keep-duplicates is given. If they are kept, held-out images that nearly
equal an image of T or of H look like copies, and rare copies cannot be told from them.

size        How often the test finds something where nothing is copied. T and H are redrawn, and the samples come from
            generators that know T no better than H. Reported are: any discovery at q = 5 %; any discovery at q = 50 %,
            where k_min is 2 to 16 and a broken rule would show first; P(p <= alpha) of the permutation test; and how
            often the interval of the memorized fraction contains 0.
            --bf-cnn (bf_cnn_BSD400_gray.pt of the paper's authors) and --dncnn (see dncnn.py) add real denoisers.
coverage    How often that interval contains the truth. T, H and samples are redrawn together, and the memorized
            fraction is known. The population is searched only once; for each sample, a redraw takes the first image of
            its list that is in the pool. In the first redraws, the Examiner runs as well and must give the same bits.
            `grouped` is memgen's interval, which is conservative by design. Wilson's interval at the effective count is
            printed for comparison. Lengths are in units of the fraction.
power       How many planted copies the test finds. Copies are training images plus Gaussian noise of standard deviation
            eps. They are mixed into real held-out images, with at least 2 k_min copies. Entries are false share /
            power, as means over repeats, for these rules:
                memgen   the competition at q = 5 %
                d2/d1    the competition with the magnitude log(d2/d1)
                1/3      d(g, T)_1 / d(g, T)_2 < 1/3 (Yoon et al. 2023)
                5th pct  a sample is closer to T than 95 % of held-out images are
                AuthPct  a sample is closer to its nearest training image than that image is to the rest of T (Alaa et
                         al. 2022)
                C_T      a test of the whole sample set: share of repeats with z < -1.645 (Meehan et al. 2020, one cell)
            "equal" gives each peer the threshold with the most power among those whose mean false share is at most
            that of memgen on the same row. Finding it requires knowing the truth. In rows marked "doubled", T contains
            every training image twice.

All distances are Euclidean distances between centered and scaled images. Rates come with Wilson's 95 % interval, and
means with their standard error. With --images and both networks, everything takes about 30 minutes on one core.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from dncnn import DnCNN
from scipy.ndimage import gaussian_filter

from memgen import spaces
from memgen.base import noise
from memgen.base.intervals import effective_count, wilson
from memgen.images.imageset import ImageSet
from memgen.images.importing import ImportSettings, import_images
from memgen.measures.copies import pool
from memgen.measures.copies.competition import compete, memorized_fraction
from memgen.measures.copies.examiner import Examiner
from memgen.models import foreign
from memgen.models.sampling import SampleSettings, sample
from memgen.spaces.index import Index

THRESHOLD = 0.99  # correlation above which images are near-duplicates
ALPHAS = (0.01, 0.05, 0.1)
MOST = 10_000  # number of images that size and coverage draw from


def rate(hits, n):
    low, high = wilson(hits / n, n)
    return f"{hits / n:.3f} [{low:.3f}, {high:.3f}]"


def joined(*parts):
    return torch.cat(parts)


def noisy(images, eps, generator):
    return images + eps * torch.from_numpy(noise.normal(generator, tuple(images.shape)))


def blurred(images, sigma):
    return torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest"))


def broadened(images):
    mean = images.mean(dim=0)
    return mean + 1.15 * (images - mean)


def first_component(images):
    """The coordinate of each image along the first principal component of all images, (n,). Labels play no role."""
    rows = images.flatten(1).double().numpy()
    rows = rows - rows.mean(axis=0)
    return rows @ np.linalg.eigh(rows.T @ rows)[1][:, -1]


def with_duplicates(images, generator):
    """The images together with a near-duplicate of each."""
    copies = noisy(images.floats(), 0.02, generator).clamp(0, 1)
    return ImageSet.from_pixels(joined(images.floats(), copies).numpy())


# ------------------------------------------------------------------------------------------------- size

SIZE_POOLS = ((1000, 1000), (2000, 500), (2000, 250))
SIZE_SAMPLES, SEED_IMAGES, DRAWN = 250, 600, 300


def generators(images):
    """Generators that know no labels: name -> function of (stream, held-out images, n) that returns n samples."""
    one_side = first_component(images.floats()) > 0

    def dropping(generator, rest, n):
        return images.floats(rest[one_side[rest]][:n])

    def versions(of):
        def draw(generator, rest, n):
            return noisy(images.floats(np.resize(rest[:of], n)), 0.1, generator)

        return draw

    return {
        "held-out images": lambda generator, rest, n: images.floats(rest[:n]),
        "broadened 1.15x": lambda generator, rest, n: broadened(images.floats(rest[: 4 * n]))[:n],
        "blurred": lambda generator, rest, n: blurred(images.floats(rest[:n]), 1.5),
        "mode-dropping": dropping,
        "10 noisy versions of each": versions(SIZE_SAMPLES // 10),
        "all of one image": versions(1),
    }


def duplicated(images, t, h, generator):
    """T and H with near-duplicates: every image of T twice in T; and every image twice, each time in either set."""
    doubled = with_duplicates(images.take(t[::2]), generator)
    both = with_duplicates(images.take(np.concatenate([t, h])[::2]), generator)
    mixed = generator.permutation(len(both))
    return {
        "T doubled, held-out": (doubled, images.take(h[::2])),
        "T and H leak, held-out": (both.take(mixed[: len(t)]), both.take(mixed[len(t) :])),
    }


def denoisers(bf_cnn, dncnn, shape):
    """The given networks. Sampling starts at a noise level for which the network was trained."""
    found = {}
    if bf_cnn:
        found["BF-CNN"] = foreign.load(bf_cnn, shape[1:], foreign.ImportOptions()).network.eval(), 100 / 255
    if dncnn:
        found["DnCNN"] = DnCNN(dncnn, shape), 0.2
    return found


def drawn_samples(networks, seeds):
    """For each network, samples drawn from noise about the mean image, and noisy seed images (sigma .3) denoised."""
    found = {}
    for name, (network, start) in networks.items():
        settings = SampleSettings(sigma_start=start, sigma_end=0.05, h0=0.1, beta=0.5, max_steps=20)
        mean = seeds.mean(dim=0)
        found[f"{name} from noise"] = torch.from_numpy(sample(network, mean, range(DRAWN), 0, settings).images)
        with torch.inference_mode():
            batches = noisy(seeds, 0.3, noise.stream("benchmark seeds", 0)).split(50)
            found[f"{name} denoising"] = joined(*(network(batch, torch.full((len(batch),), 0.3)) for batch in batches))
    return found


@dataclass
class Tally:
    """Counts over the repeats of one row."""

    found: int = 0
    found_half: int = 0
    covered: int = 0
    p: list = None

    def add(self, seen, in_train):
        self.p = self.p or []
        half = compete(seen.nearest, np.abs(seen.competition.score), in_train, q=0.5)
        self.found += bool(seen.competition.discovered.any())
        self.found_half += bool(half.discovered.any())
        self.covered += seen.fraction.low <= 0 <= seen.fraction.high
        self.p.append(seen.fraction.p)

    def __str__(self):
        n, p = len(self.p), np.array(self.p)
        rates = "  ".join(f"{(p <= alpha).mean():.3f}" for alpha in ALPHAS)
        limits = [(self.found, 0.05, 0), (self.found_half, 0.5, 2), *(((p <= a).sum(), a, 3) for a in ALPHAS)]
        bad = any(count / n > limit + errors * np.sqrt(limit * (1 - limit) / n) for count, limit, errors in limits)
        low = wilson(self.covered / n, n)[1] < 0.93
        verdict = "  TOO MANY" * bad + "  LOW COVERAGE" * low
        return f"{rate(self.found, n)}   {rate(self.found_half, n)}   {rates}   {rate(self.covered, n)}{verdict}"


def size(images, repeats, bf_cnn, dncnn):
    images = images.take(slice(MOST))
    print(f"SIZE: false alarms where nothing is copied, {repeats} repeats, {SIZE_SAMPLES} samples")
    order = noise.stream("benchmark size", 0).permutation(len(images))
    seeds, free = order[:SEED_IMAGES], order[SEED_IMAGES:]
    drawn = drawn_samples(denoisers(bf_cnn, dncnn, images.image_shape), images.floats(seeds))
    draws = generators(images)
    for n_t, n_h in SIZE_POOLS:
        rows = {}
        for repeat in range(repeats):
            generator = noise.stream("benchmark size", 1, n_t, n_h, repeat)
            order = generator.permutation(free)
            t, h, rest = order[:n_t], order[n_t : n_t + n_h], order[n_t + n_h :]
            examiner = Examiner(images.take(t), images.take(h), THRESHOLD)
            made = {name: draw(generator, rest, SIZE_SAMPLES) for name, draw in draws.items()}
            made |= {name: bank[generator.permutation(len(bank))[:SIZE_SAMPLES]] for name, bank in drawn.items()}
            for name, samples in made.items():
                rows.setdefault(name, Tally()).add(examiner.examine(samples, repeat), examiner.pool.in_train)
            held = images.floats(rest[:SIZE_SAMPLES])
            for name, (train, held_out) in duplicated(images, t, h, generator).items():
                examiner = Examiner(train, held_out, THRESHOLD)
                rows.setdefault(name, Tally()).add(examiner.examine(held, repeat), examiner.pool.in_train)
        print(f"  {n_t}:{n_h}{'any discovery at 5 %':>37}   {'at 50 %':20}   P(p <= .01, .05, .1)    contains 0")
        for name, tally in rows.items():
            print(f"    {name:26} {tally}", flush=True)


# ------------------------------------------------------------------------------------------------- coverage

COVERAGE_POOLS = ((2000, 2000), (3200, 800), (3200, 400))
COVERAGE_SAMPLES, LISTED, CHECKED = 200, 64, 2


@dataclass
class Bank:
    """Samples, the nearest images of the population to each (nearest first), and the image it was made from."""

    samples: torch.Tensor
    nearest: np.ndarray  # (n, LISTED)
    source: np.ndarray  # (n,), positions in the population

    def draw(self, generator, sources, n):
        """n rows made from the given images (a mask of the population), without replacement if there are enough."""
        rows = np.flatnonzero(sources[self.source])
        return generator.choice(rows, n, replace=len(rows) < n)


def banks(images):
    index = Index.build(images.pixels, images.ids, spaces.find("correlation"), "population", 1.0)
    generator = noise.stream("benchmark banks", 0)
    some = generator.permutation(len(images))[:3000]
    few = np.repeat(some[:100], 60)

    def bank(samples, source):
        return Bank(samples, index.search(samples, LISTED).reference_index, source)

    return {
        "clean": bank(images.floats(), np.arange(len(images))),
        "broadened": bank(broadened(images.floats(some)), some),
        "blurred": bank(blurred(images.floats(some), 3), some),
        "versions": bank(noisy(images.floats(few), 0.1, generator), few),
    }


def worlds(bank, generator, t, rest):
    """By name: the samples as [(bank, rows in it)] and the true memorized fraction. t and rest are masks."""
    m = COVERAGE_SAMPLES

    def some_of(side, n):
        chosen = np.zeros(len(side), dtype=bool)
        chosen[generator.choice(np.unique(bank["versions"].source[side[bank["versions"].source]]), n, False)] = True
        return chosen

    def rows(name, sources, n):
        return name, bank[name].draw(generator, sources, n)

    def mixed(share, copied, copied_sources, other, other_sources):
        k = generator.binomial(m, share)
        return [rows(copied, copied_sources, k), rows(other, other_sources, m - k)], share

    return {
        "held-out images": ([rows("clean", rest, m)], 0.0),
        "broadened": ([rows("broadened", rest, m)], 0.0),
        "blurred, on hubs": ([rows("blurred", rest, m)], 0.0),
        "versions of 20 held-out images": ([rows("versions", some_of(rest, 20), m)], 0.0),
        "versions of 1 held-out image": ([rows("versions", some_of(rest, 1), m)], 0.0),
        "30 % distinct copies": mixed(0.3, "clean", t, "clean", rest),
        "90 % distinct copies": mixed(0.9, "clean", t, "clean", rest),
        "90 % distinct copies, rest on hubs": mixed(0.9, "clean", t, "blurred", rest),
        "90 % distinct copies, rest of 1 image": mixed(0.9, "clean", t, "versions", some_of(rest, 1)),
        "30 % copies of 1 image": mixed(0.3, "versions", some_of(t, 1), "clean", rest),
        "50 % copies of 5 images, rest on hubs": mixed(0.5, "versions", some_of(t, 5), "blurred", rest),
        "all copies of 1 image": mixed(1.0, "versions", some_of(t, 1), "clean", rest),
        "all distinct copies": mixed(1.0, "clean", t, "clean", rest),
    }


def distinct(images):
    """Images of which no two are near-duplicates, in the order in which a pool numbers them."""
    rows = spaces.find("correlation").embed(images.floats()).numpy()
    ids = images.ids
    return images.take(pool.pool(rows, ids[:1], ids[1:], THRESHOLD).representatives)


def nearest_in(bank, drawn, in_pool):
    """The number of each sample's nearest representative in the pool, as the Examiner numbers them."""
    lists = np.concatenate([bank[name].nearest[rows] for name, rows in drawn])
    there = in_pool[lists]
    if not there.any(axis=1).all():
        raise RuntimeError(f"none of the {LISTED} nearest images of a sample is in the pool; raise LISTED")
    number = np.cumsum(in_pool) - 1
    return number[lists[np.arange(len(lists)), there.argmax(axis=1)]]


def coverage(images, repeats):
    images = distinct(images.take(slice(MOST)))
    bank = banks(images)
    strayed = (bank["versions"].nearest[:, 0] != bank["versions"].source).mean()
    print(f"COVERAGE of the memorized fraction's 95 % interval: {repeats} redraws, {COVERAGE_SAMPLES} samples")
    print(f"  population {len(images)}; {strayed:.2%} of noisy versions are closer to another image than to their own")
    for n_t, n_h in COVERAGE_POOLS:
        chance, table, same = n_t / (n_t + n_h), {}, 0
        for repeat in range(repeats):
            generator = noise.stream("benchmark coverage", n_t, n_h, repeat)
            order = generator.permutation(len(images))
            label = np.zeros(len(images), dtype=int)
            label[order[:n_t]], label[order[n_t : n_t + n_h]] = 1, 2
            t, h, rest = (label == side for side in (1, 2, 0))
            in_train = t[t | h]
            examiner = Examiner(images.take(t), images.take(h), THRESHOLD) if repeat < CHECKED else None
            for name, (drawn, rho) in worlds(bank, generator, t, rest).items():
                nearest = nearest_in(bank, drawn, t | h)
                fraction = memorized_fraction(nearest, in_train, repeat, permutations=199)
                if examiner:
                    seen = examiner.examine(joined(*(bank[part].samples[rows] for part, rows in drawn)), repeat)
                    if not (np.array_equal(seen.nearest, nearest) and ends(seen.fraction) == ends(fraction)):
                        raise RuntimeError(f"{name}: the Examiner found different neighbors or a different interval")
                    same += 1
                plain = wilson(in_train[nearest].mean(), effective_count(np.bincount(nearest)))
                row = [fraction.estimate, fraction.p <= 0.05]
                for low, high in (ends(fraction), [(end - chance) / (1 - chance) for end in plain]):
                    row += [low - 1e-6 <= rho <= high + 1e-6, high - low]
                table.setdefault((name, rho), []).append(row)
        print(f"  {n_t}:{n_h} (the Examiner gave the same bits in {same} checks)")
        for (name, rho), rows in table.items():
            print(f"    {name:38} rho {rho:.1f}  {covered(np.array(rows, dtype=float), rho)}", flush=True)


def ends(fraction):
    return fraction.low, fraction.high


def covered(rows, rho):
    """The results of all redraws of one world as text."""
    n = len(rows)
    estimate, low_p, hit, length, hit_plain, length_plain = rows.mean(axis=0)
    return (
        f"estimate {estimate:+.3f} ± {rows[:, 0].std() / np.sqrt(n):.3f}"
        f"  grouped {rate(hit * n, n)} length {length:.2f}"
        f"  Wilson {rate(hit_plain * n, n)} {length_plain:.2f}"
        + (f"  P(p <= .05) {rate(low_p * n, n)}" if rho == 0 else "")
        + ("" if hit >= 0.93 else "  BELOW 93 %")
    )


# ------------------------------------------------------------------------------------------------- power

SHARES, NOISES = (0.01, 0.05, 0.3), (0.0, 0.05, 0.1, 0.2)
POWER_POOLS = ((2000, 2000), (8000, 2000), (8000, 1000))
SMALL_POOLS = ((2000, 2000), (4000, 1000), (4000, 500))  # for fewer than 20,000 images
LOOKED, HELD = 2000, 1000
PEERS = {"1/3": 1 / 3, "5th pct": None, "AuthPct": 1.0}


@dataclass
class Seen:
    """What the rules need to know about samples."""

    nearest: np.ndarray  # number in the pool
    magnitude: dict  # of W, by name
    scores: dict  # of the peers, by name; small values are suspicious

    def followed_by(self, other):
        def both(a, b):
            return {name: np.concatenate([a[name], b[name]]) for name in a}

        nearest = np.concatenate([self.nearest, other.nearest])
        return Seen(nearest, both(self.magnitude, other.magnitude), both(self.scores, other.scores))

    def first(self, n):
        def cut(values):
            return {name: value[:n] for name, value in values.items()}

        return Seen(self.nearest[:n], cut(self.magnitude), cut(self.scores))


class Rivals:
    """One T and H, with everything that judges samples against them."""

    def __init__(self, train, held_out):
        self.examiner = Examiner(train, held_out, THRESHOLD)
        self.index = Index.build(train.pixels, train.ids, spaces.find("correlation"), "T", 1.0)
        self.held = self._distances(held_out.floats(slice(HELD)), 1)[1][:, 0]
        # The nearest training image of a training image is itself, or a copy of it at distance 0.
        self.own = np.concatenate([self._distances(part, 2)[1][:, 1] for part in train.floats().split(LOOKED)])

    def _distances(self, samples, k):
        hits = self.index.search(samples, k)
        return hits.reference_index, np.sqrt(np.maximum(0, 2 - 2 * hits.value))

    def look(self, samples):
        """What the rules need to know about samples. Parts are independent, since no sample affects another."""
        parts = []
        for part in samples.split(LOOKED):
            seen = self.examiner.examine(part, 0)
            index, near = self._distances(part, 2)
            d1, d2 = np.sqrt(np.maximum(0, 2 - 2 * seen.sight.matches[0].closeness[:, :2])).T
            magnitude = {"memgen": np.abs(seen.competition.score), "d2/d1": np.log(d2.clip(1e-9) / d1.clip(1e-9))}
            # 0/0: a sample equal to two training images is flagged by neither under the 1/3 rule.
            ratio = np.divide(near[:, 0], near[:, 1], out=np.ones(len(near)), where=near[:, 1] > 0)
            own = self.own[index[:, 0]]
            auth = np.divide(near[:, 0], own, out=np.full(len(near), np.inf), where=own > 0)
            parts.append(Seen(seen.nearest, magnitude, {"1/3": ratio, "5th pct": near[:, 0], "AuthPct": auth}))
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.followed_by(part)
        return whole

    def c_t(self, distances):
        """Whether C_T reports copying: a Mann-Whitney test of the distances of samples and held-out images to T."""
        wins = np.searchsorted(np.sort(self.held), distances).sum()  # pairs in which the sample is farther away
        m, n = len(distances), len(self.held)
        return (wins - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12) < -1.645


def outcome(flags, k):
    """The false share among flagged samples, and the share of the copies (the first k) that are flagged."""
    return flags[k:].sum() / max(1, flags.sum()), flags[:k].mean()


def equal_power(cases, k, target):
    """The power in each case, (repeats,), at the best threshold whose mean false share is at most `target`."""
    copies = np.concatenate([scores[:k] for scores in cases])
    best = np.zeros(len(cases))
    for threshold in np.unique(np.quantile(copies, np.linspace(0, 1, 401), method="higher")):
        false, power = np.transpose([outcome(scores <= threshold, k) for scores in cases])
        if false.mean() <= target + 1e-12 and power.mean() > best.mean():
            best = power
    return best


def shown(pairs):
    errors = pairs.std(axis=0, ddof=1) / np.sqrt(len(pairs))
    return " / ".join(f"{mean:.3f} ± {error:.3f}" for mean, error in zip(pairs.mean(axis=0), errors, strict=True))


def needed(n_t, n_h, share):
    """The numbers of samples and copies in a row: at least 1,000 samples and 2 k_min copies."""
    k_min = -(-n_t // (0.05 * n_h))
    m = max(1000, round(2 * k_min / share))
    return m, round(share * m)


def power(images, repeats):
    print(f"POWER at q = 5 %: {repeats} repeats, entries are false share / power")
    behind = []
    for n_t, n_h in POWER_POOLS if len(images) >= 20_000 else SMALL_POOLS:
        for doubled in (False, True) if n_t == n_h else (False,):
            rows = {share: needed(n_t, n_h, share) for share in ((0.05,) if doubled else SHARES)}
            for share in [s for s, (m, k) in rows.items() if n_t + n_h + m - k > len(images)]:
                m, k = rows.pop(share)
                print(f"  {n_t}:{n_h} {share:4.0%}  skipped: found {len(images)} images, needs {n_t + n_h + m - k}")
            if rows:
                behind += power_rows(images, n_t, n_h, doubled, rows, repeats)
    print("  Rows in which a peer has more power than memgen at equal false share, by over 2 standard errors:")
    print("\n".join(f"    {row}" for row in behind) or "    none", flush=True)


def power_rows(images, n_t, n_h, doubled, rows, repeats):
    most_held, most_copies = max(m - k for m, k in rows.values()), max(k for _, k in rows.values())
    seen = {}  # (share, eps): for each repeat, (outcomes of all rules, scores, C_T)
    for repeat in range(repeats):
        generator = noise.stream("benchmark power", n_t, n_h, repeat)
        order = generator.permutation(len(images))
        train, held_out = images.take(order[:n_t]), images.take(order[n_t : n_t + n_h])
        rivals = Rivals(with_duplicates(train, generator) if doubled else train, held_out)
        blind = rivals.look(images.floats(order[n_t + n_h :][:most_held]))
        source = generator.choice(n_t, most_copies, replace=False)
        clusters, in_train = rivals.examiner.pool.cluster[source], rivals.examiner.pool.in_train
        for eps in NOISES:
            copies = rivals.look(noisy(train.floats(source), eps, generator))
            for share, (m, k) in rows.items():
                both = copies.first(k).followed_by(blind.first(m - k))
                outcomes = {}
                for name, magnitude in both.magnitude.items():
                    found = compete(both.nearest, magnitude, in_train).discovered
                    found[:k] &= both.nearest[:k] == clusters[:k]
                    outcomes[name] = outcome(found, k)
                limits = PEERS | {"5th pct": np.quantile(rivals.held, 0.05)}
                for name, scores in both.scores.items():
                    outcomes[name] = outcome(scores < limits[name], k)
                c_t = rivals.c_t(both.scores["5th pct"])
                seen.setdefault((share, eps), []).append((outcomes, both.scores, c_t))
    behind = []
    for (share, eps), cases in sorted(seen.items()):
        m, k = rows[share]
        pairs = {name: np.array([outcomes[name] for outcomes, _, _ in cases]) for name in cases[0][0]}
        title = f"{n_t}:{n_h}{' doubled' if doubled else ''} {share:.0%} eps {eps} ({k} of {m})"
        print(f"  {title}")
        print("    " + "   ".join(f"{name} {shown(values)}" for name, values in pairs.items()), flush=True)
        ours, equal = pairs["memgen"][:, 1], []
        for peer in PEERS:
            theirs = equal_power([scores[peer] for _, scores, _ in cases], k, pairs["memgen"][:, 0].mean())
            error = (ours - theirs).std(ddof=1) / np.sqrt(repeats)
            equal.append(f"{peer} {theirs.mean():.3f}, memgen {(ours - theirs).mean():+.3f} ± {error:.3f}")
            if (ours - theirs).mean() < -2 * error:
                behind.append(f"{title}: {equal[-1]}")
        print(f"    equal: {'   '.join(equal)}   C_T {rate(sum(c_t for _, _, c_t in cases), repeats)}", flush=True)
    return behind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="file of images; default: the embedded images")
    parser.add_argument("--keep-duplicates", action="store_true", help="keep near-duplicates in FILE")
    parser.add_argument("--bf-cnn", type=Path, help="BF-CNN checkpoint of the paper's authors")
    parser.add_argument("--dncnn", type=Path, help="DnCNN weights, see dncnn.py")
    parser.add_argument("--repeats", default=200, type=int, help="redraws in the section size")
    parser.add_argument("--coverage-repeats", default=1000, type=int, help="redraws in the section coverage")
    parser.add_argument("--power-repeats", default=10, type=int, help="redraws in the section power")
    parser.add_argument("--only", choices=("size", "coverage", "power"))
    arguments = parser.parse_args()
    images = import_images(arguments.images, ImportSettings(deduplicate=not arguments.keep_duplicates)).images
    sections = {
        "size": lambda: size(images, arguments.repeats, arguments.bf_cnn, arguments.dncnn),
        "coverage": lambda: coverage(images, arguments.coverage_repeats),
        "power": lambda: power(images, arguments.power_repeats),
    }
    print(f"python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}\n{len(images)} images")
    for name, section in sections.items():
        if arguments.only in (None, name):
            start = time.process_time()
            section()
            print(f"  ({name}: {time.process_time() - start:.0f} s of processor time)", flush=True)


if __name__ == "__main__":
    main()
