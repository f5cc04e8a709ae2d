"""`pinfold sandbox run NAME`: the cgroup `<instance>/<NAME>`."""

from __future__ import annotations

from sensor.enrich.sandboxes.named import Named, named


def recognise(components: tuple[str, ...], instance: str) -> Named | None:
    if len(components) == 2 and components[0] == instance:
        return named("pinfold", components[1])
    return None
