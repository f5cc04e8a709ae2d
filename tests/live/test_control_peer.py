"""A process of a real cgroup asks the control socket, as root. Needs root and a cgroup2 mount."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.control.service import PATIENCE_S, serving
from tests.live.test_kill import ENTER, Cgroup, mount, sandbox

__all__ = ["sandbox"]

ASK = "import sys; from sensor.control.client import Client; print(Client(sys.argv[1]).status())"
REPOSITORY = str(Path(__file__).resolve().parents[2])


def _ask(socket: Path, cgroup: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ENTER, str(cgroup), sys.executable, "-c", ASK, str(socket)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=2 * PATIENCE_S, check=False)


def test_root_in_a_sandbox_is_refused_and_root_outside_is_served(tmp_path: Path, sandbox: Cgroup) -> None:
    nested = Cgroup(sandbox.directory, "nested")
    inside = "/" + sandbox.directory.name + "/"
    with serving(tmp_path, lambda _tgid, path: (path + "/").startswith(inside)) as service:
        for cgroup in (sandbox.directory, nested.directory):
            refused = _ask(service.control_path, cgroup)
            assert refused.returncode == 1
            assert "the daemon refuses to answer this process" in refused.stderr
        assert service.asked["status"] == 0
        served = _ask(service.control_path, mount())
        assert served.stdout == "{'state': 'watching'}\n"
        # One each; a client that is refused looks once more whether anybody listens, and is refused again.
        assert 2 <= service.api_count("pinfold_api_refused_total", "sandboxed") <= 4
