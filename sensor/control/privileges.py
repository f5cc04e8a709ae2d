"""How the api process gives up what it does not need."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import signal

USERS = ("pinfold", "nobody")  # the first that exists

# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def close_others(keep: set[int]) -> None:
    """Closes every descriptor above stderr that is not in `keep`: whatever of the core's came along."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                continue  # the one that listed the folder


def drop(parent: int) -> None:
    """Becomes a user without rights, for good, who dies with the core (tgid `parent`).

    :raises OSError: the kernel refused; then nothing may be served.
    """
    if os.geteuid() == 0:
        user = _user()
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    # After the change of user, which clears both the death signal and the dumpable flag.
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)  # no other process of that user may trace it
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError("the core is gone already")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))


def _user() -> pwd.struct_passwd:
    for name in USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PermissionError(f"none of the users {', '.join(USERS)} exists")


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")
