/* Birth, death and migration on the v2 hierarchy. A sandbox exists in the kernel from cgroup_mkdir
 * on, before any process can be in it: there is no race with its first exec. */

/* At most 127 bytes of a name are looked at; a longer one cannot match a suffix, and is counted. */
#define PF_CGROUP_NAME 128

static __always_inline int name_matches(struct pf_step *step, u64 *name, void *name_at, u32 length) {
  u32 prefix = step->prefix_length;
  u32 suffix = step->suffix_length;
  if (step->exact ? length != prefix : length < prefix + suffix) return 0;
  u64 differs = 0;
  u64 end[4] = {};
  for (int i = 0; i < 8; i++) differs |= (name[i] ^ step->prefix[i]) & step->prefix_mask[i];
  read_kernel(end, sizeof(end), name_at + length - suffix);
  for (int i = 0; i < 4; i++) differs |= (end[i] ^ step->suffix[i]) & step->suffix_mask[i];
  return differs == 0;
}

static __always_inline void tell_cgroup(struct pf_control *c, struct pf_sandbox *sandbox, u16 type, u64 id,
                                        u64 parent_id, u32 class_id, void *path) {
  u32 slot = 0;
  if (take_slot(&slot)) {
    count_lost(sandbox, PF_LOSS_SCRATCH);
    return;
  }
  struct pf_exec_scratch *s = bpf_map_lookup_elem(MAP(exec_scratch), &slot);
  if (s) {
    struct pf_cgroup *e = (void *)s->data;
    u64 task = bpf_get_current_pid_tgid();
    __builtin_memset(e, 0, sizeof(*e));
    e->header.type = type;
    e->header.time_ns = bpf_ktime_get_ns();
    e->header.sandbox_id = sandbox ? sandbox->id : 0;
    e->header.cgroup_id = id;
    e->header.tgid = task >> 32;
    e->header.tid = task;
    e->parent_id = parent_id;
    e->class_id = class_id;
    long n = read_kernel_str(s->data + sizeof(*e), PF_PATH_MAX, path);
    s->at = n > 0 ? n : 0;
    e->path_len = s->at;
    u64 size = sizeof(*e) + (cursor(s) & 2047);
    e->header.size = size;
    send(c, sandbox, e, size, PF_PRIORITY_URGENT);
  }
  bpf_map_delete_elem(MAP(exec_slots), &slot);
}

int on_cgroup_mkdir(struct bpf_raw_tracepoint_args *ctx) {
  struct pf_control *c = control();
  if (!c) return 0;
  void *cgroup = (void *)ctx->args[0];
  if (!on_v2(cgroup)) return 0;
  void *parent = 0, *node = 0, *name_at = 0;
  READ(parent, cgroup, cgroup_subsys_state, parent);
  u64 parent_id = cgroup_id(parent);
  struct pf_watch *watch = bpf_map_lookup_elem(MAP(watch), &parent_id);
  if (!watch) return 0;
  u64 id = cgroup_id(cgroup);
  u64 name[PF_CGROUP_NAME / 8] = {};
  READ(node, cgroup, cgroup, kn);
  READ(name_at, node, kernfs_node, name);
  long length = read_kernel_str(name, sizeof(name), name_at);
  if (length <= 1) return 0;
  length -= 1;
  if (length >= PF_CGROUP_NAME - 1) {
    count_lost(0, PF_LOSS_NAME_TOO_LONG);
    return 0;
  }
  struct pf_watch next = {};
  for (int i = 0; i < 8; i++) {
    if (i >= watch->count) break;
    u32 index = watch->steps[i];
    struct pf_step *step = bpf_map_lookup_elem(MAP(steps), &index);
    if (!step || !name_matches(step, name, name_at, length)) continue;
    if (step->last) {
      /* The zeroes come from a map: 184 bytes more would burst the stack. No process can be in the
       * cgroup yet, so nobody sees the entry before it is filled in. */
      u32 zero = 0;
      void *blank = bpf_map_lookup_elem(MAP(blank_sandbox), &zero);
      if (!blank) return 0;
      if (bpf_map_update_elem(MAP(sandboxes), &id, blank, BPF_NOEXIST)) {
        count_lost(0, PF_LOSS_SANDBOXES_FULL);
        tell_cgroup(c, 0, PF_TYPE_CGROUP_BIRTH, id, parent_id, PF_UNTRACKED, (void *)ctx->args[1]);
        return 0;
      }
      struct pf_sandbox *sandbox = sandbox_by_id(id);
      if (!sandbox) return 0;
      sandbox->id = id;
      sandbox->born_ns = bpf_ktime_get_ns();
      sandbox->class_id = step->class_id;
      tell_cgroup(c, sandbox, PF_TYPE_CGROUP_BIRTH, id, parent_id, step->class_id, (void *)ctx->args[1]);
      return 0;
    }
    if (next.count < 8) next.steps[next.count & 7] = step->next;
    next.count += 1;
  }
  if (!next.count) return 0;
  if (bpf_map_update_elem(MAP(watch), &id, &next, BPF_NOEXIST)) count_lost(0, PF_LOSS_WATCH_FULL);
  tell_cgroup(c, 0, PF_TYPE_CGROUP_BIRTH, id, parent_id, PF_WATCHED, (void *)ctx->args[1]);
  return 0;
}

int on_cgroup_rmdir(struct bpf_raw_tracepoint_args *ctx) {
  struct pf_control *c = control();
  if (!c) return 0;
  void *cgroup = (void *)ctx->args[0];
  if (!on_v2(cgroup)) return 0;
  u64 id = cgroup_id(cgroup);
  if (bpf_map_delete_elem(MAP(watch), &id) == 0)
    tell_cgroup(c, 0, PF_TYPE_CGROUP_DEATH, id, 0, PF_WATCHED, (void *)ctx->args[1]);
  struct pf_sandbox *sandbox = sandbox_by_id(id);
  if (!sandbox) return 0;
  tell_cgroup(c, sandbox, PF_TYPE_CGROUP_DEATH, id, 0, sandbox->class_id, (void *)ctx->args[1]);
  sandbox->ended = 1;
  /* Processes that left the cgroup keep its sandbox: the last of them removes the entry. */
  if (sandbox->processes == 0) forget_sandbox(sandbox);
  return 0;
}

int on_cgroup_attach_task(struct bpf_raw_tracepoint_args *ctx) {
  struct pf_control *c = control();
  if (!c) return 0;
  void *cgroup = (void *)ctx->args[0];
  void *task = (void *)ctx->args[2];
  if (!on_v2(cgroup)) return 0;
  u32 tgid = 0, tid = 0;
  READ(tgid, task, task_struct, tgid);
  READ(tid, task, task_struct, pid);
  struct pf_process *process = process_of(tgid);
  struct pf_sandbox *destination = sandbox_above(cgroup);
  if (!process && !destination) return 0;
  if (process && destination && process->sandbox_id == destination->id) return 0;
  struct pf_sandbox *sandbox = process ? sandbox_by_id(process->sandbox_id) : destination;
  if (!sandbox) return 0;
  struct pf_move e;
  __builtin_memset(&e, 0, sizeof(e));
  fill_header(&e.header, PF_TYPE_CGROUP_MOVE, sizeof(e), sandbox, process);
  e.mover_tgid = e.header.tgid;
  if (e.mover_tgid == tgid) { /* it is there by now: what counts is where it was */
    e.mover_sandbox_id = process ? process->sandbox_id : 0;
  } else {
    struct pf_sandbox *mover = current_sandbox(c, process_of(e.mover_tgid));
    e.mover_sandbox_id = mover ? mover->id : 0;
  }
  e.header.tgid = tgid;
  e.header.tid = tid;
  e.header.cgroup_id = cgroup_id(cgroup);
  e.previous_sandbox_id = process ? process->sandbox_id : 0;
  e.destination_sandbox_id = destination ? destination->id : 0;
  void *leader = 0;
  READ(leader, task, task_struct, group_leader);
  READ(e.start_ns, leader, task_struct, start_boottime);
  if (process)
    e.header.flags |= PF_FLAG_MIGRATED;
  else {
    void *cred = 0, *ns = 0;
    READ(cred, task, task_struct, cred);
    READ(ns, cred, cred, user_ns);
    enter(c, tgid, sandbox, e.start_ns, e.header.time_ns, e.header.time_ns, namespace_id(ns, PF_AT_user_namespace__ns));
  }
  send(c, sandbox, &e, sizeof(e), PF_PRIORITY_URGENT);
  return 0;
}
