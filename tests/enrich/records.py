"""Records as the kernel would send them, with only what a test cares about written out."""

from __future__ import annotations

from struct import pack

from sensor.events.layouts import (
    Cgroup,
    Connect,
    ConnectUnix,
    DeviceAttempt,
    Exec,
    Exit,
    Flow,
    Fork,
    Inversion,
    Listen,
    Move,
    Payload,
    SensorAccess,
    SystemCall,
    Type,
)

BOX = 7001
OTHER_BOX = 7002
START = 5_000_000_123  # not a whole clock tick: as the kernel says it


def walk(path: str) -> bytes:
    """`/usr/bin/ls` as the probe walks it: leaf first, each component ended by NUL."""
    return b"".join(part.encode() + b"\0" for part in reversed(path.strip("/").split("/")) if part)


def exec_(
    tgid: int,
    start_ns: int,
    argv: bytes = b"true\0",
    image: str = "/usr/bin/true",
    *,
    parent: tuple[int, int] = (1, 1),
    sandbox: int = BOX,
    time_ns: int = 10**10,
    flags: int = 0,
    file_flags: int = 0,
    filename: bytes = b"true\0",
    image_path: bytes | None = None,
    cwd_path: bytes = b"work\0home\0",
    uid: int = 0,
) -> Exec:
    image_path = walk(image) if image_path is None else image_path
    said = {
        "type": Type.EXEC,
        "flags": flags,
        "size": 184 + len(argv) + len(filename) + len(image_path) + len(cwd_path),
        "time_ns": time_ns,
        "sandbox_id": sandbox,
        "cgroup_id": sandbox,
        "tgid": tgid,
        "tid": tgid,
        "exec_id": time_ns,
        "start_ns": start_ns,
        "parent_start_ns": parent[1],
        "parent_tgid": parent[0],
        "inode": 42,
        "device": 0x800001,
        "mode": 0o100755,
        "argv_bytes": len(argv),
        "uid": uid,
        "euid": uid,
        "file_flags": file_flags,
        "pid_ns": 101,
        "mnt_ns": 102,
        "net_ns": 103,
        "user_ns": 104,
        "argv": argv,
        "filename": filename,
        "image_path": image_path,
        "cwd_path": cwd_path,
    }
    # Whatever else the layout has is zero.
    return Exec(**(dict.fromkeys(Exec.__struct_fields__, 0) | said))  # type: ignore[arg-type]


def fork(
    tgid: int,
    start_ns: int,
    parent: tuple[int, int],
    *,
    sandbox: int = BOX,
    time_ns: int = 9 * 10**9,
    came: int = 0,
    flags: int = 0,
    parent_exec_id: int = 1,
) -> Fork:
    parent_sandbox = 0 if came else sandbox
    return Fork(
        Type.FORK,
        flags,
        88,
        time_ns,
        sandbox,
        sandbox,
        tgid,
        tgid,
        time_ns,
        start_ns,
        parent[1],
        parent_exec_id,
        parent_sandbox,
        parent[0],
    )


def exit_(
    tgid: int, start_ns: int, code: int = 0, *, sandbox: int = BOX, exec_id: int = 10**10, time_ns: int = 11 * 10**9
) -> Exit:
    return Exit(Type.EXIT, 0, 64, time_ns, sandbox, sandbox, tgid, tgid, exec_id, start_ns, code)


def connect(
    tgid: int,
    address: bytes,
    *,
    family: int = 2,
    port: int = 443,
    protocol: int = 6,
    verdict: int = 0,
    sandbox: int = BOX,
    exec_id: int = 10**10,
    flags: int = 0,
    count: int = 1,
    maker: int = 0,
) -> Connect:
    return Connect(
        Type.CONNECT, flags, 128, 12 * 10**9, sandbox, sandbox, tgid, tgid, exec_id,
        0, 0, 77, count, 11 * 10**9, 12 * 10**9, maker, 0, family, port, protocol, verdict, 0, address.ljust(16, b"\0"),
    )  # fmt: skip


def connect_unix(tgid: int, target: bytes, *, sandbox: int = BOX, exec_id: int = 10**10) -> ConnectUnix:
    return ConnectUnix(
        Type.CONNECT_UNIX, 0, 104 + len(target), 12 * 10**9, sandbox, sandbox, tgid, tgid, exec_id,
        0, 0, 1, 12 * 10**9, 12 * 10**9, 0, 0, 0, target,
    )  # fmt: skip


def device(
    tgid: int, major: int, minor: int, class_: int, *, kind: int = 2, access: int = 6, verdict: int = 2, prior: int = 0
) -> DeviceAttempt:
    return DeviceAttempt(
        Type.DEVICE, 0, 96, 12 * 10**9, BOX, BOX, tgid, tgid, 10**10,
        1, 12 * 10**9, 12 * 10**9, major, minor, 0, kind, access, class_, 0, verdict, prior,
    )  # fmt: skip


def birth(
    cgroup_id: int, path: bytes, *, sandbox: int | None = None, class_id: int = 0, time_ns: int = 10**9
) -> Cgroup:
    owner = cgroup_id if sandbox is None else sandbox
    return Cgroup(Type.CGROUP_BIRTH, 0, 224, time_ns, owner, cgroup_id, 55, 55, 0, 1, class_id, path)


def death(cgroup_id: int, path: bytes, *, time_ns: int = 20 * 10**9) -> Cgroup:
    return Cgroup(Type.CGROUP_DEATH, 0, 224, time_ns, cgroup_id, cgroup_id, 55, 55, 0, 0, 0, path)


def move(
    tgid: int,
    start_ns: int,
    *,
    previous: int,
    destination: int,
    sandbox: int = BOX,
    cgroup: int = BOX,
    mover: tuple[int, int] = (0, 66),
) -> Move:
    """`mover`: its sandbox and tgid."""
    ids = (sandbox, cgroup, tgid, tgid, 0)
    return Move(Type.CGROUP_MOVE, 0, 88, 13 * 10**9, *ids, start_ns, previous, destination, *mover)


def access(
    tgid: int, kind: int = 1, number: int = 9, *, target: int = 700, result: int = 0, **more: int
) -> SensorAccess:
    """A signal to a process of the sensor; with kind 2, a capability."""
    said = {
        "type": Type.SENSOR_ACCESS,
        "flags": 0,
        "size": 88,
        "time_ns": 12 * 10**9,
        "sandbox_id": BOX,
        "cgroup_id": BOX,
        "tgid": tgid,
        "tid": tgid,
        "exec_id": 0,
        "count": 1,
        "access": kind,
        "number": number,
        "target_tgid": target,
        "result": result,
        "user_ns": 0,
        "uid": 0,
    }
    return SensorAccess(**(said | more))


def system_call(tgid: int, seen_by: int, number: int, arguments: tuple[int, ...] = (), /, **more: int) -> SystemCall:
    said: dict[str, int | bytes] = {
        "type": Type.SYSTEM_CALL,
        "flags": 0,
        "size": 152,
        "time_ns": 12 * 10**9,
        "sandbox_id": BOX,
        "cgroup_id": BOX,
        "tgid": tgid,
        "tid": tgid,
        "exec_id": 0,
        "count": 1,
        "first_ns": 12 * 10**9,
        "last_ns": 12 * 10**9,
        "arguments": pack("<4Q", *(*arguments, 0, 0, 0, 0)[:4]),
        "target_sandbox_id": 0,
        "target_start_ns": 0,
        "number": number,
        "capability": 0xFFFFFFFF,
        "user_ns": 0,
        "target_tgid": 0,
        "result": 0,
        "uid": 0,
        "seen_by": seen_by,
        "signal": 0,
    }
    return SystemCall(**(said | more))  # type: ignore[arg-type]


def flow(
    tgid: int,
    remote: bytes,
    *,
    port: int = 443,
    phase: int = 0,
    cookie: int = 77,
    started_ns: int = 11 * 10**9,
    time_ns: int = 12 * 10**9,
    flags: int = 1,
    protocol: int = 6,
    family: int = 2,
    sandbox: int = BOX,
    **more: int,
) -> Flow:
    said = {
        "type": Type.FLOW, "size": 200, "time_ns": time_ns, "sandbox_id": sandbox, "cgroup_id": sandbox, "tgid": tgid,
        "exec_id": 10**10, "cookie": cookie, "inode": 4711, "started_ns": started_ns, "last_ns": time_ns, "count": 1,
        "family": family, "local_port": 40000, "remote_port": port, "protocol": protocol, "phase": phase,
        "flow_flags": flags, "local": bytes((10, 0, 0, 2)).ljust(16, b"\0"), "remote": remote.ljust(16, b"\0"),
    }  # fmt: skip
    return Flow(**(dict.fromkeys(Flow.__struct_fields__, 0) | said | more))  # type: ignore[arg-type]


def payload(
    tgid: int,
    remote: bytes,
    data: bytes,
    *,
    port: int = 443,
    offset: int = 0,
    incoming: int = 0,
    cookie: int = 77,
    started_ns: int = 11 * 10**9,
    time_ns: int = 12 * 10**9,
    protocol: int = 6,
    flags: int = 1,
    **more: int,
) -> Payload:
    said = {
        "type": Type.PAYLOAD, "size": 120 + len(data), "time_ns": time_ns, "sandbox_id": BOX, "cgroup_id": BOX,
        "tgid": tgid, "exec_id": 10**10, "cookie": cookie, "started_ns": started_ns, "offset": offset,
        "length": len(data), "family": 2, "local_port": 40000, "remote_port": port, "protocol": protocol,
        "incoming": incoming, "flow_flags": flags, "local": bytes((10, 0, 0, 2)).ljust(16, b"\0"),
        "remote": remote.ljust(16, b"\0"), "data": data,
    }  # fmt: skip
    return Payload(**(dict.fromkeys(Payload.__struct_fields__, 0) | said | more))  # type: ignore[arg-type]


def listen(tgid: int, address: bytes, port: int, *, protocol: int = 6, family: int = 2) -> Listen:
    return Listen(
        Type.LISTEN, 0, 96, 12 * 10**9, BOX, BOX, tgid, tgid, 10**10, 78, 0, family, port, protocol,
        address.ljust(16, b"\0"),
    )  # fmt: skip


def inversion(tgid: int, *, cookie: int = 77, started_ns: int = 11 * 10**9, time_ns: int = 14 * 10**9) -> Inversion:
    return Inversion(
        Type.INVERSION, 0, 112, time_ns, BOX, BOX, tgid, 0, 10**10, cookie, started_ns, 2 * 10**9, 100, 100, 3, 3, 50, 1
    )
