"""Totals of VBench and VBench-2.0 against published rows and the public scripts."""

import json
from pathlib import Path

import pytest

from vipo_cli.benchmarks.vbench import QUALITY, SEMANTIC, VBENCH
from vipo_cli.benchmarks.vbench2 import VBENCH2, VIPO
from vipo_cli.benchmarks.vbench_suite import coefficients, totals

GOLDEN = json.loads((Path(__file__).parent / "golden" / "vbench_totals.json").read_text())
SUITES = {"vbench": VBENCH, "vbench2": VBENCH2}

# Rows of the public leaderboard as Show-o2 (arXiv 2506.15564) and Goku (arXiv 2502.04896) print
# them: total, quality, semantic; then the dimensions in the leaderboard's order.
ROWS = {
    "ModelScope": "75.75 78.05 66.54 89.87 95.29 98.28 95.79 66.39 52.06 58.57 82.25 38.98 92.40 "
    "81.72 33.68 39.26 23.39 25.37 25.67",
    "LaVie": "77.08 78.78 70.31 91.41 97.47 98.30 96.38 49.72 54.94 61.90 91.82 33.32 96.80 86.39 "
    "34.09 52.69 23.56 25.93 26.41",
    "Show-1": "78.93 80.42 72.98 95.53 98.02 99.12 98.24 44.44 57.35 58.66 93.07 45.47 95.60 86.35 "
    "53.50 47.03 23.06 25.28 27.46",
    "AnimateDiff-V2": "80.27 82.90 69.75 95.30 97.68 98.75 97.76 40.83 67.16 70.10 90.90 36.88 "
    "92.60 87.47 34.60 50.19 22.42 26.03 27.04",
    "Gen-2": "80.58 82.47 73.03 97.61 97.61 99.56 99.58 18.89 66.96 67.42 90.92 55.47 89.20 89.49 "
    "66.91 48.91 19.34 24.12 26.17",
    "Pika-1.0": "80.69 82.92 71.77 96.94 97.36 99.74 99.50 47.50 62.04 61.87 88.72 43.08 86.20 "
    "90.57 61.03 49.83 22.26 24.22 25.94",
    "VideoCrafter-2.0": "80.44 82.20 73.42 96.85 98.22 98.41 97.73 42.50 63.13 67.22 92.55 40.66 "
    "95.00 92.92 35.86 55.29 25.13 25.84 28.23",
    "CogVideoX-5B": "81.61 82.75 77.04 96.23 96.52 98.66 96.92 70.97 61.98 62.90 85.23 62.11 99.40 "
    "82.81 66.35 53.20 24.91 25.38 27.59",
    "Kling": "81.85 83.39 75.68 98.33 97.60 99.30 99.40 46.94 61.21 65.62 87.24 68.05 93.40 89.90 "
    "73.03 50.86 19.62 24.17 26.42",
    "Gen-3": "82.32 84.11 75.17 97.10 96.62 98.61 99.23 60.14 63.34 66.82 87.81 53.64 96.40 80.90 "
    "65.09 54.57 24.31 24.71 26.69",
    "HunyuanVideo": "83.24 85.09 75.82 97.37 97.76 99.44 98.99 70.83 60.36 67.56 86.10 68.55 94.40 "
    "91.60 68.68 53.88 19.80 23.89 26.44",
    "Step-Video-T2V": "81.83 84.46 71.28 98.05 97.67 99.40 99.08 53.06 61.23 70.63 80.56 50.55 "
    "94.00 88.25 71.47 24.38 23.17 26.01 27.12",
}
# SIPO, table 1: total, quality, semantic. Its row "WanX-1.3B + Diffusion-DPO" (84.41 85.32 80.44)
# contradicts the rule, and is left out.
SIPO = (
    (80.91, 82.18, 75.83),
    (81.16, 82.32, 76.49),
    (81.37, 82.55, 76.69),
    (81.53, 82.74, 76.71),
    (67.28, 68.37, 62.93),
    (81.46, 82.65, 76.72),
    (81.68, 82.92, 76.76),
    (81.91, 83.05, 77.33),
    (82.02, 83.15, 77.50),
    (82.17, 83.26, 77.81),
    (82.28, 83.37, 77.91),
    (84.26, 85.30, 80.09),
    (84.54, 85.51, 80.67),
    (84.78, 85.73, 81.02),
)
# LongCat-Video's technical report: creativity, commonsense, controllability, human
# fidelity, physics, total.
VBENCH2_ROWS = {
    "Veo3": (60.85, 69.48, 47.04, 86.88, 69.35, 66.72),
    "Vidu Q1": (56.54, 65.98, 38.13, 81.24, 71.63, 62.70),
    "LongCat-Video": (54.73, 70.94, 44.79, 80.20, 59.92, 62.11),
    "Wan2.1": (55.25, 63.98, 37.32, 81.60, 62.84, 60.20),
}


@pytest.mark.parametrize("model", ROWS)
def test_published_rows_come_out(model):
    total, quality, semantic, *values = map(float, ROWS[model].split())
    raw = {name: value / 100 for name, value in zip(VBENCH.names, values, strict=True)}

    found = totals(VBENCH, raw)

    # they were printed from more digits than the dimensions here have
    for name, printed in (("quality", quality), ("semantic", semantic), ("total", total)):
        assert 100 * found[name] == pytest.approx(printed, abs=0.011)


@pytest.mark.parametrize(("total", "quality", "semantic"), SIPO)
def test_the_total_weighs_quality_four_times(total, quality, semantic):
    weights = {each.name: each.weight for each in VBENCH.categories}
    mean = (quality * weights["quality"] + semantic * weights["semantic"]) / sum(weights.values())

    assert mean == pytest.approx(total, abs=0.0101)


@pytest.mark.parametrize("model", VBENCH2_ROWS)
def test_the_total_of_vbench2_is_the_mean_of_its_categories(model):
    *categories, total = VBENCH2_ROWS[model]
    raw = {}
    for category, value in zip(VBENCH2.categories, categories, strict=True):
        raw |= dict.fromkeys(category.dimensions, value / 100)

    found = totals(VBENCH2, raw)

    assert 100 * found["total"] == pytest.approx(total, abs=0.0101)
    assert [100 * found[each.name] for each in VBENCH2.categories] == pytest.approx(categories)


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("row", range(6))
def test_every_bit_is_that_of_the_public_scripts(name, row):
    suite = SUITES[name]
    raw, expected = GOLDEN[name][row]

    # rows whose dimensions are incomplete: the scripts take a raw 0
    assert totals(suite, dict.fromkeys(suite.names, 0.0) | raw) == expected


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_nothing_is_added_up_of_missing_dimensions(suite):
    whole = dict.fromkeys(suite.names, 0.5)
    for name in suite.names:
        found = totals(suite, {each: value for each, value in whole.items() if each != name})
        [incomplete] = [each.name for each in suite.categories if name in each.dimensions]
        others = {each.name for each in suite.categories} - {incomplete}
        assert found.keys() == others


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_coefficients_are_the_slopes_of_totals(suite):
    raw = {name: 0.3 + 0.01 * number for number, name in enumerate(suite.names)}
    before = totals(suite, raw)
    for metric in before:
        slopes = coefficients(suite, metric)
        for name in suite.names:
            change = totals(suite, raw | {name: raw[name] + 0.1})[metric] - before[metric]
            assert change == pytest.approx(0.1 * slopes.get(name, 0.0), abs=1e-12)


def test_suites_are_complete():
    assert len(VBENCH.dimensions) == 16
    assert len(VBENCH2.dimensions) == 18
    assert sorted(VBENCH.names) == sorted(QUALITY + SEMANTIC)
    members = [name for each in VBENCH2.categories for name in each.dimensions]
    assert sorted(VBENCH2.names) == sorted(members)
    assert set(VIPO) < set(VBENCH2.names)
