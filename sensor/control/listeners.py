"""The sockets that the api serves, bound by the core: the api then needs no privilege, and a
connection that comes before it runs waits in the backlog."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
import time
from typing import Literal

from msgspec import Struct

from sensor.config import Config
from sensor.errors import ConfigError, HostError

API_GONE_S = 5.0  # on a host that is busy it may notice late

BACKLOG = 1024  # the kernel's own bound, net.core.somaxconn, is 4096; room for whoever comes amid a flood
CONTROL_SOCKET = "control.sock"
UNIX_PATH_MAX = 107  # sun_path has 108 bytes, the last of them NUL

Kind = Literal["metrics", "control"]


class Address(Struct, frozen=True):
    """Where to listen: `host` and `port`, or `path`."""

    host: str = ""
    port: int = 0
    path: str = ""


class Listener(Struct, frozen=True):
    """`metrics` serves /metrics alone."""

    kind: Kind
    address: Address
    socket: socket.socket

    def close(self) -> None:
        """Idempotent. Removes a Unix socket's path, if it is this socket's still."""
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        if self.address.path:
            with_missing_ok(self.address.path)


def parse_listen(text: str) -> Address | None:
    """Of `metrics.listen`: `127.0.0.1:9817`, `[::1]:9817`, `unix:/path`, or "" for none. Port 0 is any free one.

    :raises ConfigError: anything else; an address beyond loopback above all, since what is known of
        sandboxes is not for the network.
    """
    if not text:
        return None
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path.startswith("/") and len(os.fsencode(path)) <= UNIX_PATH_MAX and "\0" not in path:
            return Address(path=path)
        raise _unusable(text)
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise _unusable(text)
    if host.startswith("[") and host.endswith("]"):
        if _packed(socket.AF_INET6, host[1:-1]) == bytes(15) + b"\1":
            return Address(host[1:-1], int(port))
    elif _packed(socket.AF_INET, host)[:1] == b"\x7f":
        return Address(host, int(port))
    raise _unusable(text)


def listen_when_free(config: Config) -> list[Listener]:
    """After a crash the api of the last run may hold its sockets for a moment, until it has noticed."""
    until = time.monotonic() + API_GONE_S
    while True:
        try:
            return listen(config)
        except HostError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def listen(config: Config) -> list[Listener]:
    """Binds the control socket and, if configured, the one for metrics.

    :raises ConfigError: `metrics.listen` is unusable.
    :raises HostError: an address is taken, or a folder cannot be made.
    """
    address = parse_listen(config.metrics.listen)
    group = group_of(config.control.group) if config.control.group else -1
    found = [bind("control", Address(path=os.path.join(config.paths.runtime, CONTROL_SOCKET)), group)]
    if address is not None:
        try:
            found.append(bind("metrics", address))
        except HostError:
            found[0].close()
            raise
    return found


def group_of(name: str) -> int:
    """Its number; root's where none is named.

    :raises HostError: there is no such group.
    """
    if not name:
        return 0
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise HostError(f"control.group: there is no group {name}; make it with groupadd --system {name}") from error


def bind(kind: Kind, address: Address, group: int = -1) -> Listener:
    """:param group: gid that a Unix socket and its folder are given; -1: they keep ours.
    :raises HostError: what is in the way, in one line."""
    try:
        made = _unix(address.path, group) if address.path else _tcp(address)
    except OSError as error:
        where = address.path or f"{address.host}:{address.port}"
        why = "taken by another process" if error.errno == errno.EADDRINUSE else error.strerror
        raise HostError(f"{where}: cannot listen there: {why}") from error
    if made.family != socket.AF_UNIX:
        address = Address(address.host, made.getsockname()[1])
    return Listener(kind, address, made)


def protected_ports(listeners: list[Listener]) -> tuple[int, ...]:
    """TCP ports that the probes refuse to sandboxes."""
    return tuple(listener.address.port for listener in listeners if not listener.address.path)


def with_missing_ok(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _tcp(address: Address) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address.host, address.port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    made.setblocking(False)
    return made


def _unix(path: str, group: int) -> socket.socket:
    """Mode 0660, in a folder of mode 0750 where it is we who make it."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o750, exist_ok=True)
    # A folder that others may enter is shared with others: it is not ours to give away.
    if group >= 0 and not stat.S_IMODE(os.stat(folder).st_mode) & 0o007:
        os.chown(folder, -1, group)
        os.chmod(folder, 0o750)  # noqa: S103 - the umask may have taken the group's half
    _remove_stale(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)  # the mode is right from the first instant: there is no time before a chmod
    try:
        made.bind(path)
        if group >= 0:
            os.chown(path, -1, group, follow_symlinks=False)
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    finally:
        os.umask(before)
    made.setblocking(False)
    return made


def _remove_stale(path: str) -> None:
    """Removes what a killed daemon left; what is served, or is no socket, stays."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "something that is no socket is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # its backlog is full: it is served
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _packed(family: socket.AddressFamily, host: str) -> bytes:
    try:
        return socket.inet_pton(family, host)
    except (OSError, UnicodeError, ValueError):
        return b""


def _unusable(text: str) -> ConfigError:
    return ConfigError(f'metrics.listen: expected 127.0.0.1:PORT, [::1]:PORT, unix:/PATH or "", found {text[:200]!r}')
