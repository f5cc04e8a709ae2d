"""The outside end of what a sandbox may not do: everything that arrived there, and so what did not."""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import struct
from collections.abc import Callable, Sequence
from threading import Event, Thread
from types import TracebackType
from typing import Self

from tests.live.peers.network import SERVER, Namespace, Network
from tests.live.peers.programs import until

ETH_P_ALL, PACKET_OUTGOING = 3, 4
MARKER, MARKER_PORT = b"marker of ", 9
TOTAL_RETRANS_AT = 100  # tcpi_total_retrans in struct tcp_info
_POLL_S = 0.02


def retransmissions(connection: socket.socket) -> int:
    """How many segments this end has sent again so far."""
    told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TOTAL_RETRANS_AT + 4)
    return int(struct.unpack_from("=I", told, TOTAL_RETRANS_AT)[0])


class Heard:
    """One connection: what came, and how it ended (`reset`, `closed`, or "" while it stands)."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.data, self.end = connection, b"", ""


class _Thread:
    """`with` it: `_look` is called again and again meanwhile."""

    def __init__(self) -> None:
        self._stop = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._look()

    def _look(self) -> None: ...

    def _close(self) -> None: ...


class Hearing(_Thread):
    """A TCP server that writes down what it hears, by the source port. `answer`: sent once something came."""

    def __init__(self, network: Network, address: str = SERVER, port: int = 0, answer: bytes = b"") -> None:
        super().__init__()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._server = network.outside.call(lambda: socket.create_server((address, port), family=family, backlog=512))
        self.port = int(self._server.getsockname()[1])
        self._answer = answer
        self.heard: dict[int, Heard] = {}

    def _look(self) -> None:
        living = {one.connection: one for one in self.heard.values() if not one.end}
        ready, _, _ = select.select([self._server, *living], [], [], _POLL_S)
        for each in ready:
            if each is self._server:
                connection, (_, source, *_) = each.accept()
                self.heard[source] = Heard(connection)
            else:
                self._hear(living[each])

    def _hear(self, one: Heard) -> None:
        try:
            data = one.connection.recv(65536)
            if data and not one.data and self._answer:
                one.connection.sendall(self._answer)
        except OSError:
            one.end = "reset"
            return
        one.data += data
        if not data:
            one.end = "closed"

    def _close(self) -> None:
        for one in self.heard.values():
            one.connection.close()
        self._server.close()

    def of(self, source: int) -> Heard:
        """The connection from that port, which may be still on its way to `accept`."""
        until(lambda: source in self.heard, f"a connection from port {source}")
        return self.heard[source]

    def ended(self, source: int) -> str:
        one = self.of(source)
        until(lambda: one.end, f"the end of the connection from port {source}")
        return one.end


class Capture(_Thread):
    """Every IP packet that arrives at the outside's interface."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._inside = network.inside
        self._socket = network.outside.call(_packets)
        self.packets: list[bytes] = []

    def _look(self) -> None:
        if select.select([self._socket], [], [], _POLL_S)[0]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet, (_, _, kind, *_) = self._socket.recvfrom(65536)
                    if kind != PACKET_OUTGOING:
                        self.packets.append(packet)

    def _close(self) -> None:
        self._socket.close()

    def to(self, address: str, protocol: int = 0, port: int = 0) -> list[bytes]:
        """What came for it, once everything has that was sent before: a packet sent now is behind all of it."""
        mark(self._inside, lambda text: any(text in packet for packet in self.packets))
        wanted = ipaddress.ip_address(address).packed
        return [each for each in self.packets if _is_to(each, wanted, protocol, port) and MARKER not in each]


def _packets() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    made.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    made.bind(("eth0", ETH_P_ALL))
    made.setblocking(False)
    return made


def mark(inside: Namespace, seen: Callable[[bytes], bool]) -> None:
    """Sent by the test itself, which is in no sandbox."""
    with inside.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as marker:
        marker.connect((SERVER, MARKER_PORT))
        text = MARKER + repr(marker.getsockname()).encode()
        with contextlib.suppress(ConnectionRefusedError):
            marker.send(text)
        until(lambda: seen(text), "the marker outside")


def _is_to(packet: bytes, address: bytes, protocol: int, port: int) -> bool:
    """Options and extension headers do not stand in what the tests send, but for IPv6's own ICMP."""
    four = packet[0] >> 4 == 4
    target, number, at = (packet[16:20], packet[9], (packet[0] & 15) * 4) if four else (packet[24:40], packet[6], 40)
    if target != address or (protocol and number != protocol):
        return False
    return not port or int.from_bytes(packet[at + 2 : at + 4], "big") == port


def pieces_of(message: bytes, cut: int) -> Sequence[bytes]:
    """`cut`: where it is cut in two; 0: whole; -1: byte by byte."""
    if cut < 0:
        return [message[at : at + 1] for at in range(len(message))]
    return [piece for piece in (message[:cut], message[cut:]) if piece]
