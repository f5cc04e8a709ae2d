"""ClientHellos and QUIC Initial packets made to measure, after the specifications and not after the dissectors."""

from __future__ import annotations

import struct

from sensor.enrich.protocols.quic_crypto import Version, client_keys, libcrypto

SIGNATURES = (0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601)
Extension = tuple[int, bytes]


def shorts(values: tuple[int, ...]) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def sized(content: bytes, size: int = 2) -> bytes:
    return len(content).to_bytes(size) + content


def server_name(name: bytes) -> Extension:
    return 0x0000, sized(b"\0" + sized(name))


def alpn(*names: bytes) -> Extension:
    return 0x0010, sized(b"".join(sized(name, 1) for name in names))


def versions(*values: int) -> Extension:
    return 0x002B, sized(shorts(values), 1)


def signatures(values: tuple[int, ...] = SIGNATURES) -> Extension:
    return 0x000D, sized(shorts(values))


def message(
    extensions: list[Extension], ciphers: tuple[int, ...] = (0x1301, 0x1302), session: int = 32, legacy: int = 0x0303
) -> bytes:
    """A ClientHello with its handshake header, without a record."""
    body = legacy.to_bytes(2) + bytes(range(32)) + sized(bytes(session), 1) + sized(shorts(ciphers)) + b"\x01\0"
    body += sized(b"".join(kind.to_bytes(2) + sized(content) for kind, content in extensions))
    return b"\x01" + sized(body, 3)


def record(content: bytes, kind: int = 0x16, minor: int = 1) -> bytes:
    return bytes((kind, 3, minor)) + sized(content)


def records(content: bytes, size: int) -> bytes:
    """One handshake message over as many records as it takes."""
    return b"".join(record(content[at : at + size]) for at in range(0, len(content), size))


def browser(name: bytes = b"example.com", key_share: int = 1216 + 32) -> bytes:
    """As a browser with post-quantum keys (X25519MLKEM768: 1216 bytes) and GREASE sends it: 2 KB."""
    return message(
        [
            (0x2A2A, b""),
            server_name(name),
            (0x0017, b""),
            (0xFF01, b"\0"),
            (0x000A, sized(shorts((0x2A2A, 0x11EC, 0x001D, 0x0017)))),
            (0x000B, b"\x01\0"),
            (0x0023, b""),
            alpn(b"h2", b"http/1.1"),
            (0x0005, b"\x01\0\0\0\0"),
            signatures(),
            (0x0012, b""),
            (0x0033, sized(bytes(key_share))),
            (0x002D, b"\x01\x01"),
            versions(0x2A2A, 0x0304, 0x0303),
            (0x001B, b"\x02\0\x02"),
            (0xFE0D, bytes(200)),
            (0x4A4A, b"\0"),
        ],
        (0x2A2A, 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014),
    )


def _multiply(left: int, right: int) -> int:
    """In GF(2^128) as GCM has it (NIST SP 800-38D, 6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        if left >> bit & 1:
            product ^= right
        right = right >> 1 ^ (0xE1 << 120 if right & 1 else 0)
    return product


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 16)


def seal(key: bytes, nonce: bytes, header: bytes, plain: bytes) -> bytes:
    """AES-128-GCM from the single block that the sensor binds: ciphertext and tag."""
    library = libcrypto()
    assert library is not None
    pad = b"".join(library.block(key, nonce + (2 + n).to_bytes(4)) for n in range(-(-len(plain) // 16)))
    sealed = bytes(a ^ b for a, b in zip(plain, pad, strict=False))
    hashed = 0
    subkey = int.from_bytes(library.block(key, bytes(16)))
    covered = _padded(header) + _padded(sealed) + struct.pack(">QQ", len(header) * 8, len(sealed) * 8)
    for at in range(0, len(covered), 16):
        hashed = _multiply(hashed ^ int.from_bytes(covered[at : at + 16]), subkey)
    tag = hashed ^ int.from_bytes(library.block(key, nonce + b"\0\0\0\x01"))
    return sealed + tag.to_bytes(16)


def varint(value: int) -> bytes:
    if value < 1 << 6:
        return value.to_bytes(1)
    return (value | 0x4000).to_bytes(2) if value < 1 << 14 else (value | 1 << 31).to_bytes(4)


def crypto_frame(offset: int, content: bytes) -> bytes:
    return b"\x06" + varint(offset) + varint(len(content)) + content


def initial(
    frames: bytes, version: Version, wire: bytes, connection: bytes = b"\x83\x94\xc8\xf0\x3eQW\x08", token: bytes = b""
) -> bytes:
    """A client's protected Initial packet. `wire`: the version's four bytes."""
    keys = client_keys(version, connection)
    number = b"\0\0\0\x02"
    start = bytes((0xC3 | version.initial << 4,)) + wire + sized(connection, 1) + b"\0"
    header = start + varint(len(token)) + token + varint(len(frames) + 4 + 16) + number
    nonce = bytes(a ^ b for a, b in zip(keys.iv, number.rjust(12, b"\0"), strict=True))
    sealed = seal(keys.key, nonce, header, frames)
    library = libcrypto()
    assert library is not None
    mask = library.block(keys.protection, sealed[:16])
    protected = bytes(a ^ b for a, b in zip(number, mask[1:5], strict=True))
    return bytes((header[0] ^ mask[0] & 0x0F,)) + header[1:-4] + protected + sealed
