"""Tor's TLS by its server name: random, for no name would look suspicious and the true one would betray it.

tor_tls_new (src/lib/tls/tortls_openssl.c) takes `crypto_random_hostname(4, 25, "www.", ".com")`: so many
letters of base32; its certificates have 8 to 20 of them, and .net. It offers no ALPN. That is a likeness,
never a proof; obfs4 and Snowflake do not show it.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

from msgspec.structs import replace

from sensor.enrich.protocols.result import Found

DIALECT = "tor-like"
SHORTEST, LONGEST = 8, 25  # what is shorter is too like an abbreviation
_PREFIX = "www."
_SUFFIXES = (".com", ".net")
_BASE32 = frozenset("abcdefghijklmnopqrstuvwxyz234567")
# The commonest pairs of letters: two in five pairs of an ordinary name are among them, of random ones 70 in 1024.
_PAIRS = (
    "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi "
    "ri ro ic ne ea ra ce li ch ll be ma si om ur el la ta di ec ca ho us ss ac il et no ol tr wi ee sh ge un"
)
_COMMON = frozenset(_PAIRS.split())
# Logarithms of how much likelier each is in an ordinary name than in a random one: log(0.42 / 0.068) for a common
# pair, log(0.58 / 0.932) for another; for the digits of base32 and for j, q, x, z (of which every tenth random
# letter is, and one in 60 of a name) and for all other letters likewise.
_PAIR, _NO_PAIR = 1.8, -0.47
_LETTER, _RARE = 0.3, 2.0
# log(1 / 25): Tor would have to be one in 25 of the hellos that come this far, which is generous to it.
_LIKENESS_MIN = -3.2
CACHED = 1024


def refine(found: Found) -> Found:
    """A ClientHello that may be Tor's, said so and not for certain; any other as it was."""
    name = found.server_name
    if (
        found.alpn
        or found.protocol != "tls"
        or not name.startswith(_PREFIX)
        or not name.endswith(_SUFFIXES)
        or found.kind != "client_hello"
        or not looks_random(name[4:-4])
    ):
        return found
    return replace(found, dialect=DIALECT, certain=False)


@lru_cache(CACHED)
def looks_random(name: str) -> bool:
    """Base32 letters of Tor's lengths, and far likelier to be random than to be somebody's name."""
    if not SHORTEST <= len(name) <= LONGEST or not _BASE32.issuperset(name):
        return False
    pairs = sum(pair in _COMMON for pair in map("".join, pairwise(name)))
    digits = sum(map(name.count, "234567"))
    rare = sum(map(name.count, "jqxz"))
    letters = len(name) - digits - rare
    likeness = _PAIR * pairs + _NO_PAIR * (len(name) - 1 - pairs) + _LETTER * letters - _RARE * (digits + rare)
    return likeness < _LIKENESS_MIN
