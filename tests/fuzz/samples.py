"""First bytes of every protocol, gathered from the tests of the dissectors."""

from __future__ import annotations

from msgspec import Struct

from tests.enrich.protocols import (
    test_bore,
    test_chisel,
    test_dns,
    test_frp,
    test_getblocktemplate,
    test_http,
    test_openvpn,
    test_quic,
    test_shell,
    test_socks,
    test_ssh,
    test_stratum,
    test_tls,
    test_wireguard,
    test_yamux,
)


class Sample(Struct, frozen=True):
    protocol: str
    data: bytes
    udp: bool = False

    @property
    def name(self) -> str:
        return f"{self.protocol}-{'udp' if self.udp else 'tcp'}-{self.data[:12].hex()}-{len(self.data)}"


def _length_first(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data


_STREAMS: dict[str, tuple[bytes, ...]] = {
    "bore": test_bore.SAMPLES,
    "chisel": (test_chisel.CHISEL, test_chisel.ANSWER),
    "wstunnel": (test_chisel.WSTUNNEL, test_http.UPGRADE),
    "devtunnels": (test_chisel.DEVTUNNEL,),
    "dns": tuple(map(_length_first, test_dns.SAMPLES)),
    "frp": (*test_frp.SAMPLES, b"\x17" + test_tls.BROWSER),
    "getblocktemplate": test_getblocktemplate.SAMPLES,
    "http": (test_http.GET, test_http.ANSWER, test_http.CONNECT),
    "openvpn": tuple(map(_length_first, test_openvpn.SAMPLES)),
    "shell": test_shell.SAMPLES,
    "socks": (*test_socks.SAMPLES, b"\5\1\0", b"\5\0", b"\0\x5a\0\x50\x01\x02\x03\x04"),
    "ssh": test_ssh.SAMPLES,
    "stratum": test_stratum.SAMPLES,
    "tls": test_tls.SAMPLES,
    "yamux": test_yamux.SAMPLES,
}
_DATAGRAMS: dict[str, tuple[bytes, ...]] = {
    "dns": test_dns.SAMPLES,
    "openvpn": test_openvpn.SAMPLES,
    "quic": test_quic.SAMPLES,
    "wireguard": test_wireguard.SAMPLES,
    "stratum": test_stratum.SAMPLES[:1],
    "http": (b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n\r\n',),
}
ALL = [Sample(protocol, data) for protocol, samples in _STREAMS.items() for data in samples]
ALL += [Sample(protocol, data, True) for protocol, samples in _DATAGRAMS.items() for data in samples]
