"""One look into a root that a sandbox arranged: what is marked, awaited, changed, and never opened."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sensor.files import child, fanotify

Make = Callable[..., child._View]


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    descriptor = fanotify.group()
    monkeypatch.setattr(child, "GROUP", descriptor)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def view(group: int, tmp_path: Path) -> Iterator[Make]:
    roots: list[int] = []
    looks = child._Made()

    def make(most: int = 100, since_ns: int = 0) -> child._View:
        roots.append(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY))
        return child._View(roots[-1], False, frozenset(), most, since_ns, looks)

    yield make
    for root in roots:
        os.close(root)


def marked(view: child._View) -> set[bytes]:
    return {path for _, path, _, _ in view.marks.values()}


def test_a_key_is_what_the_kernel_writes(group: int, view: Make, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "crontab").touch()
    made = view()
    made.exact(b"/etc/crontab", child.WRITE | child.READ)
    keys = {path: key for key, path, _, _ in made.marks.values()}
    (tmp_path / "etc" / "crontab").write_text("x")
    (event,) = fanotify.read(group)
    assert event.at == (keys[b"/etc"], b"crontab") and event.key == keys[b"/etc/crontab"]
    assert event.tgid == os.getpid() and event.mask & fanotify.CLOSE_WRITE and not event.gone


def test_links_end_within_the_root(view: Make, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "etc").symlink_to("/real")
    (tmp_path / "up").symlink_to("../../../../../real")
    (tmp_path / "magic").symlink_to("/proc/self/root")
    made = view()
    for path in (b"/etc/crontab", b"/up/crontab", b"/magic/etc/passwd"):
        made.exact(path, child.WRITE)
    inodes = {os.stat(tmp_path / "real").st_ino, os.stat(tmp_path).st_ino}
    assert marked(made) == {b"/etc", b"/up", b"/"}
    assert len({key for key, _, _, _ in made.marks.values()}) == len(inodes)


def test_what_is_not_there_is_awaited_at_the_nearest_folder(view: Make, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    made = view()
    made.exact(b"/home/agent/.claude/settings.json", child.WRITE)
    made.exact(b"/home/agent/.bashrc", child.WRITE)
    assert made.awaited == {b"/home/agent"} and marked(made) == {b"/home"}


def test_a_folded_name_finds_its_folder(view: Make, tmp_path: Path) -> None:
    (tmp_path / "etc" / "NetworkManager").mkdir(parents=True)
    made = view()
    made.below(b"/etc/networkmanager/", child.WRITE, 0)
    assert marked(made) == {b"/etc/NetworkManager"}


def test_a_fifo_or_a_device_is_neither_opened_nor_marked(view: Make, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "crontab")
    os.mknod(tmp_path / "null", 0o20600, os.makedev(1, 3))
    made = view()
    made.exact(b"/crontab", child.WRITE | child.READ)
    made.exact(b"/null", child.WRITE | child.READ)
    assert marked(made) == {b"/"}


def test_marks_are_bounded_and_what_does_not_fit_is_said(view: Make, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}").mkdir()
    made = view(most=5)
    made.below(b"/", child.WRITE, 1)
    assert len(made.marks) == 5 and made.cut == 16


def test_what_changed_since_is_told(view: Make, tmp_path: Path) -> None:
    (tmp_path / "crontab").touch()
    since = os.stat(tmp_path / "crontab").st_ctime_ns
    made = view(since_ns=since)
    made.exact(b"/crontab", child.WRITE)
    assert made.changed == [b"/crontab"]
    later = view(since_ns=since + 1)
    later.exact(b"/crontab", child.WRITE)
    assert later.changed == []


def test_what_changed_is_told_by_the_first_look_that_is_asked_for_it(view: Make, tmp_path: Path) -> None:
    """Another look may come between a folder's creation and the one that is to find what was made in it."""
    (tmp_path / "early").touch()
    since = os.stat(tmp_path / "early").st_ctime_ns
    view().below(b"/", child.WRITE, 0)
    time.sleep(0.05)  # a tick or more: times of files are those of the last
    (tmp_path / "late").touch()
    made, again = view(since_ns=since), view(since_ns=since)
    made.below(b"/", child.WRITE, 0)
    assert made.changed == [b"/early"]  # of the late one there is an event
    again.below(b"/", child.WRITE, 0)
    assert again.changed == []


def test_what_is_in_a_new_folder_is_told_however_old_and_by_whichever_look_it_was_marked(
    view: Make, tmp_path: Path
) -> None:
    for name in ("Made", "moved"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "early").touch()
    view().below(b"/", child.WRITE, 1)
    time.sleep(0.05)
    (tmp_path / "Made" / "late").touch()
    (tmp_path / "moved" / "late").touch()
    made = view(since_ns=time.time_ns() + 1)
    made.appeared = [(b"/made/", False), (b"/moved/", True)]
    made.below(b"/", child.WRITE, 1)
    assert sorted(made.changed) == [b"/Made/early", b"/moved/early", b"/moved/late"]


def test_changes_that_do_not_fit_are_said(view: Make, tmp_path: Path) -> None:
    since = time.time_ns() - 10**9
    made = view(since_ns=since)
    for number in range(2):
        (tmp_path / f"{number}").mkdir()
        for name in range(40):
            (tmp_path / f"{number}" / f"{name}").touch()
    made.below(b"/", child.WRITE, 1)
    assert len(made.changed) == child.CHANGED_MAX and made.cut == 80 - child.CHANGED_MAX


def test_a_process_that_is_ending_is_gone_and_has_no_environment(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError):
            child._environment(ended.pid)
    with subprocess.Popen(["/bin/sleep", "60"], env={}) as living:
        assert child._environment(living.pid) == b""
        living.kill()


def test_names_of_any_bytes(view: Make, tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/a\xff\n")
    made = view()
    made.below(b"/", child.WRITE, 1)
    assert marked(made) == {b"/", b"/a\xff\n"}
