"""The SSH banner: whose bytes and whose version it is, wherever it was cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sensor.enrich.protocols import ssh
from sensor.enrich.protocols.result import TEXT_MAX, Found
from tests.fuzz.checks import checked

BANNERS = [
    (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", "2.0", "OpenSSH_9.2p1 Debian-2+deb12u3"),
    (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n\0\0\x04\x54\x0a\x14", "2.0", "OpenSSH_9.2p1 Debian-2+deb12u3"),
    (b"SSH-2.0-dropbear_2022.83\r\n", "2.0", "dropbear_2022.83"),
    (b"SSH-2.0-PuTTY_Release_0.78\r\n", "2.0", "PuTTY_Release_0.78"),
    (b"SSH-2.0-paramiko_3.4.0\r\n", "2.0", "paramiko_3.4.0"),
    (b"SSH-2.0-Go\r\n", "2.0", "Go"),
    (b"SSH-2.0-AsyncSSH_2.14.2\r\n", "2.0", "AsyncSSH_2.14.2"),
    (b"SSH-1.99-Cisco-1.25\n", "1.99", "Cisco-1.25"),
    (b"SSH-1.5-1.2.27\n", "1.5", "1.2.27"),
    (b"SSH-2.0-\r\n", "2.0", ""),
]

AFTER_LINES = b"Welcome to bastion 7\r\nAuthorised use only\r\nSSH-2.0-OpenSSH_9.2p1\r\n"
SAMPLES = (*(data for data, _, _ in BANNERS), AFTER_LINES)


@pytest.mark.parametrize(("data", "version", "software"), BANNERS)
def test_banner(data: bytes, version: str, software: str) -> None:
    assert ssh.dissect(data, False) == Found("ssh", "", "banner", version, software)
    assert ssh.dissect(data, True) is None


@pytest.mark.parametrize(("data", "version", "software"), BANNERS)
def test_a_banner_is_one_from_its_fourth_byte_on(data: bytes, version: str, software: str) -> None:
    for size in range(len(data)):
        found = ssh.dissect(data[:size], False)
        if size < 4:
            assert found is None
        else:
            assert found is not None and found.certain and software.startswith(found.software.rstrip("\r"))
            assert found.version in ("", version)


def test_lines_before_the_banner_are_a_servers() -> None:
    assert ssh.dissect(AFTER_LINES, False) == Found("ssh", "server", "banner", "2.0", "OpenSSH_9.2p1", certain=False)
    assert ssh.dissect(AFTER_LINES[:-24], False) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH",
        b"ssh-2.0-OpenSSH_9.2p1\r\n",
        b"SSH-keygen: no such file\n",
        b"SSH-2.0 is the version that everybody uses",
        b"SSH--OpenSSH\r\n",
        b"SSH-.0-x\r\n",
        b"SSH-2222222222.0-x\r\n",
        b"SSH-\xb2.0-x\r\n",
        b" SSH-2.0-x\r\n",
        b"a note\nSSH-agent forwarding is off\n",
        b"a note\nSSH-2.0",
        b"\x80binary\nSSH-2.0-x\r\n",
        b"\0\nSSH-2.0-x\r\n",
        b"x" * ssh.BEFORE_MAX + b"\nSSH-2.0-x\r\n",
    ],
)
def test_what_only_looks_like_one(data: bytes) -> None:
    assert ssh.dissect(data, False) is None


def test_hostile_text_is_made_printable_and_cut() -> None:
    found = ssh.dissect(b"SSH-2.0-\x1b[2J\xff\0evil\x7f" + b"A" * 4000, False)
    assert found is not None
    assert found.software.startswith("\ufffd[2J\ufffd\ufffdevil\ufffdAAA")
    assert len(found.software) <= TEXT_MAX


def test_a_banner_that_came_in_pieces_does_not_change_later_ones() -> None:
    cut, whole = (ssh.dissect(data, False) for data in (b"SSH-2.0-pieces_1\r", b"SSH-2.0-pieces_1\r\n"))
    assert cut is not None and whole == cut and whole.software == "pieces_1"


def test_a_flood_of_different_banners_fills_no_memory() -> None:
    for number in range(ssh.CACHED + 10):
        ssh.dissect(b"SSH-2.0-%d\n" % number + bytes(4000), False)
        ssh.dissect(b"SSH-2.0-%d" % number + bytes(4000) + b"\n", False)
    assert len(ssh._known) <= ssh.CACHED
    assert max(map(len, ssh._known)) <= ssh.LINE_MAX


@given(
    st.binary(max_size=4200), st.sampled_from([b"", b"SSH-", b"SSH-2.0-", b"hello\nSSH-2.0-"]), st.binary(max_size=40)
)
@example(b"\n", b"hello\nSSH-2.0-", b"")
def test_noise(noise: bytes, start: bytes, middle: bytes) -> None:
    for data in (noise, start + middle + noise, noise[:99] + start + middle):
        checked(ssh.dissect(data, False))
