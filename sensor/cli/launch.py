"""A command in a cgroup of its own: what `pinfold sandbox run` does.

The command's process moves itself into the cgroup before it becomes the command, so that nothing
of it ever ran outside. Exit statuses as env(1) has them: 126 not executable, 127 not found.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sensor.errors import HostError, UsageError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LEFTOVERS_S = 1.0
_SI_KERNEL = 0x80  # include/uapi/asm-generic/siginfo.h
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_SHOWN = 8  # leftover processes named


class Sandbox:
    """The cgroup `<parent>/<name>`. `parent` is the instance's cgroup, made where it is missing."""

    def __init__(self, parent: str, name: str) -> None:
        if not _NAME.fullmatch(name) or name in (".", ".."):
            raise UsageError(f"a sandbox's name is 1 to 64 letters, digits, _ . and -, found {name!a}")
        self.name = name
        self.path = os.path.join(parent, name)

    def create(self) -> None:
        """A new cgroup, and so a new sandbox: one that is left over empty is not taken up again."""
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            try:
                os.mkdir(self.path)
            except FileExistsError:
                if self.populated():
                    raise HostError(f"sandbox {self.name} is in use: its cgroup {self.path} has processes") from None
                os.rmdir(self.path)
                os.mkdir(self.path)
        except OSError as why:
            raise HostError(f"cgroup {self.path} cannot be made: {why.strerror}; are you root?") from why

    def populated(self) -> bool:
        try:
            with open(os.path.join(self.path, "cgroup.events")) as file:
                return "populated 1" in file.read()
        except OSError:
            return False

    def run(self, command: Sequence[str]) -> int:
        """The command's exit status; 128 + n after signal n."""
        with _blocked(signal.SIGCHLD, *_FORWARDED) as mask:
            child = os.fork()
            if child == 0:
                self._become(command, mask)
            return _wait(child)

    def wait_until_empty(self) -> bool:
        """Up to a second: what the command left in the background may just be ending."""
        deadline = time.monotonic() + _LEFTOVERS_S
        with open(os.path.join(self.path, "cgroup.events")) as file:
            poll = select.poll()
            poll.register(file, select.POLLPRI)
            while "populated 1" in file.read():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                poll.poll(left * 1000)
                file.seek(0)
        return True

    def leftovers(self) -> list[tuple[int, str]]:
        """(tgid, comm) of the first few processes in it, or in cgroups that it made."""
        found: list[tuple[int, str]] = []
        for folder in self._tree():
            try:
                with open(os.path.join(folder, "cgroup.procs")) as file:
                    tgids = [int(line) for line in file]
            except OSError:
                continue
            found += [(tgid, _comm(tgid)) for tgid in tgids[: _SHOWN - len(found)]]
        return found

    def kill(self) -> None:
        try:
            with open(os.path.join(self.path, "cgroup.kill"), "w") as file:  # Linux 5.14
                file.write("1")
        except OSError as why:
            raise HostError(f"the processes in {self.path} cannot be killed: {why.strerror}") from why

    def remove(self) -> None:
        """With the empty cgroups that were made in it."""
        try:
            for folder in reversed(self._tree()):
                os.rmdir(folder)
        except OSError as why:
            raise HostError(f"cgroup {self.path} cannot be removed: {why.strerror}") from why

    def _tree(self) -> list[str]:
        """Parents before children. A loop: how deep it is nested is the sandbox's choice."""
        folders = [self.path]
        for folder in folders:
            try:
                with os.scandir(folder) as entries:
                    folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:
                continue  # gone meanwhile; the removal tells if it is not
        return folders

    def _become(self, command: Sequence[str], mask: set[signal.Signals]) -> None:
        """In the child. Never returns."""
        status = 126
        try:
            with open(os.path.join(self.path, "cgroup.procs"), "w") as file:
                file.write("0")
            # Python ignores these, and ignored signals stay ignored over an exec.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.execvp(command[0], list(command))  # noqa: S606  # no shell is meant
        except FileNotFoundError as why:
            status = 127
            _last_words(command[0], why)
        except (OSError, ValueError) as why:
            _last_words(command[0], why)
        finally:
            os._exit(status)


@contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[set[signal.Signals]]:
    """Gives the mask that was in force, which holds Signals or, for real-time ones, numbers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield {signal.Signals(number) for number in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(child: int) -> int:
    while True:
        came = signal.sigwaitinfo((signal.SIGCHLD, *_FORWARDED))
        if came.si_signo == signal.SIGCHLD:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        elif came.si_code != _SI_KERNEL:
            # From the kernel means from the terminal, which sent it to the child as well. The child is
            # not reaped yet, so its id is its own.
            os.kill(child, came.si_signo)


def _last_words(program: str, why: Exception) -> None:
    reason = why.strerror if isinstance(why, OSError) else why
    sys.stderr.write(f"pinfold: {program!a}: {reason}\n")
    sys.stderr.flush()


def _comm(tgid: int) -> str:
    try:
        with open(f"/proc/{tgid}/comm", errors="replace") as file:
            return file.read().removesuffix("\n")
    except OSError:
        return "?"
