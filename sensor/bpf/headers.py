"""The headers that BCC needs and this machine does not have, made from the kernel's BTF.

BCC includes a handful of kernel headers before the probes' text. Empty files satisfy it, but for the
basic types. A whole vmlinux.h would be wrong: LLVM lays its bitfield padding out otherwise than the
kernel's compiler did, and members behind it shift. So no kernel struct is declared at all: the probes
read members by the offset constants written here.
"""

from __future__ import annotations

import os
from pathlib import Path

from sensor.bpf.btf import Btf

# Seconds first, in each: "fs: turn inode ctime fields into discrete integers" (6.11); "fs: rename i_atime and i_mtime
# fields" and its like for i_ctime (6.6).
_CHANGED = ("i_ctime_sec", "__i_ctime", "i_ctime")
# struct → its members; a tuple holds a member's newer name first.
MEMBERS: dict[str, tuple[str | tuple[str, ...], ...]] = {
    "task_struct": (
        "mm",
        "tgid",
        "pid",
        "real_parent",
        "group_leader",
        # "start_boottime" since cf25e24db61c ("time: Rename tsk->real_start_time to ->start_boottime"), 5.5
        ("start_boottime", "real_start_time"),
        "nsproxy",
        "cgroups",
        "fs",
        "signal",
        "cred",
        "thread_pid",
        "exit_code",
        "files",
        "thread_info",
        "parent",
        "ptrace",
    ),
    "thread_info": ("status",),
    "files_struct": ("fdt",),
    "fdtable": ("fd",),
    "mm_struct": ("arg_start", "arg_end"),
    "css_set": ("dfl_cgrp",),
    "cgroup": ("kn", "root"),
    "cgroup_subsys_state": ("parent",),
    "cgroup_root": ("hierarchy_id",),
    "kernfs_node": ("id", "name"),
    "linux_binprm": ("file", "filename"),
    "file": ("f_path", "f_inode"),
    "path": ("mnt", "dentry"),
    "dentry": ("d_parent", "d_name"),
    "qstr": ("name",),
    "inode": ("i_ino", "i_mode", "i_uid", "i_gid", "i_sb", "i_nlink", "i_rdev", _CHANGED),
    "sock": ("sk_socket", "sk_cgrp_data"),
    "sock_common": ("skc_net",),
    "sock_cgroup_data": ("cgroup",),
    "socket_alloc": ("socket", "vfs_inode"),
    "sk_buff": ("sk", "dev"),
    "net_device": ("type",),
    "bpf_sock_ops_kern": ("sk",),
    "super_block": ("s_dev", "s_magic"),
    "vfsmount": ("mnt_root",),
    "mount": ("mnt_parent", "mnt_mountpoint", "mnt"),
    "fs_struct": ("pwd",),
    "nsproxy": ("mnt_ns", "net_ns", "cgroup_ns"),
    "ns_common": ("inum",),
    "mnt_namespace": ("ns",),
    "net": ("ns",),
    "pid_namespace": ("ns",),
    "cgroup_namespace": ("ns",),
    "user_namespace": ("ns", "level"),
    "pid": ("level", "numbers"),
    "upid": ("ns",),
    "cred": ("uid", "euid", "egid", "user_ns"),
    "signal_struct": ("live",),
}
# Only where connect_unix can be hooked (6.7).
UNIX_MEMBERS: dict[str, tuple[str | tuple[str, ...], ...]] = {"bpf_sock_addr_kern": ("uaddr", "uaddrlen")}

# Shifts an offset by 8 bytes, "struct.member", or by others, "struct.member+16": packaging/prove shows with
# it that the self-test or a test notices.
SHIFT_VARIABLE = "PINFOLD_TEST_SHIFT_OFFSET"

_EMPTY = (
    "linux/version.h",
    "linux/log2.h",
    "linux/bpf_common.h",
    "asm/page.h",
    "uapi/linux/bpf.h",
    "uapi/linux/if_packet.h",
    "uapi/linux/ptrace.h",
)

_TYPES = """#pragma once
typedef unsigned char __u8; typedef unsigned short __u16; typedef unsigned int __u32; typedef unsigned long long __u64;
typedef signed char __s8; typedef short __s16; typedef int __s32; typedef long long __s64;
typedef __u16 __be16; typedef __u32 __be32; typedef __u64 __be64; typedef __u16 __sum16; typedef __u32 __wsum;
#define __aligned_u64 __u64 __attribute__((aligned(8)))
"""

# Included first of all. BCC's helpers.h refuses to compile without CONFIG_BPF_SYSCALL, and wants a
# kernel version only to choose between its own compatibility branches.
_BASE = """#pragma once
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef signed char s8; typedef short s16; typedef int s32; typedef long long s64;
typedef _Bool bool; typedef unsigned long size_t; typedef unsigned long uintptr_t;
#define NULL ((void *)0)
#define PAGE_SIZE 4096
#define CONFIG_BPF_SYSCALL 1
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
"""


def offsets(btf: Btf, unix: bool) -> dict[str, int]:
    """`struct.member` → bytes, for every member that the probes read. Raises BtfError for a missing one."""
    found = {}
    for struct, members in (MEMBERS | UNIX_MEMBERS if unix else MEMBERS).items():
        for member in members:
            names = (member,) if isinstance(member, str) else member
            found[f"{struct}.{names[0]}"] = btf.offset(struct, *names)
    shifted, _, by = os.environ.get(SHIFT_VARIABLE, "").partition("+")
    if shifted in found:
        found[shifted] += int(by or 8)
    return found


def defines(found: dict[str, int], btf: Btf) -> str:
    lines = [f"#define PF_AT_{name.replace('.', '__')} {offset}" for name, offset in found.items()]
    return "\n".join([*lines, f"#define PF_SIZE_upid {btf.size('upid')}", ""])


def write_tree(folder: Path, btf: Btf, unix: bool) -> None:
    """The tree that BCC_KERNEL_SOURCE points to."""
    files = dict.fromkeys(_EMPTY, "")
    files["linux/kconfig.h"] = _BASE + defines(offsets(btf, unix), btf)
    files["linux/types.h"] = _TYPES
    for name, text in files.items():
        path = folder / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
