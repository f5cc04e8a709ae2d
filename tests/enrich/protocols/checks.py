"""What every dissector must keep, whatever bytes it is given."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from threading import Thread

from hypothesis import strategies as st

from sensor.enrich.protocols.result import TEXT_MAX, Found

Dissect = Callable[[bytes, bool], Found | None]
ANY = st.binary(max_size=4200)


def sound(found: Found | None, *protocols: str) -> None:
    """None, or a result of these protocols whose texts are printable and bounded."""
    if found is None:
        return
    assert type(found) is Found
    assert found.protocol in protocols
    assert found.role in ("client", "server", "")
    for field in Found.__struct_fields__:
        value = getattr(found, field)
        assert type(value) is (bool if field == "certain" else str), field
        if type(value) is str:
            assert len(value) <= TEXT_MAX and value.isprintable(), field


def at_every_length(dissect: Dissect, data: bytes, udp: bool, *protocols: str) -> list[Found | None]:
    """Results by the number of bytes that are there; the first protocol that is said stays."""
    results = [dissect(data[:size], udp) for size in range(len(data) + 1)]
    for found in results:
        sound(found, *protocols)
    assert len({found.protocol for found in results if found is not None}) <= 1
    return results


def mutated(samples: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Samples with some bytes replaced, removed or put in."""
    edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=6)), max_size=5)
    return st.builds(_edited, st.sampled_from(list(samples)), edits)


def _edited(sample: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, removed, put in edits:
        start = at % (len(sample) + 1)
        sample = sample[:start] + put + sample[start + removed :]
    return sample


def first_bytes(act: Callable[[int], object], answers: Sequence[bytes] = ()) -> bytes:
    """What `act`, given a port of 127.0.0.1, sends there: first, and after each answer."""
    heard = bytearray()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            heard.extend(connection.recv(4096))
            for answer in answers:
                connection.sendall(answer)
                heard.extend(connection.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = Thread(target=serve, args=(listener,))
        thread.start()
        act(listener.getsockname()[1])
        thread.join()
    return bytes(heard)
