/* What the maps hold. sensor/bpf/state.py is generated from this file, as layouts.py is from events.h. */
#pragma once

/* One entry, shared by all generations of the probes: which of them acts, and whether it may refuse. */
struct pf_control {
  u64 active_generation;   /* programs of another generation let everything pass and send nothing */
  u32 armed;               /* 0: `pinfold disarm`; nothing is refused or killed */
  u32 protected_port;      /* TCP port on loopback that sandboxes may not reach; 0: none */
  u64 budget_bytes;        /* outstanding ring bytes that one sandbox may hold */
  u64 repeat_flush_ns;     /* a repeat's count is sent this often while it goes on */
  u64 flow_late_ns;        /* a flow that was not told is told when it lives this long */
  u64 flow_window_ns;      /* in each window a peer's first flow_full flows are told in full */
  u32 flow_full;
  u32 flow_sample;         /* of further ones, one in this many */
  u64 sample_ns;           /* a living flow is told this often */
  u64 idle_ns;             /* a datagram flow that is quiet for this long is over */
  u64 pause_ns;            /* quiet for this long before data comes in first: an inversion */
  u64 inversion_ns;        /* for this long after one, its owner's connects and flows are told in full */
  u64 policy;              /* changes with every change of an egress list or a denied protocol */
  u64 egress_any;          /* some class limits where its sandboxes may go */
  u64 judges_packets;      /* PF_JUDGES_…: packets without payload are looked at too */
  u64 untracked;           /* processes that found no room in the map: whoever has no entry is looked for by its cgroups */
};

/* The one entry of the map unwanted: what no loaded rule, no detector and no log asks for. It is counted, not sent. */
struct pf_unwanted {
  u32 devices;             /* a bit for each enum pf_device: opens that are granted */
  u32 connects;            /* PF_CONNECTS_…: repeats of allowed ones, but to ports in the map wanted_ports */
};

/* Index of the map unsent. Of connects it counts records, of which each would have stood for many. */
#define PF_UNSENT_DEVICES 0
#define PF_UNSENT_CONNECTS 1

#define PF_CONNECTS_LOCAL 1 /* to this host itself */
#define PF_CONNECTS_OUTWARD 2

#define PF_JUDGES_POLICY 1 /* some class limits where its sandboxes may go, or denies a protocol */
#define PF_JUDGES_QUARANTINE 2 /* the map quarantines has entries */

struct pf_class {
  u32 enforce;             /* 0: monitor */
  u32 granted_devices;     /* a bit for each enum pf_device */
  u32 refuse_unrecorded;   /* in enforce mode: what cannot be recorded is refused */
  u32 denied_protocols;    /* a bit for each enum pf_prefix */
  u32 egress_limited;      /* only what the maps egress and egress_names have may be reached */
  u32 egress_names;        /* its list has names: a connect shortly after a DNS answer is left to the packets */
  u32 denied_execs;        /* a bit for each enum pf_exec_denied */
  u32 single_devices;      /* the map device_grants has entries of this class */
  u64 realtime_ns;         /* CLOCK_REALTIME less CLOCK_MONOTONIC, for times of files */
  u8 name[32];             /* so that a class keeps its number over restarts and reloads */
};

/* Key: sandbox id. One map of all generations, beside `control`: what is denied here holds with the sensor dead, and
 * while a new generation takes over from an old one. */
struct pf_quarantine {
  u32 deny;                /* PF_DENY_… */
  u32 pad;
  u64 since_ns;
};

#define PF_DENY_NETWORK 1
#define PF_DENY_LOOPBACK 2
#define PF_DENY_DEVICES 4
#define PF_DENY_EXEC 8

/* Key: a device that a class may open though its kind is not granted. */
struct pf_grant_key {
  u32 class_id;
  u32 kind;
  u32 major;
  u32 minor;
};

/* Key of the map images: a file whose content a class denies, found out when it first ran. */
struct pf_image_key {
  u32 class_id;
  u32 device;              /* as pf_exec has it */
  u64 inode;
};

struct pf_image {
  u64 changed;             /* its change time in seconds: an inode that was written or used again is another file */
};

/* Key of the LPM trie executables: the names of a path, the last one first, each ended by NUL, as the probes walk it.
 * So `nc` anywhere is a prefix, and a whole path ends with the root's two NULs. */
struct pf_executable_key {
  u32 prefix;              /* bits */
  u32 class_id;            /* big-endian */
  u8 path[120];
};

/* Key: cgroup id of the outermost cgroup of a sandbox. Nested cgroups have no entry. */
struct pf_sandbox {
  u64 id;
  u64 born_ns;
  u64 mark;                /* ring position up to which `bytes_before` were sent */
  u64 bytes_before;
  u64 bytes_since;
  u64 processes;           /* live ones, sticky ones included */
  u64 dns_ns;              /* when a DNS answer last came in */
  u64 lost[16];            /* by enum pf_loss */
  u32 class_id;
  u32 ended;               /* its cgroup is gone, processes that had left it are not */
};

/* Key: tgid. Only sandboxed processes have an entry. */
struct pf_process {
  u64 sandbox_id;          /* sticky */
  u64 exec_id;
  u64 start_ns;
  u64 family;              /* CLOCK_MONOTONIC at the exec of its program image; forks share it, an exec has another */
  u32 repeats;             /* entries of its in the repeat maps, bounded: else one process fills them */
  u32 class_id;            /* its sandbox's, so that a repeated device open needs not ask there */
  u32 user_ns;             /* inode number of the user namespace in which it was last seen; 0: in none yet */
  u32 pad;
};

/* One component of a configured cgroup path: prefix*suffix, or, with exact set, the prefix alone. */
struct pf_step {
  u64 prefix[8];           /* 64 bytes, and which of them count: compared without a branch per byte */
  u64 prefix_mask[8];
  u64 suffix[4];
  u64 suffix_mask[4];
  u16 prefix_length;
  u16 suffix_length;
  u16 exact;
  u16 last;                /* a match is a sandbox; else the match is watched for step next */
  u32 next;
  u32 class_id;
};

/* Key: cgroup id. Which steps the names of its new children are tried against. */
struct pf_watch {
  u32 steps[8];
  u32 count;
  u32 attach;              /* cgroup programs are, or must be, attached here */
};

struct pf_device_key {
  u32 kind;
  u32 major;
  u32 minor;               /* 0xffffffff: any */
};

/* 32 bytes: the hash is paid by the word. */
struct pf_repeat_key {
  u64 exec_id;
  u8 address[16];          /* device: major, minor, kind, class; call: number, capability, namespace, what else tells it from others */
  u32 tgid;
  u16 port;                /* device: access */
  u8 protocol;             /* device: granted */
  u8 bits;                 /* verdict in the low four, then PF_KEY_… */
};

struct pf_unix_key {
  u64 exec_id;
  u32 tgid;
  u16 verdict;
  u16 length;
  u8 target[112];
};

struct pf_repeat {
  u64 count;               /* attempts since the last record */
  u64 first_ns;
  u64 last_ns;
  u64 sent_ns;
  u64 tick;                /* jiffies at last_ns */
  u64 sandbox_id;
  u64 cgroup_id;
  u64 maker_sandbox_id;
  u64 maker_exec_id;
  u64 cookie;
  u32 maker_tgid;
  u32 uid;
  u32 tid;
  u32 prior;
};

/* The one entry of the map flush_request: which quiet repeat to a unix socket to send. */
struct pf_flush_request {
  struct pf_unix_key key;
  u64 forget;
};

/* Of an IP socket that a sandboxed process made. Key: the low bits of its cookie; of a listener also in its
 * per-socket storage, which accepted sockets inherit. */
struct pf_stamp {
  u64 cookie;
  u64 sandbox_id;
  u64 exec_id;
  u64 family;
  u32 tgid;
  u32 pad;
};

/* The table of flows. Key: for TCP the low bits of the socket's cookie, else a mix of cookie and peer. */
struct pf_flow_state {
  u64 cookie;              /* 0: free */
  u64 sandbox_id;
  u64 cgroup_id;
  u64 exec_id;
  u64 family_id;           /* of the maker, see pf_process.family */
  u64 started_ns;
  u64 told_ns;             /* last record of it; 0: none yet */
  u64 last_ns;             /* its last packet with payload, to a clock tick */
  u64 bytes_out;
  u64 bytes_in;
  u64 count;
  u64 inode;
  u64 inversion_ns;
  u64 policy;              /* pf_control.policy at which the verdict was found */
  u32 packets_out;
  u32 packets_in;
  u32 inversions;
  u32 tgid;
  u32 net_ns;
  u32 first[2];            /* sequence number of the first byte out and in */
  u32 have[2];             /* contiguous bytes that were looked at, from the first on */
  u16 family;
  u16 local_port;
  u16 remote_port;
  u8 protocol;
  u8 flags;                /* enum pf_flow_flag */
  u16 segments[2];         /* how many were sent to user space */
  u8 done[2];              /* first bytes of this direction are over */
  u8 wide[2];              /* it began like TLS or QUIC, whose hellos are long */
  u16 consumed;            /* bytes of the stream out that the automaton has had */
  u8 automaton;            /* its state; 0: nothing denied can come any more */
  u8 denied;               /* enum pf_prefix */
  u8 verdict;
  u8 pad[7];
  u8 local[16];
  u8 remote[16];
  u32 dns_second;
  u32 dns_count;
};

/* Of the map families, by a program image's family. */
struct pf_family {
  u64 inversion_ns;        /* the last inversion on a flow of its */
  u64 outer_cookie;        /* the flow that its further ones are told beside; 0: none yet */
  u32 outer_slot;
  u32 outer_local;         /* to this host itself: an outward one takes its place */
};

/* A state of the automaton that knows denied protocols: the next state by byte, or PF_ACCEPT + enum pf_prefix. */
struct pf_automaton {
  u8 next[256];
};

/* Key of the map peers: what is told of flows to one peer. */
struct pf_peer_key {
  u64 sandbox_id;
  u8 address[16];          /* of an accepted flow: zero */
  u16 port;                /* of an accepted flow: the local one */
  u8 protocol;
  u8 incoming;             /* 1: accepted; 2: a listener */
  u16 family;
  u16 pad;
};

struct pf_peer {
  u64 window_ns;           /* begin of the window */
  u32 flows;               /* in this window */
  u32 untold;              /* since the last that was told */
};

/* Key of the LPM trie egress. The prefix covers the class and as much of the address as the rule says. */
struct pf_egress_key {
  u32 prefix;              /* bits */
  u32 class_id;            /* big-endian: the trie compares bytes */
  u8 address[16];          /* IPv4 as ::ffff:a.b.c.d */
};

/* Ports of a prefix, those of every shorter prefix that covers it among them. */
struct pf_egress {
  u16 low[8];
  u16 high[8];
  u8 protocol[8];          /* 0: any */
  u32 count;
  u32 pad;
};

/* Key of the map egress_names: an address that a resolver gave for an allowed name. */
struct pf_name_key {
  u64 sandbox_id;
  u8 address[16];          /* IPv4 as ::ffff:a.b.c.d */
};

struct pf_name {
  u64 until_ns;            /* CLOCK_MONOTONIC */
  struct pf_egress ports;
};

/* Key of the map accesses: what a program image tried on the sensor. */
struct pf_access_key {
  u64 exec_id;
  u32 tgid;
  u32 what;                /* enum pf_access << 16 | number << 8 | refused */
};

struct pf_access_count {
  u64 count;               /* since the last record */
  u64 sent_ns;
};
