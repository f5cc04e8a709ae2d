"""A stub LLM: `llm.py ADDRESS PORT CERTIFICATE TOOL THINK_S TURNS`.

Answers every POST with a stream of events (text/event-stream, chunked) on a connection that is kept: thinks, then text
in pieces, then the command TOOL to be run; after TURNS of them none.
"""

from __future__ import annotations

import http.server
import json
import ssl
import sys
import time
from typing import ClassVar

PIECES = 25
PIECE_S = 0.005


class Llm(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tool: ClassVar[str]
    think_s: ClassVar[float]
    turns: ClassVar[int]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        time.sleep(self.think_s)
        for number in range(PIECES):
            self.event(
                {"type": "content_block_delta", "delta": {"type": "text_delta", "text": f"piece {number} of it "}}
            )
            time.sleep(PIECE_S)
        turns = sum(message["role"] == "assistant" for message in asked["messages"])
        self.event({"type": "message_stop", "tool": self.tool if turns < self.turns else ""})
        self.wfile.write(b"0\r\n\r\n")

    def event(self, event: dict[str, object]) -> None:
        data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def main() -> None:
    address, port, certificate, Llm.tool, think_s, turns = sys.argv[1:]
    Llm.think_s, Llm.turns = float(think_s), int(turns)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate)
    with http.server.ThreadingHTTPServer((address, int(port)), Llm) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.serve_forever()


if __name__ == "__main__":
    main()
