"""What every tunnel of the tests has: a service in the sandbox, an entry outside, and a stage to build it on."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import string
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.live.peers.network import SERVER, Network
from tests.live.peers.programs import Program, find
from tests.live.running import Sandbox

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104 - in a namespace of its own
SCRIPTS = Path(__file__).parent / "scripts"
REQUEST = (
    b"GET /?from=outside HTTP/1.0\r\nHost: service.internal\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: text/html,*/*;q=0.8\r\n\r\n"
)
PAGE_BYTES = 5000
USE_S = 10.0


@dataclass(frozen=True)
class Tunnel:
    """One that stands. The outside dials `entry` to reach the service in the sandbox."""

    network: Network
    page: bytes
    entry: tuple[str, int]
    peer: tuple[str, int]  # what the sandbox dialled
    programs: tuple[Program, ...]  # the tunnel's own, in the sandbox
    fetch: Callable[[], bytes] | None = None  # where the way in is no plain connection

    def use(self) -> bytes:
        """Relay one connection: the body that came back, which is `page` if all went well."""
        return self.fetch() if self.fetch else get(self.network, *self.entry)


class Maker(Protocol):
    """`renamed`: run from a copy of another name. `port`: of the outside, 0: the tunnel's usual one; ignored where the
    protocol has but one."""

    def __call__(
        self, network: Network, sandbox: Sandbox, folder: Path, *, renamed: bool = False, port: int = 0
    ) -> AbstractContextManager[Tunnel]: ...


def get(network: Network, address: str, port: int) -> bytes:
    """The body of what answers there, asked from outside. It ends at its length: not every relay passes an end on."""
    answer, length = b"", 0
    with network.outside.connect(address, port, USE_S) as connection:
        connection.sendall(REQUEST)
        while piece := connection.recv(65536):
            answer += piece
            head, found, body = answer.partition(b"\r\n\r\n")
            if found and not length:
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
            if found and len(body) >= length:
                return body
    raise ConnectionError(f"the answer ended early: {answer[:200]!r}")


class Stage:
    """Where a tunnel is built: its service runs, and what it starts ends with it, the last first."""

    def __init__(
        self, network: Network, sandbox: Sandbox, folder: Path, *, renamed: bool, port: int, ending: ExitStack
    ) -> None:
        self.network, self.sandbox, self.renamed, self.port = network, sandbox, renamed, port
        self.folder = folder / f"stage-{secrets.token_hex(4)}"
        self.folder.mkdir()
        self.page = secrets.token_urlsafe(PAGE_BYTES).encode()[:PAGE_BYTES]
        self.service, self.entry = network.port(), network.port()
        self._ending = ending

    def serve(self, address: str = LOOPBACK) -> None:
        """Start the service; a VPN's is on all addresses, since what it carries comes to the tun device's."""
        page = self.folder / "page.html"
        page.write_bytes(self.page)
        python = ["/usr/bin/python3", "-I", "-S", str(SCRIPTS / "page.py")]
        service = self._started(
            self.network.start_inside(self.sandbox, [*python, address, str(self.service), str(page)])
        )
        self.network.listens(self.network.inside, self.service, service)

    def program(self, name: str) -> str:
        """The path of an installed program; where renamed, of a copy that has nothing of its name."""
        return self.copied(find(name))

    def python(self, script: str, *, libraries: bool = False) -> list[str]:
        """argv of a script of ours; with `libraries`, `environment` goes with it."""
        interpreter = self.copied(os.path.realpath(sys.executable))
        return [interpreter, *([] if libraries else ["-I", "-S"]), self.copied(str(SCRIPTS / script))]

    def copied(self, path: str) -> str:
        if not self.renamed:
            return path
        copy = self.folder / "".join(secrets.choice(string.ascii_lowercase) for _ in range(8))
        shutil.copy(path, copy)
        return str(copy)

    def inside(self, *argv: str, env: dict[str, str] | None = None) -> Program:
        return self._started(self.network.start_inside(self.sandbox, argv, env=env, cwd=self.folder))

    def outside(self, *argv: str, env: dict[str, str] | None = None) -> Program:
        return self._started(self.network.start_outside(argv, env=env))

    def _started(self, program: Program) -> Program:
        self._ending.callback(program.stop)
        return program

    def enter(self, context: AbstractContextManager[object]) -> None:
        self._ending.enter_context(context)

    def finally_do(self, step: Callable[[], object]) -> None:
        self._ending.callback(step)

    def tunnel(
        self,
        *programs: Program,
        entry: tuple[str, int] | None = None,
        peer: tuple[str, int] | None = None,
        fetch: Callable[[], bytes] | None = None,
    ) -> Tunnel:
        entry, peer = entry or (SERVER, self.entry), peer or (SERVER, self.port)
        return Tunnel(self.network, self.page, entry, peer, programs, fetch)


# Environments of an interpreter that was copied.
LIBRARIES = {"PYTHONPATH": sysconfig.get_paths()["purelib"]}
OURS = {"PYTHONPATH": str(Path(__file__).parents[3])}


def making(
    build: Callable[[Stage], Tunnel], usual_port: int, *, renamed: bool = False, served_at: str = LOOPBACK
) -> Maker:
    """The Maker of a tunnel that `build` builds on a stage whose service runs."""
    always_renamed = renamed

    @contextmanager
    def make(
        network: Network, sandbox: Sandbox, folder: Path, *, renamed: bool = False, port: int = 0
    ) -> Iterator[Tunnel]:
        with ExitStack() as ending:
            stage = Stage(
                network, sandbox, folder, renamed=renamed or always_renamed, port=port or usual_port, ending=ending
            )
            stage.serve(served_at)
            yield build(stage)

    return make


def output_of(*argv: str) -> str:
    """Of a tool that only makes something ready, in the host's namespaces."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def joined(argv: Sequence[str]) -> str:
    return shlex.join(argv)
