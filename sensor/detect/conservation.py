"""Is what comes in on one flow what goes out on another, and back?

The outer flow carries more than the inner (framing, channel messages, a handshake) or less (compression). What may be
more is bounded by messages, not by the outer flow's packets alone: a reply that an LLM streams comes in hundreds of
packets, the request that an agent then makes goes out in one, and framing must not explain the difference away.
"""

from __future__ import annotations

from msgspec import Struct

from sensor.configdetect import RelaySettings
from sensor.detect.flows import Totals

UNKNOWN = -1
EXTRA_MESSAGES = 4  # open, confirm, window, close: of the outer flow only


class Framing(Struct, frozen=True, gc=False):
    fixed: int
    packet: int
    handshake_out: int = 0
    handshake_in: int = 0


class Conserved(Struct, frozen=True, gc=False):
    percent: int  # the worse direction; UNKNOWN where neither has enough
    both: bool  # directions known
    strong: bool  # more than framing could make alike


NOTHING = Conserved(UNKNOWN, both=False, strong=False)


def direction(  # noqa: PLR0917 - bytes and packets of both flows
    outer: int, inner: int, outer_packets: int, inner_packets: int, fixed: int, settings: RelaySettings, packet: int
) -> int:
    """Percent, or UNKNOWN. `outer`, `inner`: payload bytes of one direction."""
    messages = min(outer_packets, inner_packets + EXTRA_MESSAGES)
    allowance = fixed + packet * messages + inner * settings.slack_percent // 100
    least = max(0, outer - allowance)
    if max(least, inner) < settings.quiet_bytes:
        return UNKNOWN
    if least > inner:
        return 100 * inner // least
    # The inner flow ended before the last of it was counted on the outer, or retransmitted.
    if outer >= inner * 9 // 10 - settings.quiet_bytes * 2 and outer * 2 >= inner:
        return 100
    if outer * settings.compression >= inner:
        return settings.compressed_percent
    return 100 * outer * settings.compression // max(1, inner) * settings.compressed_percent // 100


def conserved(outer: Totals, inner: Totals, framing: Framing, settings: RelaySettings) -> Conserved:
    """What came in on the outer flow against what went out on the inner, and the other way round."""
    inward = direction(
        outer[1], inner[0], outer[3], inner[2], framing.fixed + framing.handshake_in, settings, framing.packet
    )
    outward = direction(
        outer[0], inner[1], outer[2], inner[3], framing.fixed + framing.handshake_out, settings, framing.packet
    )
    known = [percent for percent in (inward, outward) if percent != UNKNOWN]
    if not known:
        return NOTHING
    strong = max(inner[0], inner[1]) >= settings.weak_bytes
    percent = min(known) if strong else min(*known, settings.weak_percent)
    return Conserved(percent, len(known) == 2, strong)


def worth(result: Conserved, settings: RelaySettings) -> int:
    """Points, from half to nine tenths conserved: below is coincidence; above, retransmits and timing."""
    if result.percent == UNKNOWN:
        return 0
    share = settings.conservation * max(0, min(40, result.percent - 50)) // 40
    return share if result.both else share // 2
