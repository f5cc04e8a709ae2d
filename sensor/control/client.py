"""Asks the running daemon over its control socket; for the command line. Blocking, standard library only."""

from __future__ import annotations

import http.client
import os
import socket
from typing import Any

import msgspec

from sensor.config import Config
from sensor.control.listeners import CONTROL_SOCKET
from sensor.errors import ClientError

TIMEOUT_S = 5.0
MOST_BODY = 64 * 1024 * 1024


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("pinfold", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """:param path: of the control socket."""

    def __init__(self, path: str, timeout: float = TIMEOUT_S) -> None:
        self._path = path
        self._timeout = timeout

    @classmethod
    def of(cls, config: Config) -> Client:
        return cls(os.path.join(config.paths.runtime, CONTROL_SOCKET))

    def status(self) -> Any:
        """:raises ClientError: as all of these do, with one line that says what is wrong."""
        return self._json("/v1/status")

    def sandboxes(self) -> Any:
        return self._json("/v1/sandboxes")

    def rules(self) -> Any:
        return self._json("/v1/rules")

    def metrics(self) -> str:
        return self._get("/metrics").decode("utf-8")

    def _json(self, path: str) -> Any:
        try:
            return msgspec.json.decode(self._get(path))
        except msgspec.DecodeError as error:
            raise ClientError(f"{self._path}: the daemon's answer is no JSON: {error}") from error

    def _get(self, path: str) -> bytes:
        connection = _Connection(self._path, self._timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read(MOST_BODY)
        except FileNotFoundError as error:
            raise ClientError(f"{self._path}: no daemon runs here; `pinfold run` starts one") from error
        except ConnectionRefusedError as error:
            raise ClientError(f"{self._path}: the daemon has ended; `pinfold run` starts it") from error
        except PermissionError as error:
            raise ClientError(f"{self._path}: permission denied; be root") from error
        except TimeoutError as error:
            raise ClientError(f"{self._path}: the daemon does not answer within {self._timeout:g} s") from error
        except (http.client.HTTPException, ConnectionError) as error:
            # Closed without an answer: what the api does to a peer that lives in a sandbox.
            raise ClientError(f"{self._path}: the daemon refuses to answer this process") from error
        except OSError as error:
            raise ClientError(f"{self._path}: {error.strerror or error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise ClientError(f"{self._path}: {path}: {response.status}: {_why(body)}")
        return body


def _why(body: bytes) -> str:
    try:
        answer = msgspec.json.decode(body, type=dict[str, str])
    except msgspec.DecodeError:
        return "no reason given"
    return answer.get("error", "no reason given")
