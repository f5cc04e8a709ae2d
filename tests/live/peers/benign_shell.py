"""The benign set: what an agent's tool calls are mostly made of, through bash."""

from __future__ import annotations

from pathlib import Path

from tests.live.peers.benign_builds import MAKEFILE
from tests.live.peers.benign_servers import url_of
from tests.live.peers.network import Network
from tests.live.peers.outing import Outing, outing
from tests.live.running import Sandbox

GIT = "git -c user.name=work -c user.email=work@localhost -c commit.gpgsign=false -c init.defaultBranch=main"
CALLS = (
    f"{GIT} init -q . && {GIT} add -A && {GIT} commit -qm 'Begin' && git status --short && git log --oneline | head -3",
    "grep -rn answer . --include='*.c' | sort | uniq -c | sort -rn | head; find . -name '*.c' -size -10k | xargs wc -l",
    "sed -i 's/42/43/' quick.c && git diff --stat && cat quick.c | tee copy.txt | tail -n 1",
    "make -s && ls -la && file all 2>/dev/null; stat -c %a all; ./all; echo $?",
    "printf '#!/bin/sh\\necho built\\n' > build.sh && chmod +x build.sh && ./build.sh && bash -x ./build.sh",
    "python3 -m venv --without-pip env && . env/bin/activate && python -c 'import json; print(json.dumps([1]))'",
    "python3 - <<'X'\nimport subprocess, sys\nprint(subprocess.run(['uname', '-a'], capture_output=True).stdout)\nX",
    "tar czf /tmp/$$.tgz --exclude=.git . && tar tzf /tmp/$$.tgz | wc -l; rm -f /tmp/$$.tgz",
    "echo aGVsbG8= | base64 -d | xxd 2>/dev/null; echo hello | base64 | sha256sum | cut -c1-8",
    "ps aux | head -5; df -h . ; free -m | head -2; id; uname -r; env | sort | head -3; cat /etc/os-release | head -2",
    "(sleep 30 & echo $! > pid; wait) & sleep 0.3; kill $(cat pid); wait; timeout 2 sleep 0.1; nohup true",
    "curl -s --noproxy '*' {url} | head -c 100 | wc -c; curl -s --noproxy '*' -o page.html {url}",
    "mkdir -p ~/.cache/x && cp quick.c ~/.cache/x/ && mv ~/.cache/x/quick.c /tmp/$$.c && rm -rf ~/.cache /tmp/$$.c",
    "which gcc python3 node; node -e 'console.log(6*7)'; awk 'BEGIN { print 6*7 }'; perl -e 'print 42' || true",
)


def call(out: Outing, command: str) -> str:
    return out.run("/bin/bash", "-lc", command, env={"LANG": "C.UTF-8"})


def agent_shell(network: Network, sandbox: Sandbox, folder: Path) -> None:
    with outing(network, sandbox, folder) as out:
        out.stage.serve()
        (out.folder / "quick.c").write_text("int main(void) { return 42 - 42; }\n")
        (out.folder / "Makefile").write_text(MAKEFILE)
        said = [call(out, command.replace("{url}", url_of(out))) for command in CALLS]
        assert "built" in said[4]
        assert said[11].split() == ["100"]
