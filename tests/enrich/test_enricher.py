"""From records to activities: fields, lossless text, verdicts, time, and that nothing raises."""

from __future__ import annotations

import os
import socket
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from sensor.enrich import procfs
from sensor.enrich.enricher import UNTRACKED, WATCHED, Enricher
from sensor.events.activity import (
    DeviceAccess,
    NetworkConnection,
    ProcessCreation,
    ProcessTermination,
    SandboxChange,
)
from sensor.events.layouts import READERS, Device, File, Flag, ShortRecord
from tests.enrich import records
from tests.enrich.conftest import UTC_OFFSET, FixedClock
from tests.enrich.records import BOX, OTHER_BOX, START


def creation(enricher: Enricher, *args: Any, **fields: Any) -> ProcessCreation:
    made = enricher.apply(records.exec_(*args, **fields), 1, 100)
    assert isinstance(made, ProcessCreation)
    return made


def connection(enricher: Enricher, record: Any) -> NetworkConnection:
    made = enricher.apply(record, 1, 100)
    assert isinstance(made, NetworkConnection)
    return made


def test_exec_becomes_process_creation(enricher: Enricher) -> None:
    made = creation(enricher, 500, START, b"ls\0-l\0/tmp dir\0", "/usr/bin/ls", filename=b"./ls\0")
    assert (made.generation, made.position) == (1, 100)
    assert (made.time_ns, made.monotonic_ns) == (10**10 + UTC_OFFSET, 10**10)
    assert (made.SandboxId, made.SandboxName, made.SandboxClass) == (BOX, "boxes/a", "default")
    assert (made.ProcessId, made.ProcessGuid) == (500, f"500-{START}")
    assert (made.Image, made.CommandLine, made.CurrentDirectory) == ("/usr/bin/ls", "ls -l /tmp dir", "/home/work")
    assert (made.ImageInvoked, made.argv, made.User, made.Uid) == ("./ls", b"ls\0-l\0/tmp dir\0", "root", 0)
    assert (made.ImageDevice, made.ImageInode) == (0x800001, 42)
    assert (made.PidNamespace, made.MountNamespace, made.NetworkNamespace, made.UserNamespace) == (101, 102, 103, 104)
    assert made.raw is None
    assert not made.Existing


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        (File.DELETED, "ImageDeleted"),
        (File.MEMFD, "ImageMemfd"),
        (File.TMPFS, "ImageTmpfs"),
        (File.WRITABLE, "ImageWritable"),
        (File.SETID, "ImageSetId"),
        (File.ARGV_CUT, "ArgvTruncated"),
    ],
)
def test_each_file_flag_sets_its_own_field_only(enricher: Enricher, flag: File, field: str) -> None:
    made = creation(enricher, 500, START, file_flags=int(flag))
    fields = ("ImageDeleted", "ImageMemfd", "ImageTmpfs", "ImageWritable", "ImageSetId", "ArgvTruncated")
    assert [name for name in fields if getattr(made, name)] == [field]


def test_killed_flag(enricher: Enricher) -> None:
    assert creation(enricher, 500, START, flags=int(Flag.KILLED)).Killed
    assert not creation(enricher, 501, START).Killed


def test_empty_arguments_keep_their_place(enricher: Enricher) -> None:
    assert creation(enricher, 500, START, b"sh\0\0\0").CommandLine == "sh  "
    assert creation(enricher, 500, START, b"").CommandLine == ""
    assert creation(enricher, 500, START, b"no-final-nul").CommandLine == "no-final-nul"


def test_root_is_a_working_directory_but_no_image(enricher: Enricher) -> None:
    made = creation(enricher, 500, START, image_path=b"", cwd_path=b"")
    assert (made.Image, made.CurrentDirectory) == ("", "/")


def test_cut_paths_are_marked(enricher: Enricher) -> None:
    whole = creation(enricher, 500, START, image="/a/b")
    cut = creation(enricher, 501, START, image="/a/b", file_flags=int(File.IMAGE_CUT | File.CWD_CUT))
    again = creation(enricher, 502, START, image="/a/b")
    assert (whole.Image, cut.Image, again.Image) == ("/a/b", "…/a/b", "/a/b")
    assert (cut.CurrentDirectory, again.CurrentDirectory) == ("…/home/work", "/home/work")


def test_bytes_that_are_not_utf8_are_kept(enricher: Enricher) -> None:
    made = creation(
        enricher,
        500,
        START,
        b"x\xff\0\x1b[2J\n\0",
        image_path=b"e\xfe\0srv\0",
        cwd_path=b"d\xfd\0",
        filename=b"./e\xfc\0",
    )
    assert made.CommandLine == "x\ufffd \x1b[2J\n"
    assert (made.Image, made.CurrentDirectory, made.ImageInvoked) == ("/srv/e\ufffd", "/d\ufffd", "./e\ufffd")
    assert made.raw == {
        "CommandLine": b"x\xff\0\x1b[2J\n\0",
        "Image": b"/srv/e\xfe",
        "CurrentDirectory": b"/d\xfd",
        "ImageInvoked": b"./e\xfc",
    }
    later = connection(enricher, records.connect(500, b"\x08\x08\x08\x08"))
    assert later.raw is not None
    assert later.raw["Image"] == b"/srv/e\xfe"
    assert "ImageInvoked" not in later.raw


def test_parent_fields_are_the_parents_own_strings(enricher: Enricher) -> None:
    creation(enricher, 500, START, b"bash\0-i\0", "/bin/bash")
    enricher.apply(records.fork(501, START + 1, (500, START)), 1, 101)
    made = creation(enricher, 501, START + 1, parent=(500, START))
    parent = enricher.processes.get(500)
    assert parent is not None
    assert (made.ParentProcessId, made.ParentImage) == (500, "/bin/bash")
    assert made.ParentCommandLine is parent.command_line


def test_a_parent_outside_shows_its_image(enricher: Enricher) -> None:
    me = procfs.read_stat(os.getpid())
    assert me is not None
    made = creation(enricher, 500, START, parent=(me.tgid, me.start_ns + 7))
    assert (made.ParentProcessId, made.ParentImage) == (os.getpid(), os.readlink("/proc/self/exe"))
    stranger = creation(enricher, 600, START, parent=(me.tgid, me.start_ns + 20_000_000))
    assert stranger.ParentImage == "", "another process had that pid then"


def test_exit_tells_status_or_signal(enricher: Enricher) -> None:
    creation(enricher, 500, START, b"job\0", "/bin/job")
    ended = enricher.apply(records.exit_(500, START, 3 << 8), 1, 101)
    assert isinstance(ended, ProcessTermination)
    assert (ended.ExitCode, ended.ExitSignal, ended.Image) == (3, 0, "/bin/job")
    creation(enricher, 501, START)
    killed = enricher.apply(records.exit_(501, START, 9 | 0x80), 1, 102)
    assert isinstance(killed, ProcessTermination)
    assert (killed.ExitCode, killed.ExitSignal) == (0, 9)


@pytest.mark.parametrize(
    ("address", "text", "kind"),
    [
        ("203.0.113.9", "203.0.113.9", "public"),
        ("127.8.9.10", "127.8.9.10", "loopback"),
        ("0.0.0.0", "0.0.0.0", "loopback"),  # noqa: S104 - where Linux connects it to
        ("10.1.2.3", "10.1.2.3", "private"),
        ("172.31.255.255", "172.31.255.255", "private"),
        ("172.32.0.1", "172.32.0.1", "public"),
        ("192.168.0.1", "192.168.0.1", "private"),
        ("169.254.169.254", "169.254.169.254", "private"),
        ("100.64.0.1", "100.64.0.1", "public"),
        ("::ffff:8.8.4.4", "8.8.4.4", "public"),
        ("::ffff:127.0.0.1", "127.0.0.1", "loopback"),
        ("::1", "::1", "loopback"),
        ("::", "::", "loopback"),
        ("fe80::1", "fe80::1", "private"),
        ("fd00::1", "fd00::1", "private"),
        ("2001:db8::5", "2001:db8::5", "public"),
    ],
)
def test_addresses(enricher: Enricher, address: str, text: str, kind: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = connection(enricher, records.connect(500, socket.inet_pton(family, address), family=family))
    assert (made.DestinationIp, made.DestinationIsIpv6) == (text, ":" in text)
    assert made.DestinationIsLoopback == (kind == "loopback")
    assert made.DestinationIsPrivate == (kind != "public")


def test_an_unknown_family_has_no_address(enricher: Enricher) -> None:
    assert connection(enricher, records.connect(500, b"\x01\x02\x03\x04", family=99)).DestinationIp == ""


def test_connect_names_who_and_how(enricher: Enricher) -> None:
    creation(enricher, 500, START, b"curl\0http://x\0", "/usr/bin/curl")
    made = connection(
        enricher,
        records.connect(500, b"\x08\x08\x08\x08", port=53, protocol=17, verdict=1, flags=1, count=9, maker=400),
    )
    assert (made.Image, made.CommandLine) == ("/usr/bin/curl", "curl http://x")
    assert (made.Protocol, made.DestinationPort, made.Verdict, made.Initiated) == ("udp", 53, "refused", True)
    assert (made.Count, made.Repeat, made.FirstSeenNs, made.LastSeenNs) == (9, True, 11 * 10**9, 12 * 10**9)
    assert (made.SocketCookie, made.SocketMakerProcessId) == (77, 400)
    own = connection(enricher, records.connect(500, b"\x08\x08\x08\x08", protocol=1))
    assert (own.Protocol, own.SocketMakerProcessId, own.Repeat) == ("icmp", 500, False)
    odd = connection(enricher, records.connect(500, b"\x08\x08\x08\x08", protocol=132, verdict=99))
    assert (odd.Protocol, odd.Verdict) == ("ip:132", "unknown")


@pytest.mark.parametrize(
    ("target", "path", "raw"),
    [
        (b"/run/docker.sock\0", "/run/docker.sock", None),
        (b"/run/docker.sock\0garbage", "/run/docker.sock", None),
        (b"\0dbus-x", "@dbus-x", None),
        (b"\0a\0b", "@a@b", {"DestinationPath": b"\0a\0b"}),
        (b"/x\xff\0", "/x\ufffd", {"DestinationPath": b"/x\xff"}),
        (b"\0\xff", "@\ufffd", {"DestinationPath": b"\0\xff"}),
        (b"", "", None),
    ],
)
def test_unix_targets(enricher: Enricher, target: bytes, path: str, raw: dict[str, bytes] | None) -> None:
    made = connection(enricher, records.connect_unix(500, target))
    assert (made.Protocol, made.DestinationIp, made.DestinationPort) == ("unix", "", 0)
    assert (made.DestinationPath, made.raw) == (path, raw)


def test_device_attempts(enricher: Enricher) -> None:
    made = enricher.apply(records.device(500, 195, 0, Device.NVIDIA, access=7, prior=2), 1, 100)
    assert isinstance(made, DeviceAccess)
    assert (made.DeviceClass, made.DeviceType, made.Access) == ("nvidia", "char", "read,write,mknod")
    assert (made.Verdict, made.PriorVerdict, made.GpuGranted) == ("would_refuse", "unknown", False)
    block = enricher.apply(records.device(500, 8, 1, Device.BLOCK, kind=1, access=2), 1, 100)
    assert isinstance(block, DeviceAccess)
    assert (block.DeviceType, block.DeviceMajor, block.DeviceMinor, block.Access) == ("block", 8, 1, "read")


def test_gpu_grant_is_the_sandboxs_class(enricher: Enricher) -> None:
    enricher.apply(records.birth(9000, b"/gpu/job-2.scope\0"), 1, 0)
    assert enricher.sandboxes.get(9000).gpu_granted
    assert not enricher.sandboxes.get(BOX).gpu_granted


def test_births_and_deaths(enricher: Enricher) -> None:
    born = enricher.apply(records.birth(8000, b"/boxes/b\0"), 2, 50)
    assert isinstance(born, SandboxChange)
    assert (born.change, born.SandboxId, born.SandboxName, born.CgroupPath) == ("born", 8000, "boxes/b", "boxes/b")
    assert (born.generation, born.position, born.ProcessId) == (2, 50, 55)
    assert enricher.apply(records.birth(8000, b"/boxes/b\0"), 2, 51) is None, "a replay"
    ended = enricher.apply(records.death(8000, b"/boxes/b\0"), 2, 52)
    assert isinstance(ended, SandboxChange)
    assert ended.change == "ended"
    assert enricher.apply(records.death(8000, b"/boxes/b\0"), 2, 53) is None
    late = creation(enricher, 500, START, sandbox=8000)
    assert late.SandboxName == "boxes/b"


def test_watched_parents_and_nested_cgroups_are_no_sandboxes(enricher: Enricher) -> None:
    assert enricher.apply(records.birth(8000, b"/boxes\0", sandbox=0, class_id=WATCHED), 1, 1) is None
    assert enricher.apply(records.birth(8001, b"/boxes/a/inner\0", sandbox=BOX), 1, 1) is None
    assert enricher.apply(records.birth(8002, b"/boxes/a/deep\0"), 1, 1) is None
    assert len(enricher.sandboxes) == 2


def test_a_sandbox_without_room_in_the_kernel_is_told_and_counted(enricher: Enricher) -> None:
    born = enricher.apply(records.birth(8000, b"/boxes/b\0", sandbox=0, class_id=UNTRACKED), 1, 1)
    assert isinstance(born, SandboxChange)
    assert (born.change, born.SandboxId) == ("born", 8000)
    assert enricher.counters["births_untracked"] == 1


def test_moves(enricher: Enricher) -> None:
    entered = enricher.apply(records.move(500, START, previous=0, destination=BOX), 1, 1)
    left = enricher.apply(records.move(500, START, previous=BOX, destination=0, cgroup=1), 1, 2)
    across = enricher.apply(records.move(500, START, previous=BOX, destination=OTHER_BOX, cgroup=OTHER_BOX), 1, 3)
    changes = [entered, left, across]
    assert [c.change for c in changes if isinstance(c, SandboxChange)] == ["entered", "left", "left"]
    assert isinstance(left, SandboxChange)
    assert (left.SandboxId, left.CgroupId, left.ProcessId) == (BOX, 1, 500)
    process = enricher.processes.get(500)
    assert process is not None
    assert (process.sandbox_id, process.cgroup_id, process.executed_inside) == (BOX, OTHER_BOX, False)


def test_a_hostile_cgroup_name_is_kept_and_shown_safely(enricher: Enricher) -> None:
    born = enricher.apply(records.birth(8000, b"/boxes/\xff\x1b[2J\0"), 1, 1)
    assert isinstance(born, SandboxChange)
    assert born.raw == {"CgroupPath": b"boxes/\xff\x1b[2J"}
    assert "\x1b" not in born.SandboxName
    orjson.dumps([born.CgroupPath, born.SandboxName])


def test_the_clock_is_sampled_now_and_then_only(enricher: Enricher, clock: FixedClock) -> None:
    before = clock.samples
    for position in range(50):
        enricher.apply(records.exec_(500, START, time_ns=10**10 + position), 1, position)
    assert clock.samples == before + 1
    enricher.apply(records.exec_(500, START, time_ns=13 * 10**9), 1, 99)
    assert clock.samples == before + 2


def test_an_impossible_time_is_counted_and_fits_the_log(enricher: Enricher) -> None:
    made = creation(enricher, 500, START, time_ns=2**64 - 1)
    assert made.time_ns == 0
    assert enricher.counters["times_impossible"] == 1


def test_what_is_no_record_is_counted(enricher: Enricher) -> None:
    assert enricher.apply(Unknown(), 1, 1) is None
    assert enricher.counters["records_unknown"] == 1


class Unknown(Struct):
    pass


@settings(max_examples=300)
@given(data=st.data())
def test_no_bytes_raise(enricher: Enricher, data: st.DataObject) -> None:
    """Whatever decodes becomes an activity, and one that the log can write."""
    smallest, read = READERS[data.draw(st.sampled_from(sorted(READERS)))]
    content = data.draw(st.binary(min_size=smallest, max_size=smallest + 200))
    try:
        record = read(content, 0)
    except ShortRecord:
        return
    made = enricher.apply(record, 1, 1)
    if made is not None:
        fields = {name: getattr(made, name) for name in made.__struct_fields__ if name not in ("raw", "argv")}
        orjson.dumps(fields)


@settings(max_examples=200)
@given(argv=st.binary(max_size=64), path=st.binary(max_size=64), flags=st.integers(0, 2**32 - 1))
def test_argv_and_paths_are_lossless(enricher: Enricher, argv: bytes, path: bytes, flags: int) -> None:
    made = creation(enricher, 500, START, argv, image_path=path, file_flags=flags)
    kept = (made.raw or {}).get("CommandLine")
    assert made.argv == argv
    assert kept == argv or made.CommandLine.encode() == argv.removesuffix(b"\0").replace(b"\0", b" ")
