/* Device opens and mknod, where the kernel's own device controller asks. access(2) comes this way
 * too. A program that ran before ours may have refused already: its answer stands. */

/* An array answers for nearly every character device, since /dev/null is opened more often than anything:
 * one entry for each minor of the low majors, then one for each whole major. PF_DEVICE_ASK sends to the hash. */
#define PF_DEVICE_ASK 0xff
#define PF_DEVICE_LOW_MAJORS 16
#define PF_DEVICE_LOW_MINORS 256
#define PF_DEVICE_MAJORS 512

static __always_inline u32 device_class(u32 kind, u32 major, u32 minor) {
  if (kind == BPF_DEVCG_DEV_CHAR && major < PF_DEVICE_MAJORS) {
    u32 index = PF_DEVICE_LOW_MAJORS * PF_DEVICE_LOW_MINORS + major;
    if (major < PF_DEVICE_LOW_MAJORS && minor < PF_DEVICE_LOW_MINORS) index = major * PF_DEVICE_LOW_MINORS + minor;
    u8 *known = bpf_map_lookup_elem(MAP(char_classes), &index);
    if (known && *known != PF_DEVICE_ASK) return *known;
  }
  struct pf_device_key key = {};
  key.kind = kind;
  key.major = major;
  key.minor = minor;
  u32 *class = bpf_map_lookup_elem(MAP(device_classes), &key);
  if (class) return *class;
  key.minor = 0xffffffff;
  class = bpf_map_lookup_elem(MAP(device_classes), &key);
  if (class) return *class;
  return kind == BPF_DEVCG_DEV_BLOCK ? PF_DEVICE_BLOCK : PF_DEVICE_OTHER;
}

/* One GPU of several, or any other single device. */
static __always_inline int granted_alone(u32 class_id, u32 kind, u32 major, u32 minor) {
  struct pf_grant_key key = {};
  key.class_id = class_id;
  key.kind = kind;
  key.major = major;
  key.minor = minor;
  return bpf_map_lookup_elem(MAP(device_grants), &key) != 0;
}

static __always_inline void fill_device(struct pf_device_attempt *e, struct pf_repeat_key *key) {
  u32 *word = (u32 *)key->address;
  e->major = word[0];
  e->minor = word[1];
  e->kind = word[2];
  e->access = key->port;
  e->device_class = word[3];
  e->verdict = key->bits & 15;
  e->granted = key->protocol;
  e->prior = key->bits & PF_KEY_PRIOR_UNKNOWN ? 2 : key->bits & PF_KEY_UNCONNECTED ? 1 : 0;
}

static __always_inline int send_repeat_device(struct pf_control *c, struct pf_sandbox *sandbox,
                                              struct pf_repeat_key *key, struct pf_repeat *r, u64 now) {
  struct pf_device_attempt e;
  __builtin_memset(&e, 0, sizeof(e));
  u64 count = r->count;
  e.header.type = PF_TYPE_DEVICE;
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
  fill_device(&e, key);
  r->sent_ns = now;
  if (send(c, sandbox, &e, sizeof(e), PF_PRIORITY_REPEAT)) return -1;
  __sync_fetch_and_add(&r->count, -count);
  return 0;
}

int on_device(struct bpf_cgroup_dev_ctx *ctx) {
  struct pf_control *c = control();
  if (!c) return 1;
  u32 kind = ctx->access_type & 0xffff;
  u32 access = ctx->access_type >> 16;
  u32 class = device_class(kind, ctx->major, ctx->minor);
  if (class == PF_DEVICE_ORDINARY) return 1;
  u32 tgid = bpf_get_current_pid_tgid() >> 32;
  struct pf_process *process = process_of(tgid);
  struct pf_sandbox *sandbox = 0;
  u32 class_id = 0;
  if (process) {
    class_id = process->class_id;
  } else {
    sandbox = current_sandbox(c, 0);
    if (!sandbox) return 1;
    class_id = sandbox->class_id;
  }
  struct pf_class *policy = bpf_map_lookup_elem(MAP(classes), &class_id);
  int granted = policy && (policy->granted_devices >> (class & 31) & 1);
  if (policy && !granted && policy->single_devices) granted = granted_alone(class_id, kind, ctx->major, ctx->minor);
  int enforce = c->armed && policy && policy->enforce;
  u32 quarantined = quarantine_of(c, process ? process->sandbox_id : sandbox->id) & PF_DENY_DEVICES;

  struct pf_repeat_key key = {};
  u32 *word = (u32 *)key.address;
  key.exec_id = process ? process->exec_id : 0;
  key.tgid = tgid;
  key.port = access;
  word[0] = ctx->major;
  word[1] = ctx->minor;
  word[2] = kind;
  word[3] = class;
  key.protocol = granted;
  u32 verdict = granted ? PF_VERDICT_ALLOWED : enforce ? PF_VERDICT_REFUSED : PF_VERDICT_WOULD_REFUSE;
  if (quarantined) verdict = PF_VERDICT_QUARANTINE;
#ifdef PF_HAVE_GET_RETVAL
  key.bits = verdict | PF_KEY_DEVICE | (bpf_get_retval() ? PF_KEY_UNCONNECTED : 0);
#else
  key.bits = verdict | PF_KEY_DEVICE | PF_KEY_PRIOR_UNKNOWN;
#endif
  int allow = verdict != PF_VERDICT_REFUSED && !quarantined;
  struct pf_unwanted *u = unwanted();
  if (u && u->devices >> (class & 31) & 1 && verdict == PF_VERDICT_ALLOWED) {
    count_unsent(PF_UNSENT_DEVICES);
    return allow;
  }

  struct pf_repeat *r = bpf_map_lookup_elem(MAP(repeats), &key);
  if (r) {
    u64 due = count_repeat(c, r);
    if (!due) return allow;
    sandbox = sandbox_by_id(r->sandbox_id);
    if (sandbox) send_repeat_device(c, sandbox, &key, r, due);
    return allow;
  }
  u64 now = bpf_ktime_get_ns();
  if (!sandbox) sandbox = current_sandbox(c, process);
  if (!sandbox) return 1;
  struct pf_device_attempt e;
  __builtin_memset(&e, 0, sizeof(e));
  fill_header(&e.header, PF_TYPE_DEVICE, sizeof(e), sandbox, process);
  fill_device(&e, &key);
  e.count = 1;
  e.first_ns = now;
  e.last_ns = now;
  e.uid = bpf_get_current_uid_gid();
  if (send(c, sandbox, &e, sizeof(e), PF_PRIORITY_URGENT)) return allow && !must_refuse_unrecorded(c, sandbox);
  if (!process || process->repeats >= PF_REPEATS_PER_PROCESS) return allow;
  process->repeats += 1;
  struct pf_repeat fresh = {};
  fresh.sent_ns = now;
  fresh.sandbox_id = sandbox->id;
  fresh.cgroup_id = e.header.cgroup_id;
  fresh.uid = e.uid;
  fresh.tid = e.header.tid;
  if (bpf_map_update_elem(MAP(repeats), &key, &fresh, BPF_NOEXIST)) count_lost(sandbox, PF_LOSS_REPEATS_FULL);
  return allow;
}
