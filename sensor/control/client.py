"""Asks the running daemon over its control socket; for the command line. Blocking, standard library only."""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from sensor.config import Config
from sensor.control.listeners import CONTROL_SOCKET
from sensor.errors import ClientError, DeniedError, NotFoundError, PinfoldError, UnreachableError, UsageError

TIMEOUT_S = 5.0
STREAM_S = 60.0  # without even an empty line: these come every few seconds
FULL_S = 0.005  # between two attempts where others connect without end
MOST_BODY = 64 * 1024 * 1024
MOST_LINE = 4 * 1024 * 1024  # of a stream
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ERRORS: Mapping[int, type[PinfoldError]] = {400: UsageError, 403: DeniedError, 404: NotFoundError}


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("pinfold", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        until = time.monotonic() + (self.timeout or 0.0)
        while True:
            try:
                self.sock.connect(self._path)
                return
            except BlockingIOError as error:  # a full backlog: with a timeout connect(2) does not wait for room
                if time.monotonic() >= until:
                    raise TimeoutError from error
                time.sleep(FULL_S)


class Client:
    """Every method raises PinfoldError with one line that says what is wrong: UnreachableError, or what the
    daemon answered (UsageError, DeniedError, NotFoundError, else ClientError).

    :param path: of the control socket.
    """

    def __init__(self, path: str, timeout: float = TIMEOUT_S) -> None:
        self._path = path
        self._timeout = timeout

    @classmethod
    def of(cls, config: Config, timeout: float = TIMEOUT_S) -> Client:
        return cls(os.path.join(config.paths.runtime, CONTROL_SOCKET), timeout)

    def status(self) -> Any:
        return self.get("/v1/status")

    def sandboxes(self) -> Any:
        return self.get("/v1/sandboxes")

    def rules(self) -> Any:
        return self.get("/v1/rules")

    def sandbox(self, ref: str | int) -> Any:
        """`ref` of these: a sandbox's name, its cgroup id, or its cgroup path."""
        return self.get(f"/v1/sandboxes/{segment(str(ref))}")

    def tree(self, ref: str | int) -> Any:
        return self.get(f"/v1/sandboxes/{segment(str(ref))}/tree")

    def kill(self, ref: str | int, reason: str, dry_run: bool = False) -> Any:
        return self.post(f"/v1/sandboxes/{segment(str(ref))}/kill", _body(reason, dry_run))

    def set_attributes(self, ref: str | int, reason: str, attributes: Mapping[str, str]) -> Any:
        return self.post(f"/v1/sandboxes/{segment(str(ref))}/attributes", {"reason": reason, "attributes": attributes})

    def quarantines(self, ended: bool = False) -> Any:
        return self.get("/v1/quarantines", **({"all": 1} if ended else {}))

    def quarantine(self, quarantine_id: str) -> Any:
        return self.get(f"/v1/quarantines/{segment(quarantine_id)}")

    def add_quarantine(self, ref: str | int, reason: str, **options: Any) -> Any:
        """:param options: ttl_seconds, on_expiry, freeze, loopback, evidence, detection_id, dry_run."""
        return self.post("/v1/quarantines", {"sandbox": str(ref), "reason": reason, **options})

    def release(self, quarantine_id: str, reason: str, dry_run: bool = False) -> Any:
        return self.post(f"/v1/quarantines/{segment(quarantine_id)}/release", _body(reason, dry_run))

    def kill_quarantine(self, quarantine_id: str, reason: str, dry_run: bool = False) -> Any:
        return self.post(f"/v1/quarantines/{segment(quarantine_id)}/kill", _body(reason, dry_run))

    def policy(self) -> Any:
        return self.get("/v1/policy")

    def explain(self, ref: str | int, **question: str) -> Any:
        """:param question: one of connect, device, exec."""
        return self.post("/v1/policy/explain", {"sandbox": str(ref), **question})

    def reload(self, reason: str) -> Any:
        return self.post("/v1/policy/reload", _body(reason))

    def disarm(self, reason: str) -> Any:
        return self.post("/v1/disarm", _body(reason))

    def arm(self, reason: str) -> Any:
        return self.post("/v1/arm", _body(reason))

    def detections(self, **wanted: str | int) -> Any:
        """:param wanted: sandbox, level (and above), rule, limit."""
        return self.get("/v1/detections", **wanted)

    def detection(self, detection_id: str) -> Any:
        return self.get(f"/v1/detections/{segment(detection_id)}")

    def acknowledge(self, detection_id: str, reason: str) -> Any:
        return self.post(f"/v1/detections/{segment(detection_id)}/ack", _body(reason))

    def silences(self) -> Any:
        return self.get("/v1/silences")

    def silence(self, reason: str, until_seconds: int, **selectors: str) -> Any:
        """:param selectors: rule, sandbox, class; at least one."""
        return self.post("/v1/silences", {"reason": reason, "until_seconds": until_seconds, **selectors})

    def unsilence(self, silence_id: str, reason: str) -> Any:
        return self.delete(f"/v1/silences/{segment(silence_id)}", reason=reason)

    def recording(self) -> Any:
        return self.get("/v1/recording")

    def begin_recording(self, reason: str, **options: Any) -> Any:
        """:param options: seconds, bytes, sandbox."""
        return self.post("/v1/recording", {"reason": reason, **options})

    def end_recording(self, reason: str) -> Any:
        return self.post("/v1/recording/end", _body(reason))

    def top(self) -> Any:
        return self.get("/v1/top")

    def events(self, **wanted: str) -> Iterator[Any]:
        """:param wanted: sandbox, level, rule, category. The records of the log as they are written."""
        return self.stream("/v1/events/stream", **wanted)

    def detections_stream(self, **wanted: str) -> Iterator[Any]:
        return self.stream("/v1/detections/stream", **wanted)

    def metrics(self) -> str:
        return self._ask("GET", "/metrics", None).decode("utf-8")

    def get(self, path: str, **query: str | int) -> Any:
        """`path` with its parts escaped (`segment`); so are those of the following."""
        return self._json("GET", path + _query(query), None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._json("POST", path, msgspec.json.encode(body))

    def delete(self, path: str, **query: str | int) -> Any:
        return self._json("DELETE", path + _query(query), None)

    def stream(self, path: str, **query: str | int) -> Iterator[Any]:
        """The records of a stream as they come, until the daemon ends it."""
        with self._answer("GET", path + _query(query), None, STREAM_S) as response:
            if response.status != 200:
                self._refuse(path, response.status, response.read(MOST_BODY))
            while line := response.readline(MOST_LINE):
                if line.strip():
                    yield self._decoded(line)

    def _json(self, method: str, path: str, body: bytes | None) -> Any:
        return self._decoded(self._ask(method, path, body) or b"{}")

    def _decoded(self, text: bytes) -> Any:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise ClientError(f"{self._path}: the daemon's answer is no JSON: {error}") from error

    def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        with self._answer(method, path, body, self._timeout) as response:
            answer = response.read(MOST_BODY)
            if not 200 <= response.status < 300:
                self._refuse(path, response.status, answer)
            return answer

    @contextmanager
    def _answer(
        self, method: str, path: str, body: bytes | None, timeout: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _Connection(self._path, timeout)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        answered = False
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answered = True
            yield response
        except FileNotFoundError as error:
            raise UnreachableError(f"{self._path}: no daemon runs here; `pinfold run` starts one") from error
        except ConnectionRefusedError as error:
            raise UnreachableError(f"{self._path}: the daemon has ended; `pinfold run` starts it") from error
        except PermissionError as error:
            raise DeniedError(f"{self._path}: permission denied; be root") from error
        except TimeoutError as error:
            raise UnreachableError(f"{self._path}: the daemon does not answer within {timeout:g} s") from error
        except (http.client.HTTPException, ConnectionError) as error:
            if answered:
                raise UnreachableError(f"{self._path}: the daemon ended in the middle of its answer") from error
            if not self._listens():
                raise UnreachableError(f"{self._path}: the daemon ended before it answered") from error
            # Closed without an answer: what the api does to a peer that lives in a sandbox.
            raise DeniedError(f"{self._path}: the daemon refuses to answer this process") from error
        except OSError as error:
            raise UnreachableError(f"{self._path}: {error.strerror or error}") from error
        finally:
            connection.close()

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self._path)
            except BlockingIOError:  # so many wait for it
                return True
            except OSError:
                return False
        return True

    def _refuse(self, path: str, status: int, body: bytes) -> None:
        kind = _ERRORS.get(status)
        if kind is not None:
            raise kind(_why(body))
        raise ClientError(f"{self._path}: {path}: {status}: {_why(body)}")


def _body(reason: str, dry_run: bool = False) -> dict[str, Any]:
    return {"reason": reason} | ({"dry_run": True} if dry_run else {})


def segment(text: str) -> str:
    """As one part of a path, or a value of a query: a slash in it is no separator."""
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in os.fsencode(text))


def _query(query: Mapping[str, str | int]) -> str:
    pairs = "&".join(f"{segment(name)}={segment(str(value))}" for name, value in query.items())
    return f"?{pairs}" if pairs else ""


def _why(body: bytes) -> str:
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return "no reason given"
    why = answer.get("error") if isinstance(answer, dict) else None
    return why if isinstance(why, str) else "no reason given"
