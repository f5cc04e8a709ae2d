/* Where a class's sandboxes may go: asked by the connect hooks, and again for packets. */

#define PF_EGRESS_LIMITED 1
#define PF_EGRESS_LOOPBACK_TOO 2
#define PF_EGRESS_RANGES 8
/* A connect this soon after a DNS answer is left to the packets, which wait for the reader to write the name down. */
#define PF_NAME_GRACE_NS 250000000

/* Whether an address is this host talking to itself: 127/8, ::1, the unspecified addresses, which
 * Linux takes for loopback, and their mapped forms. */
static __always_inline int is_local(u16 family, u8 *address) {
  u32 *word = (u32 *)address;
  if (family == 2) return address[0] == 127 || word[0] == 0;
  if (word[0] | word[1]) return 0;
  if (word[2] == 0) return word[3] == 0 || word[3] == bpf_htonl(1);
  return word[2] == bpf_htonl(0xffff) && (address[12] == 127 || word[3] == 0);
}

/* Loopback stays open to who has a network namespace of its own, if the operator wants it. */
static __always_inline int cut_off(u32 deny, u16 family, u8 *address) {
  return deny & PF_DENY_NETWORK && (deny & PF_DENY_LOOPBACK || !is_local(family, address));
}

static __always_inline int in_ranges(struct pf_egress *allowed, u16 port, u8 protocol) {
  for (int i = 0; i < PF_EGRESS_RANGES; i++) {
    if (i >= allowed->count) break;
    if (allowed->protocol[i] && allowed->protocol[i] != protocol) continue;
    if (port >= allowed->low[i] && port <= allowed->high[i]) return 1;
  }
  return 0;
}

/* Both forms of an IPv4 address are looked up as ::ffff:a.b.c.d. */
static __always_inline void as_six(u8 *to, u16 family, u8 *address) {
  u32 *word = (u32 *)to, *from = (u32 *)address;
  word[0] = family == 2 ? 0 : from[0];
  word[1] = family == 2 ? 0 : from[1];
  word[2] = family == 2 ? bpf_htonl(0xffff) : from[2];
  word[3] = family == 2 ? from[0] : from[3];
}

static __always_inline int egress_allows(struct pf_class *policy, struct pf_sandbox *sandbox, u16 family, u8 *address,
                                         u16 port, u8 protocol) {
  if (!(policy->egress_limited & PF_EGRESS_LIMITED)) return 1;
  if (protocol != 6 && protocol != 17) port = 0; /* of a ping or SCTP socket the caller makes it up */
  if (!(policy->egress_limited & PF_EGRESS_LOOPBACK_TOO) && is_local(family, address)) return 1;
  struct pf_egress_key key = {};
  key.prefix = 160;
  key.class_id = bpf_htonl(sandbox->class_id);
  as_six(key.address, family, address);
  struct pf_egress *allowed = bpf_map_lookup_elem(MAP(egress), &key);
  if (allowed && in_ranges(allowed, port, protocol)) return 1;
  if (!policy->egress_names) return 0;
  struct pf_name_key name = {};
  name.sandbox_id = sandbox->id;
  as_six(name.address, family, address);
  struct pf_name *known = bpf_map_lookup_elem(MAP(egress_names), &name);
  return known && known->until_ns > bpf_ktime_get_ns() && in_ranges(&known->ports, port, protocol);
}

/* Whether a refusal may be for want of a name that the reader is about to write down. */
static __always_inline int name_may_come(struct pf_class *policy, struct pf_sandbox *sandbox) {
  return policy->egress_names && bpf_ktime_get_ns() - sandbox->dns_ns < PF_NAME_GRACE_NS;
}
