"""Lines over a connection, with writes that are cut where a reader of segments least wants it."""

from __future__ import annotations

import json
import re
import socket
import time
from itertools import pairwise

PAUSE_S = 0.001  # so that the next piece is a segment of its own
BYTES_ALONE = 120  # of a message that is sent byte by byte; the rest follows whole
KEY = re.compile(rb'"(method|params|result|jsonrpc|id)"')
LINE_MOST = 1 << 20


def whole(data: bytes) -> list[bytes]:
    return [data]


def byte_by_byte(data: bytes) -> list[bytes]:
    alone = [data[at : at + 1] for at in range(min(BYTES_ALONE, len(data)))]
    return [*alone, data[BYTES_ALONE:]] if len(data) > BYTES_ALONE else alone


def within_keys(data: bytes) -> list[bytes]:
    """Cut in the middle of each key that tells a dialect."""
    cuts = [0, *(match.start() + 3 for match in KEY.finditer(data[:2000])), len(data)]
    return [data[start:end] for start, end in pairwise(cuts) if end > start]


SPLITS = {"whole": whole, "bytes": byte_by_byte, "keys": within_keys}


class Wire:
    """Of one connection; `split` is a key of SPLITS."""

    def __init__(self, connection: socket.socket, split: str) -> None:
        self._connection, self._split, self._had = connection, SPLITS[split], b""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        pieces = self._split(data)
        for piece in pieces:
            self._connection.sendall(piece)
            if len(pieces) > 1:
                time.sleep(PAUSE_S)

    def say(self, message: object, *, spaced: bool) -> None:
        """As a line of JSON; `spaced`: with white space between its tokens."""
        separators = None if spaced else (",", ":")
        self.send(json.dumps(message, separators=separators).encode() + b"\n")

    def line(self, until: float) -> bytes | None:
        """The next one; None where it is not there at that monotonic time. EOFError at the end of the stream."""
        while b"\n" not in self._had:
            if not self._more(until):
                return None
        line, _, self._had = self._had.partition(b"\n")
        return line

    def exactly(self, length: int, until: float) -> bytes | None:
        """So many bytes, or None and all of them later."""
        while len(self._had) < length:
            if not self._more(until):
                return None
        data, self._had = self._had[:length], self._had[length:]
        return data

    def _more(self, until: float) -> bool:
        self._connection.settimeout(max(0.001, until - time.monotonic()))
        try:
            data = self._connection.recv(65536)
        except TimeoutError:
            return False
        finally:
            self._connection.settimeout(10)
        if not data or len(self._had) > LINE_MOST:
            raise EOFError
        self._had += data
        return True
