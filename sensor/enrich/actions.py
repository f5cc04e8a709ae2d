"""What known processes do: exit, connect, open devices."""

from __future__ import annotations

from sensor.enrich.addresses import PROTOCOLS, Addresses
from sensor.enrich.clock import Timeline
from sensor.enrich.devices import BLOCK, access_text, class_name, prior_name, verdict_name
from sensor.enrich.fields import Common, Where, common
from sensor.enrich.names import Names
from sensor.enrich.processes import ProcessTable
from sensor.enrich.sandboxes.registry import Registry
from sensor.enrich.text import Raw, replaced
from sensor.enrich.users import Users
from sensor.events.activity import DeviceAccess, NetworkConnection, ProcessTermination
from sensor.events.layouts import SPLIT_MEMBERS, Connect, ConnectUnix, DeviceAttempt, Exit, Flag, Split, Type

_REPEAT = int(Flag.REPEAT)
# For each value of the byte that tells it.
_PROTOCOLS = tuple(PROTOCOLS.get(number, f"ip:{number}") for number in range(256))
_VERDICTS = tuple(verdict_name(number) for number in range(256))
_ACCESS = tuple(access_text(bits) for bits in range(8))


class Actions:
    def __init__(  # noqa: PLR0917 - the tables it reads
        self,
        sandboxes: Registry,
        processes: ProcessTable,
        users: Users,
        timeline: Timeline,
        addresses: Addresses,
        names: Names,
    ) -> None:
        self.addresses = addresses
        self._name_of = names.name_of
        # What is asked for each connect, without a call where it is known.
        self._named = names.sandboxes
        self._addresses = addresses.known
        self._current = processes.current
        self._by_id = sandboxes.by_id
        self._user_names = users.known
        self._sandboxes = sandboxes
        self._processes = processes
        self._users = users
        self._timeline = timeline

    def exit(self, r: Exit, generation: int, position: int) -> ProcessTermination:
        process = self._processes.exited(r)
        where = self._where(r, generation, position)
        fields = common(where, process, process.user if process is not None else "")
        return ProcessTermination(*fields, (r.exit_code >> 8) & 0xFF, r.exit_code & 0x7F)

    def connect(self, r: Connect, generation: int, position: int) -> NetworkConnection:
        return self.connected((SPLIT_MEMBERS[Type.CONNECT](r),), generation, position)

    def connected(self, split: Split, generation: int, position: int) -> NetworkConnection:
        """All in one: a sandbox that connects has this run more often than all else but execs."""
        (
            _, flags, _, t, sandbox_id, cgroup_id, tgid, exec_id, cookie, count, first_ns, last_ns,
            maker_tgid, uid, family, port, protocol, verdict, packed,
        ) = split[0]  # fmt: skip
        to = self._addresses.get((family, packed)) or self.addresses.get(family, packed)
        name = self._name_of(sandbox_id, to.text, t) if sandbox_id in self._named else ""
        time = self._timeline
        utc = t + time.offset if time.start <= t < time.end else time.utc(t)
        sandbox = self._by_id.get(sandbox_id) or self._sandboxes.get(sandbox_id)
        user = self._user_names.get(uid) or self._users.name(uid)
        process = self._current.get(tgid)
        if process is None or process.exec_id != exec_id or not process.guid or process.parent is None:
            process, before = self._processes.actor(tgid, exec_id, sandbox_id)
            where = (generation, position, utc, t, sandbox_id, sandbox.name, sandbox.class_, cgroup_id, tgid)
            return NetworkConnection(
                *common(where, process, user, before=before),
                _PROTOCOLS[protocol], True, to.text, port, to.is_ipv6, name, "", to.is_loopback, to.is_private, "", 0,
                _VERDICTS[verdict], count, first_ns, last_ns, flags & _REPEAT != 0, cookie, maker_tgid or tgid,
            )  # fmt: skip
        parent, entry = process.parent, process.entry
        return NetworkConnection(
            generation, position, utc, t, sandbox_id, sandbox.name, sandbox.class_, cgroup_id, tgid,
            process.guid, process.image, process.command_line, process.cwd, user,
            parent.tgid, parent.image, parent.command_line, entry.image, entry.command_line, False, process.raw,
            _PROTOCOLS[protocol], True, to.text, port, to.is_ipv6, name, "", to.is_loopback, to.is_private, "", 0,
            _VERDICTS[verdict], count, first_ns, last_ns, flags & _REPEAT != 0, cookie, maker_tgid or tgid,
        )  # fmt: skip

    def connect_unix(self, r: ConnectUnix, generation: int, position: int) -> NetworkConnection:
        return self.connected_unix((SPLIT_MEMBERS[Type.CONNECT_UNIX](r), r.target), generation, position)

    def connected_unix(self, split: Split, generation: int, position: int) -> NetworkConnection:
        members, target = split
        (
            _, flags, _, t, sandbox_id, cgroup_id, tgid, exec_id, count, first_ns, last_ns, maker_tgid, uid, verdict,
        ) = members  # fmt: skip
        path, added = unix_path(target)
        process, before = self._processes.actor(tgid, exec_id, sandbox_id)
        sandbox = self._by_id.get(sandbox_id) or self._sandboxes.get(sandbox_id)
        utc = self._timeline.utc(t)
        user = self._user_names.get(uid) or self._users.name(uid)
        where = (generation, position, utc, t, sandbox_id, sandbox.name, sandbox.class_, cgroup_id, tgid)
        return NetworkConnection(
            *common(where, process, user, before=before, added=added),
            "unix", True, "", 0, False, "", path, True, True, "", 0,
            _VERDICTS[verdict], count, first_ns, last_ns, flags & _REPEAT != 0, 0, maker_tgid or tgid,
        )  # fmt: skip

    def device(self, r: DeviceAttempt, generation: int, position: int) -> DeviceAccess:
        return DeviceAccess(
            *self._of_actor(r, generation, position),
            class_name(r.device_class),
            "block" if r.kind == BLOCK else "char",
            r.major,
            r.minor,
            _ACCESS[r.access & 7],
            r.granted != 0,
            self._sandboxes.get(r.sandbox_id).gpu_granted,
            _VERDICTS[r.verdict],
            prior_name(r.prior),
            r.count,
            r.first_ns,
            r.last_ns,
            r.flags & _REPEAT != 0,
        )

    def _of_actor(self, r: DeviceAttempt, generation: int, position: int) -> Common:
        process, before = self._processes.actor(r.tgid, r.exec_id, r.sandbox_id)
        where = self._where(r, generation, position)
        return common(where, process, self._users.name(r.uid), before=before)

    def _where(self, r: Exit | DeviceAttempt, generation: int, position: int) -> Where:
        t = r.time_ns
        sandbox = self._sandboxes.get(r.sandbox_id)
        utc = self._timeline.utc(t)
        return (generation, position, utc, t, r.sandbox_id, sandbox.name, sandbox.class_, r.cgroup_id, r.tgid)


def unix_path(target: bytes) -> tuple[str, Raw]:
    """sun_path as ss(8) shows it: the NUL that begins an abstract name, and any further one, as `@`."""
    if target[:1] != b"\0":
        path = target.split(b"\0", 1)[0]
        try:
            return path.decode(), None
        except UnicodeDecodeError:
            return replaced(path, "DestinationPath", None)
    shown = target.replace(b"\0", b"@")
    try:
        return shown.decode(), {"DestinationPath": target} if b"\0" in target[1:] else None
    except UnicodeDecodeError:
        return shown.decode(errors="replace"), {"DestinationPath": target}
