"""What the daemon calls, which goes through a ring at once, does what is done with each record."""

from __future__ import annotations

from pathlib import Path

from sensor.bpf.ring import PAGE
from tests.bpf.fake_ring import FakeRing
from tests.enrich import records
from tests.enrich.records import START
from tests.events.packing import bytes_of
from tests.test_pipeline import BORN, CHILD, GENERATION, MINES, PLAIN, Run, connect


def test_a_ring_drained_is_each_of_its_records_taken(tmp_path: Path) -> None:
    own = records.exec_(600, START, b"xmrig\0", sandbox=4321)
    told = [
        BORN,
        PLAIN,
        own,
        MINES,
        CHILD,
        connect(),
        records.birth(4321, b"/boxes/test\0"),
        records.exit_(501, START + 1),
    ]
    found = []
    for number, drained in enumerate((False, True)):
        (tmp_path / str(number)).mkdir()
        run = Run(tmp_path / str(number))
        run.pipeline.aside_id = 4321
        ring = FakeRing(4 * PAGE)
        positions = [ring.write(bytes_of(record)) for record in told]
        if drained:
            first, behind = run.pipeline.drain(ring.ring, 3, GENERATION)
            ring.ring.advance(behind)
            assert (first, behind) == (3, positions[3])
            assert run.pipeline.drain(ring.ring, 100, GENERATION) == (len(told) - 3, ring.produced)
        else:
            for position, _, at, length in ring.ring.pending(100):
                run.pipeline.take(ring.ring.data, at, length, GENERATION, position)
        lines = [{name: line[name] for name in line if name != "time"} for line in run.lines()]
        found.append((lines, [type(record) for record in run.pipeline.aside], run.acting.asked))
        ring.close()
    assert found[0][1:] == found[1][1:]
    assert [(line["kind"], line.get("id")) for line in found[0][0]] == [
        (line["kind"], line.get("id")) for line in found[1][0]
    ]
    assert len(found[0][0]) > len(told) - 2
    assert found[0][1] == [type(own), type(BORN)]
