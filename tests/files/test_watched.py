"""The watch set: which paths matter, and where the child looks for them."""

from __future__ import annotations

import json
from typing import Any

from sensor.files.places import PLACES_MAX, Watched
from sensor.rules.places import READ, WRITE, Place


def told(*places: Place, folders: tuple[str, ...] = ()) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(Watched(places, folders, 100).line)
    return decoded


def test_paths_matter_by_what_is_said_of_them() -> None:
    watched = Watched((Place("suffix", "/.new/token", READ), Place("prefix", "/opt/x/", WRITE)), ("/mnt/reward",), 100)
    assert watched.wants("/etc/crontab") == WRITE
    assert watched.wants("/etc/shadow") == WRITE | READ
    assert watched.wants("/home/a/.new/token") == READ
    assert watched.wants("/opt/x/y/z") == WRITE
    assert watched.wants("/mnt/reward/a") == WRITE
    assert watched.wants("/HOME/A/.SSH/ID_RSA") & READ  # as rules compare
    assert watched.wants("/etc/motd") == 0
    assert watched.wants("") == 0


def test_the_child_looks_below_homes_for_endings_and_from_the_root_for_the_rest() -> None:
    line = told(
        Place("exact", "/opt/a/b", WRITE),
        Place("prefix", "/opt/c", WRITE),
        Place("suffix", "/.d/e", READ),
        Place("suffix", "/etc/f", WRITE),
        Place("contains", "/.g/", WRITE),
        Place("suffix", ".h", WRITE | READ),
        folders=("/mnt/i",),
    )
    assert ["/opt/a/b", WRITE] in line["paths"] and ["/etc/f", WRITE] in line["paths"]
    assert ["/opt/", WRITE, 0] in line["folders"] and ["/mnt/i/", WRITE, 2] in line["folders"]
    assert ["/.d/e", READ] in line["endings"]
    assert ["/.g/", WRITE, 1] in line["within"] and ["/", WRITE, 0] in line["within"]


def test_no_folder_that_all_read_is_watched_for_reads() -> None:
    line = told(Place("prefix", "/etc/", READ), Place("prefix", "/tmp/x", READ), Place("prefix", "/proc/sys/", WRITE))
    folders = {text: bits for text, bits, _ in line["folders"]}
    assert folders["/etc/"] == 0 and folders["/tmp/"] == 0
    assert "/proc/sys/" not in folders


def test_many_places_are_cut_and_counted() -> None:
    watched = Watched([Place("exact", f"/x/{number}", WRITE) for number in range(2 * PLACES_MAX)], (), 100)
    assert len(watched.places) == PLACES_MAX and watched.cut > PLACES_MAX
    assert watched.wants("/etc/crontab") == WRITE  # what is built in goes first
