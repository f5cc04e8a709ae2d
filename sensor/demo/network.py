"""Two network namespaces joined by a veth pair, and no way out of either.

`inside` is where the sandboxes' programs run, `outside` plays the internet: addresses of TEST-NET-3
(RFC 5737). Neither has a leg in the host's namespace nor a default route, so nothing leaves the
machine, whatever runs there.
"""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial
from pathlib import Path

from sensor.demo.undo import Undo

SANDBOX_ADDRESS = "203.0.113.2"
SSHD_ADDRESS = "203.0.113.10"
POOL_ADDRESS = "203.0.113.20"
NAMESPACES = Path("/run/netns")
SWEEPS = 20


class Network:
    """Namespaces `<name>-a` (inside) and `<name>-b` (outside), as `ip netns` names them."""

    def __init__(self, name: str, undo: Undo) -> None:
        self.inside, self.outside = f"{name}-a", f"{name}-b"
        # Deleting a namespace deletes the veth ends in it, once no process is left there.
        for namespace in (self.inside, self.outside):
            undo.add(f"namespace {namespace}", partial(remove_namespace, namespace))
            ip("netns", "add", namespace)
        ip("link", "add", "a0", "netns", self.inside, "type", "veth", "peer", "name", "b0", "netns", self.outside)
        self._up(self.inside, "a0", (SANDBOX_ADDRESS,))
        self._up(self.outside, "b0", (SSHD_ADDRESS, POOL_ADDRESS))
        # sshd listens on a port below 1024 without being root.
        subprocess.run(
            [*self.enter(self.outside), "sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start"],
            check=True,
        )

    @staticmethod
    def _up(namespace: str, device: str, addresses: tuple[str, ...]) -> None:
        # Without duplicate address detection and router solicitation the link is silent by itself.
        for address in addresses:
            ip("address", "add", f"{address}/24", "dev", device, namespace=namespace)
        for each in ("lo", device):
            ip("link", "set", each, "up", namespace=namespace)

    @staticmethod
    def enter(namespace: str) -> list[str]:
        """Prefix of a command that runs there."""
        return enter(namespace)

    def listening(self, namespace: str, port: int) -> bool:
        """Whether a TCP socket listens on `port` in that namespace (proc(5), /proc/net/tcp)."""
        said = subprocess.run(
            [*self.enter(namespace), "cat", "/proc/net/tcp"], check=True, capture_output=True, text=True
        ).stdout
        rows = (line.split() for line in said.splitlines()[1:])
        return any(row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port for row in rows)


def enter(namespace: str) -> list[str]:
    """Neither `ip netns exec` nor `ip -netns`: they mount /sys anew, so that the cgroup mount below it
    is gone, and fail where the root is no mount point, as in a chroot."""
    return ["nsenter", f"--net={NAMESPACES / namespace}", "--"]


def ip(*arguments: str, namespace: str = "") -> None:
    command = [*(enter(namespace) if namespace else []), "ip", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def remove_namespace(namespace: str) -> None:
    """Ends what still runs in it, then deletes it; nothing where it is not there."""
    try:
        identity = os.stat(NAMESPACES / namespace)
    except FileNotFoundError:
        return
    for _ in range(SWEEPS):  # a process found may have forked meanwhile
        ended = [_end(int(entry.name), identity) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        if not any(ended):
            break
    ip("netns", "delete", namespace)


def _end(tgid: int, identity: os.stat_result) -> bool:
    """Kill the process if its network namespace is that one; its pidfd is taken before it is looked at."""
    try:
        descriptor = os.pidfd_open(tgid)
    except OSError:
        return False
    try:
        if not os.path.samestat(os.stat(f"/proc/{tgid}/ns/net"), identity):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:  # it ended meanwhile, or is a zombie, which has no namespaces
        return False
    finally:
        os.close(descriptor)
    return True
