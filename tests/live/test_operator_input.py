"""What the command shows of hostile names and arguments, and what it says of a word or a file that is wrong."""

from __future__ import annotations

import os
import re
import shutil
import signal
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sensor.bpf.denials import Denials
from sensor.respond.evidence.verify import verify
from tests.live.names import unique
from tests.live.operating import WHY, end, pinfold, quarantine
from tests.live.running import Running, Sandbox, remove_cgroup
from tests.live.test_bad_input import daemon, one_line

SETTINGS = """
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
rules: {{paths: ['{home}/rules']}}
sandboxes:
  - {{path: "{instance}/*", class: walled}}
  - {{path: "{instance}-more/*", class: default}}
  - {{path: "{instance}-else/*", class: default}}
classes:
  walled: {{mode: enforce, granted_devices: []}}
"""


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    running = Running(config=SETTINGS, cache=rule_cache)
    others = [Path(running.mount, f"{running.instance}-{name}") for name in ("more", "else")]
    for each in others:
        each.mkdir()
    try:
        with running:
            yield running
    finally:
        for each in others:
            remove_cgroup(each)


# Hostile names.

HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202e\r\b\x9b31m\tbox"
SECRETS = ("hunter2-and-more", "ghp_0123456789abcdefghijABCDEFGHIJ012345")
ARGV = (
    "/usr/bin/true",
    "x-7-x",
    f"--password={SECRETS[0]}",
    "--token",
    SECRETS[1],
    "\x1b]52;c;b3duZWQ=\x07\u202etxt.exe",
)


def harmless(text: str, *, allowed: str = "\n") -> None:
    """Nothing raw for the terminal, and no secret."""
    raw = {character for character in text if _is_raw(character) and character not in allowed}
    assert not raw, f"{raw} in {text!r}"
    assert not [secret for secret in SECRETS if secret in text], text


def _is_raw(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


@pytest.fixture(scope="module")
def hostile(sensor: Running) -> Iterator[Sandbox]:
    with sensor.sandbox(HOSTILE + unique()) as box:
        code = "import time; time.sleep(300)"
        process = box.start("/usr/bin/python3", "-I", "-S", "-c", code, *ARGV[2:])
        box.run(*ARGV)
        sensor.wait(box, kind="detection")
        yield box
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "words",
    [
        ("sandbox", "list"),
        ("sandbox", "describe", "ID"),
        ("sandbox", "tree", "ID"),
        ("detections", "list"),
        ("detections", "describe", "DETECTION"),
        ("events",),
        ("status",),
    ],
    ids=" ".join,
)
def test_nothing_of_a_hostile_name_or_argv_reaches_the_terminal_raw(
    sensor: Running, hostile: Sandbox, words: tuple[str, ...]
) -> None:
    detection = sensor.of(hostile, kind="detection")[0]["id"]
    words = tuple({"ID": str(hostile.id), "DETECTION": detection}.get(word, word) for word in words)
    shown = ""
    for output, allowed in (("table", "\n"), ("compact", "\n\t"), ("json", "\n")):
        option = () if output == "table" else ("-o", output)
        if output == "compact" and words[0] == "events":
            option = ()
        done = pinfold(sensor, *words, *option, columns=80)
        harmless(done.out, allowed=allowed)
        harmless(done.err)
        shown += done.out
    if words[0] != "status":
        # A name is cleaned where it is learnt; arguments and paths are the sandbox's, and escaped where they are shown.
        assert "?[2J" in shown or "\\u202e" in shown


def test_top_fits_80_columns(sensor: Running, hostile: Sandbox) -> None:
    shown = pinfold(sensor, "top", "--once", columns=80).out
    harmless(shown)
    assert "?[2J" in shown
    assert len(shown.splitlines()) <= 24 and max(map(len, shown.splitlines())) <= 80


def test_a_hostile_name_may_be_typed_and_is_quarantined(sensor: Running, hostile: Sandbox) -> None:
    path = f"{sensor.instance}/{hostile.name}"
    record = quarantine(sensor, path)
    for words in (("quarantine", "list"), ("quarantine", "describe", path), ("status", "-o", "compact")):
        harmless(pinfold(sensor, *words, columns=80).out, allowed="\n\t")
    released = pinfold(sensor, "quarantine", "release", record["id"], *WHY, "--yes", columns=80)
    harmless(released.out + released.err)


def test_a_name_that_is_no_utf_8_is_known_all_the_same(sensor: Running) -> None:
    with sensor.sandbox(os.fsdecode(b"\xff\xfe-" + unique().encode())) as box:
        box.run("/usr/bin/true", b"\xff")
        sensor.wait(box, category="process_creation")
        for output in ("table", "json", "compact"):
            harmless(pinfold(sensor, "sandbox", "list", "-o", output).out, allowed="\n\t")
            harmless(pinfold(sensor, "sandbox", "describe", str(box.id), "-o", output).out, allowed="\n\t")
        record = quarantine(sensor, str(box.id))
        assert verify(record["evidence"]) == []
        harmless(pinfold(sensor, "quarantine", "list").out)
        sensor.stop(signal.SIGKILL)
        for output in ("table", "json", "compact"):
            harmless(pinfold(sensor, "quarantine", "describe", record["id"], "-o", output).out, allowed="\n\t")
        sensor.start()
        assert end(sensor, "release", record["id"])["state"] == "released"


# Words.


def test_who_is_not_there_is_told_with_the_nearest(sensor: Running) -> None:
    with sensor.sandbox(f"agent-{unique()}") as box:
        for command in (("quarantine", "add", box.name[:-1] + "x", *WHY), ("kill", box.name[1:], *WHY, "--yes")):
            said = pinfold(sensor, *command, status=3).err
            assert "no sandbox" in said and f"nearest: {box.name}" in said
        pinfold(sensor, "kill", f"{sensor.instance}/../{sensor.instance}/{box.name}", *WHY, "--yes", status=3)
        pinfold(sensor, "quarantine", "release", "q0-000000", *WHY, "--yes", status=3)


def test_of_two_that_are_called_the_same_neither_is_touched(sensor: Running) -> None:
    """systemd's units go by their names, wherever they are."""
    name = f"agent-{unique()}.scope"
    boxes = [Sandbox(Path(sensor.mount, f"{sensor.instance}-{where}", name)) for where in ("more", "else")]
    try:
        for box in boxes:
            box.run("/usr/bin/true")
            sensor.wait(box, category="process_creation")
        for command in (("quarantine", "add", name, *WHY), ("kill", name, "--yes", *WHY), ("sandbox", "tree", name)):
            said = pinfold(sensor, *command, status=2).err
            assert all(f"{box.id} {box.path.relative_to(sensor.mount)}" in said for box in boxes), said
        path = str(boxes[0].path.relative_to(sensor.mount))
        record = quarantine(sensor, path, "--no-evidence")
        assert record["order"]["sandbox_id"] == boxes[0].id
        end(sensor, "release", path)
    finally:
        for box in boxes:
            box.remove()


def test_a_reason_and_a_span_must_be_plain(sensor: Running) -> None:
    with sensor.sandbox(f"agent-{unique()}") as box:
        name = box.name
        for reason in ((), ("--reason", ""), ("--reason", "  "), ("--reason", "two\nlines"), ("--reason", "x" * 600)):
            assert "reason" in pinfold(sensor, "quarantine", "add", name, *reason, status=2).err
        assert pinfold(sensor, "quarantine", "add", name, *WHY, "--ttl", "-5", status=2).err
        assert "--ttl" in pinfold(sensor, "quarantine", "add", name, *WHY, "--on-expiry", "kill", status=2).err
        assert pinfold(sensor, "quarantine", "list", "-o", "json").out == ""


# The configuration.


@contextmanager
def changed(sensor: Running, text: str) -> Iterator[None]:
    before = sensor.file.read_text()
    sensor.file.write_text(text)
    try:
        yield
    finally:
        sensor.file.write_text(before)
        sensor.file.chmod(0o644)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("granted_devices: []", "granted_devices: [nvdia]", "did you mean nvidia?"),
        ("granted_devices: []", "granted_devices: [nvidia, 'nvidia:0']", "not both"),
        ("granted_devices: []", "egress: {default: allow, allow: [{to: 192.0.2.0/24}]}", "no list unless"),
        ("granted_devices: []", "granted_devices: [fuse], denied_protocols: [shh]", "did you mean ssh?"),
        ("more/*", "more/../*", "no . and no .."),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_and_what_is_in_force_stays(
    sensor: Running, old: str, new: str, said: str
) -> None:
    with sensor.sandbox() as box, changed(sensor, sensor.file.read_text().replace(old, new)):
        found = pinfold(sensor, "policy", "check", str(sensor.file), status=10).out
        assert said in found and re.match(rf"{re.escape(str(sensor.file))}:\d+: ", found), found
        # The command reads the file too, and says so before it asks; the daemon by itself:
        assert said in pinfold(sensor, "policy", "reload", *WHY, status=2).err
        refused(sensor, said)
        assert _opens(box) == "EPERM"


def test_a_configuration_that_others_may_write_is_refused(sensor: Running) -> None:
    with sensor.sandbox() as box, changed(sensor, sensor.file.read_text()):
        sensor.file.chmod(0o666)
        assert "chmod go-w" in pinfold(sensor, "policy", "check", str(sensor.file), status=10).out
        refused(sensor, "chmod go-w")
        assert _opens(box) == "EPERM"
        one_line(daemon(sensor), "chmod go-w", status=2)


def refused(sensor: Running, said: str) -> None:
    """A reload that the daemon is asked for by its signal."""
    name = 'pinfold_reloads_total{outcome="failed"}'
    before = sensor.metrics()[name]
    assert sensor.process is not None
    sensor.process.send_signal(signal.SIGHUP)
    sensor.until(lambda: sensor.metrics()[name] == before + 1, "it is refused")
    assert said in sensor.said()


def _opens(box: Sandbox) -> str:
    code = """
import errno, os
try:
    os.close(os.open("/dev/fuse", os.O_RDONLY))
    print("ok")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    return box.python(code).stdout.decode().strip()


# The ledger.


def spoil(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


def link(file: Path) -> None:
    there = file.with_suffix(".elsewhere")
    file.rename(there)
    file.symlink_to(there)


def let_others_write(file: Path) -> None:
    file.chmod(0o666)


@pytest.mark.parametrize("spoiled", [spoil, link, let_others_write])
def test_a_damaged_ledger_is_kept_aside_and_nothing_is_ever_all_clear(
    sensor: Running, spoiled: Callable[[Path], None]
) -> None:
    denials = Denials.pinned("/sys/fs/bpf", sensor.instance)
    assert denials is not None
    with sensor.sandbox() as box:
        process = box.start("/usr/bin/sleep", "300")
        record = quarantine(sensor, box.name, "--no-evidence")
        sensor.stop(signal.SIGKILL)
        folder = sensor.home / "state" / "quarantine"
        spoiled(folder / f"{record['id']}.json")
        status = pinfold(sensor, "status", "-o", "json", status=5)
        assert any("the ledger is damaged" in one for one in status.row["findings"])
        assert "critical" in status.err
        sensor.start()
        assert "critical" in sensor.said() and "kept aside" in sensor.said()
        assert list(folder.glob(f"{record['id']}.json.corrupt-*"))
        assert denials.get(box.id) and "frozen 1" in (box.path / "cgroup.events").read_text()
        found = pinfold(sensor, "status", "--check", "-o", "json", status=10).row["findings"]
        assert any("the ledger is damaged" in one for one in found) and "1 quarantine in force" in found
        # It is known by what is in force, and ended like any other; the finding stays until somebody looked.
        (held,) = pinfold(sensor, "quarantine", "list", "-o", "json").rows
        assert held["order"]["sandbox_id"] == box.id and held["id"] != record["id"]
        assert end(sensor, "kill", held["id"])["state"] == "killed"
        assert process.wait(20) == -signal.SIGKILL
        assert pinfold(sensor, "status", "--check", status=10).out
        for left in [*folder.glob("*.corrupt-*"), *folder.glob("*.elsewhere")]:
            left.unlink()


def test_a_ledger_that_is_a_symbolic_link_is_refused(sensor: Running, tmp_path: Path) -> None:
    folder = sensor.home / "state" / "quarantine"
    sensor.stop()
    shutil.copytree(folder, tmp_path / "quarantine")
    kept = folder.with_name("kept")
    folder.rename(kept)
    folder.symlink_to(tmp_path / "quarantine")
    try:
        one_line(daemon(sensor), str(folder), "symbolic link")
        status = pinfold(sensor, "status", "-o", "json", status=5)
        assert any("not known" in one for one in status.row["findings"])
        assert "symbolic link" in pinfold(sensor, "quarantine", "list", status=1).err
    finally:
        folder.unlink()
        kept.rename(folder)
        sensor.start()
