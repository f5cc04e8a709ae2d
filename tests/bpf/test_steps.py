"""Configured paths as the kernel matches them, on a directory tree that stands for the cgroups."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.bpf import steps
from sensor.bpf.maps import STEPS
from sensor.bpf.state import Step, Watch
from sensor.errors import HostError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path in (
        "machine.slice/box-1/inner/deeper",
        "machine.slice/box-2",
        "machine.slice/other",
        "kubepods/burstable/pod1/container",
        "kubepods/besteffort/pod2",
        "kubepods/besteffort/podless.slice",
        "docker/abc",
        "pinfold/agent",
    ):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "docker" / "file").write_text("no cgroup")
    (tmp_path / "docker" / "link").symlink_to(tmp_path / "machine.slice")
    return tmp_path


def found(tree: Path, *patterns: tuple[str, int]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """(folder → steps for its children, sandbox → class), both by path below the tree."""
    plan = steps.compile_patterns(patterns)
    result = steps.find(plan, str(tree), plan.first)
    names = {path.lstat().st_ino: str(path.relative_to(tree)) for path in [tree, *tree.rglob("*")]}
    return {names[inode]: at for inode, at in result.watch}, {names[inode]: at for inode, at in result.sandboxes}


def test_a_pattern_becomes_one_place_a_component() -> None:
    plan = steps.compile_patterns([("machine.slice/box-*", 1), ("/kubepods/*/pod*.slice/", 2)])
    assert plan.first == (0, 2)
    first, second, third, fourth, fifth = plan.places
    assert (first.prefix, first.exact, first.last, first.next) == (b"machine.slice", True, False, 1)
    assert (second.prefix, second.suffix, second.exact, second.last, second.class_id) == (b"box-", b"", False, True, 1)
    assert (third.exact, third.last, third.next) == (True, False, 3)
    assert (fourth.prefix, fourth.suffix, fourth.last, fourth.next) == (b"", b"", False, 4)
    assert (fifth.prefix, fifth.suffix, fifth.last, fifth.class_id) == (b"pod", b".slice", True, 2)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("box", "box", True),
        ("box", "box1", False),
        ("box", "bo", False),
        ("box-*", "box-", True),
        ("box-*", "box-1", True),
        ("box-*", "Box-1", False),
        ("*.scope", ".scope", True),
        ("*.scope", "a.scope", True),
        ("*.scope", "a.scope2", False),
        ("ab*ba", "aba", False),  # the two may not share a byte
        ("ab*ba", "abba", True),
        ("*", "anything", True),
        ("\u00e9*", "\u00e9t\u00e9", True),
    ],
)
def test_a_name_is_matched_as_bytes(pattern: str, name: str, matches: bool) -> None:
    (place,) = steps.compile_patterns([(pattern, 0)]).places
    assert place.matches(os.fsencode(name)) is matches


@given(prefix=st.text("ab", max_size=3), suffix=st.text("ab", max_size=3), name=st.text("ab", max_size=8))
@settings(max_examples=300)
def test_a_star_is_what_a_regex_says_it_is(prefix: str, suffix: str, name: str) -> None:
    (place,) = steps.compile_patterns([(f"{prefix}*{suffix}", 0)]).places
    assert place.matches(name.encode()) is bool(re.fullmatch(f"{prefix}.*{suffix}", name))


def test_a_place_packs_with_masks_as_long_as_its_texts() -> None:
    (place,) = steps.compile_patterns([("box-*.scope", 7)]).places
    step = Step.unpack(place.pack())
    assert (step.prefix, step.prefix_mask) == (b"box-".ljust(64, b"\0"), (b"\xff" * 4).ljust(64, b"\0"))
    assert (step.suffix, step.suffix_mask) == (b".scope".ljust(32, b"\0"), (b"\xff" * 6).ljust(32, b"\0"))
    assert (step.prefix_length, step.suffix_length, step.exact, step.last, step.class_id) == (4, 6, 0, 1, 7)


def test_what_is_there_is_found_and_what_leads_to_it_is_watched(tree: Path) -> None:
    watch, sandboxes = found(tree, ("machine.slice/box-*", 1), ("kubepods/*/pod*", 2), ("docker/*", 3))
    assert sandboxes == {
        "machine.slice/box-1": 1,
        "machine.slice/box-2": 1,
        "kubepods/burstable/pod1": 2,
        "kubepods/besteffort/pod2": 2,
        "kubepods/besteffort/podless.slice": 2,
        "docker/abc": 3,
    }
    assert watch == {
        ".": (0, 2, 5),
        "machine.slice": (1,),
        "kubepods": (3,),
        "kubepods/burstable": (4,),
        "kubepods/besteffort": (4,),
        "docker": (6,),
    }


def test_what_is_in_a_sandbox_is_no_sandbox_of_its_own(tree: Path) -> None:
    watch, sandboxes = found(tree, ("machine.slice/box-1", 1), ("machine.slice/box-1/inner", 2))
    assert sandboxes == {"machine.slice/box-1": 1}
    assert "machine.slice/box-1" not in watch


def test_the_first_pattern_that_matches_gives_the_class(tree: Path) -> None:
    assert found(tree, ("docker/a*", 4), ("docker/*", 5))[1] == {"docker/abc": 4}
    assert found(tree, ("docker/*", 5), ("docker/a*", 4))[1] == {"docker/abc": 5}


def test_nothing_there_is_no_trouble(tree: Path) -> None:
    assert found(tree, ("absent/*", 1)) == ({".": (0,)}, {})
    plan = steps.compile_patterns([("absent/*", 1)])
    assert steps.find(plan, str(tree / "gone"), plan.first) == steps.Found([], [])


def test_steps_at_is_what_the_walk_finds(tree: Path) -> None:
    patterns = [("machine.slice/box-*", 1), ("kubepods/*/pod*", 2), ("*/besteffort/x", 3)]
    plan = steps.compile_patterns(patterns)
    watch, _ = found(tree, *patterns)
    for path, at in watch.items():
        if path != ".":
            assert steps.steps_at(plan, path) == at, path
    assert steps.steps_at(plan, "kubepods/besteffort") == (4, 7)
    assert steps.steps_at(plan, "elsewhere/besteffort") == (7,)
    assert steps.steps_at(plan, "machine.slice/box-1") == ()
    assert steps.steps_at(plan, "a/b/c/d") == ()


@pytest.mark.parametrize(
    ("pattern", "folder"),
    [
        ("box", ""),
        ("*", ""),
        ("machine.slice/box-*", "machine.slice"),
        ("a/b/c", "a/b"),
        ("a/*/c", "a"),
        ("*/b/c", ""),
        ("a/b-*/c/d", "a"),
    ],
)
def test_the_programs_go_where_the_literal_part_ends(pattern: str, folder: str) -> None:
    assert steps.literal_folders([(pattern, 0)]) == [folder]


def test_each_folder_holds_the_programs_once() -> None:
    assert steps.literal_folders([("a/x-*", 0), ("a/y-*", 1), ("b/*", 0)]) == ["a", "b"]


def test_more_than_the_maps_hold_is_refused() -> None:
    eight = [(f"p{n}/*", 0) for n in range(steps.STEPS_PER_CGROUP)]
    assert len(steps.compile_patterns(eight).first) == 8
    with pytest.raises(HostError, match="9 patterns with that of the instance, 8 are possible"):
        steps.compile_patterns([*eight, ("one/more", 0)])
    deep = "/".join("d" for _ in range(STEPS))
    assert len(steps.compile_patterns([(deep, 0)]).places) == STEPS
    with pytest.raises(HostError, match=f"{STEPS + 1} components, {STEPS} are possible"):
        steps.compile_patterns([(f"{deep}/e", 0)])


def test_a_watched_cgroup_packs_its_steps() -> None:
    watch = Watch.unpack(steps.pack_watch((3, 1, 500)))
    assert watch.steps[:12] == b"\3\0\0\0\1\0\0\0\xf4\1\0\0"
    assert watch.count == 3
    assert Watch.unpack(steps.pack_watch(())).count == 0
