"""The latest detections: kept, bounded, found again, and read back after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.control.showing import Showing
from sensor.errors import NotFoundError
from sensor.operations import recent
from sensor.operations.recent import Recent
from tests.operations.core import READER, ROOT, Core


@pytest.fixture
def core(tmp_path: Path) -> Core:
    return Core(tmp_path)


def ids(core: Core, **asked: object) -> list[str]:
    return [one["id"] for one in core.call("detections", READER, **asked)["detections"]]


def test_they_are_listed_newest_first_and_chosen(core: Core) -> None:
    one, other = core.sandbox("a"), core.sandbox("b")
    core.detect(1, one, "low", "r-1")
    core.detect(2, other, "high", "r-2")
    core.detect(3, one, "critical", "r-2")
    assert ids(core) == ["1f-3/r-2", "1f-2/r-2", "1f-1/r-1"]
    assert ids(core, limit=2) == ["1f-3/r-2", "1f-2/r-2"]
    assert ids(core, level="high") == ["1f-3/r-2", "1f-2/r-2"]
    assert ids(core, sandbox="a") == ids(core, sandbox="boxes/a") == ["1f-3/r-2", "1f-1/r-1"]
    assert ids(core, rule="r-1") == ["1f-1/r-1"]
    assert ids(core, rule="A rule", sandbox=str(other.id)) == ["1f-2/r-2"]
    assert core.call("sandbox", ref="a")["latest"] == ["1f-3/r-2", "1f-1/r-1"]


def test_one_that_is_over_is_found_by_its_name(core: Core) -> None:
    box = core.sandbox("a")
    core.detect(1, box)
    core.enricher.sandboxes.ended(box.id, 5)
    del core.enricher.sandboxes.by_id[box.id]
    assert ids(core, sandbox="a") == ids(core, sandbox=str(box.id)) == ["1f-1/r-1"]
    with pytest.raises(NotFoundError, match="no sandbox b"):
        ids(core, sandbox="b")


def test_one_is_told_whole_and_with_who_has_seen_it(core: Core) -> None:
    identity = core.detect(1, core.sandbox("a"), CommandLine="ssh -R")
    core.call("acknowledge", ROOT, id=identity, reason="it is ours")
    answer = core.call("detection", id=identity)
    assert answer["detections"] == [line for line in core.lines() if line["kind"] == "detection"]
    assert answer["acknowledged"][identity]["reason"] == "it is ours"
    with pytest.raises(NotFoundError, match="no detection '1f-2/r-1' among the latest 1"):
        core.call("detection", id="1f-2/r-1")


def test_no_more_are_kept_than_the_bounds(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    box = core.sandbox("a")
    monkeypatch.setattr(recent, "MOST", 5)
    for number in range(8):
        core.detect(number, box)
    assert ids(core) == [f"1f-{number}/r-1" for number in (7, 6, 5, 4, 3)]
    monkeypatch.setattr(recent, "MOST_BYTES", 10_000)
    for number in range(16, 20):
        core.detect(number, box, CommandLine="x" * 4000)
    assert ids(core) == ["1f-13/r-1", "1f-12/r-1"]


def test_a_restart_knows_them_again(core: Core) -> None:
    box = core.sandbox("a")
    expected = [core.detect(number, box) for number in range(5)]
    with Path(core.log.path).open("ab") as file:
        file.write(b'{"v":1,"kind":"detection","id":5}\n{"v":1,"kind":"detection"\n\xff\n')
    found = Recent()
    found.load(core.log.path)
    assert found.ids() == expected
    assert [told.line for told in found.latest("", box.id, "", "", 9)][::-1] == [
        line
        for line in Path(core.log.path).read_bytes().splitlines()
        if line.startswith(b'{"v":1,"kind":"detection","id":"')
    ]
    absent = Recent()
    absent.load(str(core.folder / "log" / "absent"))
    assert len(absent) == 0


def test_what_is_shown_is_made_of_what_the_core_tells(core: Core) -> None:
    identity = core.detect(1, core.sandbox("a"))
    answer = core.operations.answer("detections", b"{}", READER)
    showing = Showing()
    shown = showing("detections", b"{}", answer)
    assert showing("detections", b"{}", answer) is shown, "made once"
    assert b'"acknowledged":null' in shown
    assert identity.encode() in shown
    assert showing("policy", b"{}", b"{}") == b"{}"
