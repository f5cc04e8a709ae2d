/* What sandboxed processes try on the sensor itself; asked by the programs of calls.bpf.c. */

#define PF_CAP_SYS_ADMIN 21
#define PF_CAP_PERFMON 38
#define PF_CAP_BPF 39
#define PF_SYS_PERF_EVENT_OPEN 298
#define PF_SYS_BPF 321

static __always_inline void tell_access(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_process *process,
                                        struct pf_sensor_access *e, int refused) {
  fill_header(&e->header, PF_TYPE_SENSOR_ACCESS, sizeof(*e), sandbox, process);
  struct pf_access_key key = {};
  key.exec_id = e->header.exec_id;
  key.tgid = e->header.tgid;
  key.what = e->access << 16 | (e->number & 255) << 8 | (refused ? 1 : 0);
  u64 now = e->header.time_ns;
  struct pf_access_count *known = bpf_map_lookup_elem(MAP(accesses), &key);
  if (known) {
    __sync_fetch_and_add(&known->count, 1);
    if (now - known->sent_ns < 1000000000) return;
    e->header.flags |= PF_FLAG_REPEAT;
    e->count = known->count;
    known->sent_ns = now;
    known->count = 0;
  } else {
    struct pf_access_count fresh = {};
    fresh.sent_ns = now;
    bpf_map_update_elem(MAP(accesses), &key, &fresh, BPF_ANY);
    e->count = 1;
  }
  e->uid = bpf_get_current_uid_gid();
  send(c, sandbox, e, sizeof(*e), PF_PRIORITY_URGENT);
}

/* By the target and not by siginfo's code, which a sender may choose (F_SETSIG). PTRACE_SEIZE sends nothing:
 * sensor/guard looks at TracerPid. */
static __always_inline int guard_signal(struct pf_control *c, u32 number, u32 target, s32 result) {
  if (!bpf_map_lookup_elem(MAP(guarded), &target)) return 0;
  /* A child's end, urgent data, job control and a terminal's size: the kernel's own, and without effect. */
  if (number == 17 || number == 21 || number == 22 || number == 23 || number == 28) return 1;
  struct pf_process *process = process_of(bpf_get_current_pid_tgid() >> 32);
  struct pf_sandbox *sandbox = current_sandbox(c, process);
  if (!sandbox) return 1;
  struct pf_sensor_access e;
  __builtin_memset(&e, 0, sizeof(e));
  e.access = PF_ACCESS_SIGNAL;
  e.number = number;
  e.target_tgid = target;
  e.result = result;
  tell_access(c, sandbox, process, &e, 0);
  return 1;
}

/* Making maps and programs asks for CAP_BPF, opening those of others by id for CAP_SYS_ADMIN: which so much else asks
 * for (each mmap) that only the system call tells the two apart. So it does for CAP_PERFMON: `ps` asks for it, to open
 * the environment of others (proc_mem_open, 6.17). */
static __always_inline void guard_capability(struct pf_control *c, struct pf_sandbox *sandbox,
                                             struct pf_process *process, u32 capability, u32 number,
                                             void *ns, s32 result) {
  int bpf = number == PF_SYS_BPF;
  if (bpf == (capability == PF_CAP_PERFMON)) return;
  if (!bpf && (capability != PF_CAP_PERFMON || number != PF_SYS_PERF_EVENT_OPEN)) return;
  if (bpf && capability != PF_CAP_BPF && capability != PF_CAP_SYS_ADMIN) return;
  struct pf_sensor_access e;
  __builtin_memset(&e, 0, sizeof(e));
  e.access = PF_ACCESS_CAPABILITY;
  e.number = bpf ? PF_CAP_BPF : PF_CAP_PERFMON;
  e.result = result;
  e.user_ns = namespace_id(ns, PF_AT_user_namespace__ns);
  tell_access(c, sandbox, process, &e, e.result != 0);
}
