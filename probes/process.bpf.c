/* exec, fork, exit. Raw tracepoints: they fire for the whole host, so the first thing each does is
 * one look-up that ends it for a process outside every sandbox. */

/* A record as long as an exec's cannot stand on the 512-byte stack, and per-CPU scratch may be
 * overwritten by a program that preempts this one. So a slot is taken, by an insert that only one can
 * win, and given back. */
#define PF_SCRATCH_BYTES 8192
struct pf_exec_scratch {
  volatile u64 at; /* where the next byte of data goes */
  struct pf_executable_key key;
  struct pf_exec exec;
  char data[PF_SCRATCH_BYTES];
};

#define PF_LISTED 1 /* in the map executables: it may not run */
#define PF_SHELL 2  /* it is a shell */

static __always_inline int take_slot(u32 *slot) {
  u8 one = 1;
  u32 cpu = bpf_get_smp_processor_id();
  for (int i = 0; i < 4; i++) {
    u32 candidate = cpu * 4 + i;
    if (bpf_map_update_elem(MAP(exec_slots), &candidate, &one, BPF_NOEXIST) == 0) {
      *slot = candidate;
      return 0;
    }
  }
  return -1;
}

/* `at` is kept in the map's memory, not in a variable: what is loaded from there is any number to the
 * verifier, and after the mask always the same range. With a variable each round of a walk has a wider
 * range than the one before, no state covers another, and a million instructions do not suffice. */
static __always_inline u64 cursor(struct pf_exec_scratch *s) {
  u64 at = s->at;
  asm volatile("%0 &= 0x1fff" : "+r"(at));
  return at;
}

/* A kernel string behind what is there: its length with the NUL, or 0. */
static __always_inline u64 append_name(struct pf_exec_scratch *s, void *name) {
  u64 at = cursor(s);
  if (at > PF_SCRATCH_BYTES - sizeof(s->exec) - PF_NAME_MAX) return 0;
  long n = read_kernel_str(&s->data[at], PF_NAME_MAX, name);
  if (n <= 0) return 0;
  s->at += n;
  return n;
}

/* Names from a dentry up to the root of its mount namespace, leaf first, each ended by NUL. Returns
 * their length; sets the flag `cut` in the record when the bound was met first. */
static __always_inline u64 walk_path(struct pf_exec_scratch *s, void *dentry, void *vfsmount, u32 cut) {
  u64 begin = s->at;
  void *mount = vfsmount - PF_AT_mount__mnt;
  for (int i = 0; i < PF_WALK_MAX; i++) {
    void *root = 0, *parent = 0, *name = 0;
    READ(root, vfsmount, vfsmount, mnt_root);
    READ(parent, dentry, dentry, d_parent);
    if (dentry == root || (parent == dentry && !root)) {
      void *above = 0;
      READ(above, mount, mount, mnt_parent);
      if (!above || above == mount) goto out;
      READ(dentry, mount, mount, mnt_mountpoint);
      mount = above;
      vfsmount = mount + PF_AT_mount__mnt;
      continue;
    }
    if (s->at - begin > PF_PATH_MAX - PF_NAME_MAX) break;
    read_kernel(&name, sizeof(name), dentry + PF_AT_dentry__d_name + PF_AT_qstr__name);
    if (!append_name(s, name)) break;
    if (parent == dentry) goto out; /* not connected to a root: a memfd */
    dentry = parent;
  }
  s->exec.file_flags |= cut;
out:
  return s->at - begin;
}

static __always_inline void read_namespaces(struct pf_exec *e, void *task, void *cred) {
  void *proxy = 0, *ns = 0, *pid = 0;
  READ(proxy, task, task_struct, nsproxy);
  READ(ns, proxy, nsproxy, mnt_ns);
  e->mnt_ns = namespace_id(ns, PF_AT_mnt_namespace__ns);
  READ(ns, proxy, nsproxy, net_ns);
  e->net_ns = namespace_id(ns, PF_AT_net__ns);
  READ(ns, proxy, nsproxy, cgroup_ns);
  e->cgroup_ns = namespace_id(ns, PF_AT_cgroup_namespace__ns);
  READ(ns, cred, cred, user_ns);
  e->user_ns = namespace_id(ns, PF_AT_user_namespace__ns);
  /* nsproxy has the pid namespace of future children; the task's own hangs on its struct pid. */
  u32 level = 0;
  READ(pid, task, task_struct, thread_pid);
  READ(level, pid, pid, level);
  ns = 0;
  read_kernel(&ns, sizeof(ns), pid + PF_AT_pid__numbers + (level & 31) * PF_SIZE_upid + PF_AT_upid__ns);
  e->pid_ns = namespace_id(ns, PF_AT_pid_namespace__ns);
}

static __always_inline void read_file(struct pf_exec *e, void *file, void *dentry) {
  void *inode = 0, *super = 0, *name = 0, *parent = 0;
  u16 mode = 0;
  u32 links = 0;
  u64 magic = 0;
  char prefix[8] = {};
  READ(inode, file, file, f_inode);
  READ(mode, inode, inode, i_mode);
  READ(links, inode, inode, i_nlink);
  READ(e->owner, inode, inode, i_uid);
  READ(e->group, inode, inode, i_gid);
  READ(e->inode, inode, inode, i_ino);
  READ(e->changed, inode, inode, i_ctime_sec);
  READ(super, inode, inode, i_sb);
  READ(e->device, super, super_block, s_dev);
  READ(magic, super, super_block, s_magic);
  READ(parent, dentry, dentry, d_parent);
  read_kernel(&name, sizeof(name), dentry + PF_AT_dentry__d_name + PF_AT_qstr__name);
  read_kernel(prefix, sizeof(prefix) - 1, name);
  e->mode = mode;
  if (!links) e->file_flags |= PF_FILE_DELETED;
  if (magic == 0x01021994) { /* TMPFS_MAGIC */
    e->file_flags |= PF_FILE_TMPFS;
    /* A file of that name on a real tmpfs has a parent; a memfd's dentry is its own. */
    if (parent == dentry && prefix[0] == 'm' && prefix[1] == 'e' && prefix[2] == 'm' && prefix[3] == 'f' &&
        prefix[4] == 'd' && prefix[5] == ':')
      e->file_flags |= PF_FILE_MEMFD;
  }
  /* By mode bits alone: capabilities, ACLs and supplementary groups are not looked at. */
  if ((mode & 0002) || (e->owner == e->euid && (mode & 0200)) || (e->group == e->egid && (mode & 0020)))
    e->file_flags |= PF_FILE_WRITABLE;
  if (mode & 06000) e->file_flags |= PF_FILE_SETID;
}

/* What a standard stream is: taken at the exec, when those marked close-on-exec are gone and nobody can yet swap one. */
static __always_inline u8 stream(void *fds, u32 number, u64 *inode_number) {
  void *file = 0, *inode = 0;
  u16 mode = 0;
  u32 device = 0;
  read_kernel(&file, sizeof(file), fds + number * sizeof(file));
  if (!file) return PF_STREAM_NONE;
  READ(inode, file, file, f_inode);
  READ(mode, inode, inode, i_mode);
  READ(*inode_number, inode, inode, i_ino);
  mode &= 0170000;
  if (mode == 0140000) return PF_STREAM_SOCKET;
  if (mode == 0010000) return PF_STREAM_PIPE;
  if (mode == 0100000) return PF_STREAM_FILE;
  if (mode != 0020000) return PF_STREAM_OTHER;
  READ(device, inode, inode, i_rdev); /* major << 20 | minor */
  u32 major = device >> 20;
  if (device == (1 << 20 | 3)) return PF_STREAM_NULL;
  if (major == 136) { /* UNIX98_PTY_SLAVE_MAJOR, whose minor is the number in /dev/pts */
    *inode_number = device & 0xfffff;
    return PF_STREAM_PTY;
  }
  return major == 4 || major == 5 ? PF_STREAM_TTY : PF_STREAM_DEVICE;
}

static __always_inline void read_streams(struct pf_exec *e, void *task) {
  void *files = 0, *table = 0, *fds = 0;
  READ(files, task, task_struct, files);
  READ(table, files, files_struct, fdt);
  READ(fds, table, fdtable, fd);
  if (!fds) return;
  e->stdin_kind = stream(fds, 0, &e->stdin_inode);
  e->stdout_kind = stream(fds, 1, &e->stdout_inode);
  e->stderr_kind = stream(fds, 2, &e->stderr_inode);
}

/* exec has copied argv into the new program's stack; nobody can swap it before this runs. The pages
 * were written a moment ago, so reading them does not fault. Exactly arg_start to arg_end: a byte
 * more would be the environment's. */
static __always_inline u64 read_argv(struct pf_exec_scratch *s, void *task) {
  void *mm = 0;
  u64 from = 0, to = 0;
  READ(mm, task, task_struct, mm);
  READ(from, mm, mm_struct, arg_start);
  READ(to, mm, mm_struct, arg_end);
  u64 length = to - from;
  s->exec.argv_bytes = length;
  if (length > PF_ARGV_MAX) {
    length = PF_ARGV_MAX;
    s->exec.file_flags |= PF_FILE_ARGV_CUT;
  }
  asm volatile("%0 &= 0x1fff" : "+r"(length)); /* the verifier forgets the comparison above */
  if (length > PF_ARGV_MAX) length = PF_ARGV_MAX;
  if (length && read_user(s->data, length, (void *)from)) {
    s->exec.file_flags |= PF_FILE_ARGV_FAULT;
    return 0;
  }
  return length;
}

/* What is in the trie of its path, PF_LISTED and PF_SHELL. Zeroes behind a short path end it. */
static __always_inline u32 listed(struct pf_exec_scratch *s, u32 class_id, u64 at) {
  struct pf_executable_key *key = &s->key;
  key->prefix = 32 + 8 * sizeof(key->path);
  key->class_id = bpf_htonl(class_id);
  u32 length = s->exec.image_path_len;
  __builtin_memset(key->path, 0, sizeof(key->path));
  if (length > sizeof(key->path)) length = sizeof(key->path);
  asm volatile("%0 &= 127" : "+r"(length));
  asm volatile("%0 &= 0x1fff" : "+r"(at));
  if (at > PF_SCRATCH_BYTES - sizeof(s->exec) - sizeof(key->path) || !length || length > sizeof(key->path)) return 0;
  read_kernel(key->path, length, &s->data[at]);
  u32 *found = bpf_map_lookup_elem(MAP(executables), key);
  return found ? *found : 0;
}

static __always_inline u8 denied_exec(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_exec_scratch *s,
                                      u64 path_at) {
  if (quarantine_of(c, sandbox->id) & PF_DENY_EXEC) return PF_EXEC_DENIED_QUARANTINE;
  struct pf_class *policy = class_of(sandbox);
  if (!policy || !policy->denied_execs) return PF_EXEC_DENIED_NOT;
  u32 denied = policy->denied_execs;
  struct pf_exec *e = &s->exec;
  if (denied >> PF_EXEC_DENIED_MEMFD & 1 && e->file_flags & PF_FILE_MEMFD) return PF_EXEC_DENIED_MEMFD;
  if (denied >> PF_EXEC_DENIED_DELETED & 1 && e->file_flags & PF_FILE_DELETED) return PF_EXEC_DENIED_DELETED;
  /* The change time, which nobody inside can set: its seconds, so that what is written in the first is let pass. */
  u64 changed = e->changed;
  if (denied >> PF_EXEC_DENIED_WRITTEN & 1 && sandbox->born_ns &&
      changed > (sandbox->born_ns + policy->realtime_ns) / 1000000000)
    return PF_EXEC_DENIED_WRITTEN;
  if (denied >> PF_EXEC_DENIED_HASH & 1) {
    struct pf_image_key key = {};
    key.class_id = sandbox->class_id;
    key.device = e->device;
    key.inode = e->inode;
    struct pf_image *known = bpf_map_lookup_elem(MAP(images), &key);
    if (known && known->changed == changed) return PF_EXEC_DENIED_HASH;
  }
  if (denied & (1 << PF_EXEC_DENIED_LISTED | 1 << PF_EXEC_DENIED_SHELL)) {
    u32 found = listed(s, sandbox->class_id, path_at);
    if (denied >> PF_EXEC_DENIED_LISTED & 1 && found & PF_LISTED) return PF_EXEC_DENIED_LISTED;
    int socket = e->stdin_kind == PF_STREAM_SOCKET || e->stdout_kind == PF_STREAM_SOCKET ||
                 e->stderr_kind == PF_STREAM_SOCKET;
    if (denied >> PF_EXEC_DENIED_SHELL & 1 && found & PF_SHELL && socket) return PF_EXEC_DENIED_SHELL;
  }
  return PF_EXEC_DENIED_NOT;
}

/* 0: the ring has it. Sets *kill where it must not run. */
static __always_inline int send_exec(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_process *process,
                                     void *task, void *bprm, struct pf_exec_scratch *s, int *kill) {
  struct pf_exec *e = &s->exec;
  void *cred = 0, *parent = 0, *file = 0, *dentry = 0, *mnt = 0, *fs = 0, *filename = 0;
  __builtin_memset(e, 0, sizeof(*e));
  fill_header(&e->header, PF_TYPE_EXEC, 0, sandbox, process);
  if (process && e->header.cgroup_id != sandbox->id) {
    void *set = 0, *cgroup = 0;
    READ(set, task, task_struct, cgroups);
    READ(cgroup, set, css_set, dfl_cgrp);
    struct pf_sandbox *here = sandbox_above(cgroup);
    if (!here || here->id != sandbox->id) e->header.flags |= PF_FLAG_MIGRATED;
  }
  READ(e->start_ns, task, task_struct, start_boottime);
  READ(parent, task, task_struct, real_parent);
  READ(e->parent_tgid, parent, task_struct, tgid);
  READ(parent, parent, task_struct, group_leader);
  READ(e->parent_start_ns, parent, task_struct, start_boottime);
  READ(cred, task, task_struct, cred);
  READ(e->uid, cred, cred, uid);
  READ(e->euid, cred, cred, euid);
  READ(e->egid, cred, cred, egid);
  read_namespaces(e, task, cred);
  READ(file, bprm, linux_binprm, file);
  read_kernel(&dentry, sizeof(dentry), file + PF_AT_file__f_path + PF_AT_path__dentry);
  read_kernel(&mnt, sizeof(mnt), file + PF_AT_file__f_path + PF_AT_path__mnt);
  read_file(e, file, dentry);
  read_streams(e, task);

  e->argv_len = read_argv(s, task);
  s->at = e->argv_len;
  READ(filename, bprm, linux_binprm, filename);
  e->filename_len = append_name(s, filename);
  u64 path_at = s->at;
  e->image_path_len = walk_path(s, dentry, mnt, PF_FILE_IMAGE_CUT);
  READ(fs, task, task_struct, fs);
  read_kernel(&dentry, sizeof(dentry), fs + PF_AT_fs_struct__pwd + PF_AT_path__dentry);
  read_kernel(&mnt, sizeof(mnt), fs + PF_AT_fs_struct__pwd + PF_AT_path__mnt);
  e->cwd_path_len = walk_path(s, dentry, mnt, PF_FILE_CWD_CUT);

  e->denied = denied_exec(c, sandbox, s, path_at);
  if (e->denied) {
    struct pf_class *policy = class_of(sandbox);
    *kill = e->denied == PF_EXEC_DENIED_QUARANTINE || (c->armed && policy && policy->enforce);
    if (*kill) e->header.flags |= PF_FLAG_KILLED;
  }
  u64 size = sizeof(*e) + cursor(s);
  e->header.size = size;
  return send(c, sandbox, e, size, PF_PRIORITY_URGENT);
}

int on_sched_process_exec(struct bpf_raw_tracepoint_args *ctx) {
  struct pf_control *c = control();
  if (!c) return 0;
  u32 tgid = bpf_get_current_pid_tgid() >> 32;
  struct pf_process *process = process_of(tgid);
  struct pf_sandbox *sandbox = current_sandbox(c, process);
  if (!sandbox) return 0;
  if (process) {
    process->exec_id = bpf_ktime_get_ns();
    process->family = process->exec_id;
    process->repeats = 0;
  }
  u32 slot = 0;
  int failed = -1, kill = 0;
  if (take_slot(&slot) == 0) {
    struct pf_exec_scratch *s = bpf_map_lookup_elem(MAP(exec_scratch), &slot);
    if (s) failed = send_exec(c, sandbox, process, (void *)ctx->args[0], (void *)ctx->args[2], s, &kill);
    bpf_map_delete_elem(MAP(exec_slots), &slot);
  } else {
    count_lost(sandbox, PF_LOSS_SCRATCH);
  }
  /* No hook can refuse an exec without LSM. A signal sent here lands before the new program's first
   * instruction in user space. */
  if (kill || (failed && must_refuse_unrecorded(c, sandbox))) bpf_send_signal(9);
  return 0;
}

static __always_inline void enter(struct pf_control *c, u32 tgid, struct pf_sandbox *sandbox, u64 start_ns, u64 now,
                                  u64 family, u32 user_ns) {
  struct pf_process entry = {};
  entry.family = family;
  entry.sandbox_id = sandbox->id;
  entry.exec_id = now;
  entry.start_ns = start_ns;
  entry.class_id = sandbox->class_id;
  entry.user_ns = user_ns;
  if (bpf_map_update_elem(MAP(processes), &tgid, &entry, BPF_ANY)) {
    c->untracked = 1;
    count_lost(sandbox, PF_LOSS_PROCESSES_FULL);
  } else {
    __sync_fetch_and_add(&sandbox->processes, 1);
  }
}

int on_sched_process_fork(struct bpf_raw_tracepoint_args *ctx) {
  struct pf_control *c = control();
  if (!c) return 0;
  void *parent = (void *)ctx->args[0];
  void *child = (void *)ctx->args[1];
  u32 tgid = 0, tid = 0, parent_tgid = 0;
  READ(tgid, child, task_struct, tgid);
  READ(tid, child, task_struct, pid);
  if (tgid != tid) return 0; /* a thread */
  READ(parent_tgid, parent, task_struct, tgid);
  struct pf_process *process = process_of(parent_tgid);
  u64 here = bpf_get_current_cgroup_id();
  u64 there = task_cgroup_id(child);
  struct pf_sandbox *sandbox = current_sandbox(c, process);
  /* CLONE_INTO_CGROUP puts a child into another cgroup without firing cgroup_attach_task. */
  u16 born = 0;
  if (here != there) {
    void *set = 0, *cgroup = 0;
    READ(set, child, task_struct, cgroups);
    READ(cgroup, set, css_set, dfl_cgrp);
    struct pf_sandbox *around = sandbox_above(cgroup);
    if (!sandbox) sandbox = around;
    born = PF_FLAG_CLONE_INTO;
    if (!around || !sandbox || around->id != sandbox->id) born |= PF_FLAG_MIGRATED;
  }
  if (!sandbox) return 0;
  struct pf_fork e;
  __builtin_memset(&e, 0, sizeof(e));
  fill_header(&e.header, PF_TYPE_FORK, sizeof(e), sandbox, process);
  READ(e.start_ns, child, task_struct, start_boottime);
  void *leader = 0;
  READ(leader, parent, task_struct, group_leader);
  READ(e.parent_start_ns, leader, task_struct, start_boottime);
  e.parent_exec_id = e.header.exec_id;
  e.parent_sandbox_id = process ? process->sandbox_id : 0;
  e.parent_tgid = parent_tgid;
  u32 user_ns = process ? process->user_ns : 0;
#ifdef PF_HAVE_TASK_REGISTERS
  user_ns = tell_fork(c, sandbox, process, parent, child);
#endif
  enter(c, tgid, sandbox, e.start_ns, e.header.time_ns, process ? process->family : e.header.time_ns, user_ns);
  e.header.tgid = tgid;
  e.header.tid = tid;
  e.header.cgroup_id = there;
  e.header.exec_id = e.header.time_ns;
  e.header.flags |= born;
  send(c, sandbox, &e, sizeof(e), PF_PRIORITY_QUIET);
  return 0;
}

int on_sched_process_exit(struct bpf_raw_tracepoint_args *ctx) {
  struct pf_control *c = control();
  if (!c) return 0;
  u32 tgid = bpf_get_current_pid_tgid() >> 32;
  struct pf_process *process = process_of(tgid);
  if (!process) return 0;
  void *task = (void *)ctx->args[0];
  void *signal = 0;
  int live = 1;
  READ(signal, task, task_struct, signal);
  READ(live, signal, signal_struct, live);
  if (live) return 0; /* other threads go on */
  struct pf_sandbox *sandbox = sandbox_by_id(process->sandbox_id);
  struct pf_exit e;
  __builtin_memset(&e, 0, sizeof(e));
  if (sandbox) fill_header(&e.header, PF_TYPE_EXIT, sizeof(e), sandbox, process);
  e.start_ns = process->start_ns;
  /* Two last threads that exit at once both see live == 0: who deletes the entry tells. */
  if (bpf_map_delete_elem(MAP(processes), &tgid) || !sandbox) return 0;
  __sync_fetch_and_add(&sandbox->processes, -1);
  READ(e.exit_code, task, task_struct, exit_code); /* exit_group gives every thread the same */
  send(c, sandbox, &e, sizeof(e), PF_PRIORITY_QUIET);
  if (sandbox->ended && sandbox->processes == 0) forget_sandbox(sandbox);
  return 0;
}
