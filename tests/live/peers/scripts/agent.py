"""An agent's loop: `agent.py HOST AUTHORITY itself|child`, over one connection to the LLM.

Asks, reads the stream, runs the command that it ends with, and asks again with what that said. `itself`: a command
that is a URL is fetched by this process, not by a child. Ends when no command comes; prints how many it has run.
"""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import sys
import urllib.request
from typing import Any

Message = dict[str, Any]


def ask(llm: http.client.HTTPSConnection, messages: list[Message]) -> tuple[str, str]:
    """Text and command."""
    body = json.dumps({"model": "stub", "stream": True, "max_tokens": 1024, "messages": messages})
    llm.request("POST", "/v1/messages", body, {"Content-Type": "application/json", "x-api-key": "none"})
    answer = llm.getresponse()
    text, tool = "", ""
    for line in answer:
        if line.startswith(b"data: "):
            event = json.loads(line[6:])
            text += event.get("delta", {}).get("text", "")
            tool = event.get("tool", tool)
    return text, tool


def run(tool: str, who: str) -> str:
    if who == "itself":
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(tool, timeout=10) as answer:
            return str(answer.read().decode())
    done = subprocess.run(["bash", "-c", f"curl -sS --noproxy '*' {tool}"], check=True, capture_output=True, text=True)
    return done.stdout


def main() -> None:
    host, authority, who = sys.argv[1:]
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols(["http/1.1"])
    llm = http.client.HTTPSConnection(host, context=context, timeout=30)
    messages: list[Message] = [{"role": "user", "content": "Is the server on loopback well?"}]
    ran = 0
    while True:
        text, tool = ask(llm, messages)
        messages.append({"role": "assistant", "content": text})
        if not tool:
            break
        messages.append({"role": "user", "content": run(tool, who)})
        ran += 1
    print(ran)


if __name__ == "__main__":
    main()
