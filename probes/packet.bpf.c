/* Packets of sandboxes, both ways: counted, their first bytes told, and what a relay does noticed. */

#define PF_FIRST_BYTES 1024
#define PF_FIRST_BYTES_WIDE 4096 /* post-quantum hellos are longer than a kilobyte */
#define PF_SEGMENTS 512          /* of a direction, at most: a miner may write its first line byte by byte */
#define PF_SHOWS 64              /* bytes from the first on that show a protocol */
#define PF_DATAGRAMS 1
#define PF_DATAGRAMS_WIDE 3      /* a QUIC hello may need that many */
#define PF_DNS_PER_SECOND 64
#define PF_IS_DNS(f) ((f)->protocol == 17 && ((f)->remote_port == 53 || (f)->local_port == 53))

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

/* Tail-called, each for both directions or from both places: compiled and verified twice they were most of a cold
 * start, and the automaton's rounds in one program with the rest came near the verifier's million. */
#define PF_PROGRAM_PACKET 0
#define PF_PROGRAM_FEED 1
#define PF_PROGRAM_ADOPT 2
#define PF_PROGRAM_PAYLOAD 3
#define PF_PROGRAM_JUDGE 4

/* Where a datagram flow stands whose place is held by a livelier one. */
static __always_inline u32 other_place(u32 slot) { return slot ^ (0x2aaa & (PF_FLOWS - 1)); }

static __always_inline int is_flow(struct pf_flow_state *f, struct pf_packet *p) {
  if (!f || f->cookie != p->cookie || f->protocol != p->protocol) return 0;
  return p->protocol == 6 || f->remote_port == p->remote_port;
}

/* The packet's flow, or 0. Of a connected datagram socket `p` then has the peer as the socket thinks it is. Both places
 * are looked at by every program: one that is found by some only would not be judged. */
static __always_inline struct pf_flow_state *flow_of(struct __sk_buff *skb, struct pf_packet *p, u32 *slot) {
  if (p->protocol == 17) peer_of_socket(skb, p);
  *slot = slot_of(p->cookie, p->protocol, p->remote, p->remote_port);
  struct pf_flow_state *f = flow_at(*slot);
  if (is_flow(f, p)) return f;
  if (p->protocol == 6) return 0;
  u32 other = other_place(*slot);
  f = flow_at(other);
  if (!is_flow(f, p)) return 0;
  *slot = other;
  return f;
}

/* What has no payload is not counted: of TCP not every such packet is looked at. */
static __always_inline void count(struct pf_flow_state *f, struct pf_packet *p, u32 incoming, u64 now) {
  if (!p->length) return;
  f->last_ns = now;
  if (incoming) {
    f->bytes_in += p->length;
    f->packets_in += 1;
  } else {
    f->bytes_out += p->length;
    f->packets_out += 1;
  }
}

/* What a tail-called program begins with: it has nothing of its caller's but the words that are kept with the packet.
 * 0: of no concern, let it pass. */
static __always_inline struct pf_control *called(struct __sk_buff *skb, struct pf_packet *p, u32 *incoming) {
  __builtin_memset(p, 0, sizeof(*p));
  u32 direction = skb->cb[0];
  asm volatile("%0 &= 1" : "+r"(direction));
  *incoming = direction;
  struct pf_control *c = control();
  if (!c || parse_packet(skb, p, direction)) return 0;
  p->cookie = bpf_get_socket_cookie(skb);
  return c;
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

/* Of a flow that was only counted so far: what may be SSH or JSON lines, or comes in crumbs, is worth the record. */
static __always_inline int is_beginning(struct __sk_buff *skb, struct pf_flow_state *f, struct pf_packet *p, u32 d) {
  u8 head[4] = {};
  if (f->protocol == 6 && p->sequence != f->first[d]) return 0;
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
  u64 id = f->family_id;
  struct pf_family *family = family_of(id);
  f->inversions += 1;
  if (family) {
    family->inversion_ns = now;
  } else if (id) {
    struct pf_family fresh = {};
    fresh.inversion_ns = now;
    bpf_map_update_elem(MAP(families), &id, &fresh, BPF_ANY);
  }
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

/* The kernel's own socket: the context's is another view of it. */
static __always_inline void *socket_of(void *skb) {
  void *sk = 0;
  READ(sk, skb, sk_buff, sk);
  return sk;
}

/* By reason of a packet: that a flow lives still, or was only counted so far. */
static __always_inline void tell_now(struct __sk_buff *skb, struct pf_control *c, struct pf_sandbox *sandbox,
                                     struct pf_flow_state *f, u32 slot) {
  u8 phase = f->told_ns ? PF_PHASE_SAMPLE : PF_PHASE_ESTABLISHED;
  if (!f->told_ns) make_late(f);
  read_socket(f, socket_of(skb));
  /* Whoever floods its part of the ring first would be cut unheard, and keep its socket: so with the next packet. */
  if (tell_flow(c, sandbox, f, slot, phase, PF_END_NONE, PF_PRIORITY_URGENT)) f->flags &= ~PF_FLOW_FLAG_CUT;
}

static __always_inline int refused(struct pf_flow_state *f) {
  return f->verdict == PF_VERDICT_EGRESS || f->verdict == PF_VERDICT_QUARANTINE;
}

static __always_inline void to_packet(struct __sk_buff *skb, struct pf_control *c, struct pf_flow_state *f) {
  if (c->judges_packets || f->policy != c->policy || refused(f) || f->denied)
    tail_call(skb, MAP(packet_programs), PF_PROGRAM_JUDGE);
  else
    tail_call(skb, MAP(packet_programs), PF_PROGRAM_PACKET);
}

/* A packet that passes, and with which there is something to do. */
int on_packet(struct __sk_buff *skb) {
  struct pf_packet p;
  u32 incoming = 0;
  struct pf_control *c = called(skb, &p, &incoming);
  if (!c) return 1;
  u32 slot = 0;
  struct pf_flow_state *f = flow_of(skb, &p, &slot);
  if (!f || !f->sandbox_id) return 1;
  struct pf_sandbox *sandbox = sandbox_by_id(f->sandbox_id);
  if (!sandbox) return 1;
  u64 now = coarse_now();
  u64 idle = since(now, f->last_ns);
  int dns = PF_IS_DNS(f);
  int first = p.length && !dns && !f->done[incoming];
  int inverted = incoming && p.length && idle > c->pause_ns && f->flags & PF_FLOW_FLAG_INITIATED;
  count(f, &p, incoming, now);
  if (!f->told_ns) {
    int late = inverted || since(now, f->started_ns) > c->flow_late_ns;
    if (first && !late && !is_beginning(skb, f, &p, incoming)) {
      f->done[incoming] = 1;
      first = 0;
    }
    if (late || first) tell_now(skb, c, sandbox, f, slot);
  }
  if (inverted) on_inversion(c, sandbox, f, slot, p.length, idle);
  /* A DNS question that NAT leads elsewhere is not told: without it the answer, which NAT gives the resolver's address,
   * is nobody's, and opens nothing. */
  u32 relative = 0, bytes = 0;
  if (dns && p.length && !skb->cb[3])
    bytes = dns_message(sandbox, f, &p, incoming);
  else if (first)
    bytes = first_bytes(skb, f, &p, incoming, &relative);
  if (!bytes) return 1;
  skb->cb[1] = relative;
  skb->cb[2] = bytes;
  tail_call(skb, MAP(packet_programs), PF_PROGRAM_PAYLOAD);
  return 1;
}

/* Its first bytes are sent. */
int on_payload(struct __sk_buff *skb) {
  struct pf_packet p;
  u32 incoming = 0;
  struct pf_control *c = called(skb, &p, &incoming);
  if (!c) return 1;
  u32 slot = 0;
  struct pf_flow_state *f = flow_of(skb, &p, &slot);
  struct pf_sandbox *sandbox = f ? sandbox_by_id(f->sandbox_id) : 0;
  if (sandbox) send_payload(skb, c, sandbox, f, slot, p.offset, skb->cb[1], p.length, skb->cb[2], incoming);
  return 1;
}

/* TCP behind a plain IP header, and of it only what counting needs: no addresses. 0: it is something else. */
static __always_inline int parse_plain_tcp(struct __sk_buff *skb, struct pf_packet *p) {
  u8 *h = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
  if (h + 40 > end) return 0;
  u32 header = h[0] == 0x45 ? 20 : 40;
  if (header == 20 ? h[9] != 6 : h[0] >> 4 != 6 || h[6] != 6) return 0;
  u8 *tcp = h + header;
  if (tcp + 20 > end) return 0;
  p->protocol = 6;
  p->offset = header + (tcp[12] >> 4) * 4;
  p->length = skb->len > p->offset ? skb->len - p->offset : 0;
  p->sequence = bpf_ntohl(*(u32 *)(tcp + 4));
  return 1;
}

/* What nearly every packet costs: a look-up, a byte counter and a coarse time. The rest is the other programs', which
 * do all of it anew; where none can be called the packet passes. */
static __always_inline int count_packet(struct __sk_buff *skb, int incoming) {
  struct pf_control *c = control();
  if (!c) return 1;
  struct pf_packet p;
  __builtin_memset(&p, 0, sizeof(p));
  if (c->judges_packets || !parse_plain_tcp(skb, &p)) {
    if (parse_packet(skb, &p, incoming)) return 1;
  } else if (!p.length) {
    return 1; /* four packets in five of a short connection */
  }
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
    tail_call(skb, MAP(packet_programs), PF_PROGRAM_ADOPT);
    return 1;
  }
  if (!f->sandbox_id) return 1;
  /* Before all else: what passes without it is a hole, behind which nothing passes any more. */
  if (!incoming && p.length && f->automaton) {
    tail_call(skb, MAP(packet_programs), PF_PROGRAM_FEED);
    return 1;
  }
  u64 now = coarse_now();
  if (f->policy != c->policy || refused(f) || f->denied || PF_IS_DNS(f)) goto look;
  if (!f->told_ns && since(now, f->started_ns) > c->flow_late_ns) goto look;
  if (incoming) {
    if (p.length && f->flags & PF_FLOW_FLAG_INITIATED && since(now, f->last_ns) > c->pause_ns) goto look;
  } else {
    if (p.protocol == 17 && (p.length == 148 || p.length == 92)) goto look; /* as WireGuard's handshake is */
    if (c->egress_any && f->flags & PF_FLOW_FLAG_INITIATED && f->family == p.family) {
      u64 *own = (u64 *)f->remote;
      if (own[0] != seen[0] || own[1] != seen[1] || f->remote_port != seen_port) goto look;
    }
  }
  if (p.length && !f->done[incoming]) {
    if (f->told_ns || is_beginning(skb, f, &p, incoming)) goto look;
    f->done[incoming] = 1;
  }
  count(f, &p, incoming, now);
  return 1;
look:
  to_packet(skb, c, f);
  return 1;
}

int on_egress(struct __sk_buff *skb) { return count_packet(skb, 0); }
int on_ingress(struct __sk_buff *skb) { return count_packet(skb, 1); }
