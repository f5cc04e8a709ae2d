"""The archive as a file: members, manifest, quota, and what is refused in its folder."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.respond.evidence import archive
from sensor.respond.evidence.archive import RefusedError, Writer
from sensor.respond.evidence.verify import manifest, verify

CONTENT = {"facts.json": b"{}", "cgroup.json": b"x" * 1024, "files/0001.bin": os.urandom(70000), "files/0002.bin": b""}


def written(path: Path, content: dict[str, bytes], *, comment: str = "", finished: bool = True) -> Writer:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    writer = Writer(fd, comment)
    for name, data in content.items():
        writer.add(name, data, "a test's")
    if finished:
        writer.finish({"complete": True, "members": writer.members})
    os.close(fd)
    return writer


def read(path: Path) -> dict[str, bytes]:
    with tarfile.open(path, "r:gz") as tar:
        return {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]


def test_others_can_read_it_and_every_sum_is_right(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    written(path, CONTENT, comment="of whom")
    found = read(path)
    assert list(found) == [*CONTENT, "manifest.json"]
    assert {name: found[name] for name in CONTENT} == CONTENT
    assert verify(str(path)) == []
    assert manifest(str(path))["complete"] is True


@given(st.lists(st.binary(max_size=3000), max_size=5))
def test_any_content_comes_back(parts: list[bytes]) -> None:
    content = {f"files/{number:04}.bin": part for number, part in enumerate(parts)}
    fd = os.memfd_create("archive")
    try:
        writer = Writer(fd)
        for name, data in content.items():
            writer.add(name, data, "a test's")
        writer.finish({"members": writer.members})
        plain = gzip.decompress(os.pread(fd, 1 << 20, 0))
    finally:
        os.close(fd)
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        found = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    assert found.pop("manifest.json")
    assert found == content


def test_what_cannot_shrink_is_stored_and_what_can_is_packed(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    assert written(tmp_path / "random", {"files/0001.bin": data}).end < len(data) + 4096
    assert written(tmp_path / "zeros", {"files/0001.bin": bytes(1 << 20)}).end < 16384


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "files/1.bin", "files/0001.bin/x", "manifest.json2", ""])
def test_no_other_names_are_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssertionError):
        written(tmp_path / "a", {name: b""})


def test_each_lie_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    writer = Writer(fd)
    for name in ("facts.json", "cgroup.json", "files/0001.bin"):
        writer.add(name, b"true", "a test's")
    told = [dict(each) for each in writer.members]
    told[0]["sha256"] = "0" * 64
    told[1]["name"] = "sockets.json"
    writer.finish({"members": told})
    os.close(fd)
    problems = verify(str(path))
    assert problems == [
        "cgroup.json is not in the manifest",
        "facts.json is not what the manifest says",
        "sockets.json is missing",
    ]


def test_an_archive_of_somebody_else_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        linked = tarfile.TarInfo("files/0001.bin")
        linked.type, linked.linkname = tarfile.SYMTYPE, "/etc/shadow"
        tar.addfile(linked)
        tar.addfile(tarfile.TarInfo("../../etc/cron.d/x"))
    problems = verify(str(path))
    assert problems.count("a member that is not of a collection") == 2
    assert any("no manifest" in problem for problem in problems)


@pytest.mark.parametrize("cut", [1, 200, 60000])
def test_one_that_ends_early_is_told(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.tar.gz"
    written(path, CONTENT)
    os.truncate(path, path.stat().st_size - cut)
    assert verify(str(path)) != []


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b"])
def test_what_is_no_archive_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    assert verify(str(path)) != []
    assert manifest(str(path)) == {}


def test_whole_members_without_a_manifest_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    written(path, CONTENT, finished=False)
    assert read(path) == CONTENT
    assert verify(str(path)) == ["no manifest: its collection was killed, and nobody finished it"]


def test_a_full_disk_leaves_whole_members() -> None:
    """A seal on growth stands for it: the kernel refuses the write alike."""
    import fcntl  # noqa: PLC0415

    fd = os.memfd_create("archive", os.MFD_ALLOW_SEALING)
    try:
        writer = Writer(fd)
        writer.add("facts.json", b"{}", "a test's")
        os.ftruncate(fd, writer.end + 100)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        end = writer.end
        with pytest.raises(PermissionError):
            writer.add("files/0001.bin", os.urandom(8192), "a test's")
        assert writer.end == end == os.fstat(fd).st_size
        assert [each["name"] for each in writer.members] == ["facts.json"]
    finally:
        os.close(fd)


# The folder.


def test_the_folder_is_made_and_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    os.close(archive.open_folder(str(folder)))
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    os.close(archive.open_folder(str(folder)))
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_link_for_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "evidence").symlink_to("elsewhere")
    with pytest.raises(RefusedError, match="symbolic link"):
        archive.open_folder(str(tmp_path / "evidence"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evidence").mkdir()
    os.chown(tmp_path / "evidence", 12345, 12345)
    with pytest.raises(RefusedError, match="somebody else"):
        archive.open_folder(str(tmp_path / "evidence"))


def test_the_quota_counts_this_sandbox_alone(tmp_path: Path) -> None:
    folder = archive.open_folder(str(tmp_path / "evidence"))
    own, other = archive.owner(17, "boot"), archive.owner(171, "boot")
    before = archive.owner(17, "another boot")
    for name, whose in (("a", own), ("b", own), ("c", other), ("d", before)):
        written(tmp_path / f"evidence/{name}.tar.gz", CONTENT, comment=whose)
    (tmp_path / "evidence/e.tar.gz").symlink_to("a.tar.gz")
    (tmp_path / "evidence/f.tar.gz").mkdir()
    (tmp_path / "evidence/g.tar.gz").write_bytes(b"")
    size = (tmp_path / "evidence/a.tar.gz").stat().st_size
    assert archive.used(folder, own) == 2 * size
    os.close(folder)


def test_what_killed_collections_left_is_swept(tmp_path: Path) -> None:
    folder = archive.open_folder(str(tmp_path / "evidence"))
    made = [".q1.tar.gz.ab.part", ".q2.tar.gz.ab.part", ".q3.tar.gz.ab.part", ".q11.tar.gz.ab.part", "q1.tar.gz"]
    for name in made:
        (tmp_path / "evidence" / name).write_bytes(b"")
    now = time.time()
    os.utime(tmp_path / "evidence/.q2.tar.gz.ab.part", (now, now - 2 * archive.STALE_S))
    archive.sweep(folder, "q1", now)
    assert sorted(os.listdir(folder)) == sorted([".q3.tar.gz.ab.part", ".q11.tar.gz.ab.part", "q1.tar.gz"])
    os.close(folder)
