"""Plays the daemon's control socket: HTTP on a Unix socket, a few sandboxes, quarantines that go on a step with each
question. It keeps what was asked of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sensor.control.listeners import CONTROL_SOCKET

STEPS = ("network", "sockets", "devices", "exec", "freeze", "evidence", "hold")
HOSTILE = "agent-1\x1b[2J"
Answer = tuple[int, Any]
WOULD: Answer = 200, {"dry_run": True, "would": ["do this\x1b[2J"]}


def sandbox(sandbox_id: int, name: str, path: str = "", **more: Any) -> dict[str, Any]:
    return {
        "id": sandbox_id,
        "name": name,
        "class": "agents",
        "runtime": "docker",
        "path": path or f"pinfold/{sandbox_id}",
        "processes": 3,
        "detections": 0,
        "lost": {},
        "state": "clean",
        "quarantine": "",
    } | more


class Api(ThreadingMixIn, UnixStreamServer):
    """Serves `runtime`/control.sock from construction to `close`."""

    daemon_threads = True

    def __init__(self, runtime: Path) -> None:
        self.sandboxes = [sandbox(11, "agent-1"), sandbox(12, "agent-2"), sandbox(21, "twin"), sandbox(22, "twin")]
        self.quarantines: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str, Any]] = []  # method, path with its query, body
        self.answers: dict[str, Callable[[Any], Answer]] = {}  # by path: instead of ours
        self.reloads: list[dict[str, int]] = []  # what each status tells of them
        self.fails: str = ""  # the step that fails
        super().__init__(str(runtime / CONTROL_SOCKET), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(10)

    @property
    def changes(self) -> list[tuple[str, Any]]:
        return [(path, body) for method, path, body in self.asked if method != "GET"]

    def quarantined(self, sandbox_id: int, state: str = "held", **order: Any) -> str:
        name = next(one["name"] for one in self.sandboxes if one["id"] == sandbox_id)
        quarantine_id = f"q-{len(self.quarantines) + 1}"
        now = time.time_ns()
        self.quarantines[quarantine_id] = {
            "id": quarantine_id,
            "order": {
                "sandbox_id": sandbox_id,
                "path": f"pinfold/{sandbox_id}",
                "name": name,
                "reason": "mining",
                "operator": "uid 0, pid 7, /usr/bin/pinfold",
                "ttl_seconds": 0,
                "on_expiry": "hold",
            }
            | order,
            "cgroup_id": sandbox_id,
            "boot_id": "b",
            "born_ns": now,
            "state": state,
            "steps": [_step(name, "done" if state != "beginning" else "waiting") for name in STEPS],
            "created_ns": now,
            "expires_ns": 0,
        }
        return quarantine_id

    def answer(self, method: str, target: str, body: Any) -> Answer:
        url = urlsplit(target)
        self.asked.append((method, target, body))
        if url.path in self.answers:
            return self.answers[url.path](body)
        if method == "POST" and not str(body.get("reason", "x")).strip():
            return 400, {"error": "a reason is needed", "code": "usage"}
        all_ = parse_qs(url.query).get("all") == ["1"]
        return self._answer(method, [unquote(part) for part in url.path.strip("/").split("/")][1:], all_, body)

    def _answer(self, method: str, parts: list[str], all_: bool, body: Any) -> Answer:
        found: Answer = 404, {"error": "Not Found", "code": "not_found"}
        match (method, parts):
            case "GET", ["status"]:
                found = 200, {"version": "0.2", "armed": True, "sandboxes": len(self.sandboxes), "lost": {}}
                if self.reloads:
                    found[1]["reloads"] = self.reloads[0]
                    self.reloads = self.reloads[1:] or self.reloads
            case "GET", ["sandboxes"]:
                found = 200, self.sandboxes
            case "GET", ["policy"]:
                found = 200, {"classes": CLASSES}
            case "GET", ["quarantines"]:
                found = 200, [one for one in self.quarantines.values() if all_ or one["state"] != "released"]
            case "POST", ["quarantines"]:
                found = self._quarantine(body)
            case "POST", ["policy", "reload"] | ["arm"] | ["disarm"]:
                found = 200, {"outcome": "done"}
            case "POST", ["policy", "explain"]:
                found = 200, {"verdict": "refused", "line": "/etc/pinfold/pinfold.yaml:12", "because": "egress.default"}
            case _, ["sandboxes", ref, *rest]:
                found = self._of_sandbox(ref, rest, body)
            case _, ["quarantines", quarantine_id, *rest] if quarantine_id in self.quarantines:
                found = self._of_quarantine(self.quarantines[quarantine_id], rest, body)
        return found

    def _quarantine(self, body: dict[str, Any]) -> Answer:
        if body["dry_run"]:
            return WOULD
        asked = {name: body[name] for name in ("reason", "ttl_seconds", "on_expiry")}
        return 202, self.quarantines[self.quarantined(int(body["sandbox"]), "beginning", **asked)]

    def _of_sandbox(self, ref: str, rest: list[str], body: Any) -> Answer:
        found = [one for one in self.sandboxes if str(one["id"]) == ref]
        if not found:
            return 404, {"error": f"no sandbox {ref}", "code": "not_found"}
        if rest == ["tree"]:
            return 200, {"processes": _PROCESSES, "more": 2}
        if body and body.get("dry_run"):
            return WOULD
        if rest == ["kill"]:
            return 200, {"killed": [101, 102, 103], "complete": True}
        return 200, found[0]

    def _of_quarantine(self, record: dict[str, Any], rest: list[str], body: Any) -> Answer:
        if body and body.get("dry_run"):
            return WOULD
        if rest:
            record["state"] = {"release": "releasing", "kill": "killing"}[rest[0]]
            return 202, record
        if record["state"] == "beginning":
            waiting = [step for step in record["steps"] if step["state"] == "waiting"]
            waiting[0].update(_step(waiting[0]["name"], "failed" if waiting[0]["name"] == self.fails else "done"))
            if len(waiting) == 1:
                record["state"] = "held"
        else:
            record["state"] = {"releasing": "released", "killing": "killed"}.get(record["state"], record["state"])
        return 200, record


def _step(name: str, state: str) -> dict[str, Any]:
    ended = state in {"done", "failed"}
    began = time.time_ns() if ended else 0
    return {
        "name": name,
        "state": state,
        "detail": f"of {name}\x1b[31m" if ended else "",
        "began_ns": began,
        "ended_ns": began + 1_500_000 if ended else 0,
    }


CLASSES = {
    "agents": {
        "mode": "enforce",
        "granted_devices": ["fuse", "other"],
        "egress": {"default": "deny", "allow": [{"to": "10.0.0.0/8"}], "loopback": "allow"},
        "denied_protocols": ["stratum"],
        "denied_executables": {"paths": ["/bin/nc"], "sha256": [], "memfd": True, "deleted": False},
        "responses": {"high": "quarantine", "low": "log", "critical": "kill-sandbox", "rules": []},
    }
}

_PROCESSES = [
    {"tgid": 101, "parent_tgid": 1, "command_line": "bash -c work"},
    {"tgid": 102, "parent_tgid": 101, "command_line": "python \x1b[2Jtool.py"},
    {"tgid": 104, "parent_tgid": 102, "image": "/usr/bin/ssh"},
    {"tgid": 103, "parent_tgid": 101, "command_line": "sleep 1"},
]


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def address_string(self) -> str:
        return "peer"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        status, answer = self.server.answer(self.command, self.path, body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
