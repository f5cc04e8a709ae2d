"""An interactive shell on a socket: its prompt or banner from one side, typed commands from the other.

A reverse shell has no protocol, but what a shell says first when its terminal is a socket is quite its
own: dash and bash complain about job control, bash counts its version in the prompt of `bash -i`.
Nothing here is read further than 512 bytes.
"""

from __future__ import annotations

from sensor.enrich.protocols.printable import text
from sensor.enrich.protocols.result import Found

LOOKED_AT = 512
SEQUENCES_MAX = 8
SEQUENCE_MAX = 128
_ESCAPE, _BELL = 0x1B, 0x07
_FINAL = range(0x40, 0x7F)  # ends a control sequence (ECMA-48, 5.4)

# After the name of a shell and a colon, in the first line.
_COMPLAINTS = (
    b"no job control in this shell",
    b"no job control in background",
    b"cannot set terminal process group",
    b"can't access tty; job control turned off",
)
_BANNERS = (
    (b"Microsoft Windows [Version", "cmd"),
    (b"Windows PowerShell\r\nCopyright", "PowerShell"),
    (b"BusyBox v", "BusyBox"),
    (b"Welcome to fish, the friendly interactive shell", "fish"),
)
_BANNER_STARTS = tuple(start for start, _ in _BANNERS)
_BARE = (b"$ ", b"# ", b"% ", b"> ", b">>> ", b"/ # ", b"/ $ ", b"~ # ", b"~ $ ")
_KALI = "┌──(".encode()
_FIRSTS = frozenset([*range(0x20, 0x7F), 0x0D, 0x0A, _ESCAPE, _KALI[0]])
_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_PRINTABLE = frozenset([*range(0x20, 0x7F), 9])
_NAMES = frozenset((b"bash", b"sh", b"dash", b"ash", b"zsh", b"ksh", b"rbash", b"-bash", b"-sh"))

# Alone on a line.
_ALONE = frozenset(
    b"id whoami uname ls pwd ps env hostname ifconfig netstat bash sh dir ipconfig systeminfo export w mount df".split()
)
# With an argument that looks like one of a shell: "find me a flat" is no command.
_WITH_ARGUMENT = frozenset(
    b"""uname ls ps cat cd export script stty python python2 python3 perl bash sh sudo wget curl chmod find netstat ss
    which rm mkdir head tail grep nohup crontab env exec unset echo whoami hostname /bin/sh /bin/bash /usr/bin/script
    /usr/bin/python3 ls head kill type tty reset su powershell cmd nc ncat socat""".split()
)
_ARGUMENT = frozenset(b"-/.~$'\"|>&;*<(\\")
_PHRASES = (b"ps aux", b"ip a", b"ip addr", b"net user", b"ip route", b"export TERM=", b"stty raw", b"sudo su")


def dissect(data: bytes, udp: bool) -> Found | None:
    if udp or not data:
        return None
    first = data[0]
    if first not in _FIRSTS:
        return None
    head = data[:LOOKED_AT]
    shown = _without_sequences(head) if first < 0x20 else head
    line = shown.partition(b"\n")[0]
    return _prompt(shown, line) or _banner(shown, line) or _output(shown) or _command(head)


def _without_sequences(data: bytes) -> bytes:
    """Passes over newlines and terminal sequences in front: ESC [ ? 2004 h, a window's title."""
    at = 0
    for _ in range(SEQUENCES_MAX):
        while at < len(data) and data[at] in b"\r\n":
            at += 1
        if at + 1 >= len(data) or data[at] != _ESCAPE:
            break
        at = _sequence_end(data, at)
    return data[at:]


def _sequence_end(data: bytes, at: int) -> int:
    kind = data[at + 1]
    stop = min(len(data), at + SEQUENCE_MAX)
    if kind == ord("["):
        end = at + 2
        while end < stop and data[end] not in _FINAL:
            end += 1
        return min(end + 1, len(data))
    if kind == ord("]"):
        end = at + 2
        while end < stop and data[end] != _BELL and data[end : end + 2] != b"\x1b\\":
            end += 1
        return min(end + (1 if data[end : end + 1] == b"\7" else 2), len(data))
    return at + 2


def _prompt(shown: bytes, line: bytes) -> Found | None:
    if shown.startswith(_BARE):
        for bare in _BARE:
            # Alone, or again at the end, after the output of a command. "$5" is Redis, "# text" any file.
            if shown.startswith(bare) and (shown == bare or shown.endswith(b"\n" + bare)):
                return Found("shell", "server", "prompt", certain=False)
    if shown.startswith(_KALI):
        return Found("shell", "server", "prompt")
    name, dash, rest = line.partition(b"-")
    if dash and name in _NAMES:
        version = rest[:8]
        for sign in (b"$ ", b"# "):
            number, found, _ = version.partition(sign)
            if found and number.replace(b".", b"").isdigit():
                return Found("shell", "server", "prompt", text(number), text(name))
    if line.startswith(b"PS ") and line[4:6] == b":\\" and line.rstrip().endswith(b">"):
        return Found("shell", "server", "prompt", software="PowerShell")
    return _at_host(line)


def _at_host(line: bytes) -> Found | None:
    """`root@host:/path# `, `[root@host dir]# `."""
    bracket = line[:1] == b"["
    user, at, rest = line[bracket:].partition(b"@")
    if not at or not 0 < len(user) <= 32 or not _WORD.issuperset(user):
        return None
    host, mark, path = rest.partition(b" " if bracket else b":")
    if not mark or not 0 < len(host) <= 64 or not _WORD.issuperset(host):
        return None
    signs = (b"]# ", b"]$ ") if bracket else (b"# ", b"$ ")
    ends = [found for sign in signs if (found := path.find(sign)) > 0]
    if not ends or (not bracket and path[:1] not in (b"/", b"~")):
        return None
    return Found("shell", "server", "prompt", user=text(user), server_name=text(host))


def _banner(shown: bytes, line: bytes) -> Found | None:
    if shown.startswith(_BANNER_STARTS):
        software = next(software for start, software in _BANNERS if shown.startswith(start))
        return Found("shell", "server", "banner", software=software)
    name, colon, rest = line.partition(b": ")
    if colon and name.rpartition(b"/")[2] in _NAMES and any(complaint in rest for complaint in _COMPLAINTS):
        return Found("shell", "server", "banner", software=text(name.rpartition(b"/")[2]))
    if line.startswith((b"Python 3.", b"Python 2.")) and b" on " in shown and b">>> " in shown:
        return Found("shell", "server", "banner", text(line[7:].split(b" ", 1)[0]), "Python")
    return None


def _output(shown: bytes) -> Found | None:
    """What `id` says, as the first word of a shell without a prompt, such as that of `nc -e /bin/sh`."""
    if not shown.startswith(b"uid="):
        return None
    number, bracket, rest = shown[4:].partition(b"(")
    if bracket and number.isdigit() and len(number) <= 10 and b") gid=" in rest[:64]:
        return Found("shell", "server", "output", certain=False)
    return None


def _command(head: bytes) -> Found | None:
    """A line that somebody types into a shell; other protocols of lines have such words too."""
    line, newline, _ = head.partition(b"\n")
    line = line.rstrip(b"\r ")
    if not newline or not line or not _PRINTABLE.issuperset(line):
        return None
    word, space, rest = line.partition(b" ")
    argument = rest.lstrip(b" ")
    known = line.startswith(_PHRASES) or (
        word in _WITH_ARGUMENT and (argument[:1] in _SIGNS or b"=" in argument[:64] or argument.startswith(b"http"))
        if space
        else line in _ALONE
    )
    return Found("shell", "client", "command", method=text(word), certain=False) if known else None


_SIGNS = frozenset(bytes((sign,)) for sign in _ARGUMENT)
