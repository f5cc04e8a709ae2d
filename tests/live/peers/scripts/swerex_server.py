"""A server like SWE-ReX's in its sandboxes: `swerex_server.py ADDRESS PORT`, JSON over HTTP that comes from outside.

/execute runs a command of its own, /run_in_session runs it in one bash.
"""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
from typing import ClassVar

from tests.live.peers.scripts.bash_session import BashSession


class Api(http.server.BaseHTTPRequestHandler):
    session: ClassVar[BashSession]

    def do_POST(self) -> None:
        command = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["command"]
        if self.path == "/run_in_session":
            said = self.session.run(command)
        else:
            said = subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True, text=True).stdout
        body = json.dumps({"output": said}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    Api.session = BashSession()
    with http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Api) as server:
        server.serve_forever()
