/* The layouts of every record in the ring: the single source of truth. sensor/events/layouts.py is
 * generated from this file (python -m sensor.events.generate), and a test regenerates it.
 *
 * Rules of this file, which the generator enforces: fixed-width types only, padding written out,
 * natural alignment, no bitfields, no `packed`. A `u16 NAME_len` member announces NAME_len bytes
 * behind the fixed part; such tails follow one another in the order of their members. A tail
 * announced by `NAME_path_len` holds a walked path: its components leaf first, each ended by NUL,
 * because the kernel links dentries upwards only. */
#pragma once

/* Bump when a layout or the meaning of a member changes. */
#define PF_ABI 5

enum pf_type {
  PF_TYPE_EXEC = 1,
  PF_TYPE_FORK = 2,
  PF_TYPE_EXIT = 3,
  PF_TYPE_CGROUP_BIRTH = 16,
  PF_TYPE_CGROUP_DEATH = 17,
  PF_TYPE_CGROUP_MOVE = 18,
  PF_TYPE_CONNECT = 32,
  PF_TYPE_CONNECT_UNIX = 33,
  PF_TYPE_DEVICE = 48,
  PF_TYPE_FLOW = 64,
  PF_TYPE_LISTEN = 65,
  PF_TYPE_PAYLOAD = 66,
  PF_TYPE_INVERSION = 67,
  PF_TYPE_SENSOR_ACCESS = 80,
  PF_TYPE_SYSTEM_CALL = 81,
};

/* Set in pf_header.flags. */
enum pf_flag {
  PF_FLAG_REPEAT = 1,      /* `count` further attempts like one already sent, from first_ns to last_ns */
  PF_FLAG_KILLED = 2,      /* the probe answered with SIGKILL: the policy denies it, see pf_exec.denied */
  PF_FLAG_MIGRATED = 4,    /* the task's cgroup is outside its (sticky) sandbox */
  PF_FLAG_CLONE_INTO = 8,  /* fork: the child was born in another cgroup than its parent's */
};

/* What a sandboxed process tried on the sensor, pf_sensor_access.access. */
enum pf_access {
  PF_ACCESS_SIGNAL = 1,          /* a signal to one of the sensor's processes; an attach by ptrace sends SIGSTOP */
  PF_ACCESS_CAPABILITY = 2,      /* CAP_BPF: bpf(2) asked for it or for CAP_SYS_ADMIN; or CAP_PERFMON */
};

/* What told of a system call, pf_system_call.seen_by. */
enum pf_seen {
  PF_SEEN_CAPABILITY = 1,        /* it asked for a capability */
  PF_SEEN_SIGNAL = 2,            /* it sent a signal */
  PF_SEEN_TRACED = 3,            /* the process stops for its tracer, who is told by SIGCHLD */
  PF_SEEN_IO_URING = 4,
  PF_SEEN_USER_NS = 5,           /* the process is in another user namespace than before */
  PF_SEEN_FORK = 6,              /* its child is */
  PF_SEEN_MEMFD = 7,             /* it writes to a memfd */
  PF_SEEN_ENTRY = 8,             /* the system call itself; only with the setting for it */
};

/* What was decided in the kernel. */
enum pf_verdict {
  PF_VERDICT_ALLOWED = 0,
  PF_VERDICT_REFUSED = 1,        /* by policy, EPERM */
  PF_VERDICT_WOULD_REFUSE = 2,   /* monitor mode: policy says no, nothing was refused */
  PF_VERDICT_UNRECORDED = 3,     /* refused since it could not be recorded */
  PF_VERDICT_PROTECTED = 4,      /* refused: one of the sensor's own ports */
  PF_VERDICT_EGRESS = 5,         /* refused: the class's egress list does not have it */
  PF_VERDICT_WOULD_EGRESS = 6,   /* monitor mode: the list does not have it, nothing was refused */
  PF_VERDICT_QUARANTINE = 7,     /* refused: its sandbox is quarantined */
};

/* Why an exec must not be. In monitor mode it is told all the same. */
enum pf_exec_denied {
  PF_EXEC_DENIED_NOT = 0,
  PF_EXEC_DENIED_QUARANTINE = 1,      /* its sandbox is quarantined */
  PF_EXEC_DENIED_LISTED = 2,          /* its path, or the last part of it */
  PF_EXEC_DENIED_MEMFD = 3,
  PF_EXEC_DENIED_DELETED = 4,
  PF_EXEC_DENIED_WRITTEN = 5,         /* made or changed since its sandbox was born: it is not of the image */
  PF_EXEC_DENIED_SHELL = 6,           /* a shell one of whose standard streams is a socket */
  PF_EXEC_DENIED_HASH = 7,            /* its content: the file was hashed when it ran before */
};

/* When a flow's record was made. */
enum pf_phase {
  PF_PHASE_ESTABLISHED = 0,
  PF_PHASE_SAMPLE = 1,           /* it lives still */
  PF_PHASE_ENDED = 2,
};

enum pf_flow_flag {
  PF_FLOW_FLAG_INITIATED = 1,         /* connected from here, or the first datagram left from here */
  PF_FLOW_FLAG_LATE = 2,              /* not told when it began, since its peer had many; it lived on */
  PF_FLOW_FLAG_ADOPTED = 4,           /* was there before the probes: who began it and when is not known */
  PF_FLOW_FLAG_CUT = 8,               /* a denied protocol or destination: its packets are dropped */
};

enum pf_end {
  PF_END_NONE = 0,
  PF_END_CLOSED = 1,
  PF_END_IDLE = 2,               /* a datagram flow that went quiet */
  PF_END_EVICTED = 3,            /* a newer flow took its place in the table */
};

/* Protocols that the kernel knows by a fixed prefix; a bit each in pf_class.denied_protocols. */
enum pf_prefix {
  PF_PREFIX_NONE = 0,
  PF_PREFIX_SSH = 1,
  PF_PREFIX_STRATUM = 2,
  PF_PREFIX_SOCKS = 3,
  PF_PREFIX_WIREGUARD = 4,
  PF_PREFIX_BORE = 5,
  PF_PREFIX_HTTP_CONNECT = 6,
};

/* By what device a packet went. */
enum pf_way {
  PF_WAY_OTHER = 0,
  PF_WAY_LOOPBACK = 1,
  PF_WAY_TUN = 2,                /* or another without a link layer */
};

/* What a standard stream is, pf_exec.stream_kind. */
enum pf_stream {
  PF_STREAM_NONE = 0,            /* closed, or not to be read */
  PF_STREAM_SOCKET = 1,
  PF_STREAM_PIPE = 2,
  PF_STREAM_PTY = 3,             /* /dev/pts/N; its number stands for the inode */
  PF_STREAM_TTY = 4,
  PF_STREAM_NULL = 5,            /* /dev/null */
  PF_STREAM_DEVICE = 6,
  PF_STREAM_FILE = 7,
  PF_STREAM_OTHER = 8,
};

/* Facts about an executed file, set in pf_exec.file_flags. */
enum pf_file {
  PF_FILE_DELETED = 1,       /* i_nlink == 0 */
  PF_FILE_MEMFD = 2,         /* a memfd: shmem mount with the dentry name `memfd:` */
  PF_FILE_TMPFS = 4,         /* tmpfs or shmem superblock */
  PF_FILE_WRITABLE = 8,      /* its mode lets the one who runs it write it */
  PF_FILE_ARGV_CUT = 16,     /* argv is longer than what was copied */
  PF_FILE_IMAGE_CUT = 32,    /* more path components, or longer ones, than the walk's bound */
  PF_FILE_CWD_CUT = 64,
  PF_FILE_ARGV_FAULT = 128,  /* argv could not be read */
  PF_FILE_SETID = 256,       /* setuid or setgid bit */
};

/* Device classes: a bit each in pf_class.granted_devices. The kernel finds the class of a device
 * in the map device_classes, which the sensor fills from fixed majors and /proc/devices. */
enum pf_device {
  PF_DEVICE_ORDINARY = 0,    /* null, zero, urandom, tty, pts, …: always granted, never sent */
  PF_DEVICE_NVIDIA = 1,
  PF_DEVICE_AMD = 2,
  PF_DEVICE_DRM = 3,
  PF_DEVICE_ACCEL = 4,
  PF_DEVICE_KVM = 5,
  PF_DEVICE_TUN = 6,
  PF_DEVICE_FUSE = 7,
  PF_DEVICE_MEMORY = 8,      /* mem, kmem, port, kmsg, msr, cpuid, nvram */
  PF_DEVICE_BLOCK = 9,
  PF_DEVICE_VFIO = 10,
  PF_DEVICE_INFINIBAND = 11,
  PF_DEVICE_OTHER = 12,      /* a character device of no class above */
};

/* Why an event was not sent; index of pf_sandbox.lost and of the map lost. */
enum pf_loss {
  PF_LOSS_RING_FULL = 0,     /* no room in the ring */
  PF_LOSS_WATERMARK = 1,     /* a repeat, ring three quarters full; its count is kept and sent later */
  PF_LOSS_BUDGET = 2,        /* the sandbox's budget of outstanding bytes is used up */
  PF_LOSS_SCRATCH = 3,       /* no buffer to build the record in */
  PF_LOSS_PROCESSES_FULL = 4,
  PF_LOSS_SANDBOXES_FULL = 5,
  PF_LOSS_REPEATS_FULL = 6,  /* not counted in the kernel, but sent in full: nothing is lost */
  PF_LOSS_WATCH_FULL = 7,
  PF_LOSS_NAME_TOO_LONG = 8, /* a cgroup's name is longer than the matcher reads */
  PF_LOSS_FLOWS_EVICTED = 9, /* a flow's place in the table was taken by a newer one's */
  PF_LOSS_PAYLOAD = 10,      /* first bytes of a flow: the ring was half full, or the budget used up */
  PF_LOSS_DATAGRAMS = 11,    /* DNS messages beyond what a flow may send in a second */
  PF_LOSS_REASONS = 16,
};

struct pf_header {
  u16 type;          /* enum pf_type */
  u16 flags;         /* enum pf_flag */
  u32 size;          /* of the record, this header and the tails included */
  u64 time_ns;       /* CLOCK_MONOTONIC */
  u64 sandbox_id;    /* cgroup id of the outermost sandbox */
  u64 cgroup_id;     /* cgroup id of the task's own cgroup (v2 hierarchy) */
  u32 tgid;
  u32 tid;
  u64 exec_id;       /* CLOCK_MONOTONIC at the task's last exec or, before one, at its fork */
};

struct pf_exec {
  struct pf_header header;
  u64 start_ns;          /* CLOCK_BOOTTIME at the process's fork: with tgid, its identity */
  u64 parent_start_ns;
  u64 inode;
  u64 argv_bytes;        /* true length of argv, which may exceed argv_len */
  u32 parent_tgid;
  u32 uid;
  u32 euid;
  u32 egid;
  u32 device;            /* st_dev of the executable's filesystem, kernel encoding (major << 20 | minor) */
  u32 mode;              /* i_mode of the executable */
  u32 file_flags;        /* enum pf_file */
  u32 pid_ns;
  u32 mnt_ns;
  u32 net_ns;
  u32 user_ns;
  u32 cgroup_ns;
  u32 owner;             /* of the executable */
  u32 group;
  u64 stdin_inode;       /* of a socket, pipe or file; of a pty its number */
  u64 stdout_inode;
  u64 stderr_inode;
  u64 changed;           /* change time of the executable's inode, UTC in seconds: only the kernel sets it */
  u8 stdin_kind;         /* enum pf_stream */
  u8 stdout_kind;
  u8 stderr_kind;
  u8 denied;             /* enum pf_exec_denied; with PF_FLAG_KILLED it was answered with SIGKILL */
  u8 pad[4];
  u16 argv_len;          /* NUL-separated, at most PF_ARGV_MAX bytes */
  u16 filename_len;      /* as invoked: what execve was given */
  u16 image_path_len;    /* the file that was mapped: for a script, its interpreter */
  u16 cwd_path_len;
};

struct pf_fork {
  struct pf_header header;   /* of the child */
  u64 start_ns;
  u64 parent_start_ns;
  u64 parent_exec_id;
  u64 parent_sandbox_id;     /* 0: the parent is in no sandbox, the child entered one */
  u32 parent_tgid;
  u32 pad;
};

struct pf_exit {
  struct pf_header header;
  u64 start_ns;
  u32 exit_code;             /* as wait(2) has it: status << 8 | signal */
  u32 pad;
};

struct pf_cgroup {
  struct pf_header header;   /* cgroup_id: the cgroup; sandbox_id: its sandbox; tgid: who made, removed or moved */
  u64 parent_id;             /* birth: the parent cgroup; move: the sandbox the task had before */
  u32 class_id;
  u16 path_len;              /* below the mount, as the tracepoint has it */
  u16 pad;
};

struct pf_move {
  struct pf_header header;   /* of the moved task; cgroup_id: where it is now; sandbox_id: sticky */
  u64 start_ns;
  u64 previous_sandbox_id;   /* 0: it was in none */
  u64 destination_sandbox_id;/* 0: it left */
  u64 mover_sandbox_id;      /* of who moved it; 0: somebody outside every sandbox */
  u32 mover_tgid;
  u32 pad;
};

struct pf_connect {
  struct pf_header header;
  u64 maker_sandbox_id;      /* from the socket's stamp; 0: it has none */
  u64 maker_exec_id;
  u64 cookie;
  u64 count;                 /* 1, or with PF_FLAG_REPEAT the attempts since the last record */
  u64 first_ns;
  u64 last_ns;
  u32 maker_tgid;
  u32 uid;
  u16 family;                /* AF_INET or AF_INET6 */
  u16 port;                  /* host order */
  u8 protocol;               /* IPPROTO_* */
  u8 verdict;                /* enum pf_verdict */
  u8 unconnected;            /* 1: sendmsg on a socket that is not connected */
  u8 pad;
  u8 address[16];            /* network order; IPv4 in the first four bytes */
};

struct pf_connect_unix {
  struct pf_header header;
  u64 maker_sandbox_id;
  u64 maker_exec_id;
  u64 count;
  u64 first_ns;
  u64 last_ns;
  u32 maker_tgid;
  u32 uid;
  u8 verdict;
  u8 pad[5];
  u16 target_len;            /* sun_path; an abstract name begins with NUL */
};

struct pf_device_attempt {
  struct pf_header header;
  u64 count;
  u64 first_ns;
  u64 last_ns;
  u32 major;
  u32 minor;
  u32 uid;
  u16 kind;                  /* BPF_DEVCG_DEV_BLOCK 1 or _CHAR 2 */
  u16 access;                /* BPF_DEVCG_ACC_MKNOD 1, _READ 2, _WRITE 4 */
  u8 device_class;           /* enum pf_device */
  u8 granted;                /* the sandbox's class has this device class */
  u8 verdict;                /* enum pf_verdict */
  u8 prior;                  /* 1: a device program before ours had refused already; 2: unknown */
  u32 pad;
};

/* One socket's exchange with one peer. The header has who made the socket, or for an accepted one its listener. */
struct pf_flow {
  struct pf_header header;
  u64 cookie;
  u64 inode;                 /* of the socket's file; 0 while it has none */
  u64 started_ns;
  u64 last_ns;               /* last packet, to a clock tick */
  u64 bytes_out;             /* payload behind the IP header, retransmits included */
  u64 bytes_in;
  u64 count;                 /* flows to this peer since the last record that this one stands for */
  u64 outer_cookie;          /* established: the program image's oldest living outward flow, else its oldest; 0: none */
  u64 outer_bytes_out;       /* of that flow, at this moment */
  u64 outer_bytes_in;
  u32 outer_packets_out;
  u32 outer_packets_in;
  u32 packets_out;
  u32 packets_in;
  u32 inversions;            /* times that data came in first, after a pause */
  u32 net_ns;
  u32 slot;                  /* of the table of flows */
  u16 family;
  u16 local_port;
  u16 remote_port;
  u8 protocol;               /* IPPROTO_* */
  u8 phase;                  /* enum pf_phase */
  u8 flow_flags;             /* enum pf_flow_flag */
  u8 end;                    /* enum pf_end */
  u8 denied;                 /* enum pf_prefix that was recognised and is denied */
  u8 verdict;                /* enum pf_verdict */
  u8 local[16];              /* network order; IPv4 in the first four bytes */
  u8 remote[16];
};

struct pf_listen {
  struct pf_header header;
  u64 cookie;
  u32 net_ns;
  u16 family;
  u16 port;
  u8 protocol;
  u8 pad[7];
  u8 address[16];
};

/* First bytes of a direction, a segment each; and DNS messages. */
struct pf_payload {
  struct pf_header header;
  u64 cookie;
  u64 started_ns;            /* with the cookie, which flow */
  u32 offset;                /* of these bytes in the direction's stream */
  u32 length;                /* of the segment's or datagram's payload, of which data_len bytes are here */
  u32 slot;
  u16 family;
  u16 local_port;
  u16 remote_port;
  u8 protocol;
  u8 incoming;               /* 1: received */
  u8 flow_flags;
  u8 device;                 /* enum pf_way */
  u16 data_len;
  u8 local[16];
  u8 remote[16];
};

/* Data came in on a flow, first, after a pause. At most one record a flow and 50 ms. */
struct pf_inversion {
  struct pf_header header;
  u64 cookie;
  u64 started_ns;
  u64 idle_ns;               /* how long nothing had gone either way */
  u64 bytes_out;             /* before this segment */
  u64 bytes_in;
  u32 packets_out;
  u32 packets_in;
  u32 length;                /* of the segment's payload */
  u32 inversions;
};

/* Told once, then at most once a second with what was counted meanwhile; what is counted last is not told. */
struct pf_sensor_access {
  struct pf_header header;   /* of who tried */
  u64 count;
  u32 access;                /* enum pf_access */
  u32 number;                /* of the signal, or of the capability */
  u32 target_tgid;           /* signal: whose */
  s32 result;                /* signal: TRACE_SIGNAL_…, 0 where it was delivered; capability: 0 granted, -EPERM */
  u32 user_ns;               /* capability: in which user namespace it was asked for */
  u32 uid;
};

/* A system call that rules care for. `number` is x86-64's, also of a 32-bit call where it has one. */
struct pf_system_call {
  struct pf_header header;
  u64 count;                 /* 1, or with PF_FLAG_REPEAT the attempts since the last record */
  u64 first_ns;
  u64 last_ns;
  u64 arguments[4];          /* of the first attempt */
  u64 target_sandbox_id;     /* signal, trace: 0 where it is in none */
  u64 target_start_ns;       /* CLOCK_BOOTTIME at its fork */
  u32 number;                /* PF_CALL_UNKNOWN: none, or not known; from PF_CALL_COMPAT on of a 32-bit call */
  u32 capability;            /* PF_NO_CAPABILITY: none was asked for */
  u32 user_ns;               /* in which it was asked for; or the one that the process is in now */
  u32 target_tgid;
  s32 result;                /* capability: 0 granted, -EPERM; signal: TRACE_SIGNAL_… */
  u32 uid;
  u8 seen_by;                /* enum pf_seen */
  u8 signal;
  u8 pad[6];
};

#define PF_CALL_UNKNOWN 0xffffffffu
#define PF_CALL_COMPAT 0x10000u
#define PF_NO_CAPABILITY 0xffffffffu
