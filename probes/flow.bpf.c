/* Flows: who talks with whom, from when to when, and how much.
 *
 * Nothing here asks for the current process: sock_ops and cgroup_skb programs run wherever the packet is, and on new
 * kernels the pid helpers load in them and name whoever was interrupted. A flow is its socket's maker's, by the stamp.
 *
 * The table is an array: a TCP flow stands at the low bits of its socket's cookie, and what finds its place taken by
 * an older one evicts it. So it is bounded, ages by itself, and costs a packet one look-up. */

#ifdef PF_HAVE_COARSE_CLOCK
#define coarse_now() coarse_ns()
#else
#define coarse_now() bpf_ktime_get_ns()
#endif

/* The coarse clock is up to a tick behind the other. */
static __always_inline u64 since(u64 now, u64 then) { return now > then ? now - then : 0; }

static __always_inline struct pf_flow_state *flow_at(u32 slot) { return bpf_map_lookup_elem(MAP(flows), &slot); }

/* A datagram socket may talk with many: the peer is mixed into the place. */
static __always_inline u32 slot_of(u64 cookie, u8 protocol, u8 *remote, u16 remote_port) {
  if (protocol == 6) return cookie & (PF_FLOWS - 1);
  u32 *word = (u32 *)remote;
  u64 mixed = cookie * 0x9e3779b97f4a7c15ULL + (word[0] ^ word[1] ^ word[2] ^ word[3]) * 0x85ebca6bULL + remote_port;
  mixed *= 0xff51afd7ed558ccdULL;
  return (mixed >> 40) & (PF_FLOWS - 1);
}

static __always_inline void fill_flow_header(struct pf_header *h, u16 type, u32 size, struct pf_flow_state *f,
                                             u64 now) {
  h->type = type;
  h->flags = 0;
  h->size = size;
  h->time_ns = now;
  h->sandbox_id = f->sandbox_id;
  h->cgroup_id = f->cgroup_id;
  h->tgid = f->tgid;
  h->tid = 0;
  h->exec_id = f->exec_id;
}

/* A relay's outer flow, as far as a look-up can say: the oldest living outward flow of the same program image, else
 * its oldest. Its counters at the moment of the dial are gone when user space hears of it. */
static __always_inline struct pf_flow_state *outer_of(struct pf_family *known, struct pf_flow_state *f) {
  if (!known || known->outer_cookie == f->cookie) return 0;
  struct pf_flow_state *o = flow_at(known->outer_slot);
  return o && o->cookie == known->outer_cookie && o->family_id == f->family_id ? o : 0;
}

static __always_inline void remember_outer(struct pf_family *known, struct pf_flow_state *f, u32 slot) {
  u64 id = f->family_id;
  if (!id || !(f->flags & PF_FLOW_FLAG_INITIATED)) return;
  u32 local = is_local(f->family, f->remote);
  if (!known) {
    struct pf_family fresh = {};
    fresh.outer_cookie = f->cookie;
    fresh.outer_slot = slot;
    fresh.outer_local = local;
    bpf_map_update_elem(MAP(families), &id, &fresh, BPF_ANY);
    return;
  }
  if (local || !known->outer_local) {
    struct pf_flow_state *o = flow_at(known->outer_slot);
    if (o && known->outer_cookie && o->cookie == known->outer_cookie) return;
  }
  /* In place, which is a third of an update. Read half written, cookie and slot are not of one flow: then it is none. */
  known->outer_cookie = f->cookie;
  known->outer_slot = slot;
  known->outer_local = local;
}

/* `o`: the flow beside it, whose counters are told too; 0 for none. */
static __always_inline int tell_flow_beside(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_flow_state *f,
                                            u32 slot, u8 phase, u8 end, int priority, struct pf_flow_state *o) {
  u64 wake = 0;
  if (admit(c, sandbox, sizeof(struct pf_flow), priority, &wake)) return -1;
  struct pf_flow *e = bpf_ringbuf_reserve(MAP(events), sizeof(*e), 0);
  if (!e) {
    count_lost(sandbox, PF_LOSS_RING_FULL);
    return -1;
  }
  __sync_fetch_and_add(&sandbox->bytes_since, sizeof(*e) + 8);
  u64 now = bpf_ktime_get_ns();
  fill_flow_header(&e->header, PF_TYPE_FLOW, sizeof(*e), f, now);
  e->cookie = f->cookie;
  e->inode = f->inode;
  e->started_ns = f->started_ns;
  e->last_ns = f->last_ns;
  e->bytes_out = f->bytes_out;
  e->bytes_in = f->bytes_in;
  e->count = f->count;
  e->packets_out = f->packets_out;
  e->packets_in = f->packets_in;
  e->inversions = f->inversions;
  e->net_ns = f->net_ns;
  e->slot = slot;
  e->family = f->family;
  e->local_port = f->local_port;
  e->remote_port = f->remote_port;
  e->protocol = f->protocol;
  e->phase = phase;
  e->flow_flags = f->flags;
  e->end = end;
  e->denied = f->denied;
  e->verdict = f->verdict;
  __builtin_memcpy(e->local, f->local, 16);
  __builtin_memcpy(e->remote, f->remote, 16);
  e->outer_cookie = o ? o->cookie : 0;
  e->outer_bytes_out = o ? o->bytes_out : 0;
  e->outer_bytes_in = o ? o->bytes_in : 0;
  e->outer_packets_out = o ? o->packets_out : 0;
  e->outer_packets_in = o ? o->packets_in : 0;
  f->told_ns = now;
  f->count = 0;
  bpf_ringbuf_submit(e, wake);
  return 0;
}

static __always_inline int tell_flow(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_flow_state *f,
                                     u32 slot, u8 phase, u8 end, int priority) {
  return tell_flow_beside(c, sandbox, f, slot, phase, end, priority, 0);
}

/* How many flows to this peer the next record stands for; 0: not now, it is counted. In each window a peer's first
 * ones are told in full, then one in many. */
static __always_inline u64 peer_due(struct pf_control *c, struct pf_peer_key *key, u64 now, int always) {
  struct pf_peer *p = bpf_map_lookup_elem(MAP(peers), key);
  if (!p) {
    struct pf_peer fresh = {};
    fresh.window_ns = now;
    fresh.flows = 1;
    bpf_map_update_elem(MAP(peers), key, &fresh, BPF_ANY);
    return 1;
  }
  if (since(now, p->window_ns) > c->flow_window_ns) {
    p->window_ns = now;
    p->flows = 0;
  }
  p->flows += 1;
  p->untold += 1;
  if (!always && p->flows > c->flow_full && p->untold < c->flow_sample) return 0;
  u64 count = p->untold;
  p->untold = 0;
  return count;
}

static __always_inline void peer_of(struct pf_peer_key *key, struct pf_flow_state *f) {
  u64 *to = (u64 *)key->address, *from = (u64 *)f->remote;
  int initiated = f->flags & PF_FLOW_FLAG_INITIATED;
  key->sandbox_id = f->sandbox_id;
  to[0] = initiated ? from[0] : 0;
  to[1] = initiated ? from[1] : 0;
  key->port = initiated ? f->remote_port : f->local_port;
  key->protocol = f->protocol;
  key->incoming = !initiated;
  key->family = f->family;
}

static __always_inline void *cgroup_of(void *sk) {
  void *cgroup = 0;
  read_kernel(&cgroup, sizeof(cgroup), sk + PF_AT_sock__sk_cgrp_data + PF_AT_sock_cgroup_data__cgroup);
  return cgroup;
}

static __always_inline struct pf_stamp *stamp_of(u64 cookie, struct pf_stamp *inherited) {
  struct pf_stamp *stamp = stamp_at(cookie);
  return stamp && stamp->cookie == cookie ? stamp : inherited;
}

/* Whose a socket is, by its stamp or else by the cgroup it was made in. 0: no sandbox's. */
static __always_inline int find_owner(struct pf_flow_state *f, struct pf_stamp *stamp, void *cgroup) {
  struct pf_sandbox *sandbox = stamp ? 0 : sandbox_above(cgroup);
  f->exec_id = stamp ? stamp->exec_id : 0;
  f->family_id = stamp ? stamp->family : 0;
  f->tgid = stamp ? stamp->tgid : 0;
  f->sandbox_id = stamp ? stamp->sandbox_id : sandbox ? sandbox->id : 0;
  return f->sandbox_id != 0;
}

/* Facts of the socket that are worth a record: its file's inode, by which descriptors are found, its cgroup, its
 * network namespace. Seven reads, so not for a flow that is only counted: before the first record of each. */
static __always_inline void read_socket(struct pf_flow_state *f, void *sk) {
  if (f->told_ns) return;
  void *net = 0, *socket = 0;
  READ(net, sk, sock_common, skc_net);
  f->net_ns = 0;
  if (net) read_kernel(&f->net_ns, sizeof(f->net_ns), net + PF_AT_net__ns + PF_AT_ns_common__inum);
  READ(socket, sk, sock, sk_socket); /* none yet where it was not accepted */
  f->inode = 0;
  if (socket)
    read_kernel(&f->inode, sizeof(f->inode),
                socket - PF_AT_socket_alloc__socket + PF_AT_socket_alloc__vfs_inode + PF_AT_inode__i_ino);
  void *cgroup = cgroup_of(sk);
  f->cgroup_id = cgroup ? cgroup_id(cgroup) : f->sandbox_id;
}

static __always_inline void clear_flow(struct pf_flow_state *f) {
  f->cookie = 0; /* whoever reads it half written must not take it for its own */
  f->told_ns = 0;
  f->bytes_out = 0;
  f->bytes_in = 0;
  f->count = 0;
  f->inversion_ns = 0;
  f->packets_out = 0;
  f->packets_in = 0;
  f->inversions = 0;
  f->have[0] = 0;
  f->have[1] = 0;
  f->flags = 0;
  f->segments[0] = 0;
  f->segments[1] = 0;
  f->done[0] = 0;
  f->done[1] = 0;
  f->wide[0] = 0;
  f->wide[1] = 0;
  f->consumed = 0;
  f->automaton = 0;
  f->denied = 0;
  f->verdict = 0;
  f->dns_second = 0;
  f->dns_count = 0;
}

/* The place is taken by an older flow: it goes, and is told if it was. */
static __always_inline void evict(struct pf_control *c, struct pf_flow_state *f, u32 slot) {
  if (!f->sandbox_id) return;
  struct pf_sandbox *sandbox = sandbox_by_id(f->sandbox_id);
  if (!sandbox) return;
  count_lost(sandbox, PF_LOSS_FLOWS_EVICTED);
  if (f->told_ns) tell_flow(c, sandbox, f, slot, PF_PHASE_ENDED, PF_END_EVICTED, PF_PRIORITY_QUIET);
}

/* Addresses as the connect hooks tell them: IPv4 in the first four bytes, also where an IPv6 socket speaks it. */
static __always_inline void address_of(struct pf_flow_state *f, u8 *to, u32 a, u32 b, u32 d, u32 e) {
  u32 *word = (u32 *)to;
  int mapped = f->family == 10 && !(a | b) && d == bpf_htonl(0xffff);
  word[0] = mapped ? e : a;
  word[1] = mapped ? 0 : b;
  word[2] = mapped ? 0 : d;
  word[3] = mapped ? 0 : e;
}

/* The denied protocols that are cut now, by enum pf_prefix. */
static __always_inline u32 cut_now(struct pf_control *c, struct pf_sandbox *sandbox) {
  struct pf_class *policy = class_of(sandbox);
  return policy && policy->enforce && c->armed ? policy->denied_protocols : 0;
}

/* The verdict on a flow: found once, and again when a policy changed or while it is refused. 0: it must not be. */
static __always_inline int judge(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_flow_state *f) {
  f->policy = c->policy;
  if (cut_off(quarantine_of(c, f->sandbox_id), f->family, f->remote)) {
    f->verdict = PF_VERDICT_QUARANTINE;
    return 0;
  }
  if (f->denied) return 0; /* cut for what it is: that stays */
  f->flags &= ~PF_FLOW_FLAG_CUT;
  f->verdict = PF_VERDICT_ALLOWED;
  struct pf_class *policy = class_of(sandbox);
  if (!policy || !(f->flags & PF_FLOW_FLAG_INITIATED)) return 1;
  if (egress_allows(policy, sandbox, f->family, f->remote, f->remote_port, f->protocol)) return 1;
  int enforce = c->armed && policy->enforce;
  f->verdict = enforce ? PF_VERDICT_EGRESS : PF_VERDICT_WOULD_EGRESS;
  /* Told as cut its socket would be destroyed: not while the name that allows it may be being written down. */
  if (enforce && !name_may_come(policy, sandbox)) f->flags |= PF_FLOW_FLAG_CUT;
  return !enforce;
}

/* A new flow whose place and addresses are filled in: whether it may be, and whether it is to be told. Of one that is
 * only counted a tick will do for the time, and its sandbox's entry is not looked up. */
static __always_inline int begin_flow(struct pf_control *c, struct pf_flow_state *f, u64 cookie,
                                      struct pf_family *family) {
  u64 now = coarse_now();
  f->started_ns = now;
  f->last_ns = now;
  f->policy = c->policy;
  f->verdict = PF_VERDICT_ALLOWED;
  struct pf_sandbox *sandbox = c->judges_packets ? sandbox_by_id(f->sandbox_id) : 0;
  if (sandbox) {
    judge(c, sandbox, f);
    if (f->protocol == 6 && cut_now(c, sandbox)) f->automaton = 1;
  }
  struct pf_peer_key key = {};
  peer_of(&key, f);
  f->count = peer_due(c, &key, now, just_inverted(c, family));
  f->cookie = cookie;
  return f->count != 0;
}

static __always_inline void tell_begun(struct pf_control *c, struct pf_flow_state *f, u32 slot, void *sk,
                                       struct pf_flow_state *beside) {
  struct pf_sandbox *sandbox = sandbox_by_id(f->sandbox_id);
  if (!sandbox) return;
  f->started_ns = bpf_ktime_get_ns();
  f->last_ns = f->started_ns;
  read_socket(f, sk);
  tell_flow_beside(c, sandbox, f, slot, PF_PHASE_ESTABLISHED, PF_END_NONE, PF_PRIORITY_URGENT, beside);
}

/* One that was only counted turned out to be of interest. */
static __always_inline void make_late(struct pf_flow_state *f) {
  if (f->flags & PF_FLOW_FLAG_LATE) return; /* the ring was full when it was to be told: taken out of the count once */
  struct pf_peer_key key = {};
  peer_of(&key, f);
  struct pf_peer *p = bpf_map_lookup_elem(MAP(peers), &key);
  if (p && p->untold) p->untold -= 1;
  f->flags |= PF_FLOW_FLAG_LATE;
  f->count = 1;
}

static __always_inline void on_established(struct bpf_sock_ops *ctx, struct pf_control *c, u8 initiated) {
  struct bpf_sock *bpf_sk = ctx->sk;
  if (!bpf_sk) return;
  u64 cookie = bpf_get_socket_cookie(ctx);
  u32 slot = cookie & (PF_FLOWS - 1);
  struct pf_flow_state *f = flow_at(slot);
  if (!f) return;
  struct pf_stamp *stamp = stamp_of(cookie, initiated ? 0 : sk_storage(MAP(listeners), bpf_sk, 0, 0));
  if (f->cookie && f->cookie != cookie) evict(c, f, slot);
  clear_flow(f);
  void *sk = 0;
  if (!stamp) READ(sk, ctx, bpf_sock_ops_kern, sk);
  if (!find_owner(f, stamp, stamp ? 0 : cgroup_of(sk))) return;
  f->protocol = 6;
  f->flags = initiated ? PF_FLOW_FLAG_INITIATED : 0;
  f->family = ctx->family;
  f->local_port = ctx->local_port;
  f->remote_port = bpf_ntohl(ctx->remote_port);
  f->first[0] = ctx->snd_nxt;
  f->first[1] = ctx->rcv_nxt;
  if (f->family == 2) {
    u32 local = ctx->local_ip4, remote = ctx->remote_ip4;
    address_of(f, f->local, local, 0, 0, 0);
    address_of(f, f->remote, remote, 0, 0, 0);
  } else {
    u32 a = ctx->local_ip6[0], b = ctx->local_ip6[1], d = ctx->local_ip6[2], e = ctx->local_ip6[3];
    address_of(f, f->local, a, b, d, e);
    int mapped = !(a | b) && d == bpf_htonl(0xffff);
    a = ctx->remote_ip6[0], b = ctx->remote_ip6[1], d = ctx->remote_ip6[2], e = ctx->remote_ip6[3];
    address_of(f, f->remote, a, b, d, e);
    if (mapped) f->family = 2;
  }
  bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
  struct pf_family *family = initiated ? family_of(f->family_id) : 0;
  if (begin_flow(c, f, cookie, family)) {
    READ(sk, ctx, bpf_sock_ops_kern, sk);
    tell_begun(c, f, slot, sk, outer_of(family, f));
  }
  remember_outer(family, f, slot);
}

static __always_inline void end_flow(struct pf_control *c, struct pf_flow_state *f, u32 slot, u8 end) {
  struct pf_sandbox *sandbox = f->told_ns ? sandbox_by_id(f->sandbox_id) : 0;
  if (sandbox) tell_flow(c, sandbox, f, slot, PF_PHASE_ENDED, end, PF_PRIORITY_QUIET);
  f->cookie = 0;
}

static __always_inline void tell_listener(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_listen *e) {
  struct pf_peer_key key = {};
  key.sandbox_id = sandbox->id;
  key.port = e->port;
  key.protocol = e->protocol;
  key.incoming = 2;
  if (!peer_due(c, &key, coarse_now(), 0)) return;
  send(c, sandbox, e, sizeof(*e), PF_PRIORITY_URGENT);
}

/* listen(2). Accepted sockets inherit what is stored with the listener. */
static __always_inline void on_listen(struct bpf_sock_ops *ctx, struct pf_control *c) {
  struct bpf_sock *bpf_sk = ctx->sk;
  if (!bpf_sk) return;
  u64 cookie = bpf_get_socket_cookie(ctx);
  struct pf_stamp *stamp = stamp_at(cookie);
  if (!stamp || stamp->cookie != cookie) return;
  struct pf_sandbox *sandbox = sandbox_by_id(stamp->sandbox_id);
  if (!sandbox) return;
  struct pf_stamp *kept = sk_storage(MAP(listeners), bpf_sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (kept) *kept = *stamp;
  struct pf_listen e;
  __builtin_memset(&e, 0, sizeof(e));
  void *sk = 0, *net = 0;
  READ(sk, ctx, bpf_sock_ops_kern, sk);
  READ(net, sk, sock_common, skc_net);
  if (net) read_kernel(&e.net_ns, sizeof(e.net_ns), net + PF_AT_net__ns + PF_AT_ns_common__inum);
  e.header.type = PF_TYPE_LISTEN;
  e.header.size = sizeof(e);
  e.header.time_ns = bpf_ktime_get_ns();
  e.header.sandbox_id = stamp->sandbox_id;
  e.header.cgroup_id = stamp->sandbox_id;
  e.header.tgid = stamp->tgid;
  e.header.exec_id = stamp->exec_id;
  e.cookie = cookie;
  e.family = ctx->family;
  e.port = ctx->local_port;
  e.protocol = 6;
  u32 *word = (u32 *)e.address;
  if (e.family == 2) {
    word[0] = ctx->local_ip4;
  } else {
    word[0] = ctx->local_ip6[0];
    word[1] = ctx->local_ip6[1];
    word[2] = ctx->local_ip6[2];
    word[3] = ctx->local_ip6[3];
  }
  tell_listener(c, sandbox, &e);
}

int on_sock_ops(struct bpf_sock_ops *ctx) {
  u32 op = ctx->op;
  if (op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB &&
      op != BPF_SOCK_OPS_STATE_CB && op != BPF_SOCK_OPS_TCP_LISTEN_CB)
    return 1;
  struct pf_control *c = control();
  if (!c) return 1;
  if (op == BPF_SOCK_OPS_TCP_LISTEN_CB) {
    on_listen(ctx, c);
  } else if (op == BPF_SOCK_OPS_STATE_CB) {
    if (ctx->args[1] != BPF_TCP_CLOSE) return 1;
    u64 cookie = bpf_get_socket_cookie(ctx);
    u32 slot = cookie & (PF_FLOWS - 1);
    struct pf_flow_state *f = flow_at(slot);
    if (f && f->cookie == cookie && f->protocol == 6) end_flow(c, f, slot, PF_END_CLOSED);
  } else {
    on_established(ctx, c, op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB);
  }
  return 1;
}

/* Where a UDP socket waits. In the context of the process that binds: the pid helpers are right here. */
static __always_inline int post_bind(struct bpf_sock *ctx, u16 family) {
  if (ctx->protocol != 17) return 1;
  struct pf_control *c = control();
  if (!c) return 1;
  struct pf_process *process = process_of(bpf_get_current_pid_tgid() >> 32);
  struct pf_sandbox *sandbox = current_sandbox(c, process);
  if (!sandbox) return 1;
  struct pf_listen e;
  __builtin_memset(&e, 0, sizeof(e));
  fill_header(&e.header, PF_TYPE_LISTEN, sizeof(e), sandbox, process);
  e.cookie = bpf_get_socket_cookie(ctx);
  e.family = family;
  e.port = ctx->src_port;
  e.protocol = 17;
  u32 *word = (u32 *)e.address;
  if (family == 2) {
    word[0] = ctx->src_ip4;
  } else {
    word[0] = ctx->src_ip6[0];
    word[1] = ctx->src_ip6[1];
    word[2] = ctx->src_ip6[2];
    word[3] = ctx->src_ip6[3];
  }
  tell_listener(c, sandbox, &e);
  return 1;
}

int on_post_bind4(struct bpf_sock *ctx) { return post_bind(ctx, 2); }
int on_post_bind6(struct bpf_sock *ctx) { return post_bind(ctx, 10); }

/* Never attached: the reader runs it for a flow that it knows, to have it told while it lives, or ended if it is a
 * datagram flow that went quiet. args: slot, cookie. */
int on_flow_check(struct bpf_raw_tracepoint_args *ctx) {
  struct pf_control *c = control();
  if (!c) return 0;
  u32 slot = ctx->args[0];
  struct pf_flow_state *f = flow_at(slot & (PF_FLOWS - 1));
  if (!f || f->cookie != ctx->args[1]) return 0;
  struct pf_sandbox *sandbox = sandbox_by_id(f->sandbox_id);
  if (!sandbox) {
    f->cookie = 0;
    return 0;
  }
  u64 now = bpf_ktime_get_ns();
  if (f->protocol != 6 && since(now, f->last_ns) > c->idle_ns)
    end_flow(c, f, slot, PF_END_IDLE);
  else if (now - f->told_ns >= c->sample_ns)
    tell_flow(c, sandbox, f, slot, PF_PHASE_SAMPLE, PF_END_NONE, PF_PRIORITY_REPEAT);
  return 0;
}

/* Never attached: the reader runs it for a peer whose last flows were only counted, so that no count stays behind when
 * no more come. args: the key of the map peers. */
int on_flush_peer(struct bpf_raw_tracepoint_args *ctx) {
  struct pf_control *c = control();
  if (!c) return 0;
  u64 words[5];
  words[0] = ctx->args[0];
  words[1] = ctx->args[1];
  words[2] = ctx->args[2];
  words[3] = ctx->args[3];
  words[4] = ctx->args[4];
  struct pf_peer_key key;
  __builtin_memcpy(&key, words, sizeof(key));
  struct pf_peer *p = bpf_map_lookup_elem(MAP(peers), &key);
  if (!p) return 0;
  u32 count = p->untold;
  struct pf_sandbox *sandbox = sandbox_by_id(key.sandbox_id);
  if (!count || !sandbox || key.incoming > 1) {
    p->untold = 0;
    return 0;
  }
  struct pf_flow e;
  __builtin_memset(&e, 0, sizeof(e));
  e.header.type = PF_TYPE_FLOW;
  e.header.size = sizeof(e);
  e.header.time_ns = bpf_ktime_get_ns();
  e.header.sandbox_id = key.sandbox_id;
  e.header.cgroup_id = key.sandbox_id;
  e.started_ns = e.header.time_ns;
  e.last_ns = e.header.time_ns;
  e.count = count;
  e.family = key.family;
  e.protocol = key.protocol;
  e.phase = PF_PHASE_ESTABLISHED;
  e.flow_flags = PF_FLOW_FLAG_LATE | (key.incoming ? 0 : PF_FLOW_FLAG_INITIATED);
  e.local_port = key.incoming ? key.port : 0;
  e.remote_port = key.incoming ? 0 : key.port;
  __builtin_memcpy(e.remote, key.address, 16);
  if (send(c, sandbox, &e, sizeof(e), PF_PRIORITY_REPEAT)) return 0;
  __sync_fetch_and_add(&p->untold, -count);
  return 0;
}
