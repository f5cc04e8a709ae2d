/* System calls that rules care for, seen where the kernel decides about them: it asks for a capability, generates a
 * signal, makes an io_uring. These tracepoints fire for the whole host and often, so each ends at once for nearly
 * everything, by a comparison or by one look-up. */

#define PF_SYS_WRITE 1
#define PF_SYS_PWRITE64 18
#define PF_SYS_WRITEV 20
#define PF_SYS_SENDFILE 40
#define PF_SYS_SOCKET 41
#define PF_SYS_CLONE 56
#define PF_SYS_KILL 62
#define PF_SYS_PTRACE 101
#define PF_SYS_RT_SIGQUEUEINFO 129
#define PF_SYS_PRCTL 157
#define PF_SYS_MOUNT 165
#define PF_SYS_TKILL 200
#define PF_SYS_TGKILL 234
#define PF_SYS_KEYCTL 250
#define PF_SYS_UNSHARE 272
#define PF_SYS_RT_TGSIGQUEUEINFO 297
#define PF_SYS_OPEN_BY_HANDLE_AT 304
#define PF_SYS_SETNS 308
#define PF_SYS_PIDFD_SEND_SIGNAL 424
#define PF_SYS_IO_URING_SETUP 425
#define PF_SYS_CLONE3 435

#define PF_CLONE_NEW 0x7e020080ULL /* CLONE_NEW…; in clone(2) the lowest of them is part of the exit signal */
#define PF_CLONE_NEWUSER 0x10000000ULL
#define PF_CAP_DAC_READ_SEARCH 2
#define PF_OUTSIDERS 256 /* CPUs, more of which share an entry */
/* KILL, SETGID, SETUID, SETPCAP, LINUX_IMMUTABLE, NET_ADMIN, NET_RAW, SYS_MODULE, SYS_RAWIO, SYS_CHROOT, SYS_PTRACE, SYS_PACCT,
 * SYS_ADMIN, SYS_BOOT, SYS_TIME, MKNOD, AUDIT_CONTROL, SETFCAP, MAC_OVERRIDE, MAC_ADMIN, SYSLOG, PERFMON, BPF,
 * CHECKPOINT_RESTORE; and DAC_READ_SEARCH for one call. The others are asked for by ordinary work of root. */
#define PF_CAPS 0x1c7ca7f33e4ULL

#ifdef PF_HAVE_TASK_REGISTERS
static void *(*current_task)(void) = (void *)158; /* bpf_get_current_task_btf, 5.11 */
static void *(*task_registers)(void *task) = (void *)175; /* bpf_task_pt_regs, 5.15 */

/* struct pt_regs of x86-64 */
#define PF_R10 56
#define PF_BX 40
#define PF_CX 88
#define PF_DX 96
#define PF_SI 104
#define PF_DI 112
#define PF_ORIG_AX 120
#define PF_TS_COMPAT 2 /* thread_info.status: a 32-bit call */
/* The task's own saved registers: typed memory to the verifier, read without a call. */
#define PF_REGISTER(registers, at) (*(volatile u64 *)((registers) + (at)))

/* Those of the i386 table that a rule may name; any other keeps its number, marked. */
static __always_inline u32 from_i386(u32 number) {
  if (number == 4) return PF_SYS_WRITE;
  if (number == 14) return 133; /* mknod */
  if (number == 21) return PF_SYS_MOUNT;
  if (number == 26) return PF_SYS_PTRACE;
  if (number == 37) return PF_SYS_KILL;
  if (number == 52) return 166; /* umount2 */
  if (number == 61) return 161; /* chroot */
  if (number == 120) return PF_SYS_CLONE;
  if (number == 128) return 175; /* init_module */
  if (number == 217) return 155; /* pivot_root */
  if (number == 238) return PF_SYS_TKILL;
  if (number == 270) return PF_SYS_TGKILL;
  if (number == 310) return PF_SYS_UNSHARE;
  if (number == 342) return PF_SYS_OPEN_BY_HANDLE_AT;
  if (number == 346) return PF_SYS_SETNS;
  if (number == 350) return 313; /* finit_module */
  if (number == 357) return PF_SYS_BPF;
  if (number == 359) return PF_SYS_SOCKET;
  if (number >= 424) return number; /* the same in all tables */
  return PF_CALL_COMPAT | number;
}

static __always_inline u32 call_number(void *task, void *registers, int *compat) {
  u32 number = PF_REGISTER(registers, PF_ORIG_AX);
  u32 status = *(volatile u32 *)(task + PF_AT_task_struct__thread_info + PF_AT_thread_info__status);
  *compat = (status & PF_TS_COMPAT) != 0;
  return *compat ? from_i386(number) : number & ~0x40000000u;
}

static __always_inline void call_arguments(struct pf_system_call *e, void *registers, int compat) {
  u64 *to = (u64 *)e->arguments;
  if (compat) {
    to[0] = PF_REGISTER(registers, PF_BX);
    to[1] = PF_REGISTER(registers, PF_CX);
    to[2] = PF_REGISTER(registers, PF_DX);
    to[3] = PF_REGISTER(registers, PF_SI);
  } else {
    to[0] = PF_REGISTER(registers, PF_DI);
    to[1] = PF_REGISTER(registers, PF_SI);
    to[2] = PF_REGISTER(registers, PF_DX);
    to[3] = PF_REGISTER(registers, PF_R10);
  }
}

/* Of those that ask for CAP_SYS_ADMIN, whose asking tells something: an mmap asks for it, and so much else does. */
static __always_inline int admin_call(u32 number) {
  if (number >= 155 && number <= 175) return number != 157 && number != 158 && number != 160; /* pivot_root … init_module */
  if (number == PF_SYS_CLONE || number == PF_SYS_CLONE3) return 1;
  if (number == 103 || number == 179 || number == PF_SYS_UNSHARE) return 1; /* syslog, quotactl */
  if (number == 298 || number == 300 || number == PF_SYS_SETNS) return 1;   /* perf_event_open, fanotify_init */
  if (number == 313 || number == PF_SYS_BPF) return 1;
  if (number >= 428 && number <= 433) return 1; /* open_tree, move_mount, fsopen, fsconfig, fsmount, fspick */
  return number == 442 || number == 443 || number == 467; /* mount_setattr, quotactl_fd, open_tree_attr */
}

static __always_inline int writes(u32 number) {
  return number == PF_SYS_WRITE || number == PF_SYS_PWRITE64 || number == PF_SYS_WRITEV || number == PF_SYS_SENDFILE;
}

static __always_inline void *user_ns_of(void *task) {
  void *cred = 0, *ns = 0;
  READ(cred, task, task_struct, cred);
  READ(ns, cred, cred, user_ns);
  return ns;
}

/* What is typed to the verifier is read without a call; each page of a tmpfs passes here. */
#define PF_LOAD(base, type, member) (*(void *volatile *)((base) + PF_AT_##type##__##member))

static __always_inline int is_memfd(void *task, u32 number) {
  void *file = 0, *dentry = 0, *parent = 0, *name = 0;
  char prefix[8] = {};
  void *files = PF_LOAD(task, task_struct, files);
  void *table = PF_LOAD(files, files_struct, fdt);
  void *fds = PF_LOAD(table, fdtable, fd);
  if (!fds) return 0;
  read_kernel(&file, sizeof(file), fds + (u64)number * sizeof(file));
  read_kernel(&dentry, sizeof(dentry), file + PF_AT_file__f_path + PF_AT_path__dentry);
  READ(parent, dentry, dentry, d_parent);
  if (!dentry || parent != dentry) return 0;
  read_kernel(&name, sizeof(name), dentry + PF_AT_dentry__d_name + PF_AT_qstr__name);
  read_kernel(prefix, sizeof(prefix) - 1, name);
  return prefix[0] == 'm' && prefix[1] == 'e' && prefix[2] == 'm' && prefix[3] == 'f' && prefix[4] == 'd' &&
         prefix[5] == ':';
}

static __always_inline int send_repeat_call(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_repeat_key *key,
                                            struct pf_repeat *r, u64 now) {
  struct pf_system_call e;
  __builtin_memset(&e, 0, sizeof(e));
  u32 *word = (u32 *)key->address;
  u64 *arguments = (u64 *)e.arguments;
  u64 count = r->count;
  e.header.type = PF_TYPE_SYSTEM_CALL;
  e.header.flags = PF_FLAG_REPEAT;
  e.header.size = sizeof(e);
  e.header.time_ns = now;
  e.header.sandbox_id = r->sandbox_id;
  e.header.cgroup_id = r->cgroup_id;
  e.header.tgid = key->tgid;
  e.header.tid = r->tid;
  e.header.exec_id = key->exec_id;
  e.count = count;
  e.first_ns = r->first_ns;
  e.last_ns = r->last_ns;
  e.uid = r->uid;
  e.number = word[0];
  e.capability = word[1];
  e.user_ns = word[2];
  e.seen_by = key->port & 255;
  e.signal = key->port >> 8;
  e.result = key->protocol ? -1 : 0;
  arguments[0] = r->cookie;
  if (e.seen_by == PF_SEEN_SIGNAL || e.seen_by == PF_SEEN_TRACED) {
    e.target_tgid = word[3];
    e.target_sandbox_id = r->maker_sandbox_id;
    e.target_start_ns = r->maker_exec_id;
  } else {
    arguments[1] = r->maker_sandbox_id;
    arguments[2] = r->maker_exec_id;
    arguments[3] = (u64)r->maker_tgid << 32 | r->prior;
  }
  r->sent_ns = now;
  if (send(c, sandbox, &e, sizeof(e), PF_PRIORITY_REPEAT)) return -1;
  __sync_fetch_and_add(&r->count, -count);
  return 0;
}

/* `differs`: what beside the rest of the record makes it another one and no repeat. The header is filled in. */
static __always_inline void tell_call(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_process *process,
                                      struct pf_system_call *e, u32 differs) {
  struct pf_repeat_key key = {};
  u32 *word = (u32 *)key.address;
  u64 *arguments = (u64 *)e->arguments;
  key.exec_id = e->header.exec_id;
  key.tgid = e->header.tgid;
  word[0] = e->number;
  word[1] = e->capability;
  word[2] = e->user_ns;
  word[3] = differs;
  key.port = e->seen_by | e->signal << 8;
  key.protocol = e->result ? 1 : 0;
  key.bits = PF_KEY_CALL;
  struct pf_repeat *r = bpf_map_lookup_elem(MAP(repeats), &key);
  if (r) {
    u64 due = count_repeat(c, r);
    if (due) send_repeat_call(c, sandbox, &key, r, due);
    return;
  }
  u64 now = e->header.time_ns;
  e->count = 1;
  e->first_ns = now;
  e->last_ns = now;
  if (send(c, sandbox, e, sizeof(*e), PF_PRIORITY_URGENT)) return;
  if (!process || process->repeats >= PF_REPEATS_PER_PROCESS) return;
  process->repeats += 1;
  struct pf_repeat fresh = {};
  fresh.sent_ns = now;
  fresh.sandbox_id = sandbox->id;
  fresh.cgroup_id = e->header.cgroup_id;
  fresh.uid = e->uid;
  fresh.tid = e->header.tid;
  fresh.cookie = arguments[0];
  if (e->target_tgid) {
    fresh.maker_sandbox_id = e->target_sandbox_id;
    fresh.maker_exec_id = e->target_start_ns;
  } else {
    fresh.maker_sandbox_id = arguments[1];
    fresh.maker_exec_id = arguments[2];
    fresh.maker_tgid = arguments[3] >> 32;
    fresh.prior = arguments[3];
  }
  if (bpf_map_update_elem(MAP(repeats), &key, &fresh, BPF_NOEXIST)) count_lost(sandbox, PF_LOSS_REPEATS_FULL);
}

static __always_inline void begin_call(struct pf_system_call *e, struct pf_sandbox *sandbox, struct pf_process *process,
                                       u8 seen_by) {
  __builtin_memset(e, 0, sizeof(*e));
  fill_header(&e->header, PF_TYPE_SYSTEM_CALL, sizeof(*e), sandbox, process);
  e->seen_by = seen_by;
  e->capability = PF_NO_CAPABILITY;
  e->uid = bpf_get_current_uid_gid();
}

/* A child that is born in a user namespace of its own, for which nobody asks for a capability. */
static __always_inline u32 tell_fork(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_process *process,
                                     void *parent, void *child) {
  void *theirs = user_ns_of(child);
  u32 id = namespace_id(theirs, PF_AT_user_namespace__ns);
  if (theirs == user_ns_of(parent)) return id;
  struct pf_system_call e;
  int compat = 0;
  begin_call(&e, sandbox, process, PF_SEEN_FORK);
  void *task = current_task();
  void *registers = task_registers(task);
  e.number = call_number(task, registers, &compat);
  call_arguments(&e, registers, compat);
  if (e.number == PF_SYS_CLONE3) read_user(e.arguments, 8, (void *)*(u64 *)e.arguments);
  e.user_ns = id;
  tell_call(c, sandbox, process, &e, 0);
  return id;
}

/* By what a call is another one than before, beside its number. */
static __always_inline u32 differing(u32 number, u64 *arguments) {
  if (number == PF_SYS_SOCKET) return (u16)arguments[0] | (u32)arguments[1] << 16;
  if (number == PF_SYS_MOUNT) return arguments[3];
  if (number == PF_SYS_SETNS) return arguments[1];
  if (number == PF_SYS_CLONE || number == PF_SYS_CLONE3 || number == PF_SYS_UNSHARE || number == PF_SYS_BPF ||
      number == PF_SYS_PTRACE || number == PF_SYS_PRCTL || number == PF_SYS_KEYCTL)
    return arguments[0];
  return 0;
}

#ifdef PF_HAVE_SIGNAL_GENERATE
/* Who traces is told by the first stop of who is traced, or by its end, whichever way it was attached: SIGCHLD goes to
 * the tracer. Not by the stops where the tracer set SA_NOCLDSTOP. */
static __always_inline void tell_traced(struct pf_control *c, void *tracer, u32 tracer_tgid) {
  struct pf_process *process = process_of(tracer_tgid);
  if (!process) return;
  struct pf_sandbox *sandbox = sandbox_by_id(process->sandbox_id);
  if (!sandbox) return;
  void *self = current_task(), *parent = 0;
  u32 traced = 0, parent_tgid = 0;
  READ(traced, self, task_struct, ptrace);
  if (!traced) return;
  READ(parent, self, task_struct, parent);
  READ(parent_tgid, parent, task_struct, tgid);
  if (parent_tgid != tracer_tgid) return; /* its parent, which is told of its end too */
  struct pf_system_call e;
  begin_call(&e, sandbox, process, PF_SEEN_TRACED);
  e.target_tgid = e.header.tgid;
  struct pf_process *target = process_of(e.target_tgid);
  if (target) e.target_sandbox_id = target->sandbox_id;
  void *cred = 0, *leader = 0;
  READ(leader, self, task_struct, group_leader);
  READ(e.target_start_ns, leader, task_struct, start_boottime);
  READ(cred, tracer, task_struct, cred);
  READ(e.uid, cred, cred, uid);
  READ(e.header.tid, tracer, task_struct, pid);
  e.header.tgid = tracer_tgid;
  e.header.cgroup_id = task_cgroup_id(tracer);
  e.number = PF_SYS_PTRACE;
  tell_call(c, sandbox, process, &e, e.target_tgid);
}

/* Whoever sends: kill, tgkill, pidfd, F_SETOWN, ptrace's attach. Signal 0 never comes here; nor does one that the
 * permission check refused. To others than the sensor only those of a call that sends signals are told: elsewhere,
 * in an interrupt, the current process is anybody. */
int on_signal_generate(struct bpf_raw_tracepoint_args *ctx) {
  void *to = (void *)ctx->args[2];
  u32 number = ctx->args[0];
  u32 target = 0;
  READ(target, to, task_struct, tgid);
  struct pf_control *c = control();
  if (!c) return 0;
  if (guard_signal(c, number, target, ctx->args[4])) return 0;
  if (number == 17) {
    tell_traced(c, to, target);
    return 0;
  }
  u32 tgid = bpf_get_current_pid_tgid() >> 32;
  if (tgid == target) return 0;
  struct pf_process *process = process_of(tgid);
  struct pf_sandbox *sandbox = current_sandbox(c, process);
  if (!sandbox) return 0;
  int compat = 0;
  void *task = current_task();
  void *registers = task_registers(task);
  u32 call = call_number(task, registers, &compat);
  struct pf_process *other = process_of(target);
  u64 theirs = other ? other->sandbox_id : 0;
  if (!other && task_cgroup_id(to) == sandbox->id) theirs = sandbox->id; /* for which the map had no room */
  if (call != PF_SYS_PTRACE) {
    if (call != PF_SYS_KILL && call != PF_SYS_TKILL && call != PF_SYS_TGKILL && call != PF_SYS_RT_SIGQUEUEINFO &&
        call != PF_SYS_RT_TGSIGQUEUEINFO && call != PF_SYS_PIDFD_SEND_SIGNAL)
      return 0;
    if (theirs == sandbox->id) return 0;
  }
  struct pf_system_call e;
  begin_call(&e, sandbox, process, PF_SEEN_SIGNAL);
  call_arguments(&e, registers, compat);
  e.number = call;
  e.signal = number;
  e.target_tgid = target;
  e.target_sandbox_id = theirs;
  void *leader = 0;
  READ(leader, to, task_struct, group_leader);
  READ(e.target_start_ns, leader, task_struct, start_boottime);
  tell_call(c, sandbox, process, &e, target);
  return 0;
}
#endif

#ifdef PF_HAVE_IO_URING_CREATE
int on_io_uring_create(struct bpf_raw_tracepoint_args *ctx) {
  struct pf_control *c = control();
  if (!c) return 0;
  struct pf_process *process = process_of(bpf_get_current_pid_tgid() >> 32);
  struct pf_sandbox *sandbox = current_sandbox(c, process);
  if (!sandbox) return 0;
  struct pf_system_call e;
  u64 *arguments = (u64 *)e.arguments;
  begin_call(&e, sandbox, process, PF_SEEN_IO_URING);
  e.number = PF_SYS_IO_URING_SETUP;
  arguments[0] = ctx->args[2]; /* entries of the two queues, flags, the descriptor */
  arguments[1] = ctx->args[3];
  arguments[2] = ctx->args[4];
  arguments[3] = ctx->args[0];
  tell_call(c, sandbox, process, &e, arguments[2]);
  return 0;
}
#endif

#ifdef PF_HAVE_CAP_CAPABLE
static __always_inline u64 first_argument(void *registers, int compat) {
  return compat ? PF_REGISTER(registers, PF_BX) : PF_REGISTER(registers, PF_DI);
}

/* Whether a process of no sandbox runs: what was found once is believed for the rest of the clock tick, since who
 * writes a tmpfs asks for each page. */
static __always_inline int outsider(struct pf_control *c) {
  if (c->untracked) return 0;
  u32 tgid = bpf_get_current_pid_tgid() >> 32;
  u32 cpu = bpf_get_smp_processor_id() % PF_OUTSIDERS;
  u64 mark = (u64)tgid << 32 | (u32)bpf_jiffies64();
  u64 *known = bpf_map_lookup_elem(MAP(outsiders), &cpu);
  if (!known) return 0;
  if (*known == mark) return 1;
  if (process_of(tgid)) return 0;
  *known = mark;
  return 1;
}

/* An mmap asks for CAP_SYS_ADMIN over the host: whoever does so from a user namespace where it was not before has
 * changed it, which nothing asks a capability for. It asks also before a page of a memfd is written for the first time. */
static __always_inline void tell_quiet(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_process *process,
                                       void *task, u32 number, void *registers, int compat, void *ns, void *own) {
  struct pf_system_call e;
  u64 *arguments = (u64 *)e.arguments;
  begin_call(&e, sandbox, process, PF_SEEN_USER_NS);
  e.number = number;
  call_arguments(&e, registers, compat);
  if (process && own != ns) {
    u32 id = namespace_id(own, PF_AT_user_namespace__ns);
    u32 before = process->user_ns;
    if (before != id) {
      process->user_ns = id;
      if (before) {
        e.number = PF_SYS_UNSHARE;
        arguments[0] = 0;
        arguments[1] = 0;
        arguments[2] = 0;
        arguments[3] = 0;
        e.user_ns = id;
        tell_call(c, sandbox, process, &e, 0);
        return;
      }
    }
  }
  if (!writes(number) || !is_memfd(task, arguments[0])) return;
  e.seen_by = PF_SEEN_MEMFD;
  arguments[1] = 0;
  arguments[2] = 0;
  arguments[3] = 0;
  tell_call(c, sandbox, process, &e, arguments[0]);
}

int on_cap_capable(struct bpf_raw_tracepoint_args *ctx) {
  u32 capability = ctx->args[3];
  if (!(PF_CAPS >> (capability & 63) & 1)) return 0;
  void *task = current_task();
  void *registers = task_registers(task);
  int compat = 0;
  u32 number = call_number(task, registers, &compat);
  void *ns = (void *)ctx->args[1];
  void *own = 0;
  int quiet = capability == PF_CAP_SYS_ADMIN && !admin_call(number);
  if (quiet) {
    void *cred = PF_LOAD(task, task_struct, cred);
    own = PF_LOAD(cred, cred, user_ns);
    if (own == ns && !writes(number)) return 0;
    struct pf_control *acting = control();
    if (!acting || outsider(acting)) return 0;
    u32 depth = *(volatile u32 *)(own + PF_AT_user_namespace__level);
    /* A page, and not a map of ids. */
    if (own == ns && !depth && !is_memfd(task, first_argument(registers, compat))) return 0;
  } else if (capability == PF_CAP_DAC_READ_SEARCH && number != PF_SYS_OPEN_BY_HANDLE_AT) {
    return 0;
  }
  struct pf_control *c = control();
  if (!c) return 0;
  struct pf_process *process = process_of(bpf_get_current_pid_tgid() >> 32);
  struct pf_sandbox *sandbox = current_sandbox(c, process);
  if (!sandbox) return 0;
  u32 level = 0;
  READ(level, ns, user_namespace, level);
  if (quiet && !level) {
    tell_quiet(c, sandbox, process, task, number, registers, compat, ns, own);
    return 0;
  }
  if (quiet && !writes(number)) return 0; /* of the other calls only who writes a map of ids */
  s32 result = ctx->args[4];
  guard_capability(c, sandbox, process, capability, number, ns, result);
  struct pf_system_call e;
  u64 *arguments = (u64 *)e.arguments;
  begin_call(&e, sandbox, process, PF_SEEN_CAPABILITY);
  call_arguments(&e, registers, compat);
  e.number = number;
  e.capability = capability;
  e.result = result;
  e.user_ns = namespace_id(ns, PF_AT_user_namespace__ns);
  if (capability == PF_CAP_SYS_ADMIN && (number == PF_SYS_CLONE || number == PF_SYS_CLONE3)) {
    if (number == PF_SYS_CLONE3) read_user(&arguments[0], 8, (void *)arguments[0]);
    if (!(arguments[0] & (number == PF_SYS_CLONE3 ? PF_CLONE_NEW : PF_CLONE_NEW & ~0xffULL))) return 0;
    if (arguments[0] & PF_CLONE_NEWUSER && !level) return 0; /* for the memory, before the namespaces are asked for */
  }
  /* What it changes itself is told already. */
  if (process && level && (number == PF_SYS_UNSHARE || number == PF_SYS_SETNS)) process->user_ns = e.user_ns;
  tell_call(c, sandbox, process, &e, differing(number, arguments));
  return 0;
}
#endif

#ifdef PF_HAVE_SYS_ENTER
#define PF_CALLS 512
#define PF_SOCK_RAW 3

/* What of a wanted call is too ordinary to be told: children without a namespace of their own, sockets of the usual
 * sorts, and of prctl what says nothing of capabilities. */
static __always_inline int ordinary(u32 number, u64 *arguments) {
  if (number == PF_SYS_CLONE) return !(arguments[0] & PF_CLONE_NEW & ~0xffULL);
  if (number == PF_SYS_CLONE3) return !(arguments[0] & PF_CLONE_NEW);
  if (number == PF_SYS_SOCKET) return (u32)arguments[0] != 17 && (arguments[1] & 15) != PF_SOCK_RAW;
  if (number == PF_SYS_PRCTL) return arguments[0] != 24 && arguments[0] != 28 && arguments[0] != 47;
  return 0;
}

/* Every system call of the host passes here: attached only where the operator asked for it. Told is that it was
 * begun, with what it was given; not what became of it. */
int on_sys_enter(struct bpf_raw_tracepoint_args *ctx) {
  void *task = current_task();
  u32 status = *(volatile u32 *)(task + PF_AT_task_struct__thread_info + PF_AT_thread_info__status);
  int compat = (status & PF_TS_COMPAT) != 0;
  u32 number = ctx->args[1];
  number = compat ? from_i386(number) : number & ~0x40000000u;
  u8 *wanted = bpf_map_lookup_elem(MAP(wanted_calls), &number);
  if (!wanted || !*wanted) return 0;
  struct pf_control *c = control();
  if (!c) return 0;
  struct pf_process *process = process_of(bpf_get_current_pid_tgid() >> 32);
  struct pf_sandbox *sandbox = current_sandbox(c, process);
  if (!sandbox) return 0;
  struct pf_system_call e;
  u64 *arguments = (u64 *)e.arguments;
  begin_call(&e, sandbox, process, PF_SEEN_ENTRY);
  call_arguments(&e, task_registers(task), compat);
  if (number == PF_SYS_CLONE3) read_user(&arguments[0], 8, (void *)arguments[0]);
  if (ordinary(number, arguments)) return 0;
  e.number = number;
  tell_call(c, sandbox, process, &e, differing(number, arguments));
  return 0;
}
#endif
#endif
