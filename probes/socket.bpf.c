/* Sockets and where they are pointed. Cgroup hooks sit where the kernel decides: io_uring comes this
 * way like any other path, the address is the kernel's own copy, and a 0 returned here is EPERM. */

int on_sock_create(struct bpf_sock *ctx) {
  struct pf_control *c = control();
  if (!c) return 1;
  u32 tgid = bpf_get_current_pid_tgid() >> 32;
  struct pf_process *process = process_of(tgid);
  u64 owner = process ? process->sandbox_id : 0;
  if (!process) {
    struct pf_sandbox *own = current_sandbox(c, 0);
    if (!own) return 1;
    owner = own->id;
  }
  u64 cookie = bpf_get_socket_cookie(ctx);
  struct pf_stamp *stamp = stamp_at(cookie);
  if (!stamp) return 1;
  stamp->cookie = 0; /* whoever reads it half written must not take it for its own */
  stamp->sandbox_id = owner;
  stamp->exec_id = process ? process->exec_id : 0;
  stamp->family = process ? process->family : 0;
  stamp->tgid = tgid;
  stamp->cookie = cookie;
  return 1;
}

static __always_inline int send_repeat_connect(struct pf_control *c, struct pf_sandbox *sandbox,
                                               struct pf_repeat_key *key, struct pf_repeat *r, u64 now) {
  struct pf_connect e;
  __builtin_memset(&e, 0, sizeof(e));
  u64 count = r->count;
  e.header.type = PF_TYPE_CONNECT;
  e.header.flags = PF_FLAG_REPEAT;
  e.header.size = sizeof(e);
  e.header.time_ns = now;
  e.header.sandbox_id = r->sandbox_id;
  e.header.cgroup_id = r->cgroup_id;
  e.header.tgid = key->tgid;
  e.header.tid = r->tid;
  e.header.exec_id = key->exec_id;
  e.maker_sandbox_id = r->maker_sandbox_id;
  e.maker_exec_id = r->maker_exec_id;
  e.maker_tgid = r->maker_tgid;
  e.cookie = r->cookie;
  e.count = count;
  e.first_ns = r->first_ns;
  e.last_ns = r->last_ns;
  e.uid = r->uid;
  e.family = key->bits & PF_KEY_IPV4 ? 2 : 10;
  e.port = key->port;
  e.protocol = key->protocol;
  e.verdict = key->bits & 15;
  e.unconnected = key->bits & PF_KEY_UNCONNECTED ? 1 : 0;
  __builtin_memcpy(e.address, key->address, 16);
  r->sent_ns = now;
  if (send(c, sandbox, &e, sizeof(e), PF_PRIORITY_REPEAT)) return -1;
  __sync_fetch_and_add(&r->count, -count);
  return 0;
}

/* Of a connect that was told once; it is counted then. */
static __always_inline int repeat_unwanted(struct pf_repeat_key *key) {
  struct pf_unwanted *u = unwanted();
  if (!u || !u->connects || (key->bits & 15) != PF_VERDICT_ALLOWED) return 0;
  u32 zone = is_local(key->bits & PF_KEY_IPV4 ? 2 : 10, key->address) ? PF_CONNECTS_LOCAL : PF_CONNECTS_OUTWARD;
  u32 port = zone << 16 | key->port;
  if (!(u->connects & zone) || bpf_map_lookup_elem(MAP(wanted_ports), &port)) return 0;
  count_unsent(PF_UNSENT_CONNECTS);
  return 1;
}

/* `owner`: the sandbox that made the socket, else the one that uses it. */
static __always_inline int decide_connect(struct pf_control *c, struct pf_connect *e, u64 owner, u64 user) {
  if (cut_off(quarantine_of(c, owner) | quarantine_of(c, user), e->family, e->address)) {
    e->verdict = PF_VERDICT_QUARANTINE;
    return 0;
  }
  if (c->protected_port && e->protocol == 6 && e->port == c->protected_port && is_local(e->family, e->address)) {
    e->verdict = PF_VERDICT_PROTECTED;
    return 0;
  }
  if (!c->egress_any) return 1;
  struct pf_sandbox *sandbox = sandbox_by_id(owner);
  if (!sandbox) return 1;
  struct pf_class *policy = class_of(sandbox);
  if (!policy || egress_allows(policy, sandbox, e->family, e->address, e->port, e->protocol)) return 1;
  if (policy->egress_names && bpf_ktime_get_ns() - sandbox->dns_ns < PF_NAME_GRACE_NS) return 1;
  int enforce = c->armed && policy->enforce;
  e->verdict = enforce ? PF_VERDICT_EGRESS : PF_VERDICT_WOULD_EGRESS;
  return !enforce;
}

static __always_inline int connect(struct bpf_sock_addr *ctx, u16 family, u8 unconnected) {
  struct pf_control *c = control();
  if (!c) return 1;
  u64 id = bpf_get_current_pid_tgid();
  u32 tgid = id >> 32;
  struct pf_process *process = process_of(tgid);
  /* The stamp first: a socket that a sandbox made is the sandbox's, whoever uses it. */
  u64 cookie = bpf_get_socket_cookie(ctx);
  struct pf_stamp *stamp = stamp_at(cookie);
  if (stamp && stamp->cookie != cookie) stamp = 0;
  u64 owner = process ? process->sandbox_id : 0;
  if (stamp) owner = stamp->sandbox_id;
  if (!owner) owner = bpf_get_current_cgroup_id();
  struct pf_sandbox *sandbox = 0;
  if (!process) {
    sandbox = stamp ? sandbox_by_id(owner) : current_sandbox(c, 0);
    if (!sandbox) return 1;
    owner = sandbox->id;
  }

  struct pf_connect e;
  __builtin_memset(&e, 0, sizeof(e));
  e.family = family;
  e.port = bpf_ntohs(ctx->user_port);
  e.protocol = ctx->protocol;
  e.unconnected = unconnected;
  u32 *address = (u32 *)e.address;
  if (family == 2) {
    address[0] = ctx->user_ip4;
  } else {
    address[0] = ctx->user_ip6[0];
    address[1] = ctx->user_ip6[1];
    address[2] = ctx->user_ip6[2];
    address[3] = ctx->user_ip6[3];
  }
  int allow = decide_connect(c, &e, owner, process ? process->sandbox_id : owner);

  struct pf_repeat_key key = {};
  key.exec_id = process ? process->exec_id : 0;
  key.tgid = tgid;
  key.port = e.port;
  key.protocol = e.protocol;
  key.bits = e.verdict | (family == 2 ? PF_KEY_IPV4 : 0) | (unconnected ? PF_KEY_UNCONNECTED : 0);
  __builtin_memcpy(key.address, e.address, 16);
  struct pf_repeat *r = bpf_map_lookup_elem(MAP(repeats), &key);
  if (r && !(process && just_inverted(c, family_of(process->family)))) {
    u64 due = count_repeat(c, r);
    if (!due) return allow;
    if (repeat_unwanted(&key)) {
      r->sent_ns = due;
      return allow;
    }
    sandbox = sandbox_by_id(r->sandbox_id);
    if (sandbox) send_repeat_connect(c, sandbox, &key, r, due);
    return allow;
  }
  u64 now = bpf_ktime_get_ns();
  if (!sandbox) sandbox = sandbox_by_id(owner);
  if (!sandbox) sandbox = current_sandbox(c, process);
  if (!sandbox) return 1;

  fill_header(&e.header, PF_TYPE_CONNECT, sizeof(e), sandbox, process);
  if (stamp) {
    e.maker_sandbox_id = stamp->sandbox_id;
    e.maker_exec_id = stamp->exec_id;
    e.maker_tgid = stamp->tgid;
  }
  e.cookie = cookie;
  e.count = 1;
  e.first_ns = now;
  e.last_ns = now;
  e.uid = bpf_get_current_uid_gid();
  if (send(c, sandbox, &e, sizeof(e), PF_PRIORITY_URGENT)) return allow && !must_refuse_unrecorded(c, sandbox);
  /* Unbounded, one process with many destinations would fill the map for all. */
  if (r || !process || process->repeats >= PF_REPEATS_PER_PROCESS) return allow;
  process->repeats += 1;
  struct pf_repeat fresh = {};
  fresh.sent_ns = now;
  fresh.sandbox_id = sandbox->id;
  fresh.cgroup_id = e.header.cgroup_id;
  fresh.maker_sandbox_id = e.maker_sandbox_id;
  fresh.maker_exec_id = e.maker_exec_id;
  fresh.maker_tgid = e.maker_tgid;
  fresh.cookie = e.cookie;
  fresh.uid = e.uid;
  fresh.tid = e.header.tid;
  if (bpf_map_update_elem(MAP(repeats), &key, &fresh, BPF_NOEXIST)) count_lost(sandbox, PF_LOSS_REPEATS_FULL);
  return allow;
}

int on_connect4(struct bpf_sock_addr *ctx) { return connect(ctx, 2, 0); }
int on_connect6(struct bpf_sock_addr *ctx) { return connect(ctx, 10, 0); }
int on_sendmsg4(struct bpf_sock_addr *ctx) { return connect(ctx, 2, 1); }
int on_sendmsg6(struct bpf_sock_addr *ctx) { return connect(ctx, 10, 1); }

#ifdef PF_HAVE_CONNECT_UNIX
struct pf_unix_record {
  struct pf_connect_unix e;
  u8 target[112];
};

static __always_inline int send_repeat_unix(struct pf_control *c, struct pf_sandbox *sandbox,
                                            struct pf_unix_key *key, struct pf_repeat *r, u64 now) {
  struct pf_unix_record record;
  __builtin_memset(&record, 0, sizeof(record));
  u64 count = r->count;
  record.e.header.type = PF_TYPE_CONNECT_UNIX;
  record.e.header.flags = PF_FLAG_REPEAT;
  record.e.header.size = sizeof(record);
  record.e.header.time_ns = now;
  record.e.header.sandbox_id = r->sandbox_id;
  record.e.header.cgroup_id = r->cgroup_id;
  record.e.header.tgid = key->tgid;
  record.e.header.tid = r->tid;
  record.e.header.exec_id = key->exec_id;
  record.e.count = count;
  record.e.first_ns = r->first_ns;
  record.e.last_ns = r->last_ns;
  record.e.uid = r->uid;
  record.e.verdict = key->verdict;
  record.e.target_len = key->length & 127;
  __builtin_memcpy(record.target, key->target, 112);
  r->sent_ns = now;
  if (send(c, sandbox, &record, sizeof(record), PF_PRIORITY_REPEAT)) return -1;
  __sync_fetch_and_add(&r->count, -count);
  return 0;
}

/* The context shows no path. But in the kernel it is a struct bpf_sock_addr_kern, whose address is
 * the kernel's copy of what the caller gave. */
int on_connect_unix(struct bpf_sock_addr *ctx) {
  struct pf_control *c = control();
  if (!c) return 1;
  u64 id = bpf_get_current_pid_tgid();
  u32 tgid = id >> 32;
  struct pf_process *process = process_of(tgid);
  struct pf_sandbox *sandbox = current_sandbox(c, process);
  if (!sandbox) return 1;
  void *address = 0;
  u32 length = 0;
  READ(address, ctx, bpf_sock_addr_kern, uaddr);
  READ(length, ctx, bpf_sock_addr_kern, uaddrlen);
  if (length <= 2) return 1;
  length -= 2; /* behind sun_family */
  if (length > 108) length = 108;
  struct pf_unix_key key = {};
  key.exec_id = process ? process->exec_id : 0;
  key.tgid = tgid;
  key.length = length;
  /* Behind a unix socket may be whoever does for it what it may not: a container runtime, a proxy. */
  u32 refused = (quarantine_of(c, sandbox->id) & (PF_DENY_NETWORK | PF_DENY_LOOPBACK)) ==
                (PF_DENY_NETWORK | PF_DENY_LOOPBACK);
  key.verdict = refused ? PF_VERDICT_QUARANTINE : PF_VERDICT_ALLOWED;
  asm volatile("%0 &= 127" : "+r"(length));
  if (length > 108) length = 108;
  read_kernel(key.target, length, address + 2);
  struct pf_repeat *r = bpf_map_lookup_elem(MAP(unix_repeats), &key);
  if (r && !(process && just_inverted(c, family_of(process->family)))) {
    u64 due = count_repeat(c, r);
    if (due) send_repeat_unix(c, sandbox, &key, r, due);
    return !refused;
  }
  u64 now = bpf_ktime_get_ns();
  struct pf_unix_record record;
  __builtin_memset(&record, 0, sizeof(record));
  fill_header(&record.e.header, PF_TYPE_CONNECT_UNIX, sizeof(record), sandbox, process);
  record.e.count = 1;
  record.e.first_ns = now;
  record.e.last_ns = now;
  record.e.uid = bpf_get_current_uid_gid();
  record.e.target_len = key.length;
  record.e.verdict = key.verdict;
  __builtin_memcpy(record.target, key.target, 112);
  if (send(c, sandbox, &record, sizeof(record), PF_PRIORITY_URGENT))
    return !refused && !must_refuse_unrecorded(c, sandbox);
  if (r || !process || process->repeats >= PF_REPEATS_PER_PROCESS) return !refused;
  process->repeats += 1;
  struct pf_repeat fresh = {};
  fresh.sent_ns = now;
  fresh.sandbox_id = sandbox->id;
  fresh.cgroup_id = record.e.header.cgroup_id;
  fresh.uid = record.e.uid;
  fresh.tid = id;
  if (bpf_map_update_elem(MAP(unix_repeats), &key, &fresh, BPF_NOEXIST)) count_lost(sandbox, PF_LOSS_REPEATS_FULL);
  return !refused;
}
#endif
