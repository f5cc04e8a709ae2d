"""What pinfold needs of a host beside its kernel's features. Looks only: nothing is mounted, loaded or made."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator

from msgspec import Struct

from sensor.cli.common import python
from sensor.config import Config
from sensor.errors import HostError, PinfoldError

_BCC_SECONDS = 30
_ATTACH_CGROUP_DEVICE = 6  # enum bpf_attach_type
_CGROUPS_ASKED = 4096
_PROGRAMS = 64


class Check(Struct, frozen=True):
    """As sensor.bpf.features.Feature, whose states these are: supported, unsupported, inconclusive."""

    name: str
    state: str
    detail: str
    lost_without: str
    remedy: str
    required: bool = False


def checks(config: Config) -> Iterator[Check]:
    yield from _features()
    yield from _mounts(config)
    yield _bcc()
    yield _space(config)
    yield _device_programs()
    yield _file_events(config)


def _features() -> Iterator[Check]:
    try:
        from sensor.bpf import features  # noqa: PLC0415  # loads libbpf

        for found in features.report():
            remedy = "" if found.state == "supported" else found.remedy
            if found.state == "inconclusive" and os.geteuid() != 0:
                remedy = "run it with sudo"
            yield Check(found.name, found.state, found.detail, found.lost_without, remedy, found.required)
    except PinfoldError as why:
        yield Check("kernel features", "inconclusive", str(why), "everything", "see the detail", True)


def _mounts(config: Config) -> Iterator[Check]:
    from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount  # noqa: PLC0415

    try:
        yield Check("cgroup2", "supported", find_cgroup2_mount(), "everything", "", True)
    except HostError as why:
        yield Check("cgroup2", "unsupported", str(why), "everything", "mount -t cgroup2 none /sys/fs/cgroup", True)
    bpffs = config.paths.bpffs
    yield _mount("bpffs", "bpf", bpffs, "the probes' pins", required=True)
    tracefs = "/sys/kernel/tracing"
    yield _mount("tracefs", "tracefs", tracefs, "the list of tracepoints", required=False)


def _mount(name: str, kind: str, folder: str, lost: str, *, required: bool) -> Check:
    there = (folder, kind) in set(_mounted())
    state = "supported" if there else "unsupported"
    detail = folder if there else f"{folder} is no {name}"
    return Check(name, state, detail, lost, "" if there else f"mount -t {kind} none {folder}", required)


def _mounted() -> Iterator[tuple[str, str]]:
    """(mount point, type) of every mount in this namespace; proc(5), /proc/pid/mountinfo."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            yield before.split(" ")[4], after.split(" ", 1)[0]


def _bcc() -> Check:
    """In a child, as the sensor itself does it: BCC brings 120 MB, and its namesake anything."""
    code = "from sensor.bpf.loader import import_bcc as load; print(load().__file__)"
    lost, remedy = "everything: the probes cannot be compiled", "apt-get install python3-bpfcc; packaging/start does"
    try:
        start, environment = python()
        done = subprocess.run(
            [*start, "-c", code], env=environment, capture_output=True, text=True, timeout=_BCC_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Check("bcc", "inconclusive", f"no answer within {_BCC_SECONDS} s", lost, remedy, True)
    if done.returncode == 0:
        return Check("bcc", "supported", done.stdout.strip(), lost, "", True)
    detail = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return Check("bcc", "unsupported", detail.rpartition("HostError: ")[2], lost, remedy, True)


def _space(config: Config) -> Check:
    """Whether the log can grow to what its settings let it."""
    wanted = (config.log.keep + 1) * config.log.max_bytes
    folder = config.paths.log
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    detail = f"{free >> 20} MiB free in {folder}; the log grows to {wanted >> 20} MiB"
    if free >= wanted:
        return Check("disk space", "supported", detail, "log lines", "")
    return Check("disk space", "unsupported", detail, "log lines, when it is full", "make room, or lower log.keep")


def _file_events(config: Config) -> Check:
    """By the same call as the sensor's own: a group that reports identities and names."""
    name, lost = "file events", "file_event and its kin: files written, removed and read are seen in arguments alone"
    if not config.files.enabled:
        return Check(name, "unsupported", "off", lost, "files.enabled: yes")
    from sensor.files import fanotify  # noqa: PLC0415

    try:
        os.close(fanotify.group())
    except HostError as why:
        state = "inconclusive" if os.geteuid() != 0 else "unsupported"
        return Check(name, state, str(why), lost, "run it with sudo" if os.geteuid() != 0 else "Linux 5.17")
    detail = "fanotify marks on the files and folders that rules name; no LSM or fentry hook is needed"
    return Check(name, "supported", detail, lost, "")


def _device_programs() -> Check:
    """Container runtimes and systemd attach their own beside ours; each may refuse a device first."""
    name, lost = "device programs", "nothing: PriorVerdict shows their refusals where the kernel tells"
    try:
        from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount  # noqa: PLC0415

        found, asked = _with_device_programs(find_cgroup2_mount())
    except (PinfoldError, OSError) as why:
        return Check(name, "inconclusive", str(why), lost, "run it with sudo")
    examples = f", as {found[0]}" if found else ""
    return Check(
        name, "supported", f"in {len(found)} of {asked} cgroups, pinfold's own counted too{examples}", lost, ""
    )


def _with_device_programs(mount: str) -> tuple[list[str], int]:
    """Paths of cgroups that have such programs, and how many cgroups were asked (BPF_PROG_QUERY)."""
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    found: list[str] = []
    folders = [mount]
    for folder in folders:
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # ended meanwhile
        try:
            flags, ids, count = ctypes.c_uint32(), (ctypes.c_uint32 * _PROGRAMS)(), ctypes.c_uint32(_PROGRAMS)
            result = library.bpf_prog_query(fd, _ATTACH_CGROUP_DEVICE, 0, ctypes.byref(flags), ids, ctypes.byref(count))
        finally:
            os.close(fd)
        if result != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"the programs of {folder} cannot be asked for: {os.strerror(code)}")
        if count.value:
            found.append(folder.removeprefix(mount) or "/")
        folders += _children(folder)[: max(0, _CGROUPS_ASKED - len(folders))]
    return found, len(folders)


def _children(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
