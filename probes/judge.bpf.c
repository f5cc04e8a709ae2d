/* Packets on their way that a policy has something to say about, and those whose flow is not in the table. */

#define PF_ACCEPT 192
#define PF_AUTOMATON_BYTES 256   /* of the stream out that are looked at */
#define PF_AUTOMATON_STATES 192

static __always_inline void cut_flow(struct pf_flow_state *f, u8 denied) {
  f->denied = denied;
  f->flags |= PF_FLOW_FLAG_CUT;
  f->automaton = 0;
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
      *slot = other_place(*slot);
      f = flow_at(*slot);
      if (!f) return 0;
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
  struct pf_stamp *stamp = stamp_of(p->cookie, full ? sk_storage(MAP(listeners), full, 0, 0) : 0);
  if (!find_owner(f, stamp, stamp ? 0 : cgroup_of(sk))) {
    f->cookie = p->cookie; /* nobody's: its further packets need not ask */
    return f;
  }
  f->flags = incoming ? 0 : PF_FLOW_FLAG_INITIATED;
  if (p->protocol == 6) {
    /* It was there before the probes, or lost its place to a newer one. Its beginning is gone; who began it is known
     * by a stamp of its own, which accepted sockets have not. */
    f->flags = PF_FLOW_FLAG_ADOPTED;
    if (stamp && stamp->cookie == p->cookie) f->flags |= PF_FLOW_FLAG_INITIATED;
    f->done[0] = f->done[1] = 1;
  }
  struct pf_family *family = f->flags & PF_FLOW_FLAG_INITIATED ? family_of(f->family_id) : 0;
  if (begin_flow(c, f, p->cookie, family)) tell_begun(c, f, *slot, sk, 0);
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
static __always_inline int judge_alone(struct __sk_buff *skb, struct pf_control *c, struct pf_packet *p, void *sk,
                                       int incoming) {
  struct pf_stamp *stamp = stamp_of(p->cookie, 0);
  struct pf_sandbox *sandbox = stamp ? sandbox_by_id(stamp->sandbox_id) : sandbox_above(cgroup_of(sk));
  if (!sandbox) return 1;
  if (cut_off(quarantine_of(c, sandbox->id), p->family, p->remote))
    return p->protocol == 6 && p->tcp_flags & PF_TCP_RST && !p->length;
  if (incoming) return 1;
  struct pf_class *policy = class_of(sandbox);
  if (!policy || !policy->enforce || !c->armed) return 1;
  /* Data in a SYN (TCP Fast Open) would leave before there is a flow. The SYN that is sent again has none. */
  if (policy->denied_protocols && p->protocol == 6 && p->tcp_flags & PF_TCP_SYN && p->length) return 0;
  if (policy->denied_protocols >> PF_PREFIX_WIREGUARD & 1 && is_wireguard(skb, p)) return 0;
  if (egress_allows(policy, sandbox, p->family, p->remote, p->remote_port, p->protocol)) return 1;
  return is_answer(skb, p);
}

/* Is it where its sandbox may not go, or of a flow that is cut? Of its own, since all its ways times all those of the
 * next program came to half a million steps of the verifier's. */
int on_judge(struct __sk_buff *skb) {
  struct pf_packet p;
  u32 incoming = 0;
  struct pf_control *c = called(skb, &p, &incoming);
  if (!c) return 1;
  u64 seen[2]; /* what the packet says, whatever its socket thinks */
  __builtin_memcpy(seen, p.remote, 16);
  u16 seen_port = p.remote_port;
  u32 slot = 0;
  struct pf_flow_state *f = flow_of(skb, &p, &slot);
  if (!f || !f->sandbox_id) return 1;
  struct pf_sandbox *sandbox = sandbox_by_id(f->sandbox_id);
  if (!sandbox) return 1;
  int reset = p.protocol == 6 && p.tcp_flags & PF_TCP_RST && !p.length; /* a bare one passes: it ends what is cut */
  u64 *own = (u64 *)f->remote;
  if (c->egress_any && !incoming && f->flags & PF_FLOW_FLAG_INITIATED && f->family == p.family &&
      (own[0] != seen[0] || own[1] != seen[1] || f->remote_port != seen_port)) {
    skb->cb[3] = 1; /* translated */
    /* Whoever is root in a sandbox may have its NAT turn an allowed address into another. */
    struct pf_class *policy = class_of(sandbox);
    if (policy && policy->enforce && c->armed &&
        !egress_allows(policy, sandbox, p.family, (u8 *)seen, seen_port, p.protocol))
      return reset;
  }
  int known = f->flags & PF_FLOW_FLAG_CUT;
  if (f->policy != c->policy || refused(f)) judge(c, sandbox, f);
  u32 denied = cut_now(c, sandbox);
  int spoken = f->denied && denied >> (f->denied & 31) & 1;
  int stopped = refused(f) || spoken;
  if (spoken) f->flags |= PF_FLOW_FLAG_CUT;
  int wireguard = !stopped && !incoming && denied >> PF_PREFIX_WIREGUARD & 1 && is_wireguard(skb, &p);
  if (wireguard) cut_flow(f, PF_PREFIX_WIREGUARD);
  /* A flow that is cut while it is only counted would keep its socket. */
  if (f->flags & PF_FLOW_FLAG_CUT && (!known || !f->told_ns)) tell_now(skb, c, sandbox, f, slot);
  if (stopped) return reset;
  if (wireguard) return 0;
  tail_call(skb, MAP(packet_programs), PF_PROGRAM_PACKET);
  return 1;
}

/* A packet whose flow is not in the table. */
int on_adopt(struct __sk_buff *skb) {
  struct pf_packet p;
  u32 incoming = 0;
  struct pf_control *c = called(skb, &p, &incoming);
  if (!c) return 1;
  u32 slot = 0;
  void *sk = socket_of(skb);
  struct pf_flow_state *f = flow_of(skb, &p, &slot);
  if (!f) {
    int odd = p.protocol == 17 || (p.tcp_flags & PF_TCP_SYN && p.length);
    f = adopt(skb, c, &p, &slot, incoming, sk);
    if (!f && c->judges_packets & PF_JUDGES_QUARANTINE) return judge_alone(skb, c, &p, sk, incoming);
    if (!f) return incoming || !(c->egress_any || odd) ? 1 : judge_alone(skb, c, &p, sk, 0);
  }
  if (!incoming && f->automaton) tail_call(skb, MAP(packet_programs), PF_PROGRAM_FEED);
  to_packet(skb, c, f);
  return 1;
}

/* Data out of a flow of which the automaton has not seen enough: then the rest. */
int on_feed(struct __sk_buff *skb) {
  struct pf_packet p;
  u32 incoming = 0;
  struct pf_control *c = called(skb, &p, &incoming);
  if (!c) return 1;
  u32 slot = p.cookie & (PF_FLOWS - 1);
  struct pf_flow_state *f = flow_at(slot);
  if (!f || f->cookie != p.cookie || f->protocol != 6) return 1;
  struct pf_sandbox *sandbox = sandbox_by_id(f->sandbox_id);
  if (!sandbox) return 1;
  u8 found = f->denied || !f->automaton ? 0 : feed(skb, f, &p, cut_now(c, sandbox));
  if (found > PF_ACCEPT) {
    cut_flow(f, found & 31);
    tell_now(skb, c, sandbox, f, slot);
  }
  if (found) return 0;
  to_packet(skb, c, f);
  return 1;
}
