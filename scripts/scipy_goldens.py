"""Writes the values of scipy that statistics are compared with.

    python3 -m venv venv && venv/bin/pip install numpy scipy==1.17.1
    venv/bin/python scripts/scipy_goldens.py > tests/fixtures/scipy.json

The tests of src/schedule/src/comparison.rs, src/report/src/statistics.rs and overall.rs read the file. It takes some minutes. Random numbers
have fixed seeds, so that the same scipy writes the same file.
"""

import json
import sys

import numpy
import scipy
from scipy import integrate, stats

RATE = 0.05


def samples(*cells):
    """Results as accuracies: rounded, so that the file holds exactly what scipy saw."""
    return [[round(float(value), 4) for value in cell] for cell in cells]


def drawn(seed, sizes, means, deviation):
    generator = numpy.random.default_rng(seed)
    return samples(*(generator.normal(mean, deviation, size) for size, mean in zip(sizes, means)))


FAMILIES = {
    "ten cells of three": drawn(1, [3] * 10, [0.6 + 0.004 * cell for cell in range(10)], 0.02),
    "four cells of five": drawn(2, [5] * 4, [0.5, 0.53, 0.56, 0.57], 0.01),
    "three cells of unequal size": drawn(3, [3, 5, 8], [0.41, 0.44, 0.45], 0.01),
    "two cells of twenty": drawn(4, [20] * 2, [0.9, 0.906], 0.005),
}


def studentized_range():
    """Points of Tukey's statistic; among them those of the shares of 5 % that repeated looks get."""
    points = []
    for count, freedom in [(2, 2), (2, 4), (3, 1), (3, 6), (5, 10), (5, 20), (10, 20), (10, 90), (12, 24), (20, 190)]:
        for rate in [RATE, RATE / 4]:
            if (freedom, rate) == (1, RATE / 4):  # scipy's own integral does not converge there
                continue
            point = stats.studentized_range.ppf(1 - rate, count, freedom)
            points.append({"count": count, "freedom": freedom, "rate": rate, "point": float(point)})
    return points


def students_t():
    """Two-sided points of Student's t, for one comparison and for several by Bonferroni."""
    return [
        {"freedom": freedom, "comparisons": comparisons, "point": float(stats.t.ppf(1 - RATE / comparisons / 2, freedom))}
        for freedom in [1, 2, 4, 8, 18, 38, 190]
        for comparisons in [1, 2, 5, 30]
    ]


def within_control(limit, shares, freedom):
    """The probability that all of Dunnett's statistics stay within a limit, by scipy's adaptive quadrature."""

    def given(z, scale):
        inside = 1.0
        for share in shares:
            own = (1 - share) ** 0.5
            common = share**0.5 * z
            inside *= stats.norm.cdf((common + limit * scale) / own) - stats.norm.cdf((common - limit * scale) / own)
        return inside * stats.norm.pdf(z)

    def at_scale(scale):
        density = stats.chi.pdf(scale * freedom**0.5, freedom) * freedom**0.5
        return density * integrate.quad(given, -9, 9, args=(scale,), epsabs=1e-11, epsrel=1e-11)[0]

    return integrate.quad(at_scale, 0, 8, epsabs=1e-11, epsrel=1e-11, limit=200, points=[0.5, 1, 2])[0]


def dunnett_points():
    """The probability at a limit, which needs no search for the point: it is 95 % there."""
    return [
        {"shares": shares, "freedom": freedom, "limit": limit, "probability": within_control(limit, shares, freedom)}
        for shares, freedom, limit in [
            ([0.5], 4, 2.776445105198),
            ([0.5] * 2, 6, 2.862750146202),
            ([0.5] * 4, 10, 2.890480110325),
            ([0.5] * 9, 20, 2.946281505901),
            ([0.375, 0.625, 0.5], 13, 2.655329720897),
            ([0.5] * 4, 40, 2.2),
        ]
    ]


def half_width(interval):
    return float(interval.high - interval.low) / 2


def comparisons_with_best():
    """Simultaneous intervals of scipy.stats.tukey_hsd, around the differences from the highest mean."""
    found = []
    for name, cells in FAMILIES.items():
        best = int(numpy.argmax([numpy.mean(cell) for cell in cells]))
        result = stats.tukey_hsd(*cells)
        interval = result.confidence_interval(1 - RATE)
        others = [cell for cell in range(len(cells)) if cell != best]
        found.append({
            "name": name,
            "cells": cells,
            "best": best,
            "compared": [
                {
                    "cell": cell,
                    "difference": float(result.statistic[cell, best]),
                    "margin": float(interval.high[cell, best] - interval.low[cell, best]) / 2,
                }
                for cell in others
            ],
        })
    return found


def comparisons_with_baseline():
    """Simultaneous intervals of scipy.stats.dunnett, which integrates by random points: three digits."""
    found = []
    for name, cells in FAMILIES.items():
        result = stats.dunnett(*cells[1:], control=cells[0], rng=numpy.random.default_rng(5))
        interval = result.confidence_interval(1 - RATE)
        found.append({
            "name": name,
            "cells": cells,
            "margins": [float(high - low) / 2 for low, high in zip(interval.low, interval.high)],
        })
    return found


def pairs():
    """Student's test of two cells, and of one cell and a number, with Bonferroni's share of the rate."""
    found = []
    for comparisons in [1, 6]:
        for name, cells in FAMILIES.items():
            level = 1 - RATE / comparisons
            of_two = stats.ttest_ind(cells[0], cells[1], equal_var=True).confidence_interval(level)
            of_one = stats.ttest_1samp(cells[0], 0.5).confidence_interval(level)
            found.append({
                "name": name,
                "comparisons": comparisons,
                "cells": cells[:2],
                "margin": half_width(of_two),
                "margin_of_one": half_width(of_one),
            })
    return found


def cells():
    """Standard error and interval of the mean of one cell."""
    found = []
    for name, family in FAMILIES.items():
        values = family[0]
        error = float(stats.sem(values))
        low, high = stats.t.interval(1 - RATE, len(values) - 1, loc=numpy.mean(values), scale=error)
        found.append({
            "name": name,
            "values": values,
            "mean": float(numpy.mean(values)),
            "std": float(numpy.std(values, ddof=1)),
            "se": error,
            "ci95": float(high - low) / 2,
        })
    return found


def nested():
    """One cell of subsets of equal size: the F ratio of the mean squares between and within subsets, and the latter."""
    found = []
    for seed, subsets, inits in [(6, 3, 4), (7, 5, 2)]:
        generator = numpy.random.default_rng(seed)
        means = generator.normal(0.6, 0.02, subsets)
        values = samples(*(generator.normal(mean, 0.005, inits) for mean in means))
        found.append({
            "subsets": values,
            "f": float(stats.f_oneway(*values).statistic),
            "within": float(numpy.mean([numpy.var(subset, ddof=1) for subset in values])),
        })
    return found


def mean_ranks(table):
    """Ranks of the rows in each column by their means, averaged over the columns. 1 is the best."""
    means = numpy.array([[numpy.mean(cell) for cell in row] for row in table])
    return numpy.mean([stats.rankdata(-column) for column in means.T], axis=0)


def overall():
    """Rank and interquartile mean of rows, and their percentile intervals. scipy's bootstrap draws each sample it is given
    by itself, which is the stratified bootstrap if each cell is a sample.
    """
    rows, columns, seeds = 4, 3, 4  # twelve results in a row: the quarters are whole numbers, as trim_mean needs them
    generator = numpy.random.default_rng(8)
    table = [
        samples(*(generator.normal(0.5 + 0.1 * column + 0.01 * row, 0.015, seeds) for column in range(columns)))
        for row in range(rows)
    ]
    cells_in_order = [cell for row in table for cell in row]

    def rank_of(row):
        def statistic(*cells, axis):
            means = numpy.stack([numpy.mean(cell, axis=axis) for cell in cells])
            means = means.reshape(rows, columns, *means.shape[1:])
            return numpy.mean(stats.rankdata(-means, axis=0), axis=1)[row]

        return statistic

    def iqm(*cells, axis):
        return stats.trim_mean(numpy.concatenate(cells, axis=axis), 0.25, axis=axis)

    def interval(cells, statistic):
        result = stats.bootstrap(
            cells, statistic, n_resamples=50_000, batch=5_000, vectorized=True, paired=False, method="percentile",
            rng=numpy.random.default_rng(9),
        )
        return [float(result.confidence_interval.low), float(result.confidence_interval.high)]

    return {
        "table": table,
        "rank": [float(rank) for rank in mean_ranks(table)],
        "rank_interval": [interval(cells_in_order, rank_of(row)) for row in range(rows)],
        "iqm": [float(stats.trim_mean(numpy.concatenate(row), 0.25)) for row in table],
        "iqm_interval": [interval(row, iqm) for row in table],
    }


def main():
    document = {
        "written_by": f"scripts/scipy_goldens.py with scipy {scipy.__version__}, numpy {numpy.__version__}",
        "studentized_range": studentized_range(),
        "students_t": students_t(),
        "dunnett_points": dunnett_points(),
        "with_best": comparisons_with_best(),
        "with_baseline": comparisons_with_baseline(),
        "pairs": pairs(),
        "cells": cells(),
        "nested": nested(),
        "overall": overall(),
    }
    json.dump(document, sys.stdout, indent=1)
    print()


main()
