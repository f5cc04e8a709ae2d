"""What a process reads from and writes to: the kinds of its standard streams, by number. Further ones are `other`."""

from __future__ import annotations

from sensor.events.layouts import Stream

_KNOWN = tuple("" if kind is Stream.NONE else kind.name.lower() for kind in Stream)
STREAMS = _KNOWN + ("other",) * (256 - len(_KNOWN))  # for each value of the byte that tells it
