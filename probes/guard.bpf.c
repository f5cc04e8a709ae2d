/* What sandboxed processes try on the sensor itself. Both tracepoints fire for the whole host and often, so each
 * ends at once for nearly everything: by a look-up of the target in a map of a few entries, by a comparison. */

static __always_inline void tell_access(struct pf_sensor_access *e, int refused) {
  struct pf_control *c = control();
  if (!c) return;
  struct pf_process *process = process_of(bpf_get_current_pid_tgid() >> 32);
  struct pf_sandbox *sandbox = current_sandbox(c, process);
  if (!sandbox) return;
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

#ifdef PF_HAVE_SIGNAL_GENERATE
/* Whoever sends: kill, tgkill, pidfd, F_SETOWN, ptrace's attach. By the target and not by siginfo's code, which a
 * sender may choose (F_SETSIG). PTRACE_SEIZE sends nothing: sensor/guard looks at TracerPid. Signal 0 never comes
 * here; nor does one that the permission check refused. */
int on_signal_generate(struct bpf_raw_tracepoint_args *ctx) {
  void *task = (void *)ctx->args[2];
  u32 target = 0;
  READ(target, task, task_struct, tgid);
  if (!bpf_map_lookup_elem(MAP(guarded), &target)) return 0;
  u32 number = ctx->args[0];
  /* A child's end, urgent data, job control and a terminal's size: the kernel's own, and without effect. */
  if (number == 17 || number == 21 || number == 22 || number == 23 || number == 28) return 0;
  struct pf_sensor_access e;
  __builtin_memset(&e, 0, sizeof(e));
  e.access = PF_ACCESS_SIGNAL;
  e.number = number;
  e.target_tgid = target;
  e.result = ctx->args[4];
  tell_access(&e, 0);
  return 0;
}
#endif

#ifdef PF_HAVE_CAP_CAPABLE
static void *(*current_task)(void) = (void *)158; /* bpf_get_current_task_btf, 5.11 */
static void *(*task_registers)(void *task) = (void *)175; /* bpf_task_pt_regs, 5.15 */

#define PF_CAP_SYS_ADMIN 21
#define PF_CAP_PERFMON 38
#define PF_CAP_BPF 39
#define PF_ORIG_AX 120 /* struct pt_regs of x86-64: the system call's number */
#define PF_SYS_BPF 321
#define PF_SYS_BPF_I386 357
#define PF_SYS_PERF 298 /* perf_event_open */
#define PF_SYS_PERF_I386 336

/* Making maps and programs asks for CAP_BPF, opening those of others by id for CAP_SYS_ADMIN: which so much else asks
 * for (each mmap) that only the system call tells the two apart. It is a read of the task's own saved registers.
 * CAP_PERFMON counts in perf_event_open alone: 6.18 was seen to ask a plain `ps aux` for it, in a read of /proc. Missed:
 * a GPU driver's own counters, by ioctl. */
int on_cap_capable(struct bpf_raw_tracepoint_args *ctx) {
  u32 capability = ctx->args[3];
  if (capability != PF_CAP_SYS_ADMIN && capability != PF_CAP_BPF && capability != PF_CAP_PERFMON) return 0;
  /* Typed memory to the verifier, which lets it be read without a call. */
  u64 call = *(volatile u64 *)(task_registers(current_task()) + PF_ORIG_AX);
  int bpf = call == PF_SYS_BPF || call == PF_SYS_BPF_I386;
  int perf = call == PF_SYS_PERF || call == PF_SYS_PERF_I386;
  if (capability == PF_CAP_PERFMON ? !perf : !bpf) return 0;
  void *ns = (void *)ctx->args[1];
  struct pf_sensor_access e;
  __builtin_memset(&e, 0, sizeof(e));
  e.access = PF_ACCESS_CAPABILITY;
  e.number = bpf ? PF_CAP_BPF : PF_CAP_PERFMON;
  e.result = ctx->args[4];
  e.user_ns = namespace_id(ns, PF_AT_user_namespace__ns);
  tell_access(&e, e.result != 0);
  return 0;
}
#endif
