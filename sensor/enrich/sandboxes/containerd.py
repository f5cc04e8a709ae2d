"""containerd under Kubernetes' CRI: `cri-containerd-<id>.scope`, or `<id>` below a kubepods cgroup.

The task's bundle keeps the OCI spec, whose annotations the CRI plugin sets: `sandbox-name` is the
pod's name, `sandbox-namespace` its namespace; the pause container has no `container-name`.
"""

from __future__ import annotations

from msgspec import Struct

from sensor.enrich.sandboxes.named import HostFiles, Named, container_id, guessed, named

_BUNDLE = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
_CRI = "io.kubernetes.cri."


class _Spec(Struct):
    annotations: dict[str, object] = {}


def recognise(components: tuple[str, ...], files: HostFiles) -> Named | None:
    identity = container_id(components[-1], "cri-containerd-", ".scope")
    if identity is not None:
        return by_id(identity, files) or guessed("containerd", identity[:12])
    identity = container_id(components[-1])
    if identity is not None and any(c.startswith("kubepods") for c in components[:-1]):
        return by_id(identity, files)
    return None


def by_id(identity: str, files: HostFiles) -> Named | None:
    spec = files.decode(f"{_BUNDLE}/{identity}/config.json", _Spec)
    if spec is None:
        return None
    said = [spec.annotations.get(_CRI + key) for key in ("sandbox-namespace", "sandbox-name", "container-name")]
    parts = [part for part in said if isinstance(part, str) and part]
    return named("containerd", "/".join(parts), spec.annotations) if parts else None
