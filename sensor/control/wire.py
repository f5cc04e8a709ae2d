"""What core and api say to each other over their SOCK_SEQPACKET pair: one message a packet.

A request is an id and a word; `admit` comes with the accepted connection itself, so that the core asks
the kernel who is at its other end, and not the api. `call` carries its arguments in the packet, since a
descriptor of the api's making is something that the core could block on. A reply is the request's id, a
status, and either a few bytes of text or a memfd that holds the answer: so a reply of any size is one
small packet, which is sent at once or not at all, and the core never waits for an api that does not read.
"""

from __future__ import annotations

from struct import Struct

REQUEST = Struct("<I")  # id, then the word in ASCII
REPLY = Struct("<IB")  # id, status, then text
ADMISSION = Struct("<I")  # behind LEAVE
CALL = Struct("<I64s")  # behind CALL_WORD: admission, the operation's name padded with NULs; then JSON
LOG = Struct("<QQ")  # behind LOG_WORD: device and inode of the log's file that was read to its end; 0: of none

MOST_BODY = 64 * 1024  # of a call's arguments as JSON
MOST_REQUEST = 128 + MOST_BODY
MOST_REPLY = 256
MOST_ANSWER = 64 * 1024 * 1024

READY_ID = 0  # of the request by which the api says that it serves; it gets no reply
READY_WORD = b"ready"
ADMIT_WORD = b"admit "  # then the listener's kind; with the connection. Text: `ID UID LEVEL`, or why not
LEAVE_WORD = b"leave "  # the connection is closed; no reply
CALL_WORD = b"call "
LOG_WORD = b"log "  # a descriptor of the log's next file; none where the one that was named goes on

OK = 0
REFUSED = 1  # text: why the peer gets nothing
FAILED = 2  # of a name without arguments; text: why
# Of a call; the answer is {"error": …}. The codes of the HTTP answers, in this order.
CODES = ("usage", "not_found", "denied", "conflict", "busy", "failed")
FIRST_CODE = 3
