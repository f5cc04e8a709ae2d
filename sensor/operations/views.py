"""A sandbox as it is told: what it is, its processes, its flows. All of it bounded."""

from __future__ import annotations

import socket
import time
from itertools import islice
from typing import Any

from sensor.enrich.addresses import PROTOCOLS
from sensor.enrich.flowtable import Flow
from sensor.enrich.processes import Process
from sensor.enrich.sandboxes.registry import Sandbox
from sensor.operations.parts import Parts
from sensor.operations.recent import Recent

MOST_PROCESSES = 1024
MOST_FLOWS = 256
FLOWS_LOOKED_AT = 8192  # of the host's, the newest: some 0.5 ms
MOST_DETECTIONS = 16
_LINE_CHARACTERS = 512
_PATH_CHARACTERS = 1024


def described(parts: Parts, recent: Recent, sandbox: Sandbox) -> dict[str, Any]:
    newest = islice(reversed(parts.enricher.flows.table.living.values()), FLOWS_LOOKED_AT)
    flows = [flow for flow in newest if flow.sandbox_id == sandbox.id]
    shown = [shown_flow(flow) for flow in flows[:MOST_FLOWS]]
    return parts.reports.row(sandbox) | {
        "labels": {text(name): text(value) for name, value in sandbox.labels.items()},
        "attributes": dict(parts.attributes.get(sandbox.id)) if parts.attributes is not None else {},
        "granted": list(sandbox.granted),
        "born_ns": _utc(sandbox.born_ns, time.CLOCK_MONOTONIC),
        "ended_ns": _utc(sandbox.ended_ns, time.CLOCK_MONOTONIC),
        "tampered": parts.reports.tampered(sandbox.id),
        "flows": shown,
        "more_flows": len(flows) - len(shown),
        "latest": [told.id for told in recent.of(sandbox.id, MOST_DETECTIONS)],
    }


def tree(parts: Parts, sandbox: Sandbox) -> dict[str, Any]:
    """Flat, each with its parent: whoever shows it draws it. Those that left its cgroup are among them."""
    processes = parts.enricher.processes.in_sandbox(sandbox.id)
    shown = processes[:MOST_PROCESSES]
    return {
        "id": sandbox.id,
        "name": text(sandbox.name),
        "processes": [_process(process) for process in shown],
        "more": len(processes) - len(shown),
    }


def shown_flow(flow: Flow) -> dict[str, Any]:
    return {
        "tgid": flow.tgid,
        "protocol": PROTOCOLS.get(flow.protocol, f"ip:{flow.protocol}"),
        "initiated": flow.initiated,
        "local": _endpoint(flow.family, flow.local, flow.local_port),
        "remote": _endpoint(flow.family, flow.remote, flow.remote_port),
    }


def text(value: str, most: int = _PATH_CHARACTERS) -> str:
    """Of what a sandbox chose: what can be encoded as JSON, bounded. Whoever prints it escapes it."""
    return value[:most].encode("utf-8", "replace").decode()


def _process(process: Process) -> dict[str, Any]:
    return {
        "tgid": process.tgid,
        "parent_tgid": process.parent_tgid,
        "image": text(process.image),
        "command_line": text(process.command_line, _LINE_CHARACTERS),
        "user": text(process.user),
        "started_ns": _utc(process.start_ns, time.CLOCK_BOOTTIME),
        "cgroup_id": process.cgroup_id,
        "entered": process.entry.tgid == process.tgid,
    }


def _endpoint(family: int, address: bytes, port: int) -> str:
    if family == socket.AF_INET6:
        return f"[{socket.inet_ntop(family, address[:16].ljust(16, bytes(1)))}]:{port}"
    return f"{socket.inet_ntop(socket.AF_INET, address[:4].ljust(4, bytes(1)))}:{port}"


def _utc(then_ns: int, clock: int) -> int:
    return time.time_ns() - (time.clock_gettime_ns(clock) - then_ns) if then_ns else 0
