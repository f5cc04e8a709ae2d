"""What the kernel counts and does not send, since no loaded rule can match it."""

from __future__ import annotations

from collections.abc import Iterable
from struct import pack

from sensor.bpf import libbpf
from sensor.bpf.maps import UNSENT, WANTED_PORTS
from sensor.bpf.objects import Generation
from sensor.bpf.state import Unwanted

_LOCAL, _OUTWARD = 1, 2  # PF_CONNECTS_… in probes/include/state.h
Ports = Iterable[int] | None


def write(generation: Generation, devices: Iterable[int], local: Ports, outward: Ports) -> None:
    """`devices`: classes. Ports of each zone to which repeated connects are sent; None: to all of them."""
    zones = [(zone, ports) for zone, ports in ((_LOCAL, local), (_OUTWARD, outward)) if ports is not None]
    entry = Unwanted(sum(1 << device for device in devices), sum(zone for zone, _ in zones))
    wanted = {pack("<I", zone << 16 | port) for zone, ports in zones for port in ports}
    descriptor = generation.maps["wanted_ports"]
    # Ports first: what is wanted now and was not before must not wait for it.
    for key in wanted:
        libbpf.update(descriptor, key, b"\1")
    libbpf.update(generation.maps["unwanted"], bytes(4), entry.pack())
    for key in libbpf.keys(descriptor, 4, WANTED_PORTS):
        if key not in wanted:
            libbpf.delete(descriptor, key)


def unsent(generation: Generation) -> dict[str, int]:
    """By category, since the generation was made."""
    values = [libbpf.lookup(generation.maps["unsent"], pack("<I", index), 8) for index in range(len(UNSENT))]
    return {name: int.from_bytes(value or b"", "little") for name, value in zip(UNSENT, values, strict=True)}
