"""The sample of behaviours, and what counts as detected: for a test, and for `packaging/bench`."""

from __future__ import annotations

from pathlib import Path

from tests.live.peers.network import RESOLVER
from tests.live.peers.sample import BURNT, SAMPLE, UNNAMED, Variant

LEVELS = frozenset({"medium", "high", "critical"})
# Where a program was copied to must not be what tells of it, unless that is the behaviour.
PLACES = frozenset(
    {"Executable in a scratch folder, or hidden, connects outward", "A hidden file in a scratch folder is executed"}
)
ABOUT_PLACES = ("07", "20")
BURN_S = 3  # for the hours of the default; and on a machine where many share a core, a share of it is busy
BURN = {"every_s": 1, "age_s": BURN_S, "core_percent": 5, "steady_percent": 50}
SETTINGS = {"dns": {"resolvers": [RESOLVER]}, "detect": {"cpu_burn": BURN}}
RULES = Path(__file__).resolve().parents[2] / "rules"


def counts(name: str, title: str, level: str) -> bool:
    return level in LEVELS and (title not in PLACES or name.startswith(ABOUT_PLACES))


def shown_by_kernel() -> dict[str, tuple[Variant, ...]]:
    """Variants of which only system calls tell, where a rule on those is there at all."""
    calls = [text for path in RULES.rglob("*.yml") if "category: system_call" in (text := path.read_text())]
    actions = {"12 packet socket": "packet_socket", "13 namespaces changed": "namespace"}
    actions["14 ptrace of another process"] = "trace"
    return {name: (UNNAMED[name],) for name, word in actions.items() if any(f"Action: {word}" in it for it in calls)}


def cases() -> dict[str, tuple[Variant, ...]]:
    kernel = shown_by_kernel()
    named = {name: (*variants, *kernel.get(name, ())) for name, variants in SAMPLE.items()}
    return dict(sorted({**named, "09 CPU burnt for hours": BURNT}.items()))
