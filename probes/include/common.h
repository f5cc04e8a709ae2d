/* What every probe uses: the maps, reading kernel memory, whose task this is, sending. */
#pragma once

/* The sensor makes the maps and hands over their descriptors as PF_FD_<name>: so one generation's
 * programs can share a map with the next, and no table macro of BCC rewrites this text. */
/* Helpers that BCC must not touch: without the symbols' addresses in /proc/kallsyms (CAP_SYSLOG,
 * kernel.kptr_restrict) it takes bpf_probe_read in their place, which some program types are refused. */
static long (*read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*read_kernel_str)(void *to, u32 size, const void *from) = (void *)115;
static u64 (*ancestor_id)(int level) = (void *)123; /* bpf_get_current_ancestor_cgroup_id, 5.7 */
static u64 (*coarse_ns)(void) = (void *)160; /* bpf_ktime_get_coarse_ns, 5.11 */
static void *(*sk_storage)(void *map, void *sk, void *value, u64 flags) = (void *)107; /* bpf_sk_storage_get, 5.2 */
static long (*tail_call)(void *ctx, void *programs, u32 index) = (void *)12;
static long (*read_user)(void *to, u32 size, const void *from) = (void *)112;

#define MAP(name) ((void *)bpf_pseudo_fd(1, PF_FD_##name))

/* Kernel memory is read by offsets from the running kernel's BTF (PF_AT_<struct>__<member>, made by
 * sensor/bpf/headers.py), never by C member access: BCC would rewrite that, and silently leave the
 * second declarator of a line unread. */
#define READ(to, base, type, member) \
  read_kernel(&(to), sizeof(to), (void *)(base) + PF_AT_##type##__##member)

#define __always_inline inline __attribute__((always_inline))

#define PF_ARGV_MAX 4096
#define PF_NAME_MAX 256
#define PF_PATH_MAX 1024
#define PF_WALK_MAX 40
#define PF_DEPTH_MAX 24
#define PF_REPEATS_PER_PROCESS 256
#define PF_WATCHED 0xffffffffu     /* class_id in a birth: not a sandbox, but a parent that is watched */
#define PF_UNTRACKED 0xfffffffeu   /* class_id in a birth: a sandbox for which the map has no room */
/* pf_repeat_key.bits, behind the verdict */
#define PF_KEY_DEVICE 16
#define PF_KEY_CALL 48 /* DEVICE and IPV4, which never stand together */
#define PF_KEY_IPV4 32
#define PF_KEY_UNCONNECTED 64 /* device: refused before us */
#define PF_KEY_PRIOR_UNKNOWN 128
#define PF_PRIORITY_PAYLOAD 0      /* first bytes: they stop at half a ring */
#define PF_PRIORITY_REPEAT 1
#define PF_PRIORITY_QUIET 2        /* may wait for the reader's timer */
#define PF_PRIORITY_URGENT 3       /* a detection may follow: wake the reader */
#define PF_WAKE_BYTES (256 * 1024)
#define PF_AWAKE_NS 20000000 /* the reader stays awake longer than this after its last record (sensor/daemon.py) */

static __always_inline struct pf_control *control(void) {
  u32 zero = 0;
  struct pf_control *c = bpf_map_lookup_elem(MAP(control), &zero);
  return c && c->active_generation == PF_GENERATION ? c : 0;
}

static __always_inline void count_lost(struct pf_sandbox *sandbox, u32 reason) {
  if (reason >= PF_LOSS_REASONS) return;
  if (sandbox) {
    __sync_fetch_and_add(&sandbox->lost[reason], 1);
    return;
  }
  u64 *total = bpf_map_lookup_elem(MAP(lost), &reason);
  if (total) __sync_fetch_and_add(total, 1);
}

/* What was lost in a sandbox must not be forgotten with it. */
static __always_inline void forget_sandbox(struct pf_sandbox *sandbox) {
  u64 id = sandbox->id;
  for (u32 reason = 0; reason < PF_LOSS_REASONS; reason++) {
    u64 count = sandbox->lost[reason];
    u32 key = reason;
    if (!count) continue;
    u64 *total = bpf_map_lookup_elem(MAP(lost), &key);
    if (total) __sync_fetch_and_add(total, count);
  }
  bpf_map_delete_elem(MAP(sandboxes), &id);
}

static __always_inline u64 cgroup_id(void *cgroup) {
  void *node = 0;
  u64 id = 0;
  READ(node, cgroup, cgroup, kn);
  READ(id, node, kernfs_node, id);
  return id;
}

static __always_inline u32 namespace_id(void *namespace, u32 offset) {
  u32 id = 0;
  if (namespace) read_kernel(&id, sizeof(id), namespace + offset + PF_AT_ns_common__inum);
  return id;
}

static __always_inline int on_v2(void *cgroup) {
  /* cgroup v1 fires the same tracepoints, and its ids collide with those of v2. */
  void *root = 0;
  int hierarchy = -1;
  READ(root, cgroup, cgroup, root);
  READ(hierarchy, root, cgroup_root, hierarchy_id);
  return hierarchy == 0;
}

static __always_inline u64 task_cgroup_id(void *task) {
  void *set = 0, *cgroup = 0;
  READ(set, task, task_struct, cgroups);
  READ(cgroup, set, css_set, dfl_cgrp);
  return cgroup_id(cgroup);
}

/* The outermost sandbox among a cgroup and its ancestors, or 0. */
static __always_inline struct pf_sandbox *sandbox_above(void *cgroup) {
  struct pf_sandbox *found = 0;
  for (int i = 0; i < PF_DEPTH_MAX; i++) {
    if (!cgroup) break;
    u64 id = cgroup_id(cgroup);
    struct pf_sandbox *sandbox = bpf_map_lookup_elem(MAP(sandboxes), &id);
    if (sandbox) found = sandbox;
    void *parent = 0;
    READ(parent, cgroup, cgroup_subsys_state, parent); /* a cgroup begins with its css */
    cgroup = parent;
  }
  return found;
}

static __always_inline struct pf_sandbox *sandbox_by_id(u64 id) {
  return bpf_map_lookup_elem(MAP(sandboxes), &id);
}

/* Whose task runs now: its process entry's sandbox. Where an entry is missing, the sandbox that its own cgroup
 * is or, once the map was full, any that its cgroup lies in: else who fills the map runs on unseen in a nested one. */
static __always_inline struct pf_sandbox *current_sandbox(struct pf_control *c, struct pf_process *process) {
  u64 id = process ? process->sandbox_id : bpf_get_current_cgroup_id();
  struct pf_sandbox *sandbox = bpf_map_lookup_elem(MAP(sandboxes), &id);
  if (sandbox) return sandbox;
  if (process) return 0;
  if (!c->untracked) return 0;
  for (int level = 1; level < PF_DEPTH_MAX; level++) {
    id = ancestor_id(level);
    if (!id) break;
    sandbox = bpf_map_lookup_elem(MAP(sandboxes), &id);
    if (sandbox) return sandbox;
  }
  return 0;
}

static __always_inline struct pf_process *process_of(u32 tgid) {
  return bpf_map_lookup_elem(MAP(processes), &tgid);
}

static __always_inline void fill_header(struct pf_header *h, u16 type, u32 size, struct pf_sandbox *sandbox,
                                        struct pf_process *process) {
  u64 id = bpf_get_current_pid_tgid();
  h->type = type;
  h->flags = 0;
  h->size = size;
  h->time_ns = bpf_ktime_get_ns();
  h->sandbox_id = sandbox->id;
  h->cgroup_id = bpf_get_current_cgroup_id();
  h->tgid = id >> 32;
  h->tid = id;
  h->exec_id = process ? process->exec_id : 0;
}

/* Send a record, or count why not. Returns 0 when the ring has it.
 *
 * The budget bounds what a sandbox has in the ring and nobody has read. `mark` is a ring position:
 * once the reader has passed it, everything counted in bytes_before is gone from the ring, and
 * bytes_since takes its place. Two CPUs that do so at once may forget one round's bytes: the bound is then
 * twice the budget for that round. */
static __always_inline int admit(struct pf_control *c, struct pf_sandbox *sandbox, u64 size, int priority,
                                 u64 *flags) {
  u64 consumer = bpf_ringbuf_query(MAP(events), BPF_RB_CONS_POS);
  u64 producer = bpf_ringbuf_query(MAP(events), BPF_RB_PROD_POS);
  u64 used = producer - consumer;
  if (priority == PF_PRIORITY_REPEAT && used > PF_RING_BYTES / 4 * 3) {
    count_lost(sandbox, PF_LOSS_WATERMARK);
    return -1;
  }
  if (priority == PF_PRIORITY_PAYLOAD && used > PF_RING_BYTES / 2) {
    count_lost(sandbox, PF_LOSS_PAYLOAD);
    return -1;
  }
  if (sandbox) {
    if (consumer >= sandbox->mark) {
      sandbox->bytes_before = sandbox->bytes_since;
      sandbox->bytes_since = 0;
      sandbox->mark = producer;
    }
    if (sandbox->bytes_before + sandbox->bytes_since + size > c->budget_bytes) {
      count_lost(sandbox, priority == PF_PRIORITY_PAYLOAD ? PF_LOSS_PAYLOAD : PF_LOSS_BUDGET);
      return -1;
    }
  }
  *flags = BPF_RB_NO_WAKEUP;
  /* A wake-up costs more than twice what the longest record does (exec: 12.4 us with it, 3.5 without). A reader that was woken a moment ago is awake
   * still, and looks again within a millisecond. */
  if (priority == PF_PRIORITY_URGENT || priority == PF_PRIORITY_PAYLOAD) {
    u32 zero = 0;
    u64 now = bpf_ktime_get_ns();
    u64 *woken = bpf_map_lookup_elem(MAP(woken), &zero);
    if (woken && now - *woken > PF_AWAKE_NS) {
      *woken = now;
      *flags = BPF_RB_FORCE_WAKEUP;
    }
  }
  if (used / PF_WAKE_BYTES != (used + size + 8) / PF_WAKE_BYTES) *flags = BPF_RB_FORCE_WAKEUP;
  return 0;
}

static __always_inline int send(struct pf_control *c, struct pf_sandbox *sandbox, void *record, u64 size,
                                int priority) {
  u64 flags = 0;
  if (admit(c, sandbox, size, priority, &flags)) return -1;
  if (bpf_ringbuf_output(MAP(events), record, size, flags)) {
    count_lost(sandbox, PF_LOSS_RING_FULL);
    return -1;
  }
  if (sandbox) __sync_fetch_and_add(&sandbox->bytes_since, size + 8);
  return 0;
}

/* One more of what was sent already. The clock is read once a tick (1 to 10 ms); the counter of ticks is
 * a plain load. Returns the time when the count
 * is due to be sent, else 0. */
static __always_inline u64 count_repeat(struct pf_control *c, struct pf_repeat *r) {
  u64 tick = bpf_jiffies64();
  __sync_fetch_and_add(&r->count, 1);
  if (r->tick == tick) return 0;
  u64 now = bpf_ktime_get_ns();
  r->tick = tick;
  r->last_ns = now;
  if (r->count == 1) r->first_ns = now;
  return now - r->sent_ns >= c->repeat_flush_ns ? now : 0;
}

static __always_inline struct pf_unwanted *unwanted(void) {
  u32 zero = 0;
  return bpf_map_lookup_elem(MAP(unwanted), &zero);
}

static __always_inline void count_unsent(u32 what) {
  u64 *count = bpf_map_lookup_elem(MAP(unsent), &what);
  if (count) __sync_fetch_and_add(count, 1);
}

static __always_inline struct pf_class *class_of(struct pf_sandbox *sandbox) {
  u32 id = sandbox->class_id;
  return bpf_map_lookup_elem(MAP(classes), &id);
}

/* PF_DENY_… of a quarantined sandbox. The word in `control` saves everybody else the look-up. */
static __always_inline u32 quarantine_of(struct pf_control *c, u64 sandbox_id) {
  if (!(c->judges_packets & PF_JUDGES_QUARANTINE) || !c->armed) return 0;
  struct pf_quarantine *q = bpf_map_lookup_elem(MAP(quarantines), &sandbox_id);
  return q ? q->deny : 0;
}

/* In enforce mode an action that could not be recorded must not happen: no event, no effect. */
static __always_inline int must_refuse_unrecorded(struct pf_control *c, struct pf_sandbox *sandbox) {
  struct pf_class *class = class_of(sandbox);
  return c->armed && class && class->enforce && class->refuse_unrecorded;
}
