"""What core and api say to each other over their SOCK_SEQPACKET pair: one message a packet.

A request is an id and a name; `peer` comes with a peer's tgid and, where the kernel has SO_PEERPIDFD,
its pidfd. A reply is the request's id, a status, and either a few bytes of text or a memfd that holds
the answer: so a reply of any size is one small packet, which is sent at once or not at all, and the
core never waits for an api that does not read.
"""

from __future__ import annotations

from struct import Struct

REQUEST = Struct("<I")  # id, then the name in ASCII
REPLY = Struct("<IB")  # id, status, then text
PEER = Struct("<I")  # behind PEER_NAME: the tgid

MOST_REQUEST = 64
MOST_REPLY = 256
MOST_ANSWER = 64 * 1024 * 1024

READY_ID = 0  # of the request by which the api says that it serves; it gets no reply
READY_NAME = b"ready"
PEER_NAME = b"peer "

OK = 0
REFUSED = 1  # text: why
FAILED = 2  # text: why
