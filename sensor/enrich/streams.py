"""What a process reads from and writes to: the kinds of its standard streams, by number. Further ones are `other`."""

from __future__ import annotations

from sensor.events.layouts import Stream

STREAMS = tuple("" if kind is Stream.NONE else kind.name.lower() for kind in Stream)
