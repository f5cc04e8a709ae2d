"""Every exception that pinfold raises, as one tree.

PinfoldError
├── UsageError          the operator's input is wrong: exit status 2
│   └── ConfigError     a configuration, policy or class
├── RuleError           a Sigma rule that cannot be loaded: file, line, reason
├── HostError           this host lacks something: exit status 1, and the message says what to do
│   ├── BtfError        no BTF, or a member that the probes read is not in it
│   ├── LoadError       the kernel refused a program; `log` keeps the verifier's whole output
│   ├── SelfTestError   the probes do not see what is there
│   └── RefusedError    the kernel refused a map, link or pin operation
├── ActError            a response could not be carried out
│   └── NeverTouchError its target is on the never-touch list
├── RecordingError      a recording that cannot be made or read
├── NotFoundError       no sandbox, quarantine or detection of that name: exit status 3
├── DeniedError         who asks may not: exit status 4
└── ClientError         the daemon's answer cannot be used
    └── UnreachableError  it does not run, or does not answer: exit status 5
"""

from __future__ import annotations


class PinfoldError(Exception):
    """Root of the tree. The message is one line, made for an operator."""

    exit_status = 1


class UsageError(PinfoldError):
    exit_status = 2


class ConfigError(UsageError):
    """`file:line: key: expected …, found …`."""


class RuleError(PinfoldError):
    """`file:line: reason`."""


class HostError(PinfoldError):
    pass


class BtfError(HostError):
    pass


class LoadError(HostError):
    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class SelfTestError(HostError):
    pass


class RefusedError(HostError):
    pass


class ActError(PinfoldError):
    pass


class NeverTouchError(ActError):
    pass


class RecordingError(PinfoldError):
    pass


class NotFoundError(PinfoldError):
    exit_status = 3


class DeniedError(PinfoldError):
    exit_status = 4


class ClientError(PinfoldError):
    pass


class UnreachableError(ClientError):
    exit_status = 5
