"""Takes the protection from QUIC Initial packets (RFC 9001, section 5): AES-128 by the libcrypto of Python itself.

hashlib has libcrypto mapped already, so it costs no memory; a wheel of its own would cost 10 MB of the core.
It is bound at the first QUIC packet. Its state lives for one call only: between two of libcrypto's, other threads run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from hashlib import sha256

from msgspec import Struct

NAMES = ("libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so")
TAG = 16
SAMPLE = 16
_SET_TAG = 0x11  # EVP_CTRL_AEAD_SET_TAG; the nonce has the default size, 12


class Version(Struct, frozen=True):
    """name: as people write it. salt: of RFC 9001, 5.2, or RFC 9369, 3.3.1. initial: the long packet type."""

    name: str
    salt: bytes
    label: str
    initial: int


class Keys(Struct, frozen=True):
    key: bytes
    iv: bytes
    protection: bytes  # of the header


class _Mac:
    """HMAC-SHA-256 (RFC 2104) of several messages with one key, whose own blocks are hashed once."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(64, b"\0")
        self._inner = sha256(padded.translate(_INNER))
        self._outer = sha256(padded.translate(_OUTER))

    def digest(self, message: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


def client_keys(version: Version, connection: bytes) -> Keys:
    """`connection`: the destination id of the client's first packet."""
    secret = _Mac(_salted(version.salt).digest(connection)).digest(_info("client in", 32))
    expand, label = _Mac(secret).digest, version.label
    return Keys(
        expand(_info(label + " key", 16))[:16],
        expand(_info(label + " iv", 12))[:12],
        expand(_info(label + " hp", 16))[:16],
    )


@cache
def _salted(salt: bytes) -> _Mac:
    return _Mac(salt)


@cache
def _info(label: str, size: int) -> bytes:
    """HkdfLabel of RFC 8446, 7.1, without a context, and the counter of HKDF's first block."""
    named = b"tls13 " + label.encode()
    return bytes((0, size, len(named))) + named + b"\0\1"


class LibCrypto:
    """The few functions of EVP_EncryptInit(3) that this takes. Raises OSError or AttributeError where they are not."""

    def __init__(self, name: str) -> None:
        library = ctypes.PyDLL(name)  # a call takes a microsecond: letting other threads run meanwhile costs more
        pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
        size = ctypes.POINTER(ctypes.c_int)

        def bind(function: str, result: type | None, *arguments: type) -> Callable[..., int]:
            bound = getattr(library, function)
            bound.restype = result
            bound.argtypes = arguments
            return bound  # type: ignore[no-any-return]

        self._new = bind("EVP_CIPHER_CTX_new", pointer)
        self._free = bind("EVP_CIPHER_CTX_free", None, pointer)
        self._control = bind("EVP_CIPHER_CTX_ctrl", number, pointer, number, number, text)
        self._start_encrypt = bind("EVP_EncryptInit_ex", number, pointer, pointer, pointer, text, text)
        self._encrypt = bind("EVP_EncryptUpdate", number, pointer, text, size, text, number)
        self._start_decrypt = bind("EVP_DecryptInit_ex", number, pointer, pointer, pointer, text, text)
        self._decrypt = bind("EVP_DecryptUpdate", number, pointer, text, size, text, number)
        self._finish = bind("EVP_DecryptFinal_ex", number, pointer, text, size)
        self._ecb = bind("EVP_aes_128_ecb", pointer)()
        self._gcm = bind("EVP_aes_128_gcm", pointer)()

    def block(self, key: bytes, block: bytes) -> bytes:
        """One block of 16 bytes encrypted; b"" if the library refuses."""
        out, size = ctypes.create_string_buffer(32), ctypes.c_int()
        context = self._new()
        try:
            done = self._start_encrypt(context, self._ecb, None, key, None) == 1 and (
                self._encrypt(context, out, size, block, 16) == 1
            )
        finally:
            self._free(context)
        return out.raw[:16] if done else b""

    def open(self, keys: Keys, nonce: bytes, header: bytes, sealed: bytes) -> bytes | None:
        """What `sealed`, which ends with its tag, protects; None unless the tag is right."""
        length = len(sealed) - TAG
        out, size = ctypes.create_string_buffer(length + 16), ctypes.c_int()
        context = self._new()
        try:
            opened = (
                self._start_decrypt(context, self._gcm, None, keys.key, nonce) == 1
                and self._decrypt(context, None, size, header, len(header)) == 1
                and self._decrypt(context, out, size, sealed, length) == 1
                and self._control(context, _SET_TAG, TAG, sealed[length:]) == 1
                and self._finish(context, None, size) == 1
            )
        finally:
            self._free(context)
        return out.raw[:length] if opened else None


@cache
def libcrypto() -> LibCrypto | None:
    for name in NAMES:
        try:
            return LibCrypto(name)
        except (OSError, AttributeError):
            continue
    return None


def open_packet(library: LibCrypto, keys: Keys, packet: bytes, number_at: int) -> bytes | None:
    """The frames of one whole packet; `number_at`: where its packet number starts. None: not with these keys."""
    # The sample is taken as if the packet number had its greatest size, 4 (RFC 9001, 5.4.2).
    sample = packet[number_at + 4 : number_at + 4 + SAMPLE]
    if len(sample) < SAMPLE:
        return None
    mask = library.block(keys.protection, sample)
    if not mask:
        return None
    first = packet[0] ^ (mask[0] & 0x0F)
    size = (first & 3) + 1
    number = int.from_bytes(packet[number_at : number_at + size]) ^ int.from_bytes(mask[1 : 1 + size])
    header = bytes((first,)) + packet[1:number_at] + number.to_bytes(size)
    # A client's first packets have small numbers, so what is sent of the number is all of it.
    nonce = (int.from_bytes(keys.iv) ^ number).to_bytes(12)
    sealed = packet[number_at + size :]
    return library.open(keys, nonce, header, sealed) if len(sealed) >= TAG else None
