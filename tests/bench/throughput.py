from __future__ import annotations

from tests.bench.harness import Figure, unmeasured
from tests.bench.workspace import Workspace

NAMES = ("pipeline",)
def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    return [unmeasured(name, "events/s", ">= 100000", "absent") for name in NAMES]
