/* Whose a socket is, and what its program image did a moment ago: for connects and for flows. */
#pragma once

/* The stamps stand in an array, by the low bits of the socket's cookie, with the whole cookie to tell whose
 * it is. A repeated connect of 12.8 us, measured with all hooks, took 1.5 us more with per-socket storage, 1.0
 * with an LRU hash, 0.4 with this. What it gives up: once PF_STAMPS newer sockets have got cookies a stamp may
 * be gone, and the socket then counts as its user's. */
#define PF_STAMPS 65536

static __always_inline struct pf_stamp *stamp_at(u64 cookie) {
  u32 index = cookie & (PF_STAMPS - 1);
  return bpf_map_lookup_elem(MAP(stamps), &index);
}

/* Whether data came in first, after a pause, on a flow of this program image a moment ago: what it dials now may
 * be a relay's other half, which is never just counted. */
static __always_inline int just_inverted(struct pf_control *c, struct pf_family *family) {
  return family && family->inversion_ns && bpf_ktime_get_ns() - family->inversion_ns < c->inversion_ns;
}

static __always_inline struct pf_family *family_of(u64 id) {
  return id ? bpf_map_lookup_elem(MAP(families), &id) : 0;
}
