"""The benchmark runs and stores what its page needs, and the page says what was stored."""

import os
import subprocess
import sys

import pytest

from benchmarks import table
from minieff.files import ROOT, read_json

SPREAD = ("low", "median", "high")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bench")
    run = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "benchmarks" / "bench_transformer.py", "--quick"],
        cwd=folder,
        env={**os.environ, "MINIEFF_RESULTS": str(folder), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return read_json(folder / "bench_transformer.json")


def ordered(spread: dict) -> bool:
    low, median, high = (spread[key] for key in SPREAD)
    return 0 < low <= median <= high


def test_a_quick_run_measures_every_comparison(results):
    parts = {(part["what"].split(",")[0], part["ours"]["threads"]): part for part in results["comparisons"]}
    assert {goal for part in parts.values() if (goal := part["goal"])} == {1.1, 3.0}
    assert set(parts) == {
        ("training step", 2), ("forward pass", 2), ("decoding 8 tokens after 4", 1),
        ("decoding 8 tokens after 4", 2),
    }  # fmt: skip
    for part in parts.values():
        assert ordered(part["ours"]) and part["ours"]["runs"] == 3
        assert "default" in [peer["name"] for peer in part["peers"]]
        for peer in part["peers"]:
            assert ordered(peer) and ordered(peer["times"])


def test_a_quick_run_states_limits(results):
    assert len(results["limits"]) == 2 + 2 * 3
    for part in results["limits"]:
        assert ordered(part["share"]) and part["seconds"] == pytest.approx(part["work"] / part["rate"])


def test_the_page_shows_every_measured_row(results):
    page = table.section(results)
    for part in results["comparisons"]:
        for peer in part["peers"]:
            assert f"| {peer['name']} |" in page and f"**{peer['times']['median']:.2f}**" in page
    for part in results["limits"]:
        assert f"{part['probe']}: " in page and f"**{part['share']['median']:.0%}**" in page


@pytest.mark.skipif(not any((ROOT / "results").glob("bench_*.json")), reason="nothing was measured yet")
def test_the_readme_is_the_rendering_of_the_results():
    assert (ROOT / "benchmarks" / "README.md").read_text() == table.render()
