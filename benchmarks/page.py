"""Measure how large the page of an audit is, how long it takes to make, and how soon a browser can be used on it.

    python benchmarks/page.py [--samples 1000 10000] [--browser PROGRAM] [--json FILE]

The samples and the images beside them are mixtures of the embedded images (gray) or noise with the spectrum of
photographs (color, which hardly compresses). "Made" is the time of the processor for the whole page. "Ready" is the
time from opening the file until every control works, and "sorted" that from a change of the order until all pictures of
the first cards are drawn; both are the median of five. Each row is made in a process of its own. The last two columns
need playwright and Chromium.
"""

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

REPEATS = 5
KINDS = {"gray, 28 x 28": (1, 28), "color, 64 x 64": (3, 64)}


def images_of(channels: int, side: int, count: int) -> np.ndarray:
    """Images (count, channels, side, side), uint8."""
    if channels == 1:
        from duplicates import mixtures

        from memgen.images.importing import read_images

        return mixtures(read_images(resize=side, deduplicate=False), count).pixels
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    found = np.empty((count, channels, side, side), np.uint8)
    rng = np.random.default_rng(0)
    for start in range(0, count, 512):
        white = rng.standard_normal((min(512, count - start), channels, side, side))
        smooth = np.fft.ifft2(np.fft.fft2(white) / (0.03 + frequency) ** 1.5).real
        found[start : start + 512] = np.clip(128 + 45 * smooth / smooth.std(), 0, 255)
    return found


def audit_of(samples: int, channels: int, side: int):
    """What the page of an audit of so many samples is made of, with as many training and held-out images."""
    from memgen.base import schemas, tables
    from memgen.experiment import showing
    from memgen.findings.audit import Answer, Pair
    from memgen.measures.subject import Identity
    from memgen.report.audit_page import AuditInput
    from memgen.report.downloads import downloads

    pixels, rng = images_of(channels, side, samples), np.random.default_rng(1)
    near = {kind: rng.permutation(samples) for kind in ("train", "held_out")}
    in_train, reported = rng.random(samples) < 0.5, np.arange(samples) < samples // 50
    columns = dict.fromkeys(schemas.SIGNIFICANCE.names) | Identity("audit", "imported", samples).columns
    columns |= {"sample": np.arange(samples), "nearest_id": "x", "nearest_in": np.where(in_train, "T", "H")}
    columns |= {"train_id": "x", "correlation": rng.random(samples), "cluster": 0, "unit": 0}
    columns |= {"W": rng.standard_normal(samples), "p": rng.random(samples), "q": rng.random(samples)}
    columns |= {"discovered": reported, "flagged": reported, "space": rng.choice(["aligned", "halves"], samples)}
    columns |= {"found_train": rng.random(samples), "found_held_out": rng.random(samples), "compared": "whole"}
    columns |= {"mirrored": False, "negative": False, "shift_x": 0.0, "shift_y": 0.0, "rotation": 0.0, "zoom": 1.0}
    significance = tables.make(schemas.SIGNIFICANCE, columns | {"definition": "benchmark"})
    pairs = [
        Pair(
            sample=i,
            sample_source=f"generated/{i:06}.png",
            train=int(near["train"][i]),
            train_source=f"train/{near['train'][i]:06}.png",
            group=None,
            held_out=int(near["held_out"][i]),
            space=row["space"],
            closeness=row["found_train"],
            held_out_closeness=row["found_held_out"],
            correlation=row["correlation"],
            transformation=None,
            score=row["W"],
            p=row["p"],
            reported_by=("competition",) if reported[i] else (),
        )
        for i, row in enumerate(significance.to_pylist())
    ]

    def image_of(kind: str, position: int) -> np.ndarray:
        return pixels[position] if kind == "samples" else pixels[-1 - position]

    sets = {
        kind: {"images": samples, "skipped": 0, "groups": None, "digest": "", "source": kind}
        for kind in ("samples", "train", "held_out")
    }
    return AuditInput(
        title="benchmark",
        answer=Answer("found", "Found.", (), {"discoveries": int(reported.sum())}),
        manifest={
            "data": {"sets": sets, "rule": "", "warnings": []},
            "config": {"groups": None, "model": None},
            "versions": {},
        },
        pairs=pairs[:40],
        at_risk=[],
        planted=[],
        gaps=[],
        shrinkage=[],
        films=[],
        bases=[],
        skipped=[],
        image_of=image_of,
        significance=significance,
        gallery=showing.of_audit(pairs, image_of, significance),
        command="memgen audit",
        downloads=downloads([("significance", significance, ["significance.parquet"])]),
    )


def made(path: Path, samples: int, channels: int, side: int, queue: "multiprocessing.Queue[dict[str, float]]") -> None:
    """Write a page, and tell how long it took and what it holds."""
    from memgen.report import audit_page

    given = audit_of(samples, channels, side)
    start = time.process_time()
    text = audit_page.render(given)
    seconds = time.process_time() - start
    path.write_text(text, encoding="utf-8")
    shown = len(json.loads(text.split('id="page-data">')[1].split("</script>")[0])["gallery"]["names"])
    queue.put({"shown": shown, "bytes": path.stat().st_size, "made_s": seconds})


def browsed(path: Path, program: str) -> dict[str, float]:
    """How soon a browser without a network is ready on a page, and how soon it has sorted the gallery, seconds."""
    from playwright.sync_api import sync_playwright

    ready, sorted_ = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(REPEATS):
            with browser.new_context(offline=True, viewport={"width": 1280, "height": 900}) as context:
                page = context.new_page()
                page.goto(path.as_uri())
                page.wait_for_selector("html[data-ready]", state="attached")
                ready.append(float(page.locator("html").get_attribute("data-ready")) / 1000)
                spent = page.evaluate(
                    """async () => {
                        const start = performance.now(), sort = document.getElementById("sort");
                        sort.value = "closeness";
                        sort.dispatchEvent(new Event("input", { bubbles: true }));
                        await Promise.all([...document.querySelectorAll("#cards canvas")].map(each => each.ready));
                        return performance.now() - start;
                    }"""
                )
                sorted_.append(spent / 1000)
        browser.close()
    return {"ready_s": statistics.median(ready), "sorted_s": statistics.median(sorted_)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows = []
    print("| images | samples | in the gallery | page, MB | made, CPU s | ready, s | sorted, s |")
    print("|---|---|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for name, (channels, side) in KINDS.items():
            for samples in chosen.samples:
                path, queue = Path(folder) / "report.html", context.Queue()
                process = context.Process(target=made, args=(path, samples, channels, side, queue))
                process.start()
                found = queue.get()
                process.join()
                found |= browsed(path, chosen.browser) if chosen.browser else {}
                rows.append({"images": name, "samples": samples} | found)
                times = [f"{found[key]:.2f}" if key in found else "" for key in ("ready_s", "sorted_s")]
                cells = [name, f"{samples:,}", f"{found['shown']:,}", f"{found['bytes'] / 1e6:.1f}"]
                cells += [f"{found['made_s']:.1f}", *times]
                print(f"| {' | '.join(cells)} |", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
