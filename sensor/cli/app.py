"""The command line's root, and what becomes of its errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from sensor.cli.arming import arm, disarm
from sensor.cli.bugtool import bugtool
from sensor.cli.completion import completion
from sensor.cli.demo import demo
from sensor.cli.detections import detections
from sensor.cli.doctor import doctor
from sensor.cli.escape import escape
from sensor.cli.events import events
from sensor.cli.killing import kill
from sensor.cli.policy import policy
from sensor.cli.quarantine import quarantine
from sensor.cli.record import record
from sensor.cli.replay import replay
from sensor.cli.rules import rules
from sensor.cli.run import run
from sensor.cli.sandbox import sandbox
from sensor.cli.status import status
from sensor.cli.top import top
from sensor.errors import PinfoldError

ERROR, USAGE, DENIED, INTERRUPTED = 1, 2, 4, 130


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done; 1 error: this host or the sensor cannot do it; 2 wrong usage or configuration, no "
    "reason given, a name that several have; 3 not found; 4 permission denied; 5 the daemon does not answer; "
    "10 findings present (--check, policy check, policy test, rules test --baseline); 130 interrupted.",
)
@click.version_option(package_name="pinfold", message="%(prog)s %(version)s")
def cli() -> None:
    """pinfold watches the sandboxes of AI agents from the kernel."""


for command in (
    *(run, demo, doctor, status, events, rules, sandbox, quarantine, kill, policy),
    *(detections, top, record, replay, bugtool, disarm, arm, completion),
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status. No traceback for what an operator can mend."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding must not raise
    try:
        status = cli.main(arguments, prog_name="pinfold", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as why:
        why.show()
        return USAGE if isinstance(why, click.UsageError) else ERROR
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes at exit once more, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except PinfoldError as why:
        complain(str(why))
        return why.exit_status
    except OSError as why:
        complain(f"{why.filename}: {why.strerror}" if why.filename is not None else str(why.strerror or why))
        return DENIED if isinstance(why, PermissionError) else ERROR
    return status if isinstance(status, int) else 0


def complain(text: str) -> None:
    for line in text.splitlines() or ["failed, without a reason"]:
        click.echo(f"pinfold: {escape(line)}", err=True)
