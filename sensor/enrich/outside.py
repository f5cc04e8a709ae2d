"""Processes outside every sandbox, of which the kernel tells nothing: the one that forked or moved a
process into a sandbox. Only its image: a link cannot stall the sensor, its memory could."""

from __future__ import annotations

from sensor.enrich import procfs

CACHED = 1024


class Outside:
    def __init__(self) -> None:
        self._known: dict[tuple[int, int], str] = {}

    def image(self, tgid: int, start_ns: int) -> str:
        """ "" where it is gone. Asked once for each process."""
        key = (tgid, start_ns)
        image = self._known.get(key)
        if image is None:
            if len(self._known) >= CACHED:
                self._known.clear()
            path = procfs.read_image(tgid, start_ns) if tgid and start_ns else None
            image = self._known[key] = (path or b"").decode(errors="replace")
        return image

    def parent(self, tgid: int, start_ns: int) -> tuple[int, int] | None:
        """tgid and start of its parent; None where either is gone, or another has its tgid."""
        status = procfs.read_stat(tgid)
        if status is None or procfs.start_ticks(status.start_ns) != procfs.start_ticks(start_ns):
            return None
        above = procfs.read_stat(status.parent_tgid)
        return None if above is None else (above.tgid, above.start_ns)
