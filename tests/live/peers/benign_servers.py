"""The benign set: servers, agents and notebooks, whose connections look most like those of tunnels."""

from __future__ import annotations

import http.client
import json
import sys
from functools import partial
from pathlib import Path

from websockets.sync.client import connect

from tests.live.peers.network import SANDBOX, Network
from tests.live.peers.outing import HTTPS, LLM, NAMES, Outing, outing
from tests.live.peers.programs import find
from tests.live.peers.tunnel import EVERYWHERE, LOOPBACK, OURS, PAGE_BYTES, REQUEST, SCRIPTS
from tests.live.running import Sandbox

REQUESTS = 10


def url_of(out: Outing) -> str:
    return f"http://{LOOPBACK}:{out.stage.service}/"


def dev_server(network: Network, sandbox: Sandbox, folder: Path) -> None:
    """With its client on loopback."""
    with outing(network, sandbox, folder) as out:
        out.stage.serve()
        curl = (find("curl"), "-sS", "--fail", "--noproxy", "*", url_of(out))
        for _ in range(REQUESTS):
            assert out.run(*curl).encode() == out.stage.page


def notebook(network: Network, sandbox: Sandbox, folder: Path) -> None:
    with outing(network, sandbox, folder) as out:
        out.stage.serve()
        said = out.run(sys.executable, str(SCRIPTS / "notebook.py"), url_of(out), env={"JUPYTER_PLATFORM_DIRS": "1"})
        assert said.splitlines()[-1] == str(["42", str(PAGE_BYTES)])


def agent(
    network: Network, sandbox: Sandbox, folder: Path, *, itself: bool, think_s: float = 1.1, turns: int = 2
) -> None:
    """The LLM answers on a connection that has been silent for `think_s`; the tool's request to loopback follows, and
    goes on to the LLM. `itself`: the process that has the LLM's connection makes the request."""
    with outing(network, sandbox, folder) as out:
        out.stage.serve()
        script = ["/usr/bin/python3", "-I", "-S", str(SCRIPTS / "llm.py")]
        place = (NAMES[LLM], str(HTTPS), str(out.certificate))
        llm = out.stage.outside(*script, *place, url_of(out), str(think_s), str(turns))
        network.listens(network.outside, HTTPS, llm)
        who = "itself" if itself else "child"
        said = out.run("/usr/bin/python3", str(SCRIPTS / "agent.py"), LLM, str(out.authority), who)
        assert said == f"{turns}\n"


def rock(network: Network, sandbox: Sandbox, folder: Path) -> None:
    with outing(network, sandbox, folder) as out:
        out.stage.serve()
        port = network.port()
        server = out.start(sys.executable, str(SCRIPTS / "rock_server.py"), EVERYWHERE, str(port), env=OURS)
        network.listens(network.inside, port, server)
        place = f"ws://{SANDBOX}:{port}"

        def forwarded() -> bytes:
            answer = b""
            with connect(f"{place}/portforward?port={out.stage.service}", proxy=None) as socket:
                socket.send(REQUEST)
                for message in socket:
                    answer += message if isinstance(message, bytes) else message.encode()
            return answer

        def in_session() -> str:
            with connect(f"{place}/session", proxy=None) as socket:
                socket.send(f"curl -sS --noproxy '*' {url_of(out)} | wc -c")
                return str(socket.recv())

        assert network.outside.call(forwarded).endswith(out.stage.page)
        assert network.outside.call(in_session).split()[-1] == str(PAGE_BYTES)


def swe_rex(network: Network, sandbox: Sandbox, folder: Path) -> None:
    with outing(network, sandbox, folder) as out:
        out.stage.serve()
        port = network.port()
        server = out.start("/usr/bin/python3", str(SCRIPTS / "swerex_server.py"), EVERYWHERE, str(port), env=OURS)
        network.listens(network.inside, port, server)

        def ask(path: str) -> str:
            connection = http.client.HTTPConnection(SANDBOX, port, timeout=10)
            command = f"curl -sS --noproxy '*' {url_of(out)} | wc -c"
            connection.request("POST", path, json.dumps({"command": command}))
            return str(json.loads(connection.getresponse().read())["output"])

        for path in ("/execute", "/run_in_session", "/run_in_session"):
            assert network.outside.call(partial(ask, path)).split()[-1] == str(PAGE_BYTES)


def rendezvous(network: Network, sandbox: Sandbox, folder: Path) -> None:
    with outing(network, sandbox, folder) as out:
        script = ("/usr/bin/python3", "-I", "-S", str(SCRIPTS / "rendezvous.py"))
        assert out.run(*script, SANDBOX, str(network.port())) == f"{5 * (0 + 1 + 2 + 3)}\n"
