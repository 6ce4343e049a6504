"""`python benchmarks/table.py` writes benchmarks/README.md out of results/bench/*.json; nothing is typed."""

from typing import Any

from minieff.core.files import ROOT, load_results, write

HEAD = """# Benchmarks

Our implementations beside what you would use instead. `make bench` measures them again, and
`benchmarks/table.py` writes this page from `results/bench/*.json`. `bench/quant_epyc.json` is a run of
`bench_quant.py` on a second processor, at the commit that it names.

The calls of a comparison take turns in one process. A time is the median of its runs, with the quartiles in
brackets. "Times as long" says how many times as long as ours the peer takes, computed turn by turn and given
as median and quartiles: above 1 ours is faster, below 1 it is slower. The first row of a peer has its default
settings; the rows below have settings that its user could choose.

A limit is how long the same work would take at the rate of a probe, such as one large product, which is timed
in the same turns. The share reached is the limit divided by our time.
"""


def render() -> str:
    """The whole page."""
    names = sorted(f"bench/{path.stem}" for path in (ROOT / "results" / "bench").glob("*.json"))
    return "\n".join([HEAD, *(section(load_results(name)) for name in names)])


def section(results: dict[str, Any]) -> str:
    """One benchmark: where it ran, the comparisons, the limits."""
    machine = results["environment"]
    lines = [f"## {results['title']}", ""]
    lines += [
        f"{machine['cpu']}, {machine['cores']} cores. Python {machine['python']}, torch {machine['torch']}, "
        f"commit {machine['commit']}."
    ]
    lines += [f"Setting: {flat(results['setting'])}.", ""]
    lines += ["| | threads | ours | peer | takes | times as long | goal |", "|---|---|---|---|---|---|---|"]
    for part in results["comparisons"]:
        lines += [comparison_row(part, peer) for peer in part["peers"]]
    lines += [f"\n{part['note']}." for part in results["comparisons"] if part["note"]]
    lines += ["", "| | threads | work | rate of | limit | share reached |", "|---|---|---|---|---|---|"]
    lines += [limit_row(part) for part in results["limits"]]
    return "\n".join(lines) + "\n"


def comparison_row(part: dict, peer: dict) -> str:
    ours, times, goal = part["ours"], peer["times"], part["goal"]
    verdict = "-" if goal is None else f"{goal:g}: {'reached' if times['median'] >= goal else 'missed'}"
    cells = [
        part["what"], ours["threads"], f"{spread(ours, 1e3)} ms", peer["name"], f"{spread(peer, 1e3)} ms",
        f"**{times['median']:.2f}** ({times['low']:.2f} to {times['high']:.2f})", verdict,
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def limit_row(part: dict) -> str:
    share, unit = part["share"], part["unit"]
    scale, prefix = (1, "") if part["work"] < 1e6 else (1e-9, "G")
    cells = [
        part["what"],
        part["threads"],
        f"{scale * part['work']:.4g} {prefix}{unit}",
        f"{part['probe']}: {scale * part['rate']:.4g} {prefix}{unit}/s",
        f"{1e3 * part['seconds']:.4g} ms",
        f"**{share['median']:.0%}** ({share['low']:.0%} to {share['high']:.0%})",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def spread(timing: dict, scale: float) -> str:
    low, median, high = (f"{scale * timing[key]:.4g}" for key in ("low", "median", "high"))
    return f"{median} ({low} to {high})"


def flat(setting: dict[str, Any]) -> str:
    """Nested settings in one line."""
    return ", ".join(
        flat(value) if isinstance(value, dict) else f"{key} {value}" for key, value in setting.items()
    )


if __name__ == "__main__":
    print(write(ROOT / "benchmarks" / "README.md", render()))
