/* Flows: who talks with whom, for how long, how much, and what the first bytes were.
 *
 * Nothing here asks for the current process: sock_ops and cgroup_skb programs run wherever the packet is, and on new
 * kernels the pid helpers load in them and name whoever was interrupted. A flow is its socket's maker's, by the stamp.
 *
 * The table is an array: a TCP flow stands at the low bits of its socket's cookie, and what finds its place taken by
 * an older one evicts it. So it is bounded, ages by itself, and costs a packet one look-up. */

#define PF_FIRST_BYTES 1024
#define PF_FIRST_BYTES_WIDE 4096 /* post-quantum hellos are longer than a kilobyte */
#define PF_SEGMENTS 512          /* of a direction, at most: a miner may write its first line byte by byte */
#define PF_SHOWS 64              /* bytes from the first on that show a protocol */
#define PF_DATAGRAMS 1
#define PF_DATAGRAMS_WIDE 3      /* a QUIC hello may need that many */
#define PF_DNS_PER_SECOND 64
#define PF_ACCEPT 192
#define PF_AUTOMATON_BYTES 256   /* of the stream out that are looked at */
#define PF_AUTOMATON_STATES 192
#define PF_IS_DNS(f) ((f)->protocol == 17 && ((f)->remote_port == 53 || (f)->local_port == 53))

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
static __always_inline struct pf_flow_state *outer_of(struct pf_flow_state *f) {
  u64 family = f->family_id;
  if (!family || !(f->flags & PF_FLOW_FLAG_INITIATED)) return 0;
  struct pf_outer *known = bpf_map_lookup_elem(MAP(outers), &family);
  if (!known || known->cookie == f->cookie) return 0;
  struct pf_flow_state *o = flow_at(known->slot);
  return o && o->cookie == known->cookie && o->family_id == family ? o : 0;
}

static __always_inline void remember_outer(struct pf_flow_state *f, u32 slot) {
  u64 family = f->family_id;
  if (!family || !(f->flags & PF_FLOW_FLAG_INITIATED)) return;
  u32 local = is_local(f->family, f->remote);
  struct pf_outer *known = bpf_map_lookup_elem(MAP(outers), &family);
  if (known && (local || !known->local)) {
    struct pf_flow_state *o = flow_at(known->slot);
    if (o && o->cookie == known->cookie) return;
  }
  struct pf_outer fresh = {};
  fresh.cookie = f->cookie;
  fresh.slot = slot;
  fresh.local = local;
  bpf_map_update_elem(MAP(outers), &family, &fresh, BPF_ANY);
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
static __always_inline u64 peer_due(struct pf_control *c, struct pf_peer_key *key, int always) {
  u64 now = coarse_now();
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

/* Whose a socket is, by its stamp or else by the cgroup it was made in. 0: no sandbox's. */
static __always_inline struct pf_sandbox *owner_of(u64 cookie, void *sk, struct pf_stamp *inherited,
                                                   struct pf_flow_state *f) {
  struct pf_stamp *stamp = stamp_at(cookie);
  if (!stamp || stamp->cookie != cookie) stamp = inherited;
  void *cgroup = 0;
  if (!stamp) read_kernel(&cgroup, sizeof(cgroup), sk + PF_AT_sock__sk_cgrp_data + PF_AT_sock_cgroup_data__cgroup);
  struct pf_sandbox *sandbox = stamp ? sandbox_by_id(stamp->sandbox_id) : sandbox_above(cgroup);
  if (!sandbox) return 0;
  f->sandbox_id = sandbox->id;
  f->class_id = sandbox->class_id;
  f->exec_id = stamp ? stamp->exec_id : 0;
  f->family_id = stamp ? stamp->family : 0;
  f->tgid = stamp ? stamp->tgid : 0;
  return sandbox;
}

/* Facts of the socket that are worth a record: its file's inode, by which descriptors are found, its cgroup, its
 * network namespace. */
static __always_inline void read_socket(struct pf_flow_state *f, void *sk) {
  void *net = 0, *socket = 0, *cgroup = 0;
  READ(net, sk, sock_common, skc_net);
  f->net_ns = 0;
  if (net) read_kernel(&f->net_ns, sizeof(f->net_ns), net + PF_AT_net__ns + PF_AT_ns_common__inum);
  READ(socket, sk, sock, sk_socket); /* none yet where it was not accepted */
  f->inode = 0;
  if (socket)
    read_kernel(&f->inode, sizeof(f->inode),
                socket - PF_AT_socket_alloc__socket + PF_AT_socket_alloc__vfs_inode + PF_AT_inode__i_ino);
  read_kernel(&cgroup, sizeof(cgroup), sk + PF_AT_sock__sk_cgrp_data + PF_AT_sock_cgroup_data__cgroup);
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

/* The verdict on a flow: found once, and again when a policy changed or while it is refused. 0: it must not be. */
static __always_inline int judge(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_flow_state *f) {
  f->policy = c->policy;
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

/* A new flow whose place and addresses are filled in: whose it is, whether it may be, whether it is told. */
static __always_inline void begin_flow(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_flow_state *f,
                                       u32 slot, u64 cookie, void *sk, struct pf_flow_state *beside) {
  u64 now = bpf_ktime_get_ns();
  f->started_ns = now;
  f->last_ns = now;
  read_socket(f, sk);
  judge(c, sandbox, f);
  struct pf_class *policy = class_of(sandbox);
  if (policy && policy->denied_protocols && policy->enforce && c->armed && f->protocol == 6) f->automaton = 1;
  struct pf_peer_key key = {};
  peer_of(&key, f);
  u64 count = peer_due(c, &key, f->flags & PF_FLOW_FLAG_INITIATED && just_inverted(c, f->family_id));
  f->cookie = cookie;
  if (count) {
    f->count = count;
    tell_flow_beside(c, sandbox, f, slot, PF_PHASE_ESTABLISHED, PF_END_NONE, PF_PRIORITY_URGENT, beside);
  }
}

/* One that was only counted, and turned out to be of interest. */
static __always_inline void tell_late(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_flow_state *f,
                                      u32 slot) {
  struct pf_peer_key key = {};
  peer_of(&key, f);
  struct pf_peer *p = bpf_map_lookup_elem(MAP(peers), &key);
  if (p && p->untold) p->untold -= 1;
  f->flags |= PF_FLOW_FLAG_LATE;
  f->count = 1;
  tell_flow(c, sandbox, f, slot, PF_PHASE_ESTABLISHED, PF_END_NONE, PF_PRIORITY_URGENT);
}

static __always_inline void on_established(struct bpf_sock_ops *ctx, struct pf_control *c, u8 initiated) {
  struct bpf_sock *bpf_sk = ctx->sk;
  if (!bpf_sk) return;
  void *sk = 0;
  READ(sk, ctx, bpf_sock_ops_kern, sk);
  u64 cookie = bpf_get_socket_cookie(ctx);
  u32 slot = cookie & (PF_FLOWS - 1);
  struct pf_flow_state *f = flow_at(slot);
  if (!f) return;
  struct pf_stamp *inherited = initiated ? 0 : sk_storage(MAP(listeners), bpf_sk, 0, 0);
  if (f->cookie && f->cookie != cookie) evict(c, f, slot);
  clear_flow(f);
  struct pf_sandbox *sandbox = owner_of(cookie, sk, inherited, f);
  if (!sandbox) return;
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
  begin_flow(c, sandbox, f, slot, cookie, sk, outer_of(f));
  remember_outer(f, slot);
}

static __always_inline void end_flow(struct pf_control *c, struct pf_flow_state *f, u32 slot, u8 end) {
  struct pf_sandbox *sandbox = sandbox_by_id(f->sandbox_id);
  if (sandbox && f->told_ns) tell_flow(c, sandbox, f, slot, PF_PHASE_ENDED, end, PF_PRIORITY_QUIET);
  f->cookie = 0;
}

static __always_inline void tell_listener(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_listen *e) {
  struct pf_peer_key key = {};
  key.sandbox_id = sandbox->id;
  key.port = e->port;
  key.protocol = e->protocol;
  key.incoming = 2;
  if (!peer_due(c, &key, 0)) return;
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

/* A packet's ends and size. `local` and `remote` are the sandbox's side and the other's, whichever way it goes. */
struct pf_packet {
  u64 cookie;
  u32 offset;  /* of the payload */
  u32 length;  /* of the payload */
  u32 sequence;
  u16 family;
  u16 local_port;
  u16 remote_port;
  u8 protocol;
  u8 tcp_flags;
  u8 local[16];
  u8 remote[16];
};

#define PF_TCP_SYN 2
#define PF_TCP_RST 4
#define PF_TCP_ACK 16

/* Behind an IPv6 header: hop-by-hop, routing and destination options may stand in front, as the sender likes. */
static __always_inline u8 skip_options(struct __sk_buff *skb, u8 next, u32 *header) {
  for (int i = 0; i < 4; i++) {
    u8 option[2];
    if (next != 0 && next != 43 && next != 60) break;
    if (bpf_skb_load_bytes(skb, *header, option, 2)) return 255;
    next = option[0];
    *header += 8 + option[1] * 8;
  }
  return next;
}

/* Direct access: each helper call would cost every packet more than all the rest that is done with it. */
static __always_inline int parse_packet(struct __sk_buff *skb, struct pf_packet *p, int incoming) {
  u8 *h = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
  u32 *source = (u32 *)p->local, *target = (u32 *)p->remote;
  u32 header = 0;
  u8 next = 0;
  if (h + 20 > end) return -1;
  if (h[0] >> 4 == 4) {
    p->family = 2;
    header = (h[0] & 15) * 4;
    next = h[9];
    source[0] = *(u32 *)(h + 12);
    target[0] = *(u32 *)(h + 16);
  } else if (h[0] >> 4 == 6) {
    if (h + 40 > end) return -1;
    p->family = 10;
    header = 40;
    next = h[6];
    __builtin_memcpy(source, h + 8, 16);
    __builtin_memcpy(target, h + 24, 16);
    if (next == 0 || next == 43 || next == 60) next = skip_options(skb, next, &header);
  } else {
    return -1;
  }
  p->protocol = next;
  u8 l4[14] = {};
  u32 skip = 0;
  if (next == 6 || next == 17) {
    u32 wanted = next == 6 ? 14 : 4;
    u8 *at = h + (header & 63);
    if (header < 64 && at + 14 <= end) {
      __builtin_memcpy(l4, at, 14);
    } else if (next == 6 ? bpf_skb_load_bytes(skb, header, l4, 14) : bpf_skb_load_bytes(skb, header, l4, 4)) {
      return -1;
    }
    skip = next == 6 ? (l4[12] >> 4) * 4 : 8;
    p->tcp_flags = next == 6 ? l4[13] : 0;
    p->sequence = (u32)l4[4] << 24 | (u32)l4[5] << 16 | (u32)l4[6] << 8 | l4[7];
    p->local_port = (u16)l4[0] << 8 | l4[1];
    p->remote_port = (u16)l4[2] << 8 | l4[3];
  }
  if (incoming) {
    u8 from[16];
    u16 port = p->local_port;
    __builtin_memcpy(from, p->local, 16);
    __builtin_memcpy(p->local, p->remote, 16);
    __builtin_memcpy(p->remote, from, 16);
    p->local_port = p->remote_port;
    p->remote_port = port;
  }
  p->offset = header + skip;
  p->length = skb->len > p->offset ? skb->len - p->offset : 0;
  return 0;
}

/* A connected datagram socket's own idea of its peer: on its way out a packet has been through the namespace's NAT
 * already, on its way in too, and one flow would look like two. */
static __always_inline void peer_of_socket(struct __sk_buff *skb, struct pf_packet *p) {
  struct bpf_sock *sk = skb->sk;
  if (!sk) return;
  sk = bpf_sk_fullsock(sk);
  if (!sk || !sk->dst_port) return;
  u32 *word = (u32 *)p->remote;
  p->remote_port = bpf_ntohs(sk->dst_port);
  if (p->family == 2 && sk->family == 2) {
    word[0] = sk->dst_ip4;
  } else if (p->family == 10) {
    word[0] = sk->dst_ip6[0];
    word[1] = sk->dst_ip6[1];
    word[2] = sk->dst_ip6[2];
    word[3] = sk->dst_ip6[3];
  }
}

/* Room for it was admitted: once for all sizes, since the verifier walks what is written here for each. */
#define SEND_PAYLOAD(BYTES)                                                                          \
  do {                                                                                               \
    struct {                                                                                         \
      struct pf_payload e;                                                                           \
      u8 data[BYTES];                                                                                \
    } *r = bpf_ringbuf_reserve(MAP(events), sizeof(*r), 0);                                          \
    if (!r) {                                                                                        \
      count_lost(sandbox, PF_LOSS_PAYLOAD);                                                          \
      return -1;                                                                                     \
    }                                                                                                \
    u64 size = n - 1;                                                                                \
    asm volatile("%0 &= %1" : "+r"(size) : "i"(BYTES - 1)); /* it is that; the verifier must see it */ \
    if (bpf_skb_load_bytes(skb, offset, r->data, size + 1)) {                                        \
      bpf_ringbuf_discard(r, 0);                                                                     \
      return -1;                                                                                     \
    }                                                                                                \
    fill_payload(&r->e, skb, f, slot, relative, length, n, incoming);                                \
    bpf_ringbuf_submit(r, wake);                                                                     \
  } while (0)

/* Whoever is root in a sandbox may give any address to `lo` or to a tun device of its own. */
static __always_inline u8 way_of(void *skb) {
  void *device = 0;
  u16 type = 0;
  READ(device, skb, sk_buff, dev);
  if (device) READ(type, device, net_device, type);
  return type == 772 ? PF_WAY_LOOPBACK : type == 65534 ? PF_WAY_TUN : PF_WAY_OTHER; /* ARPHRD_LOOPBACK, ARPHRD_NONE */
}

static __always_inline void fill_payload(struct pf_payload *e, void *skb, struct pf_flow_state *f, u32 slot,
                                         u32 relative, u32 length, u32 n, int incoming) {
  fill_flow_header(&e->header, PF_TYPE_PAYLOAD, sizeof(*e) + n, f, bpf_ktime_get_ns());
  e->cookie = f->cookie;
  e->started_ns = f->started_ns;
  e->offset = relative;
  e->length = length;
  e->slot = slot;
  e->family = f->family;
  e->local_port = f->local_port;
  e->remote_port = f->remote_port;
  e->protocol = f->protocol;
  e->incoming = incoming;
  e->flow_flags = f->flags;
  e->device = way_of(skb);
  e->data_len = n;
  __builtin_memcpy(e->local, f->local, 16);
  __builtin_memcpy(e->remote, f->remote, 16);
}

static __always_inline int send_payload(struct __sk_buff *skb, struct pf_control *c, struct pf_sandbox *sandbox,
                                        struct pf_flow_state *f, u32 slot, u32 offset, u32 relative, u32 length,
                                        u32 n, int incoming) {
  u64 wake = 0;
  if (n == 0) return 0;
  u64 room = n <= 128 ? 128 : n <= PF_FIRST_BYTES ? PF_FIRST_BYTES : PF_FIRST_BYTES_WIDE;
  room += sizeof(struct pf_payload);
  if (admit(c, sandbox, room, PF_PRIORITY_PAYLOAD, &wake)) return -1;
  __sync_fetch_and_add(&sandbox->bytes_since, room + 8);
  if (n <= 128)
    SEND_PAYLOAD(128);
  else if (n <= PF_FIRST_BYTES)
    SEND_PAYLOAD(PF_FIRST_BYTES);
  else
    SEND_PAYLOAD(PF_FIRST_BYTES_WIDE);
  return 0;
}

/* A flow that was only counted so far: what may be SSH or JSON lines, or comes in crumbs, is worth the record. */
static __always_inline int is_odd(struct __sk_buff *skb, struct pf_packet *p) {
  u8 head[4] = {};
  if (p->length < 4 || bpf_skb_load_bytes(skb, p->offset, head, 4)) return 1;
  return head[0] == '{' || (head[0] == 'S' && head[1] == 'S' && head[2] == 'H');
}

/* First bytes of one direction, by sequence number: what fills the beginning is sent, holes and what follows them too,
 * and user space puts it together. Returns how many bytes of this segment, from `relative` on. */
static __always_inline u32 first_bytes(struct __sk_buff *skb, struct pf_flow_state *f, struct pf_packet *p, u32 d,
                                       u32 *at) {
  u8 head = 0;
  u32 relative = f->protocol == 6 ? p->sequence - f->first[d] : 0;
  if (f->protocol == 6 && relative > 0x7fffffff) return 0; /* before the stream: a keep-alive probe */
  if (bpf_skb_load_bytes(skb, p->offset, &head, 1)) return 0;
  if (relative == 0) f->wide[d] = head == 0x16 || (f->protocol == 17 && (head & 0xc0) == 0xc0);
  /* Behind a hole at the very beginning nobody knows yet how long that is. */
  u32 limit = f->wide[d] || (relative && !f->have[d]) ? PF_FIRST_BYTES_WIDE : PF_FIRST_BYTES;
  if (relative >= limit) {
    /* Not while the beginning is to come: who holds it back must not have it passed over. */
    if (f->have[d] >= limit || (f->have[d] >= PF_SHOWS && f->segments[d] >= PF_SEGMENTS)) f->done[d] = 1;
    if (f->segments[d] < PF_SEGMENTS) f->segments[d] += 1;
    return 0;
  }
  u32 end = relative + p->length;
  if (f->protocol == 6 && end <= f->have[d]) return 0; /* sent again */
  if (relative > f->have[d] && f->segments[d] >= PF_SEGMENTS / 2) return 0; /* enough from behind a hole */
  *at = relative;
  f->segments[d] += 1;
  if (f->protocol != 6) {
    if (f->segments[d] >= (f->wide[d] ? PF_DATAGRAMS_WIDE : PF_DATAGRAMS)) f->done[d] = 1;
  } else if (relative <= f->have[d]) {
    f->have[d] = end;
    /* A whole hello, also where each of its bytes comes alone. */
  if (end >= limit || (end >= PF_SHOWS && f->segments[d] >= (f->wide[d] ? 2 : 1) * PF_SEGMENTS)) f->done[d] = 1;
  }
  return p->length < limit - relative ? p->length : limit - relative;
}

/* Every DNS message is sent, up to so many a second: names are for the cache and for the policy. Returns its bytes. */
static __always_inline u32 dns_message(struct pf_sandbox *sandbox, struct pf_flow_state *f, struct pf_packet *p,
                                       u32 incoming) {
  u64 now = bpf_ktime_get_ns();
  u32 second = now >> 30;
  if (f->dns_second != second) {
    f->dns_second = second;
    f->dns_count = 0;
  }
  f->dns_count += 1;
  if (incoming) sandbox->dns_ns = now;
  if (f->dns_count > PF_DNS_PER_SECOND) {
    count_lost(sandbox, PF_LOSS_DATAGRAMS);
    return 0;
  }
  return p->length < PF_FIRST_BYTES ? p->length : PF_FIRST_BYTES;
}

/* Data came in first, after a pause: what a relay's outer flow does before it dials inside. */
static __always_inline void on_inversion(struct pf_control *c, struct pf_sandbox *sandbox, struct pf_flow_state *f,
                                         u32 slot, u32 length, u64 idle) {
  u64 now = bpf_ktime_get_ns();
  u64 family = f->family_id;
  f->inversions += 1;
  if (family) bpf_map_update_elem(MAP(inverted), &family, &now, BPF_ANY);
  if (now - f->inversion_ns < 50000000) return;
  f->inversion_ns = now;
  u64 wake = 0;
  if (admit(c, sandbox, sizeof(struct pf_inversion), PF_PRIORITY_URGENT, &wake)) return;
  struct pf_inversion *e = bpf_ringbuf_reserve(MAP(events), sizeof(*e), 0);
  if (!e) {
    count_lost(sandbox, PF_LOSS_RING_FULL);
    return;
  }
  __sync_fetch_and_add(&sandbox->bytes_since, sizeof(*e) + 8);
  fill_flow_header(&e->header, PF_TYPE_INVERSION, sizeof(*e), f, now);
  e->cookie = f->cookie;
  e->started_ns = f->started_ns;
  e->idle_ns = idle;
  e->bytes_out = f->bytes_out;
  e->bytes_in = f->bytes_in - length; /* before this segment, which is counted already */
  e->packets_out = f->packets_out;
  e->packets_in = f->packets_in - 1;
  e->length = length;
  e->inversions = f->inversions;
  bpf_ringbuf_submit(e, wake);
}

static __always_inline void cut_flow(struct pf_flow_state *f, u8 denied) {
  f->denied = denied;
  f->flags |= PF_FLOW_FLAG_CUT;
  f->automaton = 0;
}

/* The denied protocols that are cut now, by enum pf_prefix. */
static __always_inline u32 cut_now(struct pf_control *c, struct pf_sandbox *sandbox) {
  struct pf_class *policy = class_of(sandbox);
  return policy && policy->enforce && c->armed ? policy->denied_protocols : 0;
}

/* WireGuard's first message or the answer to one, each of one length, with three bytes that are always zero: the
 * tunnel stands after either, whoever began, and whatever its socket was used for before. */
static __always_inline int is_wireguard(struct __sk_buff *skb, struct pf_packet *p) {
  u32 begin = 0;
  if (p->protocol != 17 || (p->length != 148 && p->length != 92)) return 0;
  if (bpf_skb_load_bytes(skb, p->offset, &begin, 4)) return 0;
  return begin == bpf_ntohl(p->length == 148 ? 0x01000000 : 0x02000000);
}

/* Where the stream out of an adopted flow begins, if this is its beginning. 0: it was there before the probes, or
 * lost its place in the table, and what it said at first is not known. */
static __always_inline int begins_here(struct __sk_buff *skb, struct pf_flow_state *f, struct pf_packet *p) {
  struct bpf_sock *sk = skb->sk;
  if (!sk) return 0;
  sk = bpf_sk_fullsock(sk);
  if (!sk || sk->type != 1) return 0; /* SOCK_STREAM: a raw socket that speaks TCP itself has no such counters */
  struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
  u32 segments = skb->gso_segs ? skb->gso_segs : 1;
  if (!tcp || tcp->data_segs_out > segments) return 0; /* it counts this one already */
  f->first[0] = p->sequence;
  return 1;
}

/* Bytes out through the automaton, each once and in order, whatever segments they come in. Above PF_ACCEPT: this
 * segment completes a denied protocol's prefix, so that at most one byte less than it has left. */
static __always_inline u8 feed(struct __sk_buff *skb, struct pf_flow_state *f, struct pf_packet *p, u32 denied) {
  if (!denied || (f->flags & PF_FLOW_FLAG_ADOPTED && !f->consumed && !begins_here(skb, f, p))) {
    f->automaton = 0; /* what is let through now will not be known later */
    return 0;
  }
  u32 relative = p->sequence - f->first[0];
  u32 consumed = f->consumed;
  if (relative > 0x7fffffff || relative + p->length <= consumed) return 0; /* before the stream, or sent again */
  if (relative > consumed) return PF_ACCEPT; /* a hole: what is before it must come first */
  u32 at = consumed - relative;
  u32 state = f->automaton;
  for (int i = 0; i < PF_AUTOMATON_BYTES; i++) {
    if (at >= p->length) break;
    u8 byte = 0;
    if (bpf_skb_load_bytes(skb, p->offset + at, &byte, 1)) break;
    at += 1;
    struct pf_automaton *a = bpf_map_lookup_elem(MAP(automaton), &state);
    if (!a) {
      state = 0;
      break;
    }
    u32 index = byte;
    asm volatile("%0 &= 255" : "+r"(index));
    state = a->next[index];
    if (state >= PF_ACCEPT) {
      if (denied >> (state & 31) & 1) return state;
      state = state >> 4 & 2; /* not denied here: what else it may become goes on in state 2, if there is anything */
    }
    if (!state) break;
  }
  f->consumed = relative + at;
  f->automaton = f->consumed >= PF_AUTOMATON_BYTES ? 0 : state;
  return 0;
}

/* A flow that is not in the table. TCP is put there when it is established; the rest by its first datagram. */
static __always_inline struct pf_flow_state *adopt(struct __sk_buff *skb, struct pf_control *c, struct pf_packet *p,
                                                   u32 *slot, int incoming, void *sk) {
  struct pf_flow_state *f = flow_at(*slot);
  if (!f) return 0;
  if (p->protocol == 6) {
    if (f->cookie) return 0; /* evicted by a newer one, or not established yet */
    if (p->tcp_flags & (PF_TCP_SYN | PF_TCP_RST) || !p->length) return 0;
  } else if (f->cookie) {
    if (since(coarse_now(), f->last_ns) < 1000000000) {
      /* Two that are alive must not evict each other with every packet. */
      *slot ^= 0x2aaa & (PF_FLOWS - 1);
      f = flow_at(*slot);
      if (!f) return 0;
      if (f->cookie == p->cookie && f->remote_port == p->remote_port && f->protocol == p->protocol) return f;
      if (f->cookie && since(coarse_now(), f->last_ns) < 1000000000) return 0;
    }
    if (f->cookie) evict(c, f, *slot);
  }
  clear_flow(f);
  f->sandbox_id = 0;
  f->last_ns = coarse_now();
  f->protocol = p->protocol;
  f->family = p->family;
  f->local_port = p->local_port;
  f->remote_port = p->remote_port;
  __builtin_memcpy(f->local, p->local, 16);
  __builtin_memcpy(f->remote, p->remote, 16);
  struct bpf_sock *full = skb->sk;
  if (full) full = bpf_sk_fullsock(full);
  struct pf_stamp *inherited = full ? sk_storage(MAP(listeners), full, 0, 0) : 0;
  struct pf_sandbox *sandbox = owner_of(p->cookie, sk, inherited, f);
  if (!sandbox) {
    f->cookie = p->cookie; /* nobody's: its further packets need not ask */
    return f;
  }
  f->flags = incoming ? 0 : PF_FLOW_FLAG_INITIATED;
  if (p->protocol == 6) {
    /* It was there before the probes, or lost its place to a newer one. Its beginning is gone; who began it is known
     * by a stamp of its own, which accepted sockets have not. */
    struct pf_stamp *own = stamp_at(p->cookie);
    f->flags = PF_FLOW_FLAG_ADOPTED;
    if (own && own->cookie == p->cookie) f->flags |= PF_FLOW_FLAG_INITIATED;
    f->done[0] = f->done[1] = 1;
  }
  begin_flow(c, sandbox, f, *slot, p->cookie, sk, 0);
  return f;
}

/* What a TCP socket sends before its flow is in the table, or after, and is not asked about: a listener's answer to a
 * SYN, a bare reset (of a socket that is closed already), and whatever belongs to an accepted flow, which has what was
 * stored with its listener. A SYN is always asked about: an accepted socket may be connected anew. */
static __always_inline int is_answer(struct __sk_buff *skb, struct pf_packet *p) {
  struct bpf_sock *sk = skb->sk;
  if (p->protocol != 6 || !sk) return 0;
  sk = bpf_sk_fullsock(sk);
  if (!sk || sk->type != 1) return 0; /* SOCK_STREAM: what a raw socket says is anything */
  if (p->tcp_flags & PF_TCP_RST && !p->length) return 1;
  if (p->tcp_flags & PF_TCP_SYN) return p->tcp_flags & PF_TCP_ACK && sk->state == BPF_TCP_LISTEN;
  struct pf_stamp *inherited = sk_storage(MAP(listeners), sk, 0, 0);
  return inherited && inherited->cookie != p->cookie;
}

/* A packet that no entry of the table stands for: is it where its sandbox may not go, or what it may not say? */
static __always_inline int judge_alone(struct __sk_buff *skb, struct pf_control *c, struct pf_packet *p, void *sk) {
  struct pf_stamp *stamp = stamp_at(p->cookie);
  struct pf_sandbox *sandbox = 0;
  if (stamp && stamp->cookie == p->cookie) {
    sandbox = sandbox_by_id(stamp->sandbox_id);
  } else {
    void *cgroup = 0;
    read_kernel(&cgroup, sizeof(cgroup), sk + PF_AT_sock__sk_cgrp_data + PF_AT_sock_cgroup_data__cgroup);
    sandbox = sandbox_above(cgroup);
  }
  if (!sandbox) return 1;
  struct pf_class *policy = class_of(sandbox);
  if (!policy || !policy->enforce || !c->armed) return 1;
  /* Data in a SYN (TCP Fast Open) would leave before there is a flow. The SYN that is sent again has none. */
  if (policy->denied_protocols && p->protocol == 6 && p->tcp_flags & PF_TCP_SYN && p->length) return 0;
  if (policy->denied_protocols >> PF_PREFIX_WIREGUARD & 1 && is_wireguard(skb, p)) return 0;
  if (egress_allows(policy, sandbox, p->family, p->remote, p->remote_port, p->protocol)) return 1;
  return is_answer(skb, p);
}

/* Tail-called, each for both directions or from both places: compiled and verified twice they were most of a cold
 * start, and the automaton's rounds in one program with the rest came near the verifier's million. */
#define PF_PROGRAM_PACKET 0
#define PF_PROGRAM_FEED 1
#define PF_PROGRAM_ADOPT 2

/* The packet's flow, or 0. `seen`: the remote end as the packet has it, whatever its socket thinks. */
static __always_inline struct pf_flow_state *flow_of(struct __sk_buff *skb, struct pf_packet *p, u32 *slot) {
  if (p->protocol == 17) peer_of_socket(skb, p);
  *slot = slot_of(p->cookie, p->protocol, p->remote, p->remote_port);
  struct pf_flow_state *f = flow_at(*slot);
  if (!f || f->cookie != p->cookie || f->protocol != p->protocol) return 0;
  return p->protocol == 6 || f->remote_port == p->remote_port ? f : 0;
}

/* A packet with which there is something to do. */
int on_packet(struct __sk_buff *skb) {
  struct pf_control *c = control();
  if (!c) return 1;
  u32 incoming = skb->cb[0];
  asm volatile("%0 &= 1" : "+r"(incoming));
  struct pf_packet p;
  __builtin_memset(&p, 0, sizeof(p));
  if (parse_packet(skb, &p, incoming)) return 1;
  p.cookie = bpf_get_socket_cookie(skb);
  u64 seen[2]; /* what the packet says, whatever its socket thinks */
  __builtin_memcpy(seen, p.remote, 16);
  u16 seen_port = p.remote_port;
  u32 slot = 0;
  struct pf_flow_state *f = flow_of(skb, &p, &slot);
  if (!f || !f->sandbox_id) return 1;
  struct pf_sandbox *sandbox = sandbox_by_id(f->sandbox_id);
  if (!sandbox) return 1;
  u64 *own = (u64 *)f->remote;
  int translated = 0;
  if (c->egress_any && !incoming && f->flags & PF_FLOW_FLAG_INITIATED && f->family == p.family &&
      (own[0] != seen[0] || own[1] != seen[1] || f->remote_port != seen_port)) {
    translated = 1;
    /* Whoever is root in a sandbox may have its NAT turn an allowed address into another. */
    struct pf_class *policy = class_of(sandbox);
    if (policy && policy->enforce && c->armed &&
        !egress_allows(policy, sandbox, p.family, (u8 *)seen, seen_port, p.protocol))
      return p.protocol == 6 && p.tcp_flags & PF_TCP_RST && !p.length;
  }
  if (incoming) {
    f->bytes_in += p.length;
    f->packets_in += 1;
  } else {
    f->bytes_out += p.length;
    f->packets_out += 1;
  }
  u64 now = coarse_now();
  u64 idle = since(now, f->last_ns);
  int dns = PF_IS_DNS(f);
  int first = p.length && !dns && !f->done[incoming];
  int inverted = incoming && p.length && idle > c->pause_ns && f->flags & PF_FLOW_FLAG_INITIATED;
  int late = !f->told_ns && since(now, f->started_ns) > c->flow_late_ns;
  if (p.length) f->last_ns = now;
  int cut = 0; /* just now */
  if (f->policy != c->policy || f->verdict == PF_VERDICT_EGRESS) {
    int known = f->flags & PF_FLOW_FLAG_CUT;
    judge(c, sandbox, f);
    cut = !known && f->flags & PF_FLOW_FLAG_CUT;
  }
  u32 denied = cut_now(c, sandbox);
  int stopped = f->verdict == PF_VERDICT_EGRESS || (f->denied && denied >> (f->denied & 31) & 1);
  int wireguard = !stopped && !incoming && denied >> PF_PREFIX_WIREGUARD & 1 && is_wireguard(skb, &p);
  if (wireguard) {
    cut_flow(f, PF_PREFIX_WIREGUARD);
    cut = 1;
  }
  if (!f->told_ns && first && !late && !inverted) {
    u32 relative = f->protocol == 6 ? p.sequence - f->first[incoming] : 0;
    if (relative || !is_odd(skb, &p)) {
      f->done[incoming] = 1;
      first = 0;
    }
  }
  if (!f->told_ns && (late || inverted || first)) tell_late(c, sandbox, f, slot);
  if (cut) tell_flow(c, sandbox, f, slot, PF_PHASE_SAMPLE, PF_END_NONE, PF_PRIORITY_URGENT);
  if (stopped) return p.protocol == 6 && p.tcp_flags & PF_TCP_RST && !p.length;
  if (wireguard) return 0;
  if (inverted) on_inversion(c, sandbox, f, slot, p.length, idle);
  /* A DNS question that NAT leads elsewhere is not told: without it the answer, which NAT gives the resolver's address,
   * is nobody's, and opens nothing. */
  u32 relative = 0, bytes = 0;
  if (dns && p.length && !translated)
    bytes = dns_message(sandbox, f, &p, incoming);
  else if (first)
    bytes = first_bytes(skb, f, &p, incoming, &relative);
  if (bytes) send_payload(skb, c, sandbox, f, slot, p.offset, relative, p.length, bytes, incoming);
  return 1;
}

/* A packet whose flow is not in the table. */
int on_adopt(struct __sk_buff *skb) {
  struct pf_control *c = control();
  if (!c) return 1;
  u32 incoming = skb->cb[0];
  asm volatile("%0 &= 1" : "+r"(incoming));
  struct pf_packet p;
  __builtin_memset(&p, 0, sizeof(p));
  if (parse_packet(skb, &p, incoming)) return 1;
  p.cookie = bpf_get_socket_cookie(skb);
  u32 slot = 0;
  void *sk = 0;
  READ(sk, skb, sk_buff, sk);
  struct pf_flow_state *f = flow_of(skb, &p, &slot);
  if (!f) {
    int odd = p.protocol == 17 || (p.tcp_flags & PF_TCP_SYN && p.length);
    f = adopt(skb, c, &p, &slot, incoming, sk);
    if (!f) return incoming || !(c->egress_any || odd) ? 1 : judge_alone(skb, c, &p, sk);
  }
  if (!incoming && f->automaton) tail_call(skb, MAP(packet_programs), PF_PROGRAM_FEED);
  tail_call(skb, MAP(packet_programs), PF_PROGRAM_PACKET);
  return 1;
}

/* Data out of a flow of which the automaton has not seen enough: then the rest. */
int on_feed(struct __sk_buff *skb) {
  struct pf_control *c = control();
  if (!c) return 1;
  struct pf_packet p;
  __builtin_memset(&p, 0, sizeof(p));
  if (parse_packet(skb, &p, 0)) return 1;
  p.cookie = bpf_get_socket_cookie(skb);
  u32 slot = p.cookie & (PF_FLOWS - 1);
  struct pf_flow_state *f = flow_at(slot);
  if (!f || f->cookie != p.cookie || f->protocol != 6) return 1;
  struct pf_sandbox *sandbox = sandbox_by_id(f->sandbox_id);
  if (!sandbox) return 1;
  u8 found = f->denied || !f->automaton ? 0 : feed(skb, f, &p, cut_now(c, sandbox));
  if (found > PF_ACCEPT) {
    cut_flow(f, found & 31);
    tell_flow(c, sandbox, f, slot, PF_PHASE_SAMPLE, PF_END_NONE, PF_PRIORITY_URGENT);
  }
  if (found) return 0;
  tail_call(skb, MAP(packet_programs), PF_PROGRAM_PACKET);
  return 1;
}

/* What nearly every packet costs: a look-up, a byte counter and a coarse time. The rest is the other programs', which
 * do all of it anew; where none can be called the packet passes. */
static __always_inline int count_packet(struct __sk_buff *skb, int incoming) {
  struct pf_control *c = control();
  if (!c) return 1;
  struct pf_packet p;
  __builtin_memset(&p, 0, sizeof(p));
  if (parse_packet(skb, &p, incoming)) return 1;
  p.cookie = bpf_get_socket_cookie(skb);
  if (!p.cookie) return 1;
  u64 seen[2];
  __builtin_memcpy(seen, p.remote, 16);
  u16 seen_port = p.remote_port;
  u32 slot = 0;
  skb->cb[0] = incoming;
  struct pf_flow_state *f = flow_of(skb, &p, &slot);
  if (!f) {
    /* Not established yet, pushed out by a newer one, or the first of its datagrams. */
    if (p.protocol == 6 && !p.length && !c->egress_any) return 1;
    tail_call(skb, MAP(packet_programs), PF_PROGRAM_ADOPT);
    return 1;
  }
  if (!f->sandbox_id) return 1;
  u64 now = coarse_now();
  if (f->policy != c->policy || f->verdict == PF_VERDICT_EGRESS || f->denied || PF_IS_DNS(f)) goto look;
  if (!f->told_ns && since(now, f->started_ns) > c->flow_late_ns) goto look;
  if (!incoming && p.length && f->automaton) {
    tail_call(skb, MAP(packet_programs), PF_PROGRAM_FEED);
    return 1;
  }
  if (p.length && !f->done[incoming]) goto look;
  if (incoming) {
    if (p.length && f->flags & PF_FLOW_FLAG_INITIATED && since(now, f->last_ns) > c->pause_ns) goto look;
    f->bytes_in += p.length;
    f->packets_in += 1;
  } else {
    if (p.protocol == 17 && (p.length == 148 || p.length == 92)) goto look; /* as WireGuard's handshake is */
    if (c->egress_any && f->flags & PF_FLOW_FLAG_INITIATED && f->family == p.family) {
      u64 *own = (u64 *)f->remote;
      if (own[0] != seen[0] || own[1] != seen[1] || f->remote_port != seen_port) goto look;
    }
    f->bytes_out += p.length;
    f->packets_out += 1;
  }
  if (p.length) f->last_ns = now;
  return 1;
look:
  tail_call(skb, MAP(packet_programs), PF_PROGRAM_PACKET);
  return 1;
}

int on_egress(struct __sk_buff *skb) { return count_packet(skb, 0); }
int on_ingress(struct __sk_buff *skb) { return count_packet(skb, 1); }

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
