"""From events of the kernel to activities: what is told, of whom, and how often."""

from __future__ import annotations

from typing import Any

from sensor.events.activity import FileEvent, FileRename
from sensor.files import fanotify
from sensor.files.marker import Answer
from sensor.files.telling import Telling
from sensor.rules.places import READ, WRITE, Place
from tests.files.events import (
    DFID_NAME,
    FID,
    NEW,
    OLD,
    SANDBOX,
    VIEW,
    batch,
    give,
    info,
    key,
    pidfd,
    process,
    raw,
    telling,
)

SECOND = 1_000_000_000


def feed(told: Telling, *data: bytes, now_ns: int = SECOND) -> list[tuple[str, str, str]]:
    """(category, action, path) of what was told."""
    told.now_ns = now_ns
    give(told, batch(*data))
    found, told.found = told.found, []
    return [(one.category, one.Action, one.TargetFilename) for one in found]


def at(mask: int, name: bytes, folder: int = 1, itself: int = 9, **who: Any) -> bytes:
    return raw(mask, info(DFID_NAME, folder, name), info(FID, itself), **who)


def test_each_deed_has_its_category() -> None:
    told, _ = telling((1, "/etc"))
    assert feed(told, at(fanotify.CREATE | fanotify.CLOSE_WRITE, b"ld.so.preload")) == [
        ("file_event", "created", "/etc/ld.so.preload")
    ]
    assert feed(told, at(fanotify.CLOSE_WRITE, b"crontab")) == [("file_event", "written", "/etc/crontab")]
    assert feed(told, at(fanotify.ATTRIB, b"shadow")) == [("file_change", "attributes", "/etc/shadow")]
    assert feed(told, at(fanotify.DELETE, b"crontab")) == [("file_delete", "deleted", "/etc/crontab")]
    assert feed(told, at(fanotify.ACCESS, b"shadow")) == [("file_access", "read", "/etc/shadow")]


def test_what_no_place_wants_is_not_told() -> None:
    told, _ = telling((1, "/etc"))
    assert feed(told, at(fanotify.CLOSE_WRITE, b"motd"), at(fanotify.ACCESS, b"crontab")) == []


def test_what_is_moved_into_place_is_there_as_if_written() -> None:
    told, _ = telling((1, "/etc"), (3, "/root"))
    moved = raw(fanotify.RENAME, info(OLD, 3, b"x"), info(NEW, 1, b"crontab"), info(FID, 9))
    told.now_ns = SECOND
    give(told, batch(moved))
    rename, made = told.found
    assert isinstance(rename, FileRename) and rename.SourceFilename == "/root/x"
    assert isinstance(made, FileEvent) and made.TargetFilename == "/etc/crontab" and made.Action == "created"


def test_what_is_moved_away_keeps_its_old_name() -> None:
    told, _ = telling((1, "/etc"))
    told.now_ns = SECOND
    give(told, batch(raw(fanotify.RENAME, info(OLD, 1, b"crontab"), info(FID, 9))))
    assert [(one.TargetFilename, one.SourceFilename) for one in told.found] == [("", "/etc/crontab")]


def test_a_marked_file_is_known_by_any_name() -> None:
    """A hard link elsewhere: the folder is not marked, or means nothing."""
    told, views = telling((1, "/tmp"))
    views.learn(SANDBOX, Answer("done", VIEW, ((key(9).hex(), "/etc/shadow", False, False),)))
    assert feed(told, at(fanotify.CLOSE_WRITE, b"innocent")) == [("file_event", "written", "/etc/shadow")]
    assert feed(told, at(fanotify.ACCESS, b"innocent", folder=77)) == [("file_access", "read", "/etc/shadow")]


def test_a_folder_that_is_mounted_elsewhere_too_is_told_by_the_path_that_matters() -> None:
    """Whoever has a second look at it by another path, from within a bind mount or before a chroot, hides nothing."""
    told, views = telling((1, "/tmp/e"))
    for view, path in ((VIEW, "/tmp/f"), ((1, 2, 4), "/etc"), (VIEW, "/tmp/g")):
        views.learn(SANDBOX, Answer("done", view, ((key(1).hex(), path, True, False),)))
    assert feed(told, at(fanotify.CLOSE_WRITE, b"crontab")) == [("file_event", "written", "/etc/crontab")]
    assert feed(told, at(fanotify.CLOSE_WRITE, b"motd")) == []


def test_processes_outside_are_dropped_and_counted() -> None:
    told, _ = telling((1, "/etc"))
    assert feed(told, at(fanotify.CLOSE_WRITE, b"crontab", tgid=4242)) == []
    assert told.outside == 1


def test_a_newcomer_with_the_same_number_is_not_named() -> None:
    told, _ = telling((1, "/etc"))
    newcomer = process()
    newcomer.start_ns = 25  # after it was read
    told._enricher.processes.found(newcomer)
    data = raw(fanotify.CLOSE_WRITE, info(DFID_NAME, 1, b"crontab"), info(FID, 9), pidfd(fanotify.NO_PIDFD))
    told.now_ns = SECOND
    give(told, batch(data))
    assert [one.ProcessGuid for one in told.found] == ["100-5"]


def test_what_nobody_can_be_named_for_is_lost() -> None:
    told, _ = telling((1, "/etc"))
    told._enricher.processes.current[100].exited = True
    newcomer = process()
    newcomer.start_ns, newcomer.sandbox_id, newcomer.exited = 15, 8, True
    told._enricher.processes.found(newcomer)
    data = raw(fanotify.CLOSE_WRITE, info(DFID_NAME, 1, b"crontab"), info(FID, 9), pidfd(fanotify.NO_PIDFD))
    give(told, batch(data))
    assert told.found == [] and told.outside == 0
    assert told.lost == {(SANDBOX, "unattributed"): 1, (8, "unattributed"): 1}


def test_whoever_waits_for_a_look_is_named_though_its_number_was_used_again() -> None:
    told, views = telling((1, "/etc"))
    assert feed(told, at(fanotify.CLOSE_WRITE, b"crontab", folder=5)) == []
    newcomer = process()
    newcomer.start_ns = 15
    told._enricher.processes.found(newcomer)
    views.learn(SANDBOX, Answer("done", VIEW, ((key(5).hex(), "/etc", True, False),)))
    told.retry(SANDBOX, False)
    assert [one.ProcessGuid for one in told.found] == ["100-5"]


def test_the_same_again_is_counted_and_told_when_its_window_ends() -> None:
    told, _ = telling((1, "/etc"))
    assert len(feed(told, *[at(fanotify.CLOSE_WRITE, b"crontab")] * 5)) == 1
    told.now_ns = 5 * SECOND
    told.repeats()
    assert told.found == []
    told.now_ns = 12 * SECOND
    told.repeats()
    assert [(one.Count, one.Repeat, one.TargetFilename) for one in told.found] == [(4, True, "/etc/crontab")]


def test_a_budget_bounds_what_a_sandbox_tells() -> None:
    told, _ = telling((1, "/etc/cron.d"), events_a_second=2)
    many = [at(fanotify.CREATE, b"%d" % number) for number in range(100)]
    assert len(feed(told, *many)) == 8  # a burst of four seconds
    assert told.lost == {(SANDBOX, "budget"): 92}
    assert len(feed(told, *[at(fanotify.CREATE, b"x%d" % number) for number in range(5)], now_ns=2 * SECOND)) == 2


def test_an_unknown_key_is_looked_for_and_then_lost() -> None:
    told, views = telling((1, "/etc"))
    assert feed(told, at(fanotify.CLOSE_WRITE, b"crontab", folder=5)) == []
    assert told.look_again == {SANDBOX: None}  # nothing appeared
    views.learn(SANDBOX, Answer("done", VIEW, ((key(5).hex(), "/etc", True, False),)))
    told.retry(SANDBOX, False)
    assert [one.TargetFilename for one in told.found] == ["/etc/crontab"]
    assert feed(told, at(fanotify.CLOSE_WRITE, b"crontab", folder=6))[1:] == []
    for whole in (False, False, True):  # looks that were under way
        told.retry(SANDBOX, whole)
        assert told.lost == {}
    told.retry(SANDBOX, True)
    assert told.lost == {(SANDBOX, "unresolved"): 1}
    told.retry(SANDBOX, True)
    assert told.lost == {(SANDBOX, "unresolved"): 1}


def test_a_folder_that_is_in_a_watched_one_is_no_loss() -> None:
    """Of its own mode the kernel tells by its own key, that nobody knows, since its parent is marked."""
    told, _ = telling((1, "/home/agent"))
    assert feed(told, at(fanotify.ATTRIB | fanotify.ONDIR, b".", folder=5)) == []
    assert told.look_again  # it may be one that an overlay has copied up
    for _ in range(2):
        told.retry(SANDBOX, True)
    assert told.lost == {} and not told._unknown


def test_a_flood_of_unknown_keys_is_bounded() -> None:
    told, _ = telling((1, "/etc"))
    feed(told, *[at(fanotify.CLOSE_WRITE, b"x", folder=5)] * 1000)
    assert told.lost[SANDBOX, "unresolved"] == 1000 - 256


def test_what_is_awaited_makes_a_new_look() -> None:
    told, _ = telling((1, "/home/agent"))
    assert feed(told, at(fanotify.CREATE | fanotify.ONDIR, b".claude")) == []
    assert told.look_again == {SANDBOX: told._enricher.processes.current[100]}


def test_more_than_fits_between_two_looks_is_a_loss() -> None:
    told, views = telling((1, "/home/agent"))
    names = [f"/home/agent/.d{number}" for number in range(66)]
    views.learn(SANDBOX, Answer("done", VIEW, (), tuple(names)))
    feed(told, *[at(fanotify.CREATE | fanotify.ONDIR, name.rpartition("/")[2].encode()) for name in [*names, names[0]]])
    assert len(told.appeared[SANDBOX]) == 64 and told.lost == {(SANDBOX, "unwatched"): 2}


def test_a_deep_path_that_a_sandbox_makes_costs_no_more_than_its_length() -> None:
    _, views = telling((1, "/home/agent"))
    deep = "/d" * 2000
    views.learn(SANDBOX, Answer("done", VIEW, ((key(5).hex(), deep, True, False),)))
    assert views.awaits(SANDBOX, deep.encode()) and views.awaits(SANDBOX, deep[:-2].encode())
    assert sum(map(len, views._awaited[VIEW])) < 5 * len(deep)


def test_a_name_that_is_no_text_is_kept_raw_and_bounded() -> None:
    place = Place("prefix", "/etc/cron.d/", WRITE | READ)
    told, _ = telling((1, "/etc/cron.d"), places=(place,))
    told.now_ns = SECOND
    give(told, batch(at(fanotify.CREATE, b"a\xff\x1b[31m"), at(fanotify.CREATE, b"b" * 255)))
    first, second = told.found
    assert first.TargetFilename == "/etc/cron.d/a\ufffd\x1b[31m"
    assert first.raw == {"TargetFilename": b"/etc/cron.d/a\xff\x1b[31m"}
    assert second.raw is None and len(second.TargetFilename) == 12 + 1 + 255 - 1


def test_ids_are_no_rings_and_rise() -> None:
    told, _ = telling((1, "/etc/cron.d"))
    told.now_ns = SECOND
    give(told, batch(*[at(fanotify.CREATE, b"%d" % number) for number in range(20)]))
    positions = [one.position for one in told.found]
    assert {one.generation for one in told.found} == {0}
    assert positions == sorted(set(positions))


def test_another_sandboxes_marks_serve_until_ones_own_are_made() -> None:
    told, views = telling((1, "/etc"))
    views.forget(SANDBOX)
    views.learn(8, Answer("done", VIEW, ((key(1).hex(), "/etc", True, True),)))
    assert feed(told, at(fanotify.CLOSE_WRITE, b"crontab")) == [("file_event", "written", "/etc/crontab")]
    views.forget(8)
    assert len(views) == 0
