"""A program whose input a flow's holder may feed, and what was seen of it: by its name a shell, or by what it does."""

from __future__ import annotations

from collections.abc import Iterator

from sensor.configdetect import ReverseShellSettings
from sensor.detect.flows import Flow
from sensor.detect.world import World
from sensor.events.activity import Activity, ProcessCreation


class Fed:
    """`steps`: programs that followed data which came in on `flow` after a pause, one for each time that it did;
    `typed`: those before which no more came in than a line."""

    __slots__ = ("before", "event", "flow", "holders", "inner", "shell", "since_ns", "stepped_ns", "steps", "typed")

    def __init__(self, event: Activity, inner: str, *, shell: bool, flow: Flow | None = None) -> None:
        self.event = event  # of the accused
        self.inner = inner
        self.shell = shell  # by its name
        self.since_ns = event.monotonic_ns
        self.flow = flow
        self.holders: tuple[int, ...] = ()
        self.steps = 0
        self.typed = 0
        self.stepped_ns = -1
        self.before = -1  # bytes that had come in on the flow, before those that came after a pause

    @property
    def unfed(self) -> bool:
        return self.flow is None or self.flow.ended

    def found(self, flow: Flow) -> None:
        """Steps before it was known may have followed any other flow's data: one is believed."""
        if self.unfed:
            self.steps, self.typed = min(self.steps, 1), 0
            self.flow = flow

    def stepped(self, came_ns: int, at_ns: int, settings: ReverseShellSettings, world: World) -> bool:
        """A program began at `at_ns`; data came in at `came_ns`. Whether that is a step more."""
        if came_ns == self.stepped_ns or not 0 <= at_ns - came_ns <= settings.step_ms * 10**6:
            return False
        self.stepped_ns = came_ns
        self.steps += 1
        now = world.counters(self.flow.cookie) if self.flow is not None and self.before >= 0 else None
        self.typed += now is not None and now.bytes_in - self.before <= settings.typed_bytes
        return True

    def parts(self, flow: Flow, settings: ReverseShellSettings) -> dict[str, int]:
        """An agent's replies carry a text or a call's JSON, and HTTP's head; what is typed is a line. Nothing is taken
        for typed on HTTP: compressed heads are as small."""
        session = self.steps >= settings.steps
        if flow.shell:
            wire = 45
        elif flow.http:
            wire = 0
        else:
            wire = 10 if flow.application else 20
        return {
            "fed": 20 if self.shell or session else 10,  # what runs what it is told is a shell
            "wire": wire,
            "steps": 25 if session else 10 * (self.steps > 0),
            "typed": 10 if session and self.typed * 2 > self.steps and not flow.http else 0,
            "private_peer": (-10 if self.shell else -20) * flow.event.DestinationIsPrivate,
        }


class Watch:
    """At most `most` of them, by process or flow; the oldest goes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._fed: dict[int, Fed] = {}
        self.evicted = 0

    def __iter__(self) -> Iterator[Fed]:
        return iter(self._fed.values())

    def get(self, key: int) -> Fed | None:
        return self._fed.get(key)

    def put(self, key: int, fed: Fed) -> Fed:
        if len(self._fed) >= self._most:
            del self._fed[next(iter(self._fed))]
            self.evicted += 1
        self._fed[key] = fed
        return fed

    def drop(self, key: int) -> None:
        self._fed.pop(key, None)


def inherits(child: ProcessCreation, parent: Activity) -> bool:
    """A shell hands its terminal, or its pipes, to what it runs."""
    return isinstance(parent, ProcessCreation) and (
        (child.StandardInputInode, child.StandardOutputInode) == (parent.StandardInputInode, parent.StandardOutputInode)
        and (child.StandardInput, child.StandardOutput) == (parent.StandardInput, parent.StandardOutput)
    )
