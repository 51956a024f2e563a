"""A run whose answer is known: pairs of "models" that copy with a stated probability, else draw one common image.

Images are smooth random textures. Sample i of either model is, with probability COPIES[n], the image of its own
training set nearest to a texture that belongs to noise i, and otherwise that texture; plus a little noise of its own.
"""

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tested

from memgen.base import schemas, tables
from memgen.measures.distances import quadrature
from memgen.report.sheets import Specimens, specimens


def role_of(name: str, n_train: int | None) -> str:
    """The role of a subject in tests: cells have an N, references and baselines their own names."""
    if n_train is not None:
        return "cell"
    if name in schemas.BASELINES:
        return "baseline"
    return "reference" if name in schemas.REFERENCES.values() else "imported"


COPIES = {1: 1.0, 4: 1.0, 16: 0.9, 64: 0.6, 256: 0.25, 1024: 0.0}
SIGMAS = np.logspace(-2, -0.1, 6)
SAMPLES, HOLDOUT, SIDE = 96, 256, 16


def textures(count: int, seed: int) -> np.ndarray:
    """Smooth random images with a common bright middle, (count, 1, SIDE, SIDE), float32 in [0, 1]."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None, :])
    spectrum = 1 / (0.12 + frequency) ** 3
    white = np.random.default_rng(seed).standard_normal((count, SIDE, SIDE))
    smooth = np.fft.ifft2(np.fft.fft2(white) * spectrum).real
    smooth /= smooth.std(axis=(1, 2), keepdims=True)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    bright = 1.5 * np.exp(-2 * (x**2 + y**2))
    return np.clip(0.3 + 0.13 * (smooth + bright), 0, 1).astype(np.float32)[:, None]


def unit(images: np.ndarray) -> np.ndarray:
    """Images as vectors whose inner product is the correlation."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def nearest(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position and correlation of the nearest reference of every query."""
    values = unit(queries) @ unit(references).T
    return values.argmax(axis=1), values.max(axis=1)


class Run:
    """The tables and images of the run."""

    def __init__(
        self, sizes: tuple[int, ...] = tuple(COPIES), train_seeds: int = 1, copies: dict | None = None
    ) -> None:
        self.copies = copies or COPIES
        self.sets = {"a": textures(max(sizes), 1), "b": textures(max(sizes), 2), "holdout": textures(HOLDOUT, 3)}
        self.samples: dict[tuple[int, str], np.ndarray] = {}
        self.tables: dict[str, pa.Table] = {}
        parts: dict[str, list[pa.Table]] = {name: [] for name in ("neighbors", "similarity", "psnr", "distances")}
        parts |= {name: [] for name in ("samples", "training", "significance", "copies")}
        for n in sizes:
            for train_seed in range(train_seeds):
                self._pair(parts, n, train_seed)
            parts["neighbors"] += [self._hits(n, None, "holdout", part, self.sets["holdout"], None) for part in "ab"]
        self.tables = {name: pa.concat_tables(found) for name, found in parts.items()}

    def _pair(self, parts: dict, n: int, train_seed: int) -> None:
        keys = {"subject_a": f"n{n}-s{train_seed}-a", "subject_b": f"n{n}-s{train_seed}-b", "role": "cell"}
        keys |= {"n_train": n, "train_seed": train_seed}
        drawn = {part: self._draw(n, part, train_seed) for part in "ab"}
        for part, images in drawn.items():
            if train_seed == 0:
                self.samples[n, part] = images
            trained = {
                "subject": f"n{n}-s{train_seed}-{part}",
                "role": "cell",
                "n_train": n,
                "part": part,
                "train_seed": train_seed,
            }
            parts["neighbors"].append(self._hits(n, trained, "sample", part, images, part))
            parts["significance"].append(self._significance(trained, part, images))
            parts["copies"].append(self._copies(trained))
            parts["psnr"] += [self._psnr(trained, part, kind) for kind in ("train", "holdout")]
            status = np.array(["converged"] * SAMPLES, dtype=object)
            status[: 2 if n == 16 else 0] = "step_cap"
            columns = {"sample": np.arange(SAMPLES), "noise_seed": 0, "updates": 90, "sigma": 0.05}
            columns |= {"residual_sigma": 0.05, "status": status}
            parts["samples"].append(tables.make(schemas.SAMPLES, {**trained, **columns}))
            training = {"step": [100, 200], "images_seen": [6400, 12800], "seconds": [4.0, 8.0], "learning_rate": 1e-3}
            training |= {"loss": [9.0, 4.0], "output_psnr_db": [18.0, 20.0]}
            parts["training"].append(tables.make(schemas.TRAINING, {**trained, **training}))
        a, b = unit(drawn["a"]), unit(drawn["b"])
        same, other = np.arange(SAMPLES), (np.arange(SAMPLES) + 7) % SAMPLES
        for kind, i, j in (("same_noise", same, same), ("different_noise", same, other)):
            columns = {
                "kind": kind,
                "item_a": i,
                "item_b": j,
                "metric": "correlation",
                "value": (a[i] * b[j]).sum(axis=1),
            }
            parts["similarity"].append(tables.make(schemas.SIMILARITY, {**keys, **columns}))
        j, value = nearest(self.sets["a"][:n], self.sets["b"][:n])
        columns = {"kind": "train_train", "item_a": np.arange(n), "item_b": j, "metric": "correlation", "value": value}
        parts["similarity"].append(tables.make(schemas.SIMILARITY, {**keys, **columns}))
        parts["distances"] += self._distances(keys)

    def _draw(self, n: int, part: str, train_seed: int) -> np.ndarray:
        common = textures(SAMPLES, 4)
        rng = np.random.default_rng([n, ord(part), train_seed])
        copy = rng.random(SAMPLES) < self.copies[n]
        where, _ = nearest(common, self.sets[part][:n])
        images = np.where(copy[:, None, None, None], self.sets[part][where], common)
        scale = np.where(copy, 0.004, 0.03)[:, None, None, None]
        return (images + scale * rng.standard_normal(images.shape)).astype(np.float32)

    def reference(self, name: str, n: int) -> np.ndarray:
        return self.sets[name] if name == "holdout" else self.sets[name][:n]

    def _hits(
        self, n: int, trained: dict | None, kind: str, name: str, queries: np.ndarray, part: str | None
    ) -> pa.Table:
        references = self.reference(name, n)
        where, value = nearest(queries, references)
        trained = trained or {"subject": None, "role": None, "n_train": n, "part": None, "train_seed": None}
        index = name if name == "holdout" else f"train_{name}"
        return tables.make(
            schemas.NEIGHBORS,
            {
                **trained,
                "query_kind": kind,
                "query": np.arange(len(queries)),
                "query_id": [f"{kind}-{part}-{i}" for i in range(len(queries))],
                "query_source": None,
                "reference": index,
                "n_reference": len(references),
                "n_clusters": len(references),
                "metric": "correlation",
                "rank": 1,
                "reference_id": [f"{name}-{i}" for i in where],
                "reference_source": [f"{name}-{i}.png" for i in where],
                "reference_index": where,
                "cluster": where,
                "value": value,
            },
        )

    def _unseen(self, part: str) -> np.ndarray:
        return np.concatenate([self.sets["b" if part == "a" else "a"], self.sets["holdout"]])

    def _significance(self, trained: dict, part: str, images: np.ndarray) -> pa.Table:
        n = trained["n_train"]
        where, value = nearest(images, np.concatenate([self.sets[part][:n], self._unseen(part)]))
        own, of_own = nearest(images, self.sets[part][:n])
        return tested.significance(
            trained,
            where,
            where < n,
            train_id=[f"{part}-{i}" for i in own],
            correlation=of_own,
            closeness=value,
        )

    def _copies(self, trained: dict) -> pa.Table:
        n, n_unseen = trained["n_train"], len(self._unseen("a"))
        return tested.copies(trained, n_pool_train=n, n_pool_heldout=n_unseen, samples=SAMPLES, n_competing=SAMPLES)

    def _psnr(self, trained: dict, part: str, kind: str) -> pa.Table:
        n = trained["n_train"]
        count = min(n, 60) if kind == "train" else 60
        rng = np.random.default_rng([n, ord(part), kind == "train"])
        image, draw, level = (index.ravel() for index in np.indices((count, 2, len(SIGMAS))))
        inputs = -20 * np.log10(SIGMAS)
        good = 18 + 0.75 * inputs  # what many images teach
        memorized = inputs + 24
        flat = np.full(len(SIGMAS), 14.0)
        share = np.clip(np.log2(n) / 10, 0, 1)
        curve = (1 - share) * (memorized if kind == "train" else flat) + share * good
        values = curve[level] + rng.normal(0, 1.5, count)[image] + rng.normal(0, 0.2, image.shape)
        name = part if kind == "train" else "holdout"
        columns = {"kind": kind, "image_id": [f"{name}-{i}" for i in image], "sigma": SIGMAS[level], "noise_draw": draw}
        columns |= {"input_psnr_db": inputs[level], "output_psnr_db": values}
        return tables.make(schemas.PSNR, {**trained, **columns})

    def _distances(self, keys: dict) -> list[pa.Table]:
        """V falls with N; samples of A and B are as far apart at every noise level, in units of its square."""
        n = keys["n_train"]
        rng = np.random.default_rng([n, 5])
        image, draw, level = (index.ravel() for index in np.indices((60, 2, len(SIGMAS))))
        values = (
            0.02 * SIGMAS[level] / (1 + n / 8) * rng.lognormal(0, 0.3, 60)[image] * rng.lognormal(0, 0.1, image.shape)
        )
        columns = {
            "image_id": [f"holdout-{i}" for i in image],
            "sigma": SIGMAS[level],
            "noise_draw": draw,
            "value": values,
            "weight": None,
            "kind": "models",
        }
        found = [tables.make(schemas.DISTANCES, {**keys, **columns})]
        sigmas, weights = quadrature(SIGMAS[0], SIGMAS[-1], 4)
        sample, level = (index.ravel() for index in np.indices((SAMPLES, 4)))
        for part in "ab":
            columns = {
                "kind": f"samples_{part}",
                "image_id": [str(i) for i in sample],
                "sigma": sigmas[level],
                "noise_draw": 0,
                "value": sigmas[level] ** 2 * np.log(2) * rng.lognormal(0, 0.3, SAMPLES)[sample] / n,
                "weight": weights[level],
            }
            found.append(tables.make(schemas.DISTANCES, {**keys, **columns}))
        return found

    def image_of(self, content_id: str) -> np.ndarray:
        name, _, rank = content_id.partition("-")
        return self.sets[name][int(rank)]

    def specimens(self) -> list[Specimens]:
        sizes = sorted({n for n, _ in self.samples})
        pairs = [{part: self.samples[n, part] for part in "ab"} for n in sizes]
        found = [specimens(self.tables, n, pair, self.image_of) for n, pair in zip(sizes, pairs, strict=True)]
        return [one for one in found if one is not None]


@functools.cache
def run() -> Run:
    """The run with every size, made once."""
    return Run()


def imported(tables_of: dict[str, pa.Table], n: int, name: str) -> dict[str, pa.Table]:
    """The rows of the model of part a at one N, as those of an imported subject whose samples were given."""
    found = {}
    for kind in ("neighbors", "psnr", "significance", "copies", "samples"):
        table = tables_of[kind]
        own = pc.field("part") == "a"
        if kind == "neighbors":
            own |= (pc.field("query_kind") == "holdout") & (pc.field("reference") == "train_a")
        table = table.filter(own & (pc.field("n_train") == n))
        changed = {"subject": name, "role": "imported", "part": None, "train_seed": None}
        changed |= {"reference": "train", "query_source": None} if kind == "neighbors" else {}
        changed |= {"status": "given"} if kind == "samples" else {}
        found[kind] = tables.make(schemas.SCHEMAS[kind], table.to_pydict() | changed, len(table))
    return found


def subject(name: str, **more) -> pa.Table:
    """A SUBJECTS table of one imported subject, that has everything unless told otherwise."""
    columns = {"subject": name, "role": "imported", "n_train": 64, "part": None, "train_seed": None}
    columns |= {"has_denoiser": True, "has_samples": True, "train_set": "x", "held_out_set": None, "warnings": [[]]}
    columns |= {"n_held_out": 256, "source": "test"}
    return tables.make(schemas.SUBJECTS, columns | more)


def stacked(*runs: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """The tables of several runs as those of one."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: pa.concat_tables([run[name] for run in runs if name in run]) for name in names}
