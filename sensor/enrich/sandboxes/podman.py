"""Podman, rootful: `libpod-<id>.scope` (systemd), `libpod_parent/libpod-<id>` (cgroupfs).

Names are in containers/storage's list of containers; those of `podman run --rm` in a list of their own.
A rootless user's lists are the user's files: they are not read, and such a container goes by its id.
"""

from __future__ import annotations

from msgspec import Struct

from sensor.enrich.sandboxes.named import HostFiles, Named, container_id, guessed, named

_STORE = "/var/lib/containers/storage/overlay-containers"
_LISTS = ("containers.json", "volatile-containers.json")


class _Container(Struct):
    id: str = ""
    names: list[str] | None = None


class _Spec(Struct):
    annotations: dict[str, object] = {}


def recognise(components: tuple[str, ...], files: HostFiles) -> Named | None:
    identity = container_id(components[-1], "libpod-", ".scope") or container_id(components[-1], "libpod-")
    if identity is None:
        return None
    for name in _LISTS:
        for container in files.decode(f"{_STORE}/{name}", list[_Container]) or []:
            if container.id == identity and container.names:
                spec = files.decode(f"{_STORE}/{identity}/userdata/config.json", _Spec)
                return named("podman", container.names[0], spec.annotations if spec else None)
    return guessed("podman", identity[:12])
