"""A pod's cgroup, where the pod and not each container is the sandbox: `kubepods…-pod<uid>.slice`
(systemd driver, dashes of the uid as underscores) or `kubepods/…/pod<uid>` (cgroupfs driver).

The kubelet makes it before any container, so its name becomes known when the registry asks again.
"""

from __future__ import annotations

import re

from sensor.enrich.sandboxes import containerd, crio
from sensor.enrich.sandboxes.named import HostFiles, Named, container_id, guessed, named

CONTAINERS_MAX = 64
_POD = re.compile(r"(?:kube[a-z]*-.*|kubepods.*-)?pod([0-9a-f]{8}[-_0-9a-f]{0,40})(?:\.slice)?", re.ASCII)
_RUNTIMES = ((containerd, "cri-containerd-"), (crio, "crio-"))


def recognise(components: tuple[str, ...], files: HostFiles, mount: str = "") -> Named | None:
    pod = _POD.fullmatch(components[-1])
    if pod is None or not any(c.startswith(("kubepods", "kubelet")) for c in components):
        return None
    for child in files.children("/".join((mount, *components)), CONTAINERS_MAX) if mount else ():
        for runtime, prefix in _RUNTIMES:
            identity = container_id(child, prefix, ".scope") or container_id(child)
            found = runtime.by_id(identity, files) if identity else None
            if found is not None:
                return named("kubernetes", "/".join(found.name.split("/")[:2]), found.labels)
    return guessed("kubernetes", "pod-" + pod[1].replace("_", "-"))
