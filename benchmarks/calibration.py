"""Measure how often `memgen calibrate` says that the test for copies is not calibrated, whether it is or not.

    python benchmarks/calibration.py [--simulations 2000] [--redraws 1000] [--only SECTION]

simulated   Calibrations are simulated with the controls of a real one: 5 without copies, 9 with copies, and 7 intervals
            of which 5 % miss the truth. In a control without copies all that is found is false. In one with copies,
            90 % of 6 or 38 copies are found, and a Poisson number of other images. Its mean is set such that the
            false-discovery rate is exactly the one named: in all controls, or in one alone, and 5 % in the others. The
            controls are independent, while those of a real calibration share their redraws.
real        Redraws of the embedded images at 8x8, in the sizes of configs/smoke.toml at N = 64, in separate groups. The
            test aims at 5 %, as it promises, or at 25 %.

"before" is the rule of earlier versions: each control by itself, by two standard errors or Wilson's interval. Rates
come with their 95 % interval. Everything takes about 20 minutes on one core, most of it for the redraws.
"""

import argparse
import functools
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
from scipy import optimize, stats

from memgen.base.intervals import clopper_pearson, wilson
from memgen.findings.calibration import MISSES, Promise, broken, summarize
from memgen.images.importing import ImportSettings, import_images
from memgen.measures.copies import controls
from memgen.measures.copies.competition import Q
from memgen.models.sampling import SampleSettings

SIZES = (4, 20, 100)  # redraws of a calibration
COPIES = (6,) * 4 + (38,) * 5  # planted in each control with copies
NULLS, INTERVALS, POWER = 5, 7, 0.9


def before(errors, at):
    """Whether the earlier rule said that a promise is broken: the whole interval of the mean lies above it."""
    values, n = np.asarray(errors, dtype=float), len(errors)
    if set(values) <= {0.0, 1.0}:
        return wilson(values.mean(), n)[0] > at
    return values.mean() - 2 * values.std(ddof=1) / n**0.5 > at


def shown(hits, n):
    low, high = clopper_pearson(hits, n)
    return f"{hits / n:.3f} [{low:.3f}, {high:.3f}]"


# ------------------------------------------------------------------------------------------------- simulated


@functools.cache
def poisson_mean(copies, rate):
    """The mean number of false findings at which their share among all findings has the mean `rate`."""
    true, false = np.arange(copies + 1), np.arange(400)
    shares = false / np.maximum(1, false + true[:, None])

    def excess(mean):
        return stats.binom.pmf(true, copies, POWER) @ shares @ stats.poisson.pmf(false, mean) - rate

    return optimize.brentq(excess, 0, 200)


def simulated_promises(generator, redraws, rate, where="all controls"):
    """The promises of a calibration at a false-discovery rate in the controls named, and q in the others."""
    rates = np.full(NULLS + len(COPIES), rate if where == "all controls" else Q)
    rates[{"one without copies": 0, "one with copies": -1}.get(where, slice(0))] = rate
    promises = [Promise((f"null {i}", None, None), Q, generator.random(redraws) < rates[i], True) for i in range(NULLS)]
    for i, copies in enumerate(COPIES):
        mean = poisson_mean(copies, rates[NULLS + i])
        true, false = generator.binomial(copies, POWER, redraws), generator.poisson(mean, redraws)
        promises.append(Promise((f"copies {i}", None, None), Q, false / np.maximum(1, false + true), False))
    missed = generator.random((INTERVALS, redraws)) < 0.05
    return promises + [Promise((f"interval {i}", None, None), MISSES, each, True) for i, each in enumerate(missed)]


def said(generator, redraws, simulations, rate, where="all controls"):
    """In how many simulated calibrations the earlier rule and the present one say "not calibrated"."""
    counts = np.zeros(2, dtype=int)
    for _ in range(simulations):
        promises = simulated_promises(generator, redraws, rate, where)
        counts += any(before(each.errors, each.at) for each in promises), any(broken(promises))
    return counts


def simulated(simulations):
    print(f'SIMULATED: share of {simulations} calibrations that say "not calibrated": false-discovery rate, redraws')
    places = ("one without copies", "one with copies", "all controls")
    for rate, where in ((Q / 2, places[2]), (Q, places[2]), *((k * Q, where) for k in (2, 3, 5) for where in places)):
        for redraws in SIZES:
            generator = np.random.default_rng([redraws, round(1000 * rate), places.index(where)])
            old, new = said(generator, redraws, simulations, rate, where)
            rates = f"before {shown(old, simulations)}   now {shown(new, simulations)}"
            print(f"  {rate:5.1%} in {where:<18} {redraws:3d}   {rates}", flush=True)


# ------------------------------------------------------------------------------------------------- real


def redrawn(repeats, aimed):
    """A CALIBRATION table of redraws of the embedded images, where the test aims at the rate `aimed`."""
    images = import_images(None, ImportSettings(resize=8, limit=2000)).images
    design = controls.Design(64, 657, 32, 0.99, "auto", "cpu", SampleSettings(n_samples=32))
    with mock.patch.object(controls, "Q", aimed):
        return pa.concat_tables([controls.run_once(images, design, 0, repeat) for repeat in range(repeats)])


def said_before(table):
    """Whether the earlier rule says "not calibrated" of a CALIBRATION table."""
    found = {}
    for row in table.to_pylist():
        if row["control"] not in ("mirrored", "empirical"):
            false, missed = found.setdefault((row["control"], row["share"], row["eps"]), ([], []))
            false.append(row["false_discoveries"] / max(1, row["discoveries"]))
            if row["known_fraction"] is not None:
                missed.append(float(not row["low"] - 1e-9 <= row["known_fraction"] <= row["high"] + 1e-9))
    return any(before(false, Q) or (missed and before(missed, MISSES)) for false, missed in found.values())


def real(repeats):
    for aimed in (Q, 5 * Q):
        table = redrawn(repeats, aimed)
        repeat = table["repeat"].to_numpy()
        print(f"REAL: {repeats} redraws of a test that aims at {aimed:.0%}, in separate groups")
        for control in summarize(table).controls:
            print(
                f"    {control.control} {control.share or ''} {control.eps or ''}  {control.false_share.estimate:.4f}"
            )
        for redraws in [size for size in SIZES if size <= repeats]:
            groups = [table.filter(repeat // redraws == group) for group in range(repeats // redraws)]
            old = sum(said_before(group) for group in groups)
            answers = Counter(summarize(group).answer for group in groups)
            new = answers["not calibrated"]
            rates = f"before {shown(old, len(groups))}   now {shown(new, len(groups))}   {dict(answers)}"
            print(f"  {redraws:3d} redraws, {len(groups)} groups   {rates}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", default=2000, type=int, help="calibrations in each row")
    parser.add_argument("--redraws", default=1000, type=int, help="redraws of the embedded images")
    parser.add_argument("--only", choices=("simulated", "real"))
    arguments = parser.parse_args()
    print(f"python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}")
    if arguments.only in (None, "simulated"):
        simulated(arguments.simulations)
    if arguments.only in (None, "real"):
        real(arguments.redraws)


if __name__ == "__main__":
    main()
