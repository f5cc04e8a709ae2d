/* What the maps hold. sensor/bpf/state.py is generated from this file, as layouts.py is from events.h. */
#pragma once

/* One entry, shared by all generations of the probes: which of them acts, and whether it may refuse. */
struct pf_control {
  u64 active_generation;   /* programs of another generation let everything pass and send nothing */
  u32 armed;               /* 0: `pinfold disarm`; nothing is refused or killed */
  u32 protected_port;      /* TCP port on loopback that sandboxes may not reach; 0: none */
  u64 budget_bytes;        /* outstanding ring bytes that one sandbox may hold */
  u64 repeat_flush_ns;     /* a repeat's count is sent this often while it goes on */
  u64 untracked;           /* processes that found no room in the map: whoever has no entry is looked for by its cgroups */
};

struct pf_class {
  u32 enforce;             /* 0: monitor */
  u32 granted_devices;     /* a bit for each enum pf_device */
  u32 refuse_unrecorded;   /* in enforce mode: what cannot be recorded is refused */
  u32 pad;
};

/* Key: cgroup id of the outermost cgroup of a sandbox. Nested cgroups have no entry. */
struct pf_sandbox {
  u64 id;
  u64 born_ns;
  u64 mark;                /* ring position up to which `bytes_before` were sent */
  u64 bytes_before;
  u64 bytes_since;
  u64 processes;           /* live ones, sticky ones included */
  u64 lost[16];            /* by enum pf_loss */
  u32 class_id;
  u32 ended;               /* its cgroup is gone, processes that had left it are not */
};

/* Key: tgid. Only sandboxed processes have an entry. */
struct pf_process {
  u64 sandbox_id;          /* sticky */
  u64 exec_id;
  u64 start_ns;
  u32 repeats;             /* entries of its in the repeat maps, bounded: else one process fills them */
  u32 class_id;            /* its sandbox's, so that a repeated device open needs not ask there */
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
  u8 address[16];          /* device: major, minor, kind, class */
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

/* Of an IP socket that a sandboxed process made. Key: the low bits of its cookie. */
struct pf_stamp {
  u64 cookie;
  u64 sandbox_id;
  u64 exec_id;
  u32 tgid;
  u32 pad;
};
