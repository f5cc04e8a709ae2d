"""What is watched: places that loaded rules name, and files that matter whatever the rules say."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sensor.rules.places import READ, TOPS, WRITE, Place

PLACES_MAX = 4096  # a look tries each below each home and working directory, at some 5 us
KNOWN_MAX = 4096
DEPTH = 2  # folders below one that a rule names as a prefix

# Where so much goes on that only the folder itself is watched, and nothing below it.
BUSY = frozenset(
    ["/", "/tmp/", "/var/tmp/", "/usr/", "/var/", "/home/", "/root/", "/opt/", "/dev/shm/", "/run/"]  # noqa: S108
)
READ_BY_ALL = BUSY | {"/etc/"}  # no folder of which each read is told
# Where nothing can be watched by its folder: the kernel's own files are marked one by one.
UNMARKED = ("/proc/", "/sys/", "/dev/")
PINS = "/sys/fs/bpf/"  # a file system of its own, whose folders take marks


def _places(shape: str, bits: int, texts: str) -> tuple[Place, ...]:
    return tuple(Place(shape, text, bits) for text in texts.split())


BUILT_IN: tuple[Place, ...] = (
    *_places("exact", WRITE, """
        /etc/passwd /etc/group /etc/sudoers /etc/crontab /etc/ld.so.preload /etc/ld.so.conf /etc/profile
        /etc/bash.bashrc /etc/environment /etc/rc.local /etc/hosts /etc/resolv.conf /etc/nsswitch.conf
        /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/hotplug /proc/sysrq-trigger
        /proc/sys/fs/binfmt_misc/register /proc/sys/vm/panic_on_oom /sys/kernel/uevent_helper
        /sys/module/msr/parameters/allow_writes
    """),
    *_places("exact", WRITE | READ, "/etc/shadow /etc/gshadow"),
    *_places("exact", READ, """
        /var/run/secrets/kubernetes.io/serviceaccount/token /run/secrets/kubernetes.io/serviceaccount/token
        /etc/kubernetes/admin.conf /var/lib/kubelet/kubeconfig
    """),
    *_places("prefix", WRITE, """
        /etc/cron.d/ /etc/cron.daily/ /etc/cron.hourly/ /etc/cron.weekly/ /etc/cron.monthly/ /var/spool/cron/
        /etc/systemd/system/ /usr/lib/systemd/system/ /etc/init.d/ /etc/profile.d/ /etc/sudoers.d/ /etc/ld.so.conf.d/
        /etc/modprobe.d/ /etc/modules-load.d/ /etc/udev/rules.d/ /etc/pam.d/ /etc/xdg/autostart/ /etc/apt/apt.conf.d/
    """),
    *_places("suffix", WRITE, """
        /.ssh/authorized_keys /.ssh/config /.ssh/rc /.bashrc /.bash_profile /.bash_login /.bash_logout /.profile
        /.zshrc /.zshenv /.zprofile /.gitconfig /.config/git/config /.pam_environment /.forward /.inputrc
        /.claude/settings.json /.claude/settings.local.json /.claude.json /CLAUDE.md /AGENTS.md /GEMINI.md
        /.claude/managed-settings.json /.codex/config.toml /.codex/AGENTS.md /.gemini/settings.json
        /.iflow/settings.json /.qwen/settings.json /.cursor/mcp.json /.cursor/hooks.json /.mcp.json
        /.config/opencode/opencode.json /.continue/config.json /.aider.conf.yml /.config/goose/config.yaml
        /.vscode/settings.json /.vscode/tasks.json /release_agent /notify_on_release
    """),
    *_places("suffix", WRITE | READ, """
        /.aws/credentials /.kube/config /.docker/config.json /.netrc /.npmrc /.pypirc /.git-credentials
        /.config/gcloud/application_default_credentials.json /.azure/msal_token_cache.json
        /.claude/.credentials.json /.codex/auth.json /.gemini/oauth_creds.json /.iflow/oauth_creds.json
    """),
    *_places("suffix", READ, """
        /.ssh/id_rsa /.ssh/id_ed25519 /.ssh/id_ecdsa /.ssh/id_dsa /.aws/config /.aws/sso/cache
        /.config/gcloud/credentials.db /.config/gcloud/access_tokens.db /.azure/accessTokens.json
        /.azure/service_principal_entries.json /.oci/config /.boto /.s3cfg /.config/rclone/rclone.conf
        /.huggingface/token /.cache/huggingface/token /.cache/huggingface/stored_tokens /.config/wandb/settings
        /.config/openai/auth.json /.config/anthropic/credentials.json /.local/share/opencode/auth.json
        /.config/gh/hosts.yml /.config/github-copilot/hosts.json /.config/github-copilot/apps.json
        /.cargo/credentials.toml /.gem/credentials /.terraform.d/credentials.tfrc.json /.vault-token /.pgpass /.my.cnf
    """),
    *_places("contains", WRITE, "/.git/hooks/ /.config/autostart/ /.config/systemd/user/ /.claude/hooks/"),
)  # fmt: skip


class Watched:
    """The whole watch set. `wants(path)` gives the bits for which a path matters; `line` is what the child is told;
    `cut` how many did not fit."""

    def __init__(self, places: Iterable[Place], folders: Iterable[str], most: int) -> None:
        by_text: dict[tuple[str, str], int] = {}
        for place in (*BUILT_IN, *places, *(Place("prefix", _folder(text), WRITE) for text in folders)):
            by_text[place.shape, place.text] = by_text.get((place.shape, place.text), 0) | place.bits
        self.places = tuple(Place(shape, text, bits) for (shape, text), bits in by_text.items())[:PLACES_MAX]
        self.cut = len(by_text) - len(self.places)
        self.line = msgspec.json.encode(_for_child(self.places, most))
        self._exact: dict[str, int] = {}
        self._known: dict[str, int] = {}
        self._others: list[tuple[int, tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = []
        for place in self.places:
            if place.shape == "exact":
                path = place.text.casefold()
                self._exact[path] = self._exact.get(path, 0) | place.bits
        for bit in (WRITE, READ):
            of = [p for p in self.places if p.bits & bit]
            prefix, suffix, contains = (
                tuple(p.text.casefold() for p in of if p.shape == shape) for shape in ("prefix", "suffix", "contains")
            )
            self._others.append((bit, prefix, suffix, contains))

    def wants(self, path: str) -> int:
        known = self._known.get(path)
        if known is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            known = self._known[path] = self._judged(path.casefold())
        return known

    def _judged(self, path: str) -> int:
        bits = self._exact.get(path, 0)
        for bit, prefixes, suffixes, contained in self._others:
            if not bits & bit and (
                path.startswith(prefixes) or path.endswith(suffixes) or any(text in path for text in contained)
            ):
                bits |= bit
        return bits


def _folder(text: str) -> str:
    return text.rstrip("/") + "/"


def _for_child(places: tuple[Place, ...], most: int) -> dict[str, object]:
    """Where to look for what rules say of a path, which may be anywhere: below a user's home, the working directory."""
    paths: dict[str, int] = {}
    folders: dict[str, int] = {}
    endings: dict[str, int] = {}
    within: dict[str, int] = {}
    for place in places:
        text, bits = place.text, place.bits
        head, _, tail = text.rpartition("/")
        whole = text[: text.find("/", 1) + 1] in TOPS  # from the root on, most likely
        if place.shape == "exact" or (place.shape == "suffix" and whole):
            _add(paths, text, bits)
        if place.shape == "prefix" or (place.shape == "contains" and whole):
            _add(folders, f"{head}/", bits & WRITE if f"{head}/" in READ_BY_ALL else bits)
        if place.shape == "suffix" and text.startswith("/") and tail:
            _add(endings, text, bits)
        elif place.shape in {"suffix", "contains"}:  # only the folder in it is known, or none: then the base itself
            known = head.startswith("/")
            _add(within, f"{head}/" if known else "/", bits if known else bits & WRITE)
    return {
        "paths": [(_latin(text), bits) for text, bits in paths.items()],
        "folders": [
            (_latin(text), bits, 0 if text in BUSY else DEPTH)
            for text, bits in folders.items()
            if not text.startswith(UNMARKED) or text in BUSY or text.startswith(PINS)
        ],
        "endings": [(_latin(text), bits) for text, bits in endings.items()],
        "within": [(_latin(text), bits, 1 if text != "/" else 0) for text, bits in within.items()],
        "most": most,
    }


def _add(to: dict[str, int], text: str, bits: int) -> None:
    to[text] = to.get(text, 0) | bits


def _latin(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
