"""Docker: `docker-<id>.scope` (systemd driver) or `docker/<id>` (cgroupfs driver), any parent.

/var/lib/docker/containers/<id>/config.v2.json is dockerd's own record (container.ToDisk): `Name` with a
leading slash, `Config.Labels`. `docker create` writes it before the cgroup exists.
"""

from __future__ import annotations

from msgspec import Struct, field

from sensor.enrich.sandboxes.named import HostFiles, Named, container_id, guessed, named


class _Config(Struct):
    labels: dict[str, object] | None = field(name="Labels", default=None)


class _Container(Struct):
    name: str = field(name="Name", default="")
    config: _Config | None = field(name="Config", default=None)


def recognise(components: tuple[str, ...], files: HostFiles) -> Named | None:
    identity = container_id(components[-1], "docker-", ".scope")
    if identity is None and len(components) > 1 and components[-2] == "docker":
        identity = container_id(components[-1])
    if identity is None:
        return None
    record = files.decode(f"/var/lib/docker/containers/{identity}/config.v2.json", _Container)
    if record is None or not record.name.removeprefix("/"):
        return guessed("docker", identity[:12])
    return named("docker", record.name.removeprefix("/"), record.config.labels if record.config else None)
