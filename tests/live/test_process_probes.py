"""exec, fork and exit, as real processes do them."""

from __future__ import annotations

import base64
import os
import secrets
import signal
import subprocess
from pathlib import Path

import pytest

from tests.live.names import unique
from tests.live.running import Running, Sandbox


def test_exec_facts(sensor: Running, sandbox: Sandbox, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    process = sandbox.start("/usr/bin/sleep", "30", cwd=folder)
    (line,) = sensor.wait(sandbox, category="process_creation", Image="/usr/bin/sleep")
    status = os.stat("/usr/bin/sleep")
    assert line["CommandLine"] == "/usr/bin/sleep 30"
    assert line["Argv"] == ["/usr/bin/sleep", "30"]
    assert line["ImageInvoked"] == "/usr/bin/sleep"
    assert line["CurrentDirectory"] == str(folder)
    assert line["ProcessId"] == process.pid
    assert line["ParentProcessId"] == os.getpid()
    assert line["ParentImage"] == os.readlink("/proc/self/exe")
    assert line["ImageInode"] == status.st_ino
    assert (line["ImageDevice"] >> 20, line["ImageDevice"] & 0xFFFFF) == (
        os.major(status.st_dev),
        os.minor(status.st_dev),
    )
    assert (line["Uid"], line["User"]) == (0, "root")
    assert line["SandboxName"] == sandbox.name
    assert (line["SandboxId"], line["CgroupId"]) == (sandbox.id, sandbox.id)
    for field, name in (("Pid", "pid"), ("Mount", "mnt"), ("Network", "net"), ("User", "user")):
        assert line[f"{field}Namespace"] == os.stat(f"/proc/{process.pid}/ns/{name}").st_ino
    assert not any(line[f"Image{fact}"] for fact in ("Deleted", "Memfd", "Tmpfs"))
    process.kill()
    process.wait()
    (end,) = sensor.wait(sandbox, category="process_termination", ProcessId=process.pid)
    assert (end["ExitCode"], end["ExitSignal"]) == (0, signal.SIGKILL)


def test_the_environment_is_never_told(sensor: Running, sandbox: Sandbox) -> None:
    secret = secrets.token_hex(16)
    sandbox.run("/bin/true", "x", env={"SECRET": secret})
    sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true x")
    assert secret.encode() not in sensor.log.read_bytes()


@pytest.mark.parametrize("length", [1, 4070, 4096, 8192])
def test_long_argv_is_kept_up_to_the_bound_and_marked(sensor: Running, sandbox: Sandbox, length: int) -> None:
    argument = "y" * length
    sandbox.run("/bin/true", argument)
    (line,) = sensor.wait(sandbox, category="process_creation", Image="/usr/bin/true")
    whole = f"/bin/true {argument}"
    assert line["ArgvTruncated"] == (len(whole) + 1 > 4096)
    assert whole.startswith(line["CommandLine"])
    assert len(line["CommandLine"]) >= min(len(whole), 4095)


def test_hostile_arguments_are_kept_losslessly(sensor: Running, sandbox: Sandbox) -> None:
    hostile = b"\xff\xfe\x1b]0;owned\x07\n\r\xe2\x80\xae"
    sandbox.run(b"/bin/true", hostile, b"", b"end")
    (line,) = sensor.wait(sandbox, category="process_creation", Image="/usr/bin/true")
    kept = base64.b64decode(line["CommandLine_b64"])
    assert kept.rstrip(b"\0") == b"\0".join((b"/bin/true", hostile, b"", b"end"))
    assert "\ufffd" in line["CommandLine"]


def test_deep_and_odd_paths(sensor: Running, sandbox: Sandbox, tmp_path: Path) -> None:
    odd = tmp_path / "new\nline\x1b[31m"
    odd.mkdir()
    deep = Path(tmp_path, *(["d"] * 60))
    deep.mkdir(parents=True)
    sandbox.run("/bin/true", "odd", cwd=odd)
    sandbox.run("/bin/true", "deep", cwd=deep)
    (line,) = sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true odd")
    assert line["CurrentDirectory"] == str(odd)
    (line,) = sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true deep")
    assert line["CurrentDirectory"].endswith("/d" * 30)
    assert line["CurrentDirectory"] != str(deep), "the walk's bound must be marked, not silently met"


def test_scripts_tell_interpreter_and_what_was_invoked(sensor: Running, sandbox: Sandbox, tmp_path: Path) -> None:
    script = tmp_path / "task.sh"
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)
    sandbox.run(str(script), "one")
    (line,) = sensor.wait(sandbox, category="process_creation", ImageInvoked=str(script))
    assert line["Image"] == os.path.realpath("/bin/sh")
    assert line["CommandLine"] == f"/bin/sh {script} one"
    (end,) = sensor.wait(sandbox, category="process_termination", ProcessId=line["ProcessId"])
    assert (end["ExitCode"], end["ExitSignal"]) == (3, 0)


def test_memfd_deleted_and_tmpfs_executables(sensor: Running, sandbox: Sandbox, tmp_path: Path) -> None:
    # exec refuses a file that is open for writing, so it is opened again and the first descriptor closed
    code = """
import os
first = os.memfd_create('hidden')
os.write(first, open('/bin/true', 'rb').read())
second = os.open(f'/proc/self/fd/{first}', os.O_RDONLY)
os.close(first)
os.execve(second, ['memfd-arg'], {})
"""
    sandbox.python(code)
    (line,) = sensor.wait(sandbox, category="process_creation", CommandLine="memfd-arg")
    assert line["ImageMemfd"] and line["ImageDeleted"] and line["ImageTmpfs"]
    assert line["Image"] == "/memfd:hidden"

    shared = Path(f"/dev/shm/pinfold-{unique()}")
    try:
        shared.write_bytes(Path("/bin/true").read_bytes())
        shared.chmod(0o777)
        sandbox.run(str(shared), "shm")
        (line,) = sensor.wait(sandbox, category="process_creation", Image=str(shared))
        assert line["ImageTmpfs"] and line["ImageWritable"]
        assert not line["ImageMemfd"] and not line["ImageDeleted"]
    finally:
        shared.unlink(missing_ok=True)

    gone = tmp_path / "gone"
    gone.write_bytes(Path("/bin/true").read_bytes())
    gone.chmod(0o755)
    sandbox.python(
        "import os,sys; f=os.open(sys.argv[1],os.O_RDONLY); os.unlink(sys.argv[1]); os.execve(f,['deleted-arg'],{})",
        str(gone),
    )
    (line,) = sensor.wait(sandbox, category="process_creation", CommandLine="deleted-arg")
    assert line["ImageDeleted"] and not line["ImageMemfd"]


def test_setuid_and_other_users(sensor: Running, sandbox: Sandbox, tmp_path: Path) -> None:
    program = tmp_path / "setid"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o4755)
    # The folders above are root's alone: the descriptor is opened before the user changes.
    code = (
        "import os,sys; f=os.open(sys.argv[1],os.O_RDONLY); os.setgid(65534); os.setuid(65534); os.execve(f,['x'],{})"
    )
    sandbox.python(code, str(program))
    (line,) = sensor.wait(sandbox, category="process_creation", Image=str(program))
    assert line["ImageSetId"]
    assert (line["Uid"], line["EffectiveUid"]) == (65534, 0)
    assert line["User"] == "nobody"
    assert line["ImageWritable"], "setuid root: who runs it may write it"


def test_lineage_and_entry(sensor: Running, sandbox: Sandbox) -> None:
    sandbox.run("/bin/bash", "-c", "/bin/sh -c '/usr/bin/env /bin/true inner; true'; true")
    (line,) = sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true inner")
    assert line["ParentImage"] == os.path.realpath("/bin/sh")
    assert line["ParentCommandLine"].startswith("/bin/sh -c /usr/bin/env")
    assert line["EntryImage"] == "/usr/bin/bash"
    assert line["EntryCommandLine"].startswith("/bin/bash -c")


def test_threads_do_not_fork_and_exec_from_a_thread_is_one_process(sensor: Running, sandbox: Sandbox) -> None:
    code = """
import os, threading
def work():
    os.execv('/bin/true', ['/bin/true', 'from-a-thread'])
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    process = sandbox.start("/usr/bin/python3", "-I", "-S", "-c", code)
    process.wait()
    (line,) = sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true from-a-thread")
    assert line["ProcessId"] == process.pid
    sensor.settled(sandbox)
    ends = sensor.of(sandbox, category="process_termination", ProcessId=process.pid)
    assert len(ends) == 1


def test_process_that_enters_by_clone_into_cgroup(sensor: Running, sandbox: Sandbox, workloads: Path) -> None:
    """CLONE_INTO_CGROUP fires no cgroup_attach_task; the fork shows it."""
    subprocess.run([str(workloads / "enter"), "-k", str(sandbox.path), "--", "/bin/true", "cloned"], check=True)
    (line,) = sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true cloned")
    assert line["SandboxId"] == sandbox.id


def test_pid_reuse_is_told_apart(sensor: Running, sandbox: Sandbox) -> None:
    """The same number twice: what each was and how it ended stays its own."""
    last = Path("/proc/sys/kernel/ns_last_pid")  # the next fork gets the number behind it, if it is free
    first = sandbox.start("/bin/sh", "-c", "exit 3", "first")
    first.wait()
    for attempt in range(200):
        last.write_text(str(first.pid - 1))
        second = sandbox.start("/bin/sh", "-c", "exit 4", f"second-{attempt}")
        second.wait()
        if second.pid == first.pid:
            break
    assert second.pid == first.pid, "the number never came again"
    sensor.settled(sandbox)
    born = sensor.of(sandbox, category="process_creation", ProcessId=first.pid)
    ended = sensor.of(sandbox, category="process_termination", ProcessId=first.pid)
    assert [line["CommandLine"].rsplit(" ", 1)[1] for line in born] == ["first", f"second-{attempt}"]
    assert [line["ExitCode"] for line in ended] == [3, 4]
    assert [line["ProcessGuid"] for line in born] == [line["ProcessGuid"] for line in ended]
    assert len({line["ProcessGuid"] for line in born}) == 2


def test_what_is_outside_every_sandbox_is_not_told(sensor: Running, sandbox: Sandbox) -> None:
    marker = f"outside-{secrets.token_hex(8)}"
    subprocess.run(["/bin/true", marker], check=True)
    sensor.settled(sandbox)
    assert marker.encode() not in sensor.log.read_bytes()
