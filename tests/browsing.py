"""A real browser for the tests of pages, and pages with every part and with hostile texts."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import synthetic_run
import tested

from memgen.base import schemas, tables
from memgen.experiment import showing
from memgen.findings import transition
from memgen.findings.audit import Answer, Pair
from memgen.report.audit_page import AuditInput
from memgen.report.downloads import downloads
from memgen.report.gallery import Gallery, Measure
from memgen.report.page import ReportInput
from memgen.report.sheets import Bases
from memgen.report.viewers import Film

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1> \u2028 '\"&<!--"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def launch():
    """A headless Chromium; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(PROGRAMS)} is installed")
    driver = playwright.sync_playwright().start()
    return driver, driver.chromium.launch(executable_path=program, args=["--no-sandbox"])


@dataclass
class Opened:
    """A page that is open, and what it did.

    Attributes:
        page: of playwright.
        messages: what the console got, and errors.
        requests: addresses that were requested, the page itself and data addresses left out.
    """

    page: object
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def look(self, selector: str) -> str:
        """The text of an element."""
        return self.page.locator(selector).inner_text()

    def drawn(self) -> None:
        """Wait until every picture of the gallery is drawn."""
        self.page.wait_for_selector("#cards canvas")
        self.settle("#cards canvas")

    def settle(self, selector: str) -> None:
        """Wait until every canvas of a selector is drawn."""
        for canvas in self.page.locator(selector).all():
            canvas.and_(self.page.locator("[data-drawn]")).wait_for(state="attached")

    def chart(self, name: str):
        """The chart of a name, drawn by the script."""
        host = self.page.locator(f"[data-chart={name}]")
        host.scroll_into_view_if_needed()
        self.page.wait_for_selector(f"[data-chart={name}][data-drawn] svg")
        return host

    def pixels(self, selector: str) -> np.ndarray:
        """The pixels of a canvas, (H, W) of the red channel."""
        self.settle(selector)
        values = self.page.locator(selector).evaluate(
            "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height); "
            "return [c.width, c.height, ...d.data] }"
        )
        return np.array(values[2:]).reshape(values[1], values[0], 4)[:, :, 0]


@contextmanager
def opened(browser, path: Path, width: int = 1280, **options) -> Iterator[Opened]:
    """A page opened from a file without a network, when its script is ready (or at once without scripts)."""
    with browser.new_context(offline=True, viewport={"width": width, "height": 900}, **options) as context:
        found = Opened(context.new_page())
        found.page.on("console", lambda message: found.messages.append(f"{message.type}: {message.text}"))
        found.page.on("pageerror", lambda error: found.messages.append(f"error: {error}"))
        own = path.as_uri()
        found.page.on(
            "request",
            lambda request: request.url.startswith((own, "data:", "blob:")) or found.requests.append(request.url),
        )
        found.page.goto(own)
        if options.get("java_script_enabled", True):
            found.page.wait_for_selector("html[data-ready]")
        yield found


# ------------------------------------------------------------------------------------------------- pages


def tables_of(run: synthetic_run.Run) -> dict[str, pa.Table]:
    """The tables of a run whose charts the page draws, and its summary."""
    names = ("neighbors", "similarity", "psnr", "training", "samples", "significance", "copies")
    chosen = {name: run.tables[name] for name in names}
    return chosen | {"transition": transition.summarize(chosen, 0, resamples=50)}


def sweep(sizes: tuple[int, ...] = (4, 64)) -> tuple[ReportInput, synthetic_run.Run]:
    """A report with every part that a script drives, with hostile texts in it."""
    run = synthetic_run.Run(sizes)
    found = tables_of(run)
    rng = np.random.default_rng(0)
    films = [
        Film(
            f"N = {n}",
            f"N = {n}, model {part.upper()}",
            [0, 1],
            [0, 10, 20],
            [1.0, None, 0.1],
            np.stack([run.samples[n, part][:2] * share for share in (0.25, 0.5, 1)]),
        )
        for n in sizes
        for part in "ab"
    ]
    clean = run.sets["holdout"][0]
    vectors = rng.standard_normal((2, 5, *clean.shape))
    values = np.array([[0.9, 0.7, 0.5, 0.3, 0.1]] * 2)
    bases = [
        Bases(f"N = {n}", sigma, clean, clean, np.stack([clean, clean]), values * sigma, vectors)
        for n in sizes
        for sigma in (0.25, 0.5)
    ]
    listed = [("transition", found["transition"], ["../tables/transition/transition.parquet"])]
    listed += [("psnr", found["psnr"], ["../tables/psnr/a%20b.parquet", "../tables/psnr/c.parquet"])]
    return (
        ReportInput(
            HOSTILE,
            {"config": {"note": HOSTILE}, "data": {"warnings": [HOSTILE]}},
            found | {"skipped": tables.make(schemas.SKIPPED, {"source": [HOSTILE], "reason": HOSTILE})},
            dimension=256,
            gallery=gallery(run, sizes),
            films=films,
            bases=bases,
            command="memgen sweep --run 'a b'",
            downloads=downloads(listed),
        ),
        run,
    )


def gallery(run: synthetic_run.Run, sizes: tuple[int, ...]) -> Gallery:
    """All samples of a run with their nearest training images and those of the twins."""
    rows = []
    hits = run.tables["neighbors"].to_pylist()
    for n in sizes:
        for part, other in (("a", "b"), ("b", "a")):
            own = [row for row in hits if row["subject"] == f"n{n}-s0-{part}" and row["query_kind"] == "sample"]
            for row in own:
                i = row["query"]
                rows.append((n, part, i, row["value"], row["reference_index"], other))
    images = {f"samples-{n}-{part}": found for (n, part), found in run.samples.items()} | run.sets
    near = np.array([row[3] for row in rows])
    p = np.linspace(1, 0, len(rows))
    p[3] = np.nan
    return Gallery(
        pictures=("sample", "nearest training image", "other model, same noise"),
        measures=[
            Measure("nearest", "correlation, training image", "Of the sample."),
            Measure("p", "p-value", "Of the test."),
        ],
        values={"nearest": near, "p": p},
        places=[
            [(f"samples-{n}-{part}", i) for n, part, i, *_ in rows],
            [(part, at) for _, part, _, _, at, _ in rows],
            [(f"samples-{n}-{other}", i) for n, _, i, _, _, other in rows],
        ],
        names=[HOSTILE if k == 0 else f"sample {row[2]}" for k, row in enumerate(rows)],
        notes=[HOSTILE if k == 0 else "" for k in range(len(rows))],
        panels=[f"N = {row[0]}" for row in rows],
        models=[f"N = {row[0]}, model {row[1].upper()}" for row in rows],
        spaces=["pixels" if row[2] % 2 else HOSTILE for row in rows],
        reported=np.array([row[2] < 3 for row in rows]),
        image_of=lambda name, position: images[name][position],
    )


def audit(count: int = 40) -> AuditInput:
    """An audit with hostile file names."""
    rng = np.random.default_rng(1)
    images = {
        name: rng.integers(0, 256, (count, 3, 12, 10), dtype=np.uint8) for name in ("samples", "train", "held_out")
    }
    in_train = np.arange(count) % 3 > 0
    significance = tested.significance(
        tested.imported("audit", count),
        np.arange(count),
        in_train,
        W=np.where(in_train, 1, -1) * rng.random(count),
        p=rng.random(count),
        found_train=rng.random(count),
        found_held_out=rng.random(count),
        space=["pixels" if i % 2 else "aligned" for i in range(count)],
    )
    pairs = [
        Pair(
            sample=i,
            sample_source=f"{HOSTILE}{i}",
            train=i,
            train_source=HOSTILE,
            group=HOSTILE,
            held_out=i,
            space=row["space"],
            closeness=row["found_train"],
            held_out_closeness=row["found_held_out"],
            correlation=None,
            transformation=None,
            score=row["W"],
            p=row["p"],
            reported_by=("competition",) if i < 5 else (),
        )
        for i, row in enumerate(significance.to_pylist())
    ]

    def image_of(kind: str, position: int) -> np.ndarray:
        return images[kind][position]

    near = {"sigma": 0.25, "trace_train": 3.0, "trace_held_out": 5.0, "difference": -2.0, "low": -3.0, "high": -1.0}
    near |= {"squared_error_train": 0.1, "sure_train": 0.1, "squared_error_held_out": 0.2, "sure_held_out": 0.2}
    near |= {"asymmetry_train": 0.1, "asymmetry_held_out": 0.1}
    values, vectors = np.array([[0.9, 0.4]]), rng.standard_normal((1, 2, 3, 12, 10))

    about = {"images": count, "skipped": 1, "groups": None, "digest": "d", "source": HOSTILE}
    gap = {"sigma": 0.1, "train": 20.0, "held_out": 18.0, "gap": 2.0, "low": 1.0, "high": 3.0, "auc": 0.6, "tpr": None}
    gap |= {"tpr_low": None, "tpr_high": None, "n_train": count, "n_held_out": count}
    return AuditInput(
        title=HOSTILE,
        answer=Answer("found", f"Found {HOSTILE}", (HOSTILE,), {"discoveries": 5}),
        manifest={
            "data": {"sets": dict.fromkeys(("samples", "train", "held_out"), about), "rule": HOSTILE, "warnings": []},
            "config": {"groups": None, "model": None, "train": HOSTILE},
            "versions": {"memgen": "1"},
        },
        pairs=pairs[:6],
        at_risk=[],
        planted=[],
        gaps=[gap, gap | {"sigma": 0.2, "gap": 1.0, "low": None}],
        shrinkage=[near],
        films=[
            Film("", "model", [0, 1], [0, 5], [1.0, 0.1], np.stack([images["samples"][:2] // 2, images["samples"][:2]]))
        ],
        bases=[
            Bases(where, sigma, clean, clean, clean[None], values * sigma, vectors)
            for where, clean in (("near a training image", images["train"][0]), (HOSTILE, images["held_out"][0]))
            for sigma in (0.25, 0.5)
        ],
        skipped=[{"set": "held_out", "source": HOSTILE, "reason": HOSTILE}],
        image_of=image_of,
        significance=significance,
        gallery=showing.of_audit(pairs, image_of, significance),
        command="memgen audit x y",
        downloads=downloads([("significance", significance, ["../tables/significance/audit.parquet"])]),
    )
