"""What the child finds of real processes, and what it does not fall for."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sensor.respond.evidence.bounded import LIMITS
from sensor.respond.evidence.collector import Collector, Wanted
from tests.respond.evidence.boxes import (
    FILE,
    SECONDS,
    TOTAL,
    Archive,
    collect,
    empty_cgroup,
    identity,
    running,
    sound,
    until,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to read other processes")
SECRET = "correct-horse-battery-9f3"  # noqa: S105


def test_a_process_is_described(tmp_path: Path) -> None:
    with running("os.chdir('/usr'); held = open('/etc/passwd'); held.read(7)", b"caf\xe9", "x\x1b[2J") as tgid:
        collected = collect(tmp_path, tgid, facts=b'{"order": 1}')
        environment = Path(f"/proc/{tgid}/environ").read_bytes()
        namespace = os.stat(f"/proc/{tgid}/ns/mnt").st_ino
    assert collected.ok, collected.detail
    archive = sound(collected)
    assert archive.members["facts.json"] == b'{"order": 1}'
    process = archive.processes[tgid]
    assert process["parent"] == os.getpid() and process["cwd"] == "/usr" and process["state"] in "SR"
    assert process["argv"][0] == sys.executable and process["argv"][-2:] == ["caf\ufffd", "x\x1b[2J"]
    assert "argv_b64" in process
    assert [each["name"] for each in process["environment"]] == [
        line.partition(b"=")[0].decode() for line in environment.split(b"\0")[:-1]
    ]
    assert process["namespaces"]["mnt"] == namespace
    assert process["status"]["Uid"].split()[0] == "0" and process["status"]["CapEff"]
    assert process["limits"]["Max open files"]
    [held] = [each for each in process["descriptors"] if each["target"] == "/etc/passwd"]
    assert int(held["flags"], 8) & os.O_ACCMODE == os.O_RDONLY and int(held["pos"]) > 0
    assert any(line.endswith("/libc.so.6") for line in process["maps"])
    [executable] = archive.json("executables.json")["executables"]
    assert executable["sha256"] == hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).hexdigest()
    assert archive.json("executables.json")["of_processes"] == {str(tgid): executable["id"]}
    assert b"\x1b" not in archive.raw


def test_a_secret_of_the_environment_is_nowhere(tmp_path: Path) -> None:
    environment = {"API_TOKEN": SECRET, "EMPTY": "", "PATH": os.environ["PATH"]}
    # A title over argv's end: the kernel's cmdline then goes on into the environment.
    title = """
import ctypes
libc = ctypes.CDLL(None)
fields = open('/proc/self/stat').read().rpartition(')')[2].split()
begin, end, beyond = int(fields[45]), int(fields[46]), int(fields[47])
if len(sys.argv) > 1:
    ctypes.memset(begin, ord('T'), end - begin)
    assert os.environ['API_TOKEN'].encode() in open('/proc/self/cmdline', 'rb').read(), 'else it shows nothing'
"""
    for arguments in ((), ("overwritten",)):
        with running(title, *arguments, environment=environment) as tgid:
            archive = sound(collect(tmp_path, tgid, name=f"q{len(arguments)}"))
        found = archive.processes[tgid]["environment"]
        assert {"name": "API_TOKEN", "length": len(SECRET)} in found or arguments
        assert len(SECRET) in [each["length"] for each in found] or arguments
        assert SECRET.encode() not in archive.raw
        assert SECRET[3:].encode() not in archive.raw


def test_a_deleted_executable_is_copied(tmp_path: Path) -> None:
    program = tmp_path / "gone\udcff"
    shutil.copy(shutil.which("sleep") or "", program)
    content = program.read_bytes()
    with subprocess.Popen([program, "600"]) as process:
        try:
            while os.readlink(f"/proc/{process.pid}/exe") != str(program):
                pass
            program.unlink()
            archive = sound(collect(tmp_path, process.pid))
        finally:
            process.kill()
    [copied] = archive.files
    assert archive.members[copied["name"]] == content
    assert copied["what"] == "a deleted executable" and copied["whole"] and copied["links"] == 0
    assert copied["original"].endswith("gone\ufffd (deleted)") and "original_b64" in copied
    assert archive.processes[process.pid]["exe_deleted"] is True
    [executable] = archive.json("executables.json")["executables"]
    assert executable["sha256"] == hashlib.sha256(content).hexdigest()
    assert executable["id"] == copied["file_id"]


MEMFD = """
def memfd(name, size, *pieces):
    fd = os.memfd_create(name)
    os.truncate(fd, size)
    for at, data in pieces: os.pwrite(fd, data, at)
    return fd
"""


def test_a_memfd_is_copied_and_its_holes_cost_nothing(tmp_path: Path) -> None:
    code = MEMFD + "a = memfd('small', 5, (0, b'hello')); os.dup(a); memfd('x/../y', 1 << 40, (1 << 39, b'deep'))"
    with running(code) as tgid:
        collected = collect(tmp_path, tgid)
    assert collected.ok and collected.bytes < 100_000
    archive = sound(collected)
    small, huge = archive.files
    assert archive.members[small["name"]] == b"hello" and "extents" not in small
    assert small["original"] == "/memfd:small (deleted)"
    assert huge["original"] == "/memfd:x/../y (deleted)" and huge["file_size"] == 1 << 40 and huge["whole"]
    [[begin, length]] = huge["extents"]
    assert begin == 1 << 39 and length == 4096
    assert archive.members[huge["name"]] == b"deep" + bytes(4092)


def test_a_file_beyond_its_bound_is_cut_and_says_so(tmp_path: Path) -> None:
    with running(MEMFD + "memfd('big', 300000, (0, b'z' * 300000))") as tgid:
        archive = sound(collect(tmp_path, tgid, file=100_000))
    [copied] = archive.files
    assert copied["size"] == 100_000 and not copied["whole"] and copied["extents"] == [[0, 100_000]]
    assert any("only the beginning" in line for line in archive.manifest["missing"])
    assert archive.manifest["complete"], "a limit is no loss"


def test_the_quota_stops_files_and_never_the_rest(tmp_path: Path) -> None:
    code = MEMFD + "[memfd(str(n), 90000, (0, os.urandom(90000))) for n in range(4)]"
    with running(code) as tgid:
        first = collect(tmp_path, tgid, name="q1", total=300_000)
        assert len(sound(first).files) == 4 and first.bytes > 300_000
        second = collect(tmp_path, tgid, name="q2", total=300_000)
    archive = sound(second)
    assert archive.files == [] and tgid in archive.processes
    assert any("no file was copied" in line for line in archive.manifest["missing"])
    assert sound(first).files, "older archives stay"


def test_code_that_is_mapped_and_closed_is_copied(tmp_path: Path) -> None:
    code = (
        MEMFD
        + """
import mmap
fd = memfd('library', 4096, (0, b'\\xc3' * 4096))
kept = mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_EXEC)
for n in os.listdir('/proc/self/fd'):
    if int(n) > 2:
        try: os.close(int(n))
        except OSError: pass
"""
    )
    with running(code) as tgid:
        archive = sound(collect(tmp_path, tgid))
    [copied] = archive.files
    assert copied["what"] == "deleted code" and archive.members[copied["name"]] == b"\xc3" * 4096


def test_a_fifo_and_a_lease_make_nothing_wait(tmp_path: Path) -> None:
    """The FIFO is named as a memfd is, from outside the mount namespace in which it lies at the top."""
    code = (
        MEMFD
        + """
import ctypes, fcntl, signal
libc = ctypes.CDLL(None)
assert not libc.unshare(0x20000) and not libc.mount(b'none', b'/', None, 0x44000, None)
assert not libc.mount(b'none', sys.argv[1].encode(), b'tmpfs', 0, None)
os.mkfifo(sys.argv[1] + '/memfd:fifo (deleted)')
fifo = os.open(sys.argv[1] + '/memfd:fifo (deleted)', os.O_RDWR)
assert not libc.umount2(sys.argv[1].encode(), 2)
signal.signal(signal.SIGIO, signal.SIG_IGN)
leased = memfd('leased', 5, (0, b'lease'))
again = os.open(f'/proc/self/fd/{leased}', os.O_RDWR)
os.close(leased)
fcntl.fcntl(again, fcntl.F_SETLEASE, fcntl.F_WRLCK)
memfd('other', 5, (0, b'other'))
"""
    )
    with running(code, str(tmp_path)) as tgid:
        collected = collect(tmp_path, tgid)
    archive = sound(collected)
    targets = {each["target"] for each in archive.processes[tgid]["descriptors"]}
    assert "/memfd:fifo (deleted)" in targets, "else it shows nothing"
    assert [archive.members[each["name"]] for each in archive.files] == [b"other"]
    assert not collected.ok
    missing = " ".join(archive.manifest["missing"])
    assert "a memfd was not copied: not a regular file" in missing
    assert "a memfd was not copied: Resource temporarily unavailable" in missing


STALL = """
import ctypes, fcntl, mmap, struct
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.syscall(323, os.O_CLOEXEC | os.O_NONBLOCK)  # userfaultfd
assert fd >= 0, os.strerror(ctypes.get_errno())
fcntl.ioctl(fd, 0xc018aa3f, bytearray(struct.pack('QQQ', 0xaa, 0, 0)))  # UFFDIO_API
libc.mmap.restype = ctypes.c_void_p
page = libc.mmap(None, 4096, 3, 0x22, -1, 0)
fcntl.ioctl(fd, 0xc020aa00, bytearray(struct.pack('QQQQ', page, 4096, 1, 0)))  # UFFDIO_REGISTER, missing pages
was = open('/proc/self/stat').read().rpartition(')')[2].split()
code, stack, data, end, brk, env, env_end = (int(was[n]) for n in (23, 25, 42, 43, 44, 47, 48))
libc.sbrk.restype = ctypes.c_void_p
places = (code, int(was[24]), data, end, brk, libc.sbrk(0), stack, page, page + 4096, env, env_end)
new = struct.pack('12QII', *places, 0, 0, 0xffffffff)  # struct prctl_mm_map: argv is that page now
assert not libc.prctl(35, 14, new, ctypes.c_ulong(len(new)), 0), os.strerror(ctypes.get_errno())  # PR_SET_MM_MAP
"""
x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of userfaultfd is x86_64's")


@x86
def test_memory_that_waits_for_its_owner_makes_nothing_wait(tmp_path: Path) -> None:
    """Kernels refuse to fault it in for a reader, or wait: then a thread is left behind (test_worker.py)."""
    with running(STALL) as stalling, running(MEMFD + "memfd('a', 2, (0, b'hi'))") as other:
        archive = sound(collect(tmp_path, stalling, other))
    assert not archive.processes[stalling]["argv"] and archive.processes[stalling]["maps"]
    assert archive.processes[other]["argv"] and "memory_stalled" not in archive.processes[other]
    assert [archive.members[each["name"]] for each in archive.files] == [b"hi"]


def test_a_thread_with_descriptors_of_its_own_hides_nothing(tmp_path: Path) -> None:
    code = (
        MEMFD
        + """
import ctypes, threading
done = threading.Event()
def apart():
    assert not ctypes.CDLL(None).unshare(0x400)  # CLONE_FILES
    memfd('hidden', 6, (0, b'hidden'))
    done.set()
    time.sleep(600)
threading.Thread(target=apart, daemon=True).start()
done.wait()
"""
    )
    with running(code) as tgid:
        archive = sound(collect(tmp_path, tgid))
    process = archive.processes[tgid]
    assert not any("hidden" in each["target"] for each in process["descriptors"])
    [apart] = process["threads_with_files_apart"]
    assert any("hidden" in each["target"] for each in apart["descriptors"])
    assert [archive.members[each["name"]] for each in archive.files] == [b"hidden"]


def test_a_leader_that_left_hides_nothing(tmp_path: Path) -> None:
    code = (
        MEMFD
        + """
import ctypes, threading
kept = memfd('kept', 4, (0, b'kept'))
def stay():
    while b') Z' not in open(f'/proc/{os.getpid()}/stat', 'rb').read(): time.sleep(0.002)
    up()
    time.sleep(600)
threading.Thread(target=stay, daemon=True).start()
libc = ctypes.CDLL(None)
libc.syscall({'x86_64': 60, 'aarch64': 93}[os.uname().machine], 0)
"""
    )
    with running(code) as tgid:
        archive = sound(collect(tmp_path, tgid))
    process = archive.processes[tgid]
    assert process["state"] == "Z" and process["argv"][0] == sys.executable and process["maps"]
    assert [archive.members[each["name"]] for each in archive.files] == [b"kept"]


def test_another_process_of_the_number_is_not_read(tmp_path: Path) -> None:
    mount, cgroup_id = empty_cgroup(tmp_path)
    collector = Collector(str(tmp_path / "evidence"), mount, TOTAL, FILE, SECONDS)
    with running("") as tgid:
        _, ticks = identity(tgid)
        assert collector.start(Wanted("q", cgroup_id, "/box", ((tgid, ticks + 1), (tgid, ticks - 1))), 0)
        [collected] = until(collector, 0)
    assert sound(collected).processes == {}


def test_a_link_in_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.mkdir(mode=0o700)
    (folder / "q.tar.gz").symlink_to(tmp_path / "victim")
    (tmp_path / "victim").write_bytes(b"untouched")
    collected = collect(tmp_path)
    assert not collected.ok and collected.archive == ""
    assert "q.tar.gz in the evidence folder is no file" in collected.detail
    assert (tmp_path / "victim").read_bytes() == b"untouched"
    assert os.listdir(folder) == ["q.tar.gz"]


def test_a_link_for_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "evidence").symlink_to(tmp_path / "elsewhere")
    collected = collect(tmp_path)
    assert not collected.ok and "symbolic link" in collected.detail
    assert os.listdir(tmp_path / "elsewhere") == []


def test_an_archive_is_never_replaced(tmp_path: Path) -> None:
    first = collect(tmp_path, facts=b'"first"')
    second = collect(tmp_path, facts=b'"second"')
    assert second.ok and "kept as it was" in second.detail and second.archive == first.archive
    assert sound(first).members["facts.json"] == b'"first"'
    assert Path(first.archive).stat().st_mode & 0o777 == 0o600
    assert Path(first.archive).parent.stat().st_mode & 0o777 == 0o700


def test_facts_are_kept_as_they_are_and_bounded(tmp_path: Path) -> None:
    facts = b"\xff not JSON " * 500_000
    archive = sound(collect(tmp_path, facts=facts))
    assert archive.members["facts.json"] == facts[: LIMITS["facts_bytes"]]
    [member] = [each for each in archive.manifest["members"] if each["name"] == "facts.json"]
    assert member["cut_from"] == len(facts)


def test_names_in_the_archive_are_ours(tmp_path: Path) -> None:
    with running(MEMFD + "memfd('../../etc/passwd', 1, (0, b'x')); memfd('\\n\\x1b', 1, (0, b'y'))") as tgid:
        collected = collect(tmp_path, tgid)
    told = subprocess.run(["tar", "tzf", collected.archive], check=True, capture_output=True, text=True).stdout
    assert told.split() == [*(each["name"] for each in Archive(collected.archive).manifest["members"]), "manifest.json"]
    assert told.count("files/") == 2
    json.loads(Archive(collected.archive).members["manifest.json"])
