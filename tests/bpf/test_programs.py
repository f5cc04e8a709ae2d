"""The lists in Python name what is in the probes, and nothing else."""

from __future__ import annotations

import re

import pytest

from sensor.bpf import maps, programs, state
from sensor.bpf.features import GATE, TRACEPOINTS
from sensor.bpf.libbpf import ProgType
from sensor.bpf.maps import Sizes
from sensor.enrich import enricher
from tests.events import compiled

SOURCE = programs.sources()
SIZES = Sizes(1 << 20, 100, 1000, 500, 50)


def test_every_program_stands_in_the_probes_and_the_other_way_round() -> None:
    written = set(re.findall(r"^int (on_\w+)\(", SOURCE, re.MULTILINE))
    assert written == {program.name for program in programs.PROGRAMS}
    assert len(written) == len(programs.PROGRAMS)


def test_every_file_of_the_probes_is_part_of_the_source() -> None:
    files = {str(path.relative_to(programs.PROBES)) for path in programs.PROBES.rglob("*.[ch]")}
    assert files == {name for unit in programs.UNITS for name in unit}
    for name in files:
        assert f'#line 1 "{name}"\n' in SOURCE


def test_every_program_is_of_one_unit() -> None:
    features = frozenset({"connect_unix", "get_retval", GATE, *TRACEPOINTS})
    units = [programs.of_unit(unit, features) for unit in range(len(programs.UNITS))]
    assert sorted(program.name for unit in units for program in unit) == sorted(p.name for p in programs.PROGRAMS)
    assert all(units)


@pytest.mark.parametrize("program", programs.PROGRAMS, ids=lambda program: str(program.name))
def test_a_program_is_attached_where_its_kind_can_be(program: programs.Program) -> None:
    if program.kind is ProgType.RAW_TRACEPOINT:
        assert program.attach is None
        assert program.tracepoint or program.name.startswith(("on_flush", "on_flow_check"))
    elif program.called_by is not None:
        name, place = program.called_by
        assert program.attach is None
        assert place < maps.definitions(SIZES)[name].entries
        assert re.search(rf"#define PF_PROGRAM_\w+ {place}$", SOURCE, re.MULTILINE)
    else:
        assert program.attach is not None
        assert not program.tracepoint


def test_what_needs_a_feature_is_left_out_without_it() -> None:
    all_of_them = programs.chosen(frozenset({"connect_unix", "get_retval", GATE, *TRACEPOINTS}))
    assert all_of_them == list(programs.PROGRAMS)
    left_out = {program.name for program in all_of_them} - {p.name for p in programs.chosen(frozenset())}
    assert left_out == {
        "on_connect_unix",
        "on_flush_unix",
        "on_signal_generate",
        "on_cap_capable",
        "on_io_uring_create",
        "on_sys_enter",
    }


def test_every_map_that_the_probes_use_is_made() -> None:
    used = set(re.findall(r"\bMAP\((\w+)\)", SOURCE)) - {"name"}  # the macro's own definition
    made = set(maps.definitions(SIZES)) | set(maps.SHARED)
    assert used <= made
    unused = made - used
    assert not unused


def test_the_sizes_that_an_operator_sets_are_the_maps() -> None:
    made = maps.definitions(SIZES)
    assert made["events"].entries == 1 << 20
    assert (made["sandboxes"].entries, made["processes"].entries, made["watch"].entries) == (100, 1000, 50)
    assert made["repeats"].entries == made["unix_repeats"].entries == 500


def test_constants_that_stand_on_both_sides_are_the_same() -> None:
    defined = {name: int(value, 0) for name, value in re.findall(r"#define (PF_\w+) (0x[0-9a-f]+|\d+)", SOURCE)}
    assert defined["PF_WATCHED"] == enricher.WATCHED
    assert defined["PF_UNTRACKED"] == enricher.UNTRACKED
    record = compiled.layouts((compiled.INCLUDE / "events.h").read_text())["pf_exec"]
    # u64 at; struct pf_executable_key key; struct pf_exec exec; char data[PF_SCRATCH_BYTES];
    assert 8 + state.SIZES["pf_executable_key"] + record + defined["PF_SCRATCH_BYTES"] == maps.EXEC_SCRATCH
    assert defined["PF_ARGV_MAX"] >= 4096, "the documented bound"


def test_no_helper_that_names_whoever_was_interrupted_is_used_in_socket_programs() -> None:
    """In sock_ops and cgroup_skb the current task is anybody, and on new kernels the helpers load and say so."""
    kinds = (ProgType.CGROUP_SKB, ProgType.SOCK_OPS)
    theirs = [program.name for program in programs.PROGRAMS if program.kind in kinds]
    assert {"on_sock_ops", "on_egress", "on_ingress", "on_packet"} <= set(theirs)
    reached = reachable(theirs)
    assert {"tell_flow", "first_bytes", "find_owner", "count_lost"} <= reached
    wrong = {name for name in reached if re.search(r"bpf_get_current|ancestor_id", FUNCTIONS[name])}
    assert wrong == set()
    # The same search finds them where they belong.
    assert re.search(r"bpf_get_current", FUNCTIONS["fill_header"])


FUNCTIONS = dict(
    re.findall(r"^(?:static __always_inline )?[\w *]+?\b(\w+)\([^;{]*\) \{\n(.*?)^\}", SOURCE, re.MULTILINE | re.DOTALL)
)

FUNCTIONS |= dict(re.findall(r"^[\w *]*?\b(\w+)\([^;{\n]*\) \{ (.*) \}$", SOURCE, re.MULTILINE))


def reachable(names: list[str]) -> set[str]:
    """Functions that these call, and theirs, and they themselves; macros that call some are looked through."""
    macros = dict(re.findall(r"^#define (\w+)\([^)]*\)[ \\]*\n?((?:.*\\\n)*.*)", SOURCE, re.MULTILINE))
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        body = FUNCTIONS[name]
        body += "".join(text for macro, text in macros.items() if f"{macro}(" in body)
        waiting += [called for called in set(re.findall(r"\b(\w+)\(", body)) if called in FUNCTIONS]
    return found
