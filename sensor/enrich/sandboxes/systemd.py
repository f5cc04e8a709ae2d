"""systemd: a `.scope` or `.service` cgroup goes by its unit's name, which is unique on the host.

The Description of a transient unit (systemd-run) is kept as a label: /run/systemd/transient is where
the manager writes such units.
"""

from __future__ import annotations

from sensor.enrich.sandboxes.named import HostFiles, Named, named

_KEY = "Description="


def recognise(components: tuple[str, ...], files: HostFiles) -> Named | None:
    unit = components[-1]
    if not unit.endswith((".scope", ".service")):
        return None
    content = files.read(f"/run/systemd/transient/{unit}")
    for line in content.decode(errors="replace").splitlines() if content else ():
        if line.startswith(_KEY):
            return named("systemd", unit, {"Description": line.removeprefix(_KEY)})
    return named("systemd", unit)
