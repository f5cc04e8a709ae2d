"""What this command does without a daemon: on pins, the ledger and cgroupfs, through the same engine.

There is no process table then: what a cgroup holds now is all that is known of its sandbox. A process that
moved out of it is reached by the kernel's denials, not by a kill.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sensor.cli.audit import audited, operator
from sensor.cli.find import IN_FORCE, order
from sensor.cli.reach import say
from sensor.cli.show import Row
from sensor.errors import ActError, DeniedError, HostError, NeverTouchError, PinfoldError

if TYPE_CHECKING:
    from sensor.config import Config
    from sensor.enrich.sandboxes.registry import Sandbox
    from sensor.respond.table import Host

SLICE_S = 0.2  # of work between two looks at how far it is
EMPTY_S = 5.0  # for killed processes to be gone
_MOST_ANCESTORS = 64
_SHOWN = 8


class Engine(Protocol):
    """The quarantines, as `sensor.respond.quarantine` has them. Records are Structs."""

    def records(self) -> Sequence[Any]: ...
    def get(self, quarantine_id: str, /) -> Any: ...
    def release(self, quarantine_id: str, /, *, operator: str, reason: str) -> Any: ...
    def kill(self, quarantine_id: str, /, *, operator: str, reason: str) -> Any: ...
    def run(self, timeout_s: float, /) -> None: ...
    def close(self) -> None: ...
    @property
    def damaged(self) -> Sequence[str]:
        """Files of the ledger that cannot be believed."""


class Empty:
    """A process table that nobody filled."""

    def get(self, tgid: int) -> None:
        return None

    def in_sandbox(self, sandbox_id: int) -> Sequence[Any]:
        return ()


def alone(config: Config) -> Alone:
    """:raises DeniedError: not root."""
    if os.geteuid() != 0:
        raise DeniedError("the daemon does not answer, and without it only root can go on: use sudo")
    return Alone(config, engine)


def engine(config: Config, acting: bool) -> Engine:
    """:param acting: what is under way goes on; else only looks.
    :raises ActError: another process acts on the quarantines.
    :raises HostError: the ledger cannot be used."""
    from sensor.respond.quarantine.offline import offline  # noqa: PLC0415

    return offline(config, acting=acting)


class Alone:
    online = False

    def __init__(self, config: Config, quarantines: Callable[[Config, bool], Engine]) -> None:
        self._config = config
        self._make = quarantines
        self._engine: Engine | None = None
        self._acts = False

    def close(self) -> None:
        """What is in force stays in force."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _quarantines(self, acting: bool = False) -> Engine:
        """When it is first needed: a ledger that cannot be used must not keep anybody from killing a sandbox."""
        if self._engine is None or (acting and not self._acts):
            self.close()
            self._engine, self._acts = self._make(self._config, acting), acting
            if damaged := self._engine.damaged:
                say(f"critical: {len(damaged)} files of the ledger cannot be believed: {', '.join(damaged[:_SHOWN])}")
        return self._engine

    def status(self) -> Row:
        return {
            "daemon": "does not answer",
            **_arming(self._config),
            "sandboxes": len(self._live()),
            "denials": _denials(self._config),
            "ledger": ", ".join(self._damaged()) or "sound",
        }

    def sandboxes(self) -> list[Row]:
        """What cgroupfs has that matches the configuration, as the daemon would call it."""
        held: dict[Any, Any] = {}
        try:
            held |= {order(one).get("sandbox_id"): one["id"] for one in self.quarantines() if one["state"] in IN_FORCE}
        except PinfoldError as why:
            say(f"which of them are in quarantine is not known: {why}")
        return [
            {
                "id": one.id,
                "name": one.name,
                "class": one.class_,
                "runtime": one.runtime,
                "path": one.path,
                "processes": len(self._members(one.id, one.path)),
                "state": "unknown",
                "quarantine": held.get(one.id, ""),
            }
            for one in self._live()
        ]

    def quarantines(self) -> list[Row]:
        return [_row(record) for record in self._quarantines().records()]

    def quarantine(self, quarantine_id: str) -> Row:
        return _row(self._quarantines().get(quarantine_id))

    def release(self, quarantine_id: str, reason: str, dry_run: bool) -> Row:
        if dry_run:
            return _would(f"release {quarantine_id}: thaw it, and lift what the kernel refuses to it")
        with audited(self._config.paths.state, "quarantine_release", quarantine_id, reason):
            return _row(self._quarantines(acting=True).release(quarantine_id, operator=operator(), reason=reason))

    def kill(self, quarantine_id: str, reason: str, dry_run: bool) -> Row:
        if dry_run:
            return _would(f"kill what is in {quarantine_id}, and end it")
        with audited(self._config.paths.state, "quarantine_kill", quarantine_id, reason):
            return _row(self._quarantines(acting=True).kill(quarantine_id, operator=operator(), reason=reason))

    def kill_sandbox(self, sandbox: Row, reason: str, dry_run: bool) -> Row:
        sandbox_id, path = int(sandbox["id"]), str(sandbox["path"])
        if dry_run:
            return _would(f"kill {len(self._members(sandbox_id, path))} processes in {path}")
        with audited(
            self._config.paths.state, "kill", str(sandbox_id), reason, SandboxId=sandbox_id, SandboxName=sandbox["name"]
        ):
            return {**sandbox, "killed": list(self._kill(sandbox_id, path))}

    def advance(self) -> None:
        self._quarantines().run(SLICE_S)

    def _kill(self, sandbox_id: int, path: str) -> Sequence[int]:
        from sensor.respond.kill import Gone, Killer  # noqa: PLC0415
        from sensor.respond.killsandbox import SandboxKiller  # noqa: PLC0415
        from sensor.respond.nevertouch import NeverTouch, Refusal  # noqa: PLC0415

        host = self._host({sandbox_id: path})
        guard = NeverTouch(host)
        try:
            killed = SandboxKiller(host, guard, Killer(host, guard)).kill(sandbox_id)
        except Gone:
            return ()
        except OSError as why:
            raise ActError(f"{path}: the kernel refuses the kill: {why.strerror}") from why
        if isinstance(killed, Refusal):
            raise NeverTouchError(f"{path} is not killed: {killed.reason}")
        if not killed.complete or not self._emptied(sandbox_id, path):
            raise ActError(f"{path}: processes are still there after the kill: look at {path}/cgroup.procs")
        return killed.tgids

    def _damaged(self) -> list[str]:
        try:
            return list(self._quarantines().damaged)
        except PinfoldError:
            return []  # whoever asks for the quarantines hears of it

    def _emptied(self, sandbox_id: int, path: str) -> bool:
        """A process that dies in uninterruptible sleep takes its time."""
        until = time.monotonic() + EMPTY_S
        while self._members(sandbox_id, path):
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def _members(self, sandbox_id: int, path: str) -> list[int]:
        from sensor.respond import procfs  # noqa: PLC0415
        from sensor.respond.cgroupfs import CgroupDirectory  # noqa: PLC0415

        try:
            with CgroupDirectory(_mount(), "/" + path.strip("/"), sandbox_id) as directory:
                tgids = directory.processes()
        except OSError:
            return []
        return [tgid for tgid in tgids if (stat := procfs.stat(tgid)) is not None and not stat.gone]

    def _host(self, paths: dict[int, str]) -> Host:
        from sensor.respond.table import Host  # noqa: PLC0415

        return Host(Empty(), paths.get, lambda: tuple(ancestors()), _mount(), self._config.paths.state)

    def _live(self) -> list[Sandbox]:
        from sensor.enrich.sandboxes.registry import Registry  # noqa: PLC0415

        return Registry(self._config, _mount()).scan()


def ancestors() -> Iterator[int]:
    """Whoever started this command: the shell of the operator is not to be killed."""
    from sensor.respond import procfs  # noqa: PLC0415

    tgid = os.getppid()
    for _ in range(_MOST_ANCESTORS):
        if tgid <= 1:
            return
        yield tgid
        stat = procfs.stat(tgid)
        tgid = stat.parent_tgid if stat is not None else 0


def _mount() -> str:
    from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount  # noqa: PLC0415

    return find_cgroup2_mount()


def _arming(config: Config) -> Row:
    from sensor.bpf import objects  # noqa: PLC0415
    from sensor.respond.disarm import Arming  # noqa: PLC0415

    base = objects.base_folder(config.paths.bpffs, config.instance)
    pinned = (base / "control").exists()
    return {
        "armed": not Arming(config.paths.state).disarmed(),
        "kernel": ("armed" if objects.Handle(base).read().armed else "disarmed") if pinned else "nothing is pinned",
    }


def _denials(config: Config) -> dict[str, list[str]]:
    """What the kernel refuses, by sandbox id."""
    from sensor.bpf.denials import Denials  # noqa: PLC0415

    try:
        found = Denials.pinned(config.paths.bpffs, config.instance)
        return {} if found is None else {str(key): _names(deny) for key, deny in found.all().items() if deny}
    except HostError as why:
        return {"?": [str(why)]}


def _names(deny: Any) -> list[str]:
    return [str(flag.name).lower() for flag in type(deny) if flag in deny]


def _would(text: str) -> Row:
    return {"dry_run": True, "would": [text]}


def _row(record: Any) -> Row:
    import msgspec  # noqa: PLC0415

    found: Row = msgspec.to_builtins(record)
    return found
