"""The process table: identity, lineage, entry, bounds."""

from __future__ import annotations

import pytest

from sensor.config import Config, Limits, SandboxPattern
from sensor.enrich.enricher import Enricher
from sensor.enrich.processes import (
    CUT_CHARACTERS,
    EXITED_KEPT,
    LONG_MAX_BYTES,
    REPLACED_KEPT,
    TICK_NS,
    Process,
    same_start,
)
from sensor.events.activity import NetworkConnection, ProcessCreation, ProcessTermination
from tests.enrich import records
from tests.enrich.records import BOX, OTHER_BOX, START


def run(enricher: Enricher, *args: object, **fields: object) -> ProcessCreation:
    made = enricher.apply(records.exec_(*args, **fields), 1, 1)  # type: ignore[arg-type]
    assert isinstance(made, ProcessCreation)
    return made


def spawn(enricher: Enricher, tgid: int, start_ns: int, parent: tuple[int, int], name: str) -> ProcessCreation:
    enricher.apply(records.fork(tgid, start_ns, parent), 1, 1)
    return run(enricher, tgid, start_ns, name.encode() + b"\0", f"/bin/{name}", parent=parent)


def process(enricher: Enricher, tgid: int) -> Process:
    found = enricher.processes.get(tgid)
    assert found is not None
    return found


def test_start_times_of_one_process() -> None:
    assert same_start(START, START)
    assert same_start(START, START // TICK_NS * TICK_NS), "one from /proc, in whole ticks"
    assert not same_start(START, START + 1), "both exact, and different"
    assert not same_start(START, (START // TICK_NS + 1) * TICK_NS)


def test_a_child_is_its_parents_program_until_it_executes(enricher: Enricher) -> None:
    run(enricher, 500, START, b"server\0--fork\0", "/bin/server", uid=0)
    assert enricher.apply(records.fork(501, START + 5, (500, START)), 1, 1) is None
    made = enricher.apply(records.connect(501, b"\x01\x01\x01\x01", exec_id=9 * 10**9), 1, 1)
    assert isinstance(made, NetworkConnection)
    assert (made.Image, made.CommandLine, made.ParentProcessId) == ("/bin/server", "server --fork", 500)
    assert process(enricher, 501).executed_inside


def test_a_used_again_pid_is_another_process(enricher: Enricher) -> None:
    run(enricher, 500, START, b"old\0", "/bin/old")
    made = run(enricher, 500, START + 9, b"new\0", "/bin/new", time_ns=15 * 10**9)
    assert made.ProcessGuid == f"500-{START + 9}"
    assert enricher.counters["exits_missed"] == 1
    late = enricher.apply(records.exit_(500, START), 1, 1)
    assert isinstance(late, ProcessTermination)
    assert (late.Image, late.ProcessGuid) == ("/bin/old", f"500-{START}")
    assert process(enricher, 500).image == "/bin/new", "the late exit of the old one removed nothing"


def test_repeats_after_exit_are_told_of_the_one_that_exited(enricher: Enricher) -> None:
    run(enricher, 500, START, b"old\0", "/bin/old")
    enricher.apply(records.exit_(500, START), 1, 1)
    run(enricher, 500, START + 9, b"new\0", "/bin/new", time_ns=15 * 10**9)
    old = enricher.apply(records.connect(500, b"\x01\x01\x01\x01", flags=1), 1, 1)
    new = enricher.apply(records.connect(500, b"\x01\x01\x01\x01", exec_id=15 * 10**9), 1, 1)
    assert isinstance(old, NetworkConnection)
    assert isinstance(new, NetworkConnection)
    assert (old.Image, old.ProcessGuid) == ("/bin/old", f"500-{START}")
    assert (new.Image, new.ProcessGuid) == ("/bin/new", f"500-{START + 9}")


def test_repeats_of_the_program_before_an_exec(enricher: Enricher) -> None:
    run(enricher, 500, START, b"bash\0", "/bin/bash")
    run(enricher, 500, START, b"nc\0", "/bin/nc", time_ns=15 * 10**9)
    before = enricher.apply(records.connect(500, b"\x01\x01\x01\x01", flags=1), 1, 1)
    after = enricher.apply(records.connect(500, b"\x01\x01\x01\x01", exec_id=15 * 10**9), 1, 1)
    assert isinstance(before, NetworkConnection)
    assert isinstance(after, NetworkConnection)
    assert (before.Image, after.Image) == ("/bin/bash", "/bin/nc")


def test_an_older_exec_that_nobody_knows_is_not_given_to_the_newest(enricher: Enricher) -> None:
    run(enricher, 500, START, b"new\0", "/bin/new")
    made = enricher.apply(records.connect(500, b"\x01\x01\x01\x01", exec_id=3), 1, 1)
    assert isinstance(made, NetworkConnection)
    assert (made.Image, made.ProcessGuid) == ("", "500-0")
    assert enricher.counters["actors_unknown"] == 1


def test_parent_names_survive_the_parents_exit_and_reparenting(enricher: Enricher) -> None:
    run(enricher, 500, START, b"bash\0", "/bin/bash")
    enricher.apply(records.fork(501, START + 5, (500, START)), 1, 1)
    enricher.apply(records.exit_(500, START), 1, 1)
    made = run(enricher, 501, START + 5, b"nc\0", "/bin/nc", parent=(1, 1))
    assert (made.ParentProcessId, made.ParentImage) == (500, "/bin/bash")
    for index in range(EXITED_KEPT + 50):  # the parent is the oldest of all that exited
        enricher.apply(records.fork(1000 + index, START + 10 + index, (501, START + 5)), 1, 1)
        enricher.apply(records.exit_(1000 + index, START + 10 + index, exec_id=9 * 10**9), 1, 1)
    again = run(enricher, 501, START + 5, b"sh\0", "/bin/sh", parent=(1, 1))
    assert again.ParentImage == "/bin/bash"
    assert enricher.processes.lineage(process(enricher, 501))[1].image == "/bin/bash"


def test_entry_is_the_first_program_inside_of_the_process_that_came_in(enricher: Enricher) -> None:
    first = spawn(enricher, 500, START, (1, 1), "init")
    second = spawn(enricher, 501, START + 1, (500, START), "agent")
    third = spawn(enricher, 502, START + 2, (501, START + 1), "curl")
    assert {made.EntryImage for made in (first, second, third)} == {"/bin/init"}
    changed = run(enricher, 500, START, b"other\0", "/bin/other")
    assert changed.EntryCommandLine == "init", "what it ran first, not last"
    newcomer = run(enricher, 600, START + 9, b"exec-in\0", "/bin/exec-in", parent=(1, 1))
    assert newcomer.EntryImage == "/bin/exec-in"


def test_descendants_of_a_process_that_forked_before_its_first_exec_see_its_entry_settle(enricher: Enricher) -> None:
    enricher.apply(records.move(500, START, previous=0, destination=BOX), 1, 1)
    enricher.apply(records.fork(501, START + 1, (500, START)), 1, 1)
    run(enricher, 500, START, b"entry\0", "/bin/entry")
    child = run(enricher, 501, START + 1, b"x\0", "/bin/x", parent=(500, START))
    assert child.EntryImage == "/bin/entry"


def test_a_parent_in_another_sandbox_is_a_parent_but_no_entry(enricher: Enricher) -> None:
    run(enricher, 500, START, b"a\0", "/bin/a")
    made = run(enricher, 501, START + 1, b"b\0", "/bin/b", parent=(500, START), sandbox=OTHER_BOX)
    assert (made.ParentImage, made.EntryImage) == ("/bin/a", "/bin/b")


def test_descendants_include_those_of_exited_parents_and_stop_at_the_sandbox(enricher: Enricher) -> None:
    spawn(enricher, 500, START, (1, 1), "root")
    spawn(enricher, 501, START + 1, (500, START), "middle")
    spawn(enricher, 502, START + 2, (501, START + 1), "leaf")
    spawn(enricher, 510, START + 3, (1, 1), "unrelated")
    run(enricher, 520, START + 4, b"far\0", "/bin/far", parent=(500, START), sandbox=OTHER_BOX)
    enricher.apply(records.exit_(501, START + 1), 1, 1)
    table = enricher.processes
    assert {p.tgid for p in table.descendants(500)} == {502}
    enricher.apply(records.exit_(500, START), 1, 1)
    assert {p.tgid for p in table.descendants(500)} == {502}, "also of one that exited itself"
    assert {p.tgid for p in table.in_sandbox(BOX)} == {502, 510}
    assert table.get(500) is None
    assert table.descendants(99) == []


def test_executed_inside(enricher: Enricher) -> None:
    enricher.apply(records.move(500, START, previous=0, destination=BOX), 1, 1)
    enricher.apply(records.fork(501, START + 1, (500, START)), 1, 1)
    assert not process(enricher, 500).executed_inside
    assert not process(enricher, 501).executed_inside, "still the host's program"
    run(enricher, 501, START + 1, b"sshd\0", "/usr/sbin/sshd", parent=(500, START))
    assert process(enricher, 501).executed_inside


def test_the_file_of_a_program_is_known_by_device_and_inode_and_shared_by_forks(enricher: Enricher) -> None:
    assert enricher.processes.moved(records.move(499, START, previous=0, destination=BOX)).image_file == (0, 0), (
        "nothing told what it runs"
    )
    spawn(enricher, 500, START, (1, 1), "job")
    one = process(enricher, 500)
    assert one.image_file == (0x800001, 42)
    enricher.apply(records.fork(501, START + 1, (500, START)), 1, 1)
    assert process(enricher, 501).image_file is one.image_file
    spawn(enricher, 502, START + 2, (1, 1), "job")
    assert process(enricher, 502).image_file is one.image_file, "kept once for all that run it"


def test_a_replayed_fork_changes_nothing(enricher: Enricher) -> None:
    spawn(enricher, 500, START, (1, 1), "job")
    enricher.apply(records.fork(500, START, (1, 1)), 1, 1)
    assert process(enricher, 500).image == "/bin/job"
    assert len(enricher.processes) == 1


@pytest.fixture
def small(tmp_path: object) -> Enricher:
    made = Enricher(Config(sandboxes=(SandboxPattern("boxes/*"),), limits=Limits(processes=256)), str(tmp_path))
    made.apply(records.birth(BOX, b"/boxes/a\0"), 1, 0)
    made.apply(records.birth(OTHER_BOX, b"/boxes/b\0"), 1, 0)
    return made


def test_a_fork_bomb_does_not_push_out_another_sandbox(small: Enricher) -> None:
    for tgid in range(20):
        small.apply(records.exec_(100 + tgid, START, sandbox=OTHER_BOX), 1, 1)
    for index in range(5000):
        small.apply(records.fork(10_000 + index, START + index, (1, 1)), 1, 1)
    assert len(small.processes) <= 256
    assert len(small.processes.in_sandbox(OTHER_BOX)) == 20
    assert small.counters["live_evicted"] > 4000


def test_exited_are_evicted_before_the_living(small: Enricher) -> None:
    for tgid in range(100):
        small.apply(records.exec_(100 + tgid, START), 1, 1)
    for index in range(2000):
        small.apply(records.fork(10_000 + index, START + index, (100, START)), 1, 1)
        small.apply(records.exit_(10_000 + index, START + index, exec_id=9 * 10**9), 1, 1)
    assert len(small.processes.in_sandbox(BOX)) == 100
    assert small.counters["live_evicted"] == 0


def test_a_chain_of_dying_parents_is_bounded(small: Enricher) -> None:
    parent = (1, 1)
    for index in range(3000):
        tgid, start_ns = 1000 + index, START + index
        small.apply(records.fork(tgid, start_ns, parent), 1, 1)
        if index:
            small.apply(records.exit_(parent[0], parent[1], exec_id=9 * 10**9), 1, 1)
        parent = (tgid, start_ns)
    assert len(small.processes) <= 256
    last = small.processes.get(parent[0])
    assert last is not None
    held = 0
    while last is not None:
        held, last = held + 1, last.parent
    assert held <= 257, "an evicted parent keeps no parent of its own"


def test_who_had_the_number_before_is_known_for_a_while(enricher: Enricher) -> None:
    table = enricher.processes
    spawn(enricher, 500, START, (1, 1), "old")
    enricher.apply(records.exit_(500, START), 1, 1)
    old = table.current[500]
    assert old.ended_ns > 0 and table.replaced == {}
    spawn(enricher, 500, START + 9, (1, 1), "new")
    assert table.replaced == {500: old}
    for tgid in range(1000, 1000 + REPLACED_KEPT):
        spawn(enricher, tgid, START, (1, 1), "one")
        spawn(enricher, tgid, START + 9, (1, 1), "another")
    assert len(table.replaced) == REPLACED_KEPT and 500 not in table.replaced
    table.forget(BOX)
    assert table.replaced == {}, "what is evicted is held by nobody"


def test_long_command_lines_have_a_budget_of_their_sandbox(enricher: Enricher) -> None:
    line = b"x" * 4095 + b"\0"
    for index in range(LONG_MAX_BYTES // 4096 + 100):
        made = run(enricher, 1000 + index, START, line)
        assert len(made.CommandLine) == 4095, "its own event has it whole"
    assert enricher.counters["texts_cut"] > 0
    kept = sum(len(p.command_line) for p in enricher.processes.in_sandbox(BOX))
    assert kept <= LONG_MAX_BYTES + 200 * (CUT_CHARACTERS + 1)
    other = run(enricher, 9000, START, line, sandbox=OTHER_BOX)
    assert process(enricher, other.ProcessId).command_line == other.CommandLine


def test_forked_children_count_what_they_share(enricher: Enricher) -> None:
    """Else each of many children could hold the long line of a parent of its own that is gone."""
    run(enricher, 500, START, b"x" * 4095 + b"\0")
    room = LONG_MAX_BYTES // 4096
    for index in range(room + 10):
        enricher.apply(records.fork(1000 + index, START + index, (500, START)), 1, 1)
    lengths = [len(process(enricher, 1000 + index).command_line) for index in range(room + 10)]
    assert lengths[0] == 4095
    assert lengths[-1] == CUT_CHARACTERS + 1
    assert sum(length == 4095 for length in lengths) < room


def test_those_that_exited_make_room_in_the_budget(enricher: Enricher) -> None:
    line = b"x" * 4095 + b"\0"
    for index in range(2 * LONG_MAX_BYTES // 4096):
        run(enricher, 500, START + index, line, time_ns=10**10 + index)
        enricher.apply(records.exit_(500, START + index, exec_id=10**10 + index), 1, 1)
    run(enricher, 501, START, line)
    assert len(process(enricher, 501).command_line) == 4095
    assert enricher.counters["texts_cut"] == 0


def test_a_forgotten_sandbox_leaves_only_its_living(enricher: Enricher) -> None:
    spawn(enricher, 500, START, (1, 1), "gone")
    spawn(enricher, 501, START, (1, 1), "left")
    enricher.apply(records.exit_(500, START), 1, 1)
    enricher.processes.forget(BOX)
    assert len(enricher.processes) == 1
    enricher.apply(records.exit_(501, START), 1, 1)
    enricher.processes.forget(BOX)
    assert len(enricher.processes) == 0
