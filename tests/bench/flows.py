"""First bytes of flows as sandboxes of agents have them: both directions of each, as the probes hand them over.

Made after recordings and specifications, from a seed. What differs from flow to flow in real traffic differs here:
random bytes, sessions, keys, ids, paths, and the order of extensions in those clients that shuffle it. What repeats
there repeats here: programs, and most names.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, repeat
from random import Random

import msgspec
from msgspec import Struct

from sensor.enrich.protocols.quic import _VERSIONS
from tests.fuzz import build

SEGMENT = 1448  # payload of a full segment with timestamps on Ethernet; recognition is tried on the first
QUIC_PACKETS = 100  # made anew by each run: sealing one in Python takes long, and the dissector remembers none
# Of 1000 flows. TLS 400, HTTP 200, DNS 150, SSH 100, others 150.
SHARES = {
    "tls-openssl": 295,  # python, pip, curl, git, node
    "tls-go": 60,
    "tls-rustls": 30,  # uv, cargo: shuffled
    "tls-browser": 15,  # shuffled
    "http": 180,
    "http-upgrade": 10,
    "http-connect": 10,
    "dns": 150,
    "ssh": 100,
    "quic": 10,
    "stratum": 10,
    "socks": 10,
    "wireguard": 5,
    "yamux": 5,
    "redis": 30,
    "postgres": 30,
    "mysql": 10,
    "smtp": 10,
    "random": 30,
}
NOTHING = frozenset({"redis", "postgres", "mysql", "smtp", "random"})  # no dissector knows these

_NAMES = """index.example files.packagehost.example forge.example api.forge.example codeload.forge.example
packages.scripts.example objects.forge-content.example api.model.example api.another-model.example deb.example
security.deb.example crates.example static.crates.example proxy.modules.example sums.modules.example weights.example
cdn-lfs.weights.example images-1.containers.example auth.containers.example production.cdn.containers.example
lab.example bucket.example gems.example repo.maven.example dl-cdn.small-linux.example www.apis.example
storage.apis.example s3.cloud.example sts.cloud.example otel.internal.example mirror.internal.example
sentry.internal.example"""
_HOSTS = _NAMES.split()
# Of names: one of the above, the earlier the likelier; or one of some hundred others; the rest never comes twice.
_USUAL, _OTHER, _OTHERS = 0.92, 0.05, 500
_WEIGHTS = list(accumulate(1 / rank for rank in range(1, len(_HOSTS) + 1)))

_TLS13 = (0x1302, 0x1303, 0x1301)
_OPENSSL = (
    *(*_TLS13, 0xC02C, 0xC030, 0x009F, 0xCCA9, 0xCCA8, 0xCCAA, 0xC02B, 0xC02F, 0x009E, 0xC024, 0xC028, 0x006B, 0xC023),
    *(0xC027, 0x0067, 0xC00A, 0xC014, 0x0039, 0xC009, 0xC013, 0x0033, 0x009D, 0x009C, 0x003D, 0x003C, 0x0035, 0x002F),
    0x00FF,
)
_GO = (0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC009, 0xC013, 0xC00A, 0xC014, 0x1301, 0x1302, 0x1303)
_RUSTLS = (0x1302, 0x1301, 0x1303, 0xC02C, 0xC02B, 0xCCA9, 0xC030, 0xC02F, 0xCCA8, 0x00FF)
_BROWSER = (0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014, 0x009C, 0x002F)
_OPENSSL_SIGNATURES = (
    *(0x0403, 0x0503, 0x0603, 0x0807, 0x0808, 0x0809, 0x080A, 0x080B, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601),
    *(0x0303, 0x0301, 0x0302, 0x0402, 0x0502, 0x0602),
)
_ALPNS = ((), (b"http/1.1",), (b"h2", b"http/1.1"))  # pip and others; python's newer clients; curl and git
_X25519, _MLKEM = 0x001D, 0x11EC  # key shares of 32 and 1216 bytes, the answer to the latter 1120 + 32
_AGENTS = (
    *("pip/24.0", "python-requests/2.32.3", "curl/7.88.1", "git/2.39.5", "Debian APT-HTTP/1.3 (2.6.1)", "node"),
    *("Go-http-client/1.1", "npm/10.8.2 node/v20.18.1 linux x64", "kube-probe/1.30", "python-httpx/0.27.2"),
)
_SERVERS = ("nginx/1.24.0", "nginx", "cloudflare", "uvicorn", "SimpleHTTP/0.6 Python/3.11.2", "GitHub.com")
_SSH_CLIENTS = ("OpenSSH_9.2p1 Debian-2+deb12u5", "OpenSSH_9.6p1 Ubuntu-3ubuntu13.5", "paramiko_3.5.0", "Go")
_SSH_SERVERS = ("babeld-57f1d8a3", "GitLab-SSHD", "OpenSSH_8.7", "OpenSSH_9.2p1 Debian-2+deb12u3", "dropbear_2022.83")


class Flow(Struct, frozen=True, gc=False):
    client: bytes
    server: bytes
    udp: bool
    kind: str  # of SHARES

    @property
    def protocol(self) -> str:
        """As dissectors call it, "" where none knows it."""
        return "" if self.kind in NOTHING else self.kind.partition("-")[0]


class Recorded:
    """An endless supply of flows, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = Random(seed)  # noqa: S311 (traffic, not secrets)
        self._makers: dict[str, Callable[[], Flow]] = {
            "tls-openssl": self._openssl, "tls-go": self._go, "tls-rustls": self._rustls, "tls-browser": self._browser,
            "http": self._http, "http-upgrade": self._upgrade, "http-connect": self._connect, "dns": self._dns,
            "ssh": self._ssh, "quic": self._quic, "stratum": self._stratum, "socks": self._socks,
            "wireguard": self._wireguard, "yamux": self._yamux, "redis": self._redis, "postgres": self._postgres,
            "mysql": self._mysql, "smtp": self._smtp, "random": self._random,
        }  # fmt: skip
        self._sealed: list[bytes] = []

    def take(self, count: int) -> list[Flow]:
        """In the shares of SHARES as near as `count` allows, shuffled."""
        kinds = [kind for kind, share in SHARES.items() for _ in repeat(None, round(count * share / 1000))]
        self._chance.shuffle(kinds)
        return [self._makers[kind]() for kind in kinds]

    # What differs.

    def _bytes(self, low: int, high: int = 0) -> bytes:
        return self._chance.randbytes(self._chance.randint(low, high) if high else low)

    def _token(self, size: int = 8) -> str:
        return self._chance.randbytes(size).hex()

    def _host(self) -> str:
        which = self._chance.random()
        if which < _USUAL:
            return self._chance.choices(_HOSTS, cum_weights=_WEIGHTS)[0]
        if which < _USUAL + _OTHER:
            return f"bucket-{self._chance.randrange(_OTHERS)}.objects.example"
        return f"{self._token(self._chance.randint(2, 9))}.cdn.example"

    # TLS.

    def _client_hello(self, extensions: list[build.Extension], ciphers: tuple[int, ...]) -> bytes:
        hello = bytearray(build.message(extensions, ciphers))
        hello[6:38], hello[39:71] = self._bytes(32), self._bytes(32)
        return build.record(bytes(hello))[: 2 * SEGMENT]

    def _key_share(self, *groups: int) -> build.Extension:
        return 0x33, build.sized(
            b"".join(g.to_bytes(2) + build.sized(self._bytes(32 if g == _X25519 else 1216)) for g in groups)
        )

    def _server_hello(self, group: int, newest: bool, alpn: bytes) -> bytes:
        """The answer's first segment: of TLS 1.3 what follows the hello is encrypted, of 1.2 it is the certificate."""
        if newest:
            key = self._bytes(32 if group == _X25519 else 1152)
            extensions = [(0x2B, b"\x03\x04"), (0x33, group.to_bytes(2) + build.sized(key))]
        else:
            extensions = [(0xFF01, b"\0"), (0x0B, b"\x03\0\1\2"), (0x23, b"")]
            extensions += [build.alpn(alpn)] if alpn else []
        body = b"\x03\x03" + self._bytes(32) + build.sized(self._bytes(32), 1)
        body += (0x1301 if newest else 0xC02F).to_bytes(2) + b"\0"
        body += build.sized(b"".join(kind.to_bytes(2) + build.sized(content) for kind, content in extensions))
        hello = build.record(b"\x02" + build.sized(body, 3), minor=3)
        follows = b"\x14\x03\x03\0\1\1\x17\x03\x03" if newest else b"\x16\x03\x03"
        return (hello + follows + build.sized(self._bytes(2000, 4000)))[:SEGMENT]

    def _openssl(self) -> Flow:
        alpn = self._chance.choice(_ALPNS)
        groups = (_X25519, 0x0017, 0x001E, 0x0019, 0x0018, 0x0100, 0x0101, 0x0102, 0x0103, 0x0104)
        extensions = [
            *(build.server_name(self._host().encode()), (0x0B, b"\x03\0\1\2")),
            *((0x0A, build.sized(build.shorts(groups))), (0x23, b"")),
            *(*([build.alpn(*alpn)] if alpn else []), (0x16, b""), (0x17, b"")),
            *(build.signatures(_OPENSSL_SIGNATURES), build.versions(0x0304, 0x0303), (0x2D, b"\1\1")),
            self._key_share(_X25519),
        ]
        # OpenSSL's answer to servers that hang on hellos of 256 to 511 bytes (RFC 7685).
        size = len(build.message(extensions, _OPENSSL))
        if size < 512:
            extensions.append((0x15, bytes(max(512 - size - 4, 1))))
        newest = self._chance.random() < 0.9
        server = self._server_hello(_X25519, newest, alpn[0] if alpn else b"")
        return Flow(self._client_hello(extensions, _OPENSSL), server, False, "tls-openssl")

    def _go(self) -> Flow:
        extensions = [
            *(build.server_name(self._host().encode()), (0x05, b"\1\0\0\0\0")),
            *((0x0A, build.sized(build.shorts((_MLKEM, _X25519, 0x17, 0x18, 0x19)))), (0x0B, b"\1\0")),
            *(build.signatures(), (0xFF01, b"\0"), (0x17, b""), build.alpn(b"h2", b"http/1.1"), (0x12, b"")),
            *(build.versions(0x0304, 0x0303), self._key_share(_MLKEM, _X25519)),
        ]
        return Flow(self._client_hello(extensions, _GO), self._server_hello(_MLKEM, True, b""), False, "tls-go")

    def _rustls(self) -> Flow:
        extensions = [
            *(build.server_name(self._host().encode()), (0x05, b"\1\0\0\0\0"), (0x0B, b"\1\0"), (0x17, b"")),
            *((0x0A, build.sized(build.shorts((_X25519, 0x17, 0x18)))), build.signatures(), (0x23, b"")),
            *(build.alpn(b"h2", b"http/1.1"), build.versions(0x0304, 0x0303), (0x2D, b"\1\1")),
            self._key_share(_X25519),
        ]
        self._chance.shuffle(extensions)
        return Flow(
            self._client_hello(extensions, _RUSTLS), self._server_hello(_X25519, True, b""), False, "tls-rustls"
        )

    def _browser(self) -> Flow:
        grease = [value << 8 | value for value in self._chance.sample(range(0x0A, 0x100, 0x10), 3)]
        middle = [
            *(build.server_name(self._host().encode()), (0x17, b""), (0xFF01, b"\0"), (0x0B, b"\1\0"), (0x23, b"")),
            (0x0A, build.sized(build.shorts((grease[1], _MLKEM, _X25519, 0x17)))),
            *(build.alpn(b"h2", b"http/1.1"), (0x05, b"\1\0\0\0\0"), build.signatures(), (0x12, b"")),
            *(self._key_share(_MLKEM, _X25519), (0x2D, b"\1\1"), build.versions(grease[2], 0x0304, 0x0303)),
            *((0x1B, b"\2\0\2"), (0xFE0D, self._bytes(186, 282))),
        ]
        self._chance.shuffle(middle)
        extensions = [(grease[0], b""), *middle, (grease[1], b"\0")]
        hello = self._client_hello(extensions, (grease[2], *_BROWSER))
        return Flow(hello, self._server_hello(_MLKEM, True, b""), False, "tls-browser")

    def _quic(self) -> Flow:
        """The server's answer is sealed with keys that nobody else can make: it looks random."""
        if len(self._sealed) < QUIC_PACKETS:
            hello = bytearray(
                build.message(
                    [
                        *(build.server_name(self._host().encode()), build.alpn(b"h3"), build.versions(0x0304)),
                        *(build.signatures(), self._key_share(_X25519), (0x39, self._bytes(60))),
                    ],
                    session=0,
                )
            )
            hello[6:38] = self._bytes(32)
            frames = build.crypto_frame(0, bytes(hello))
            version = b"\0\0\0\1"
            self._sealed.append(
                build.initial(frames + bytes(1162 - len(frames)), _VERSIONS[version], version, self._bytes(8))
            )
        server = b"\xc7\0\0\0\1\0\x08" + self._bytes(8) + b"\0\x44\x96" + self._bytes(1174)
        return Flow(self._chance.choice(self._sealed), server, True, "quic")

    # Other protocols that are known.

    def _http(self) -> Flow:
        chance, host = self._chance, self._host()
        post = chance.random() < 0.25
        body = (
            b'{"model":"m-%s","stream":true,"messages":[{"role":"user","content":"%s"}]}'
            % (self._token(3).encode(), self._bytes(40, 400).hex().encode())
            if post
            else b""
        )
        path = f"/v1/messages?trace={self._token()}" if post else f"/simple/{self._token(4)}/{self._token(6)}.whl"
        head = f"{'POST' if post else 'GET'} {path} HTTP/1.1\r\nHost: {host}\r\n"
        head += f"User-Agent: {chance.choice(_AGENTS)}\r\n"
        head += f"Accept-Encoding: gzip, deflate, br\r\nAccept: */*\r\nX-Request-Id: {self._token(16)}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if post else ""
        head += "Connection: keep-alive\r\n\r\n"
        answer = f"HTTP/1.1 200 OK\r\nServer: {chance.choice(_SERVERS)}\r\nDate: Sat, 29 Nov 2025 12:00:00 GMT\r\n"
        answer += f'Content-Type: application/octet-stream\r\nETag: "{self._token()}"\r\nContent-Length: 8000\r\n\r\n'
        server = (answer.encode() + self._bytes(200, 1400))[:SEGMENT]
        return Flow((head.encode() + body)[:SEGMENT], server, False, "http")

    def _upgrade(self) -> Flow:
        asked = f"GET /api/kernels/{self._token(16)}/channels HTTP/1.1\r\nHost: {self._host()}:8888\r\n"
        asked += f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {self._token(8)}==\r\n"
        asked += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: v1.kernel.websocket.jupyter.org\r\n\r\n"
        answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        answer += f"Sec-WebSocket-Accept: {self._token(10)}\r\n\r\n"
        return Flow(asked.encode(), answer.encode(), False, "http-upgrade")

    def _connect(self) -> Flow:
        place = f"{self._host()}:443"
        asked = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\nUser-Agent: {self._chance.choice(_AGENTS)}\r\n\r\n"
        return Flow(asked.encode(), b"HTTP/1.1 200 Connection established\r\n\r\n", False, "http-connect")

    def _dns(self) -> Flow:
        """glibc's question with EDNS; the answer by way of an alias, with two addresses."""
        host = self._host()
        name = b"".join(build.sized(label.encode(), 1) for label in host.split(".")) + b"\0"
        kind = self._chance.choice((b"\0\1", b"\0\x1c"))
        question, number = name + kind + b"\0\1", self._bytes(2)
        client = number + b"\1\0\0\1\0\0\0\0\0\1" + question + b"\0\0\x29\2\0\0\0\0\0\0\0"
        alias = build.sized(self._token(6).encode(), 1) + b"\4edge\xc0\x0c"
        size = 4 if kind == b"\0\1" else 16
        server = number + b"\x81\x80\0\1\0\3\0\0\0\0" + question
        server += b"\xc0\x0c\0\5\0\1" + self._bytes(1).rjust(4, b"\0") + build.sized(alias)
        at = (0xC000 | 12 + len(question) + 12).to_bytes(2)  # where the alias stands: behind the fields of its record
        for _ in range(2):
            server += at + kind + b"\0\1\0\0\0\x3c" + build.sized(self._bytes(size))
        return Flow(client, server, True, "dns")

    def _ssh(self) -> Flow:
        """The server's key exchange often comes with its banner, the client's rarely."""
        client = f"SSH-2.0-{self._chance.choice(_SSH_CLIENTS)}\r\n".encode()
        server = f"SSH-2.0-{self._chance.choice(_SSH_SERVERS)}\r\n".encode()
        algorithms = b"curve25519-sha256,ecdh-sha2-nistp256,diffie-hellman-group14-sha256" * 14
        exchange = b"\x14" + self._bytes(16) + build.sized(algorithms, 4)
        packet = (len(exchange) + 5).to_bytes(4) + b"\4" + exchange + self._bytes(4)
        return Flow(client, server + packet if self._chance.random() < 0.5 else server, False, "ssh")

    def _stratum(self) -> Flow:
        software = "XMRig/6.22.0 (Linux x86_64) libuv/1.44.2 gcc/12.2.0"
        miner = {"login": "4" + self._token(47), "pass": "x", "agent": software, "algo": ["rx/0", "cn/r"]}
        job = {"blob": self._token(76), "job_id": self._token(), "target": self._token(4), "height": 3300000}
        login = {"id": 1, "jsonrpc": "2.0", "method": "login", "params": miner}
        result = {"id": self._token(), "job": job, "status": "OK"}
        answer = {"id": 1, "jsonrpc": "2.0", "error": None, "result": result}
        sides = [msgspec.json.encode(said) + b"\n" for said in (login, answer)]
        return Flow(sides[0], sides[1], False, "stratum")

    def _socks(self) -> Flow:
        return Flow(self._chance.choice((b"\5\1\0", b"\5\2\0\2", b"\5\3\0\1\2")), b"\5\0", False, "socks")

    def _wireguard(self) -> Flow:
        client = b"\1\0\0\0" + self._bytes(128) + bytes(16)
        return Flow(client, b"\2\0\0\0" + self._bytes(72) + bytes(16), True, "wireguard")

    def _yamux(self) -> Flow:
        begin = b"\0\1\0\1\0\0\0\1\0\4\0\0" + b"\0\0\0\0\0\0\0\1" + build.sized(self._bytes(60), 4)
        return Flow(begin, b"\0\1\0\2\0\0\0\1\0\4\0\0", False, "yamux")

    # What no dissector knows.

    def _redis(self) -> Flow:
        key, value = self._token(12), self._token(self._chance.randint(4, 200))
        asked = f"*3\r\n$3\r\nSET\r\n${len(key)}\r\n{key}\r\n${len(value)}\r\n{value}\r\n"
        return Flow(asked.encode(), b"+OK\r\n", False, "redis")

    def _postgres(self) -> Flow:
        said = f"user\0app\0database\0{self._token(6)}\0application_name\0psql\0client_encoding\0UTF8\0\0".encode()
        startup = (len(said) + 8).to_bytes(4) + b"\0\3\0\0" + said
        return Flow(startup, b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0", False, "postgres")

    def _mysql(self) -> Flow:
        greeting = b"\x0a8.0.36\0" + self._bytes(12) + b"\0\xff\xff\xff\2\0\xff\xdf\x15" + bytes(10) + self._bytes(13)
        reply = b"\x85\xa6\xff\x19\0\0\0\1\xff" + bytes(23) + b"app\0" + build.sized(self._bytes(32), 1)
        return Flow(
            len(reply).to_bytes(3, "little") + b"\1" + reply,
            len(greeting).to_bytes(3, "little") + b"\0" + greeting,
            False,
            "mysql",
        )

    def _smtp(self) -> Flow:
        server = f"220 {self._host()} ESMTP Postfix (Debian/GNU) {self._token(6)}\r\n"
        return Flow(f"EHLO box-{self._token(4)}\r\n".encode(), server.encode(), False, "smtp")

    def _random(self) -> Flow:
        return Flow(self._bytes(40, 1400), self._bytes(40, 1400), False, "random")
