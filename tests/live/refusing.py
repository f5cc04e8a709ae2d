"""What is refused is refused before it has any effect: descriptors that were got, and packets that arrived."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence

from msgspec import Struct, field

from sensor.control.client import Client
from tests.live.denying import MESSAGES, say
from tests.live.names import unique
from tests.live.peers.hearing import Capture, Hearing, pieces_of
from tests.live.peers.network import ALLOWED, SERVER, Network
from tests.live.reaching import CLIENT, OTHER6, PYTHON, Attempt
from tests.live.reloading import tried_things
from tests.live.running import Running, Sandbox

PORT = 8022
CONFIG = """
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
rules: {{paths: ['{home}/rules']}}
sandboxes:
  - {{path: "{instance}/sealed-*", class: sealed}}
  - {{path: "{instance}/speaks-*", class: speaks}}
classes:
  sealed:
    mode: enforce
    granted_devices: []
    egress: {{default: deny, allow: [{{to: 203.0.113.30, ports: [8022]}}]}}
  speaks: {{mode: enforce, denied_protocols: [ssh, stratum, socks, wireguard, bore, http-connect]}}
"""
# Each line of its input: attempts, each of them made that often; how many were not refused. Devices by their path.
TRIES = (
    CLIENT.partition("told = []")[0]
    + """
import os, sys
count = int(sys.argv[1])
def one(kind, place, port):
    try:
        if kind == "device":
            os.close(os.open(place, os.O_RDWR | os.O_NONBLOCK))
        else:
            attempt(kind, place, port)
    except OSError as error:
        return error.errno != errno.EPERM
    return True
print("begins", flush=True)
for line in sys.stdin:
    print(json.dumps([sum(one(*each) for _ in range(count)) for each in json.loads(line)]), flush=True)
"""
)
DENIED: tuple[Attempt, ...] = (
    ("tcp", SERVER, PORT),
    ("tcp", OTHER6, PORT),
    ("mptcp", SERVER, PORT),
    ("udp", SERVER, PORT),
    ("udp", OTHER6, PORT),
    ("connected", SERVER, PORT),
    ("echo", SERVER, 0),
    ("made", SERVER, PORT),
    ("tcp", ALLOWED, PORT + 1),
)
IN_QUARANTINE: tuple[Attempt, ...] = (*DENIED, ("tcp", ALLOWED, PORT), ("udp", ALLOWED, PORT))


class Report(Struct):
    """`tried` and `leaked` by what was refused; `seen`: packets of the same attempts from where all is allowed."""

    tried: dict[str, int] = field(default_factory=dict)
    leaked: dict[str, int] = field(default_factory=dict)
    seen: int = 0

    def add(self, what: str, tried: int, leaked: int) -> None:
        self.tried[what] = self.tried.get(what, 0) + tried
        self.leaked[what] = self.leaked.get(what, 0) + leaked


class _Trying:
    """A client in a sandbox, that was started before it is quarantined: no program starts afterwards."""

    def __init__(self, network: Network, box: Sandbox, count: int) -> None:
        self.count = count
        argv = [*PYTHON, "-c", TRIES, str(count)]
        self._process = network.inside.call(lambda: box.start(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert self._line() == "begins"

    def __enter__(self) -> _Trying:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def got_by(self, attempts: Sequence[Attempt]) -> list[int]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(attempts).encode() + b"\n")
        self._process.stdin.flush()
        found: list[int] = json.loads(self._line())
        return found


def refuse_again_and_again(count: int, *, cache: str = "") -> Report:
    report = Report()
    with contextlib.ExitStack() as stack:
        _, _, node = stack.enter_context(tried_things())
        sensor = stack.enter_context(Running(config=CONFIG, cache=cache))
        network = stack.enter_context(Network())
        outside = stack.enter_context(Capture(network))
        _allowed(sensor, network, outside, report)
        before = len(_heard(outside))
        _by_policy(sensor, network, node, count, report)
        report.add("at the peer", 0, len(_heard(outside)) - before)
        _quarantined(sensor, network, node, count, report)
        report.add("at the peer", 0, len(_heard(outside)) - before)
        _protocols(sensor, network, count, report)
    return report


def _heard(outside: Capture) -> list[bytes]:
    """All that came for where nothing may go."""
    return [packet for address in (SERVER, OTHER6) for packet in outside.to(address)]


def _allowed(sensor: Running, network: Network, outside: Capture, report: Report) -> None:
    """The same from a sandbox that may: what would be seen."""
    with sensor.sandbox() as box, _Trying(network, box, 1) as client:
        client.got_by([each for each in DENIED if each[1] != ALLOWED])
        report.seen = len(_heard(outside))


def _by_policy(sensor: Running, network: Network, node: str, count: int, report: Report) -> None:
    with sensor.sandbox(f"sealed-{unique()}") as box, _Trying(network, box, count) as client:
        report.add("devices", count, *client.got_by([("device", node, 0)]))
        for attempt, leaked in zip(DENIED, client.got_by(DENIED), strict=True):
            report.add(f"policy: {attempt[0]}", count, leaked)


def _quarantined(sensor: Running, network: Network, node: str, count: int, report: Report) -> None:
    """Of a class that allows all of it. Not frozen: a frozen one tries nothing."""
    client = Client(str(sensor.home / "run" / "control.sock"))
    with sensor.sandbox() as box, Capture(network) as outside, _Trying(network, box, count) as trying:
        (granted,) = trying.got_by([("device", os.devnull, 0)])
        assert granted == count
        sensor.until(lambda: any(one["id"] == box.id for one in client.sandboxes()), "the sandbox is known")
        client.add_quarantine(box.id, "a test", freeze=False, evidence=False)
        report.add("quarantine: devices", count, *trying.got_by([("device", node, 0)]))
        for attempt, leaked in zip(IN_QUARANTINE, trying.got_by(IN_QUARANTINE), strict=True):
            report.add(f"quarantine: {attempt[0]}", count, leaked)
        report.add("at the peer", 0, len(outside.to(ALLOWED)))
        started = sum(box.run("/bin/true").returncode != -signal.SIGKILL for _ in range(min(count, 100)))
        report.add("quarantine: programs", min(count, 100), started)


def _protocols(sensor: Running, network: Network, count: int, report: Report) -> None:
    """Byte by byte, whole, and cut in two: at most a byte less than the prefix may arrive."""
    known = [message for messages in MESSAGES.values() for message in messages]
    said = [(known[number % len(known)], number // len(known) % 8 - 1) for number in range(count)]
    with sensor.sandbox(f"speaks-{unique()}") as box, Hearing(network) as outside:
        for at in range(0, count, 300):
            part = said[at : at + 300]
            found = say(network, box, (SERVER, outside.port), [pieces_of(one.whole, cut) for one, cut in part])
            for (source, _, answer), (message, _) in zip(found, part, strict=True):
                outside.ended(source)
                whole = outside.of(source).data.startswith(message.prefix)
                report.add("protocols", 1, whole or bool(answer))
            outside.heard.clear()
