from __future__ import annotations

import contextlib
import http.client
import subprocess
import urllib.error
import urllib.request

import pytest
from hypothesis import given

from sensor.enrich.protocols.http import dissect, read
from tests.enrich.protocols.checks import ANY, at_every_length, first_bytes, mutated, sound
from tests.packaging.tools import tool

GET = (
    b"GET /simple/msgspec/?token=geheim#top HTTP/1.1\r\nHost: Index.TEST:8080\r\nUser-Agent: pip/23.0.1\r\n"
    b"Authorization: Basic Z2VoZWlt\r\nCookie: session=geheim\r\n\r\n"
)
ANSWER = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nSet-Cookie: a=geheim\r\nContent-Length: 2\r\n\r\nok"
CONNECT = b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\nProxy-Authorization: Basic Z2VoZWlt\r\n\r\n"
UPGRADE = (
    b"GET /tunnel HTTP/1.1\r\nHost: relay.example\r\nConnection: Upgrade\r\nUPGRADE: WebSocket\r\n"
    b"Sec-WebSocket-Protocol: v1, authorization.bearer.eyJhbGciOiJIUzI1NiJ9.geheim\r\n\r\n"
)
SAMPLES = (GET, ANSWER, CONNECT, UPGRADE)


def test_a_request() -> None:
    found = dissect(GET, False)
    assert found is not None
    assert (found.protocol, found.role, found.kind, found.version) == ("http", "client", "request", "1.1")
    assert (found.method, found.path, found.server_name) == ("GET", "/simple/msgspec/", "index.test")
    assert found.software == "pip/23.0.1" and found.certain


def test_an_answer() -> None:
    found = dissect(ANSWER, False)
    assert found is not None
    assert (found.role, found.kind, found.version, found.software) == ("server", "response", "1.1", "nginx/1.22.1")


def test_where_a_proxy_is_asked_to_go() -> None:
    found = dissect(CONNECT, False)
    assert found is not None
    assert (found.method, found.target, found.path, found.server_name) == (
        "CONNECT",
        "evil.example:443",
        "",
        "evil.example",
    )
    through = dissect(b"GET http://user:geheim@Evil.example/a?b HTTP/1.1\r\nHost: other\r\n\r\n", False)
    assert through is not None
    assert (through.target, through.path, through.server_name) == ("evil.example:80", "/a", "other")
    ftp = dissect(b"GET ftp://user:geheim@files.example/pub HTTP/1.0\r\n\r\n", False)
    assert ftp is not None and (ftp.target, ftp.path) == ("files.example", "/pub")


def test_a_websocket_shows_its_subprotocols_without_tokens() -> None:
    found = dissect(UPGRADE, False)
    assert found is not None
    assert (found.upgrade, found.subprotocol) == ("websocket", "v1, authorization.bearer.…")


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        (b"base64url.bearer.authorization.k8s.io.Z2VoZWlt, v4.channel.k8s.io", "base64url.bearer.…, v4.channel.k8s.io"),
        (b"bearer, eyJhbGciOiJIUzI1NiJ9", "bearer, …"),
        (b"access_token, geheim, chat", "access_token, …, chat"),
        (b"eyJhbGciOiJIUzI1NiJ9.geheim", "eyJ…"),
        (b"x" * 200, "xxx…"),
        (b"one\r\nSec-WebSocket-Protocol: chisel-v3", "one, chisel-v3"),
    ],
)
def test_tokens_in_subprotocols(header: bytes, shown: str) -> None:
    found = dissect(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: " + header + b"\r\n\r\n", False)
    assert found is not None and found.subprotocol == shown


def test_the_preface_of_http_2() -> None:
    found = dissect(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\4\0\0\0\0\0", False)
    assert found is not None and (found.kind, found.version, found.method) == ("request", "2", "PRI")


@pytest.mark.parametrize("sample", SAMPLES)
def test_cut_anywhere(sample: bytes) -> None:
    for found in at_every_length(dissect, sample, False, "http"):
        said = repr(found)
        assert "geheim" not in said and "Z2Vo" not in said
        if found is not None:  # half a name would be another name
            assert found.server_name in ("", "index.test", "evil.example", "relay.example")
            assert found.target in ("", "evil.example:443")


def test_how_little_suffices() -> None:
    assert dissect(b"GET /", False) is not None
    assert dissect(b"GET http:/", False) is not None
    assert dissect(b"OPTIONS *", False) is not None
    assert dissect(b"CONNECT a", False) is not None
    for less in (b"GET ", b"GET", b"GET x", b"HTTP/1.1 ", b"HTTP/1.1", b"CONNECT "):
        assert dissect(less, False) is None


def test_the_first_of_two_headers_counts_in_any_case() -> None:
    usual = b"GET / HTTP/1.1\r\nHost: first\r\nUser-Agent: a/1\r\n%s\r\n\r\nbody"
    for _ in range(2):  # the second time these two headers are known
        found = dissect(usual % b"hOsT: second\r\nUSER-AGENT: b/2\r\nUpgrade: h2c", False)
        assert found is not None and (found.server_name, found.software, found.upgrade) == ("first", "a/1", "h2c")
        found = dissect(usual.replace(b"Host", b"X-Host") % b"hOsT: second\r\nX: y", False)
        assert found is not None and (found.server_name, found.software, found.upgrade) == ("second", "a/1", "")
        found = dissect(usual % b"X: y\r\n\r\nUpgrade: body", False)
        assert found is not None and (found.server_name, found.upgrade) == ("first", "")


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (GET, b""),
        (ANSWER, b"ok"),
        (b"\r\n" + ANSWER, b"ok"),
        (b"\nPOST / HTTP/1.0\nA: b\n\n{}", b"{}"),
        (b"POST http://a/ HTTP/1.1\r\n\r\n{}\n\n", b"{}\n\n"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\n\r\n{}", b"{}"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\n", None),
    ],
)
def test_where_the_body_starts(data: bytes, body: bytes | None) -> None:
    for _ in range(2):
        at = read(data)[1]
        assert (data[at:] if at >= 0 else None) == body


def test_bare_newlines_and_empty_lines_before() -> None:
    found = dissect(b"\r\n\nGET /a HTTP/1.0\nHost: x\nUser-Agent: y\n\nUser-Agent: body", False)
    assert found is not None and (found.server_name, found.software, found.path) == ("x", "y", "/a")


def test_a_method_of_ones_own_needs_the_whole_line() -> None:
    found = dissect(b"BREW /pot HTTP/1.1\r\n", False)
    assert found is not None and found.method == "BREW"
    assert dissect(b"BREW /pot", False) is None


def test_http_in_datagrams() -> None:
    found = dissect(b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\n\r\n', True)
    assert found is not None and (found.method, found.server_name) == ("M-SEARCH", "239.255.255.250")


def test_http_0_9_is_uncertain() -> None:
    found = dissect(b"GET /index.html\r\n", False)
    assert found is not None and found.version == "0.9" and not found.certain


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"OPTIONS rtsp://host/stream RTSP/1.0\r\nCSeq: 1\r\n\r\n",
        b"OPTIONS * RTSP/1.0\r\n",
        b"OPTIONS sip:a@b SIP/2.0\r\n",
        b"220 mail.example ESMTP\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"GETTING / HTTP/1.1 started\r\n",
        b"GET key\r\n",
        b"HTTP/1.1 is a protocol\r\n",
        b"HTTP/1.1 2000 no\r\n",
        b"GET / HTTP/3.0\r\n",
        b"GET / HTTP/1.x\r\n",
        b"get / HTTP/1.1\r\n",
        b"CONNECT a b c HTTP/1.1\r\n",
        b"PRI * HTTP/1.1x\r\n",
    ],
)
def test_near_misses(other: bytes) -> None:
    assert dissect(other, False) is None


def test_what_is_not_printable_does_not_pass() -> None:
    found = dissect(b"GET /\x1b[2J\xff HTTP/1.1\r\nUser-Agent: \x07x\r\n\r\n", False)
    sound(found, "http")
    assert found is not None and found.path[2:] == "[2J\ufffd"


def test_of_urllib() -> None:
    def act(port: int) -> None:
        with contextlib.suppress(urllib.error.URLError, http.client.HTTPException, OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/a/b?c=d", timeout=10)

    found = dissect(first_bytes(act), False)
    assert found is not None
    assert (found.method, found.path, found.server_name) == ("GET", "/a/b", "127.0.0.1")
    assert found.software.startswith("Python-urllib/3.")


def test_of_curl_through_a_proxy() -> None:
    curl = tool("curl")

    def act(port: int) -> None:
        command = [curl, "-s", "-m", "10", "-p", "-x", f"http://u:geheim@127.0.0.1:{port}", "http://inner.example/x"]
        subprocess.run(command, check=False, capture_output=True)

    found = dissect(first_bytes(act), False)
    assert found is not None and (found.method, found.target) == ("CONNECT", "inner.example:80")
    assert found.software.startswith("curl/") and "geheim" not in repr(found)


@given(ANY)
def test_any_bytes(data: bytes) -> None:
    sound(dissect(data, False), "http")


@given(mutated(SAMPLES))
def test_mutations(data: bytes) -> None:
    sound(dissect(data, False), "http")
