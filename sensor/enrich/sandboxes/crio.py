"""CRI-O: `crio-<id>.scope`, or `<id>` below a kubepods cgroup. (`crio-conmon-<id>.scope` is its
monitor, not a container.)

CRI-O writes the OCI spec to the container's directory and to its run directory in containers/storage;
kubelet's labels are annotations there. The pod's own labels are in the annotation Labels of the pod's
sandbox, which is a container by itself.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from sensor.enrich.sandboxes.named import HostFiles, Named, container_id, guessed, named

_STORES = ("/run/containers/storage", "/var/lib/containers/storage")
_LABELS = "io.kubernetes.cri-o.Labels"  # JSON
_POD = "io.kubernetes.cri-o.SandboxID"
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
    annotations = _annotations(identity, files)
    parts = [part for part in map(annotations.get, _KEYS) if isinstance(part, str) and part]
    if not parts:
        return None
    pod = annotations.get(_POD)
    own = pod if isinstance(pod, str) and container_id(pod) and pod != identity else ""
    of_pod = _labels(_annotations(own, files)) if own else {}
    # The pod's first: of more than are kept, those that an operator chose count most.
    return named("crio", "/".join(parts), {**of_pod, **_labels(annotations), **annotations})


def _annotations(identity: str, files: HostFiles) -> dict[str, object]:
    for store in _STORES:
        spec = files.decode(f"{store}/overlay-containers/{identity}/userdata/config.json", _Spec)
        if spec is not None:
            return spec.annotations
    return {}


def _labels(annotations: dict[str, object]) -> dict[str, object]:
    text = annotations.get(_LABELS)
    if not isinstance(text, str):
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return {}
