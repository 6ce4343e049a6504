"""Energy: measured with a counter of the processor, or modelled; a result says which.

Intel and AMD processors count the energy of each processor package (RAPL). Linux shows the counters under
/sys/class/powercap, only to root, and most virtual machines hide them. Without a counter there is a model:

    E = MACs e_mac + bytes e_byte

The model is for comparisons. What it shows: moving a byte costs far more than computing with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

# Energy of one operation in a 45 nm process, in joules: a 32-bit multiplication and addition (Horowitz 2014,
# "Computing's Energy Problem", ISSCC); reading 32 bits from DRAM is recalled from the same table and
# UNVERIFIED.
JOULES_A_MAC = (3.7 + 0.9) * 1e-12
JOULES_A_BYTE = 640e-12 / 4
MODEL_SOURCE = (
    "modelled: 4.6 pJ a 32-bit MAC (45 nm, Horowitz 2014) and 160 pJ a byte of DRAM (unverified); "
    "each stored byte read once a pass"
)


@dataclass(frozen=True)
class Energy:
    """Joules and where they come from: "rapl" (a counter of the whole processor) or "modelled"."""

    joules: float
    method: str
    basis: str

    def __post_init__(self) -> None:
        if self.method not in ("rapl", "modelled"):
            raise ValueError(f"method={self.method!r}: energy is either 'rapl' or 'modelled'")

    @property
    def measured(self) -> float:
        """The joules if they were measured; ValueError if they were modelled."""
        if self.method == "modelled":
            raise ValueError(f"{self.joules:.3g} J was not measured but {self.basis}; print it as modelled")
        return self.joules

    def __str__(self) -> str:
        return f"{self.joules:.3g} J ({self.basis})"


def modelled(macs: int | float, moved_bytes: int | float) -> Energy:
    """E = MACs e_mac + bytes e_byte, for one pass.

    >>> round(modelled(macs=0, moved_bytes=1).joules / modelled(macs=1, moved_bytes=0).joules)
    35
    """
    return Energy(macs * JOULES_A_MAC + moved_bytes * JOULES_A_BYTE, "modelled", MODEL_SOURCE)


POWERCAP = Path("/sys/class/powercap")


def counters(powercap: Path = POWERCAP) -> list[Path]:
    """The readable energy counters of packages and of their memory; empty in most virtual machines.

    Cores and graphics are part of a package and would count twice.

    >>> counters(Path("/no/such/folder"))
    []
    """
    found = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        try:
            (folder / "energy_uj").read_text()
        except OSError:
            continue
        if (folder / "name").read_text().strip().startswith(("package", "dram")):
            found.append(folder)
    return found


def measured(call: Callable[[], object], powercap: Path = POWERCAP, at_least: float = 1.0) -> Energy:
    """Joules per call: what all packages used while it was repeated for `at_least` seconds.

    Everything else that runs is included. Counters refresh every few milliseconds, hence the repetition; each
    may wrap around once. ValueError if there is no counter to read.

    >>> measured(lambda: None, powercap=Path("/no/such/folder"))
    Traceback (most recent call last):
        ...
    ValueError: no readable energy counter under /no/such/folder; use energy.modelled, and say so
    """
    folders = counters(powercap)
    if not folders:
        raise ValueError(f"no readable energy counter under {powercap}; use energy.modelled, and say so")

    def read() -> list[int]:
        return [int((folder / "energy_uj").read_text()) for folder in folders]

    before, calls, begun = read(), 0, perf_counter()
    while calls == 0 or perf_counter() - begun < at_least:
        call()
        calls += 1
    ranges = [int((folder / "max_energy_range_uj").read_text()) for folder in folders]
    used = sum((b - a) % (limit + 1) for a, b, limit in zip(before, read(), ranges, strict=True))
    return Energy(
        used * 1e-6 / calls,
        "rapl",
        f"measured with rapl over {len(folders)} packages and {calls} calls, everything that ran included",
    )


def of_pass(call: Callable[[], object], macs: float, moved_bytes: int) -> Energy:
    """Measured if there is a counter, else modelled; `method` says which.

    >>> of_pass(lambda: None, macs=1e9, moved_bytes=7_440_000).method in ("rapl", "modelled")
    True
    """
    return measured(call) if counters() else modelled(macs, moved_bytes)
