"""What a secret looks like: names that announce one, forms that are one, programs whose short options take one.

Told by names and forms alone, since a password is any word. What cannot be told stays: the log is whole, and root's.
"""

from __future__ import annotations

import re
from functools import lru_cache

MARK = "***"
NAME_CHARACTERS = 64  # a longer word names nothing

_WITHIN = (
    "password", "passwd", "passphrase", "passcode", "secret", "token", "apikey", "accesskey", "privatekey",
    "credential", "authorization", "amzsignature",
)  # fmt: skip
_WHOLE = frozenset(
    {"pass", "pwd", "pw", "cookie", "setcookie", "creds", "userpass", "bearer", "sig", "sas", "passin", "passout"}
)
_ENDS = ("pwd", "accountkey", "sharedkey", "signingkey", "encryptionkey", "masterkey", "authkey")
# These say something about a secret: where it is, how long it may be.
_ABOUT = (
    "file", "path", "dir", "folder", "name", "url", "uri", "endpoint", "type", "length", "size", "count", "limit",
    "ttl", "expiry", "expires", "timeout", "policy", "manager", "store", "ref", "prompt", "stdin", "mode", "format",
    "keyid", "env", "parallelism",
)  # fmt: skip
_COUNTED = frozenset(
    {"max", "min", "num", "n", "no", "without", "skip", "ask", "require", "use", "enable", "disable", "show"}
)
_SAID = frozenset({"true", "false", "yes", "no", "on", "off", "null", "none", "nil", "auto", "stdin", "-", "{", "["})
# A shell's variable is no secret, and tells where one is taken from.
_VARIABLE = re.compile(r"\$\{?[A-Z_][A-Z0-9_]{0,63}(?:\}|$)|\$\(|`")
_PATH = ("/", "./", "../", "~/", "@/", "@.", "file:")
_NEVER_A_PATH = ("password", "passwd", "passphrase", "apikey", "accesskey")

SCHEMES = frozenset({"bearer", "basic", "token", "digest", "negotiate", "apikey", "aws4-hmac-sha256"})

# Beginnings of tokens, what follows them, and how much of it at least.
_RUN = r"[A-Za-z0-9_-]"
_ALNUM = r"[A-Za-z0-9]"
_FORMS: dict[str, tuple[str, int]] = {
    **dict.fromkeys(("AKIA", "ASIA", "ABIA", "ACCA", "AROA", "AIDA"), (r"[A-Z0-9]", 16)),
    **dict.fromkeys(("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "hf_", "npm_", "gsk_", "r8_"), (_ALNUM, 16)),
    **dict.fromkeys(("github_pat_", "glpat-", "gldt-", "pypi-", "dop_v1_", "shpat_", "whsec_", "nvapi-"), (_RUN, 16)),
    **dict.fromkeys(("xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxe-", "xapp-"), (_RUN, 10)),
    **dict.fromkeys(("sk_live_", "sk_test_", "rk_live_", "rk_test_", "AIza", "ya29."), (_RUN, 16)),
    "sk-": (_RUN, 20),
}
PREFIX = re.compile("|".join(sorted(map(re.escape, _FORMS), key=len, reverse=True)))
_RUNS = {prefix: re.compile(run + r"*") for prefix, (run, _) in _FORMS.items()}
_BEGUN = {prefix: re.compile(f"{run}{{{least},64}}") for prefix, (run, least) in _FORMS.items()}
_DIGIT = re.compile("[0-9]")

# By program: its options, whether the value is glued to them, follows them, or either, and what of it is secret.
GLUED, NEXT, EITHER = "glued", "next", "either"
Options = dict[str, tuple[str, str]]
_MYSQL: Options = {"-p": (GLUED, "")}
_ZIP: Options = {"-P": (EITHER, "")}
_SMB: Options = {"-U": (EITHER, "%")}
_LDAP: Options = {"-w": (EITHER, "")}
_MONGO: Options = {"-p": (EITHER, "")}
_LOGIN: Options = {"-p": (EITHER, "")}
_HTTP: Options = {"-a": (EITHER, ":")}
PROGRAMS: dict[str, Options] = {
    **dict.fromkeys(("mysql", "mysqldump", "mysqladmin", "mysqlimport", "mysqlsh", "mariadb", "mariadb-dump"), _MYSQL),
    **dict.fromkeys(("mongo", "mongosh", "mongodump", "mongorestore", "mongoexport", "mongoimport"), _MONGO),
    **dict.fromkeys(("ldapsearch", "ldapmodify", "ldapadd", "ldapdelete", "ldapwhoami"), _LDAP),
    **dict.fromkeys(("smbclient", "rpcclient", "smbmap", "nmblookup"), _SMB),
    **dict.fromkeys(("zip", "unzip", "sqlcmd"), _ZIP),
    **dict.fromkeys(("http", "https", "xh"), _HTTP),
    "sshpass": {"-p": (EITHER, "")},
    "redis-cli": {"-a": (EITHER, "")},
    "7z": {"-p": (GLUED, "")},
    "lftp": {"-u": (EITHER, ",")},
    "curl": {"-u": (EITHER, ":"), "-U": (EITHER, ":"), "--user": (NEXT, ":"), "--proxy-user": (NEXT, ":")},
}
# `-p` of these is a password once the word `login` was there, else a port or a profile.
LOGINS: dict[str, Options] = dict.fromkeys(
    ("docker", "podman", "nerdctl", "helm", "buildah", "skopeo", "crane", "oras", "az", "oc"), _LOGIN
)
# Whatever is found below has one of these in it, in lower case: most text has none, and is done with at once.
_SIGNS = (
    "pass", "pwd", "secret", "token", "key", "credential", "creds", "auth", "bearer", "cookie", "sig", "sas", "://",
    "eyj", "akia", "asia", "abia", "acca", "aroa", "aida", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_",
    "glpat-", "gldt-", "hf_", "npm_", "gsk_", "r8_", "pypi-", "dop_v1_", "shpat_", "nvapi-", "xox", "xapp-",
    "_live_", "_test_", "aiza", "ya29.", "sk-", "mysql", "mariadb", "mongo", "ldap", "smb", "rpcclient", "nmblookup",
    "zip", "sqlcmd", "http", "xh", "redis-cli", "7z", "lftp", "curl", "login", "pw", "signature", "whsec_",
)  # fmt: skip


def suspicious(text: str) -> bool:
    low = text.lower()
    for sign in _SIGNS:  # noqa: SIM110  # at half the price of any()
        if sign in low:
            return True
    return False


@lru_cache(4096)
def sensitive(name: str) -> bool:
    """Whether what this names is a secret: `GITHUB_TOKEN`, `client-secret`; not `token-file`, `max_tokens`."""
    low = name.lower()
    plain = low.replace("_", "").replace("-", "").replace(".", "")
    if plain in _WHOLE:
        return True
    if plain.endswith(_ABOUT) or "tokeniz" in plain or "tokenis" in plain:
        return False
    if low.replace("-", "_").partition("_")[0] in _COUNTED:
        return False
    return plain.endswith(_ENDS) or any(word in plain for word in _WITHIN)


def harmless(name: str, value: str) -> bool:
    """Whether the value (its beginning will do) of a sensitive name is none: a path, a variable, a truth."""
    value = value.strip("\"'")
    if not value.strip(MARK[0]) or value.lower() in _SAID or _VARIABLE.match(value):
        return True
    low = name.lower()
    plain = low.replace("_", "").replace("-", "")
    if (value.isdigit() and "tokens" in plain) or (low == "pass" and value in ("1", "2", "3")):
        return True
    return value.startswith(_PATH) and not any(word in plain for word in _NEVER_A_PATH)


def token_at(text: str, start: int, prefix: str) -> int:
    """The end of the token that begins here with this prefix, or 0."""
    if start and text[start - 1].isalnum():
        return 0
    begun = _BEGUN[prefix].match(text, start + len(prefix))
    if begun is None or not _DIGIT.search(begun[0]):  # words of a language have no digits
        return 0
    run = _RUNS[prefix].match(text, begun.end())
    return run.end() if run else begun.end()
