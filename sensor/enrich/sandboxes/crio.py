"""CRI-O: `crio-<id>.scope`, or `<id>` below a kubepods cgroup. (`crio-conmon-<id>.scope` is its
monitor, not a container.)

CRI-O writes the OCI spec to the container's directory and to its run directory in containers/storage;
kubelet's labels are annotations there.
"""

from __future__ import annotations

from msgspec import Struct

from sensor.enrich.sandboxes.named import HostFiles, Named, container_id, guessed, named

_STORES = ("/run/containers/storage", "/var/lib/containers/storage")
_KEYS = ("io.kubernetes.pod.namespace", "io.kubernetes.pod.name", "io.kubernetes.container.name")


class _Spec(Struct):
    annotations: dict[str, object] = {}


def recognise(components: tuple[str, ...], files: HostFiles) -> Named | None:
    identity = container_id(components[-1], "crio-", ".scope")
    if identity is not None:
        return by_id(identity, files) or guessed("crio", identity[:12])
    identity = container_id(components[-1])
    if identity is not None and any(c.startswith("kubepods") for c in components[:-1]):
        return by_id(identity, files)
    return None


def by_id(identity: str, files: HostFiles) -> Named | None:
    for store in _STORES:
        spec = files.decode(f"{store}/overlay-containers/{identity}/userdata/config.json", _Spec)
        if spec is None:
            continue
        parts = [part for part in map(spec.annotations.get, _KEYS) if isinstance(part, str) and part]
        if parts:
            return named("crio", "/".join(parts), spec.annotations)
    return None
