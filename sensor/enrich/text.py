"""Bytes from the kernel to text: never raises, keeps what is not UTF-8 in `raw` under its field's name.

Paths and the names of programs repeat, so their conversions are cached; a flood of different ones
empties the cache and costs only its own conversions.
"""

from __future__ import annotations

from collections.abc import Callable

CACHED = 4096
CACHED_BYTES = 256  # a longer key is not worth its memory: 4096 of them stay below 3 MB
CUT = "…"
NAME_MAX = 253  # a DNS name's bound, which Kubernetes names keep

Raw = dict[str, bytes] | None


class TextCache:
    """Conversions of one kind of bytes."""

    __slots__ = ("_known", "_rebuild")

    def __init__(self, rebuild: Callable[[bytes], bytes]) -> None:
        self._known: dict[bytes, str] = {}
        self._rebuild = rebuild

    def read(self, source: bytes, field: str, raw: Raw) -> tuple[str, Raw]:
        """The text, and `raw` with the bytes where they are not UTF-8."""
        known = self._known.get(source)
        if known is not None:
            return known, raw
        whole = self._rebuild(source)
        try:
            text = whole.decode()
        except UnicodeDecodeError:
            return replaced(whole, field, raw)
        if len(source) <= CACHED_BYTES:
            if len(self._known) >= CACHED:
                self._known.clear()
            self._known[source] = text
        return text, raw


class Paths:
    """The three paths of an exec as the kernel sends them, one after the other: what it was given, its image, and its
    working directory. Work of one kind has the same again and again: one look-up for all. `find` gives the three or
    None; `read` is asked after None."""

    __slots__ = ("_folders", "_images", "_invoked", "_known", "find")

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int, int], tuple[str, str, str]] = {}
        self._invoked = TextCache(invoked)
        self._images = TextCache(image_path)
        self._folders = TextCache(walked_path)
        self.find = self._known.get

    def read(self, joined: bytes, first: int, second: int) -> tuple[str, str, str, Raw, Raw]:
        """The texts; what is not UTF-8 of the latter two; and of the first. `first` and `second` are lengths."""
        at = first + second
        given, added = self._invoked.read(joined[:first], "ImageInvoked", None)
        image, raw = self._images.read(joined[first:at], "Image", None)
        folder, raw = self._folders.read(joined[at:], "CurrentDirectory", raw)
        if raw is None and added is None and len(joined) <= CACHED_BYTES:
            if len(self._known) >= CACHED:
                self._known.clear()
            self._known[joined, first, second] = given, image, folder
        return given, image, folder, raw, added


def replaced(whole: bytes, field: str, raw: Raw) -> tuple[str, Raw]:
    kept = {} if raw is None else raw
    kept[field] = whole
    return whole.decode(errors="replace"), kept


def walked_path(walk: bytes) -> bytes:
    """`ls\\0bin\\0usr\\0` → `/usr/bin/ls`. No component at all is the root itself."""
    components = walk.split(b"\0")
    if not components[-1]:
        components.pop()
    components.reverse()
    return b"/" + b"/".join(components)


def image_path(walk: bytes) -> bytes:
    """As `walked_path`, but no file lives at the root: nothing walked means nothing known."""
    return walked_path(walk) if walk else b""


def invoked(filename: bytes) -> bytes:
    return filename.split(b"\0", 1)[0]


def command_line(argv: bytes, raw: Raw) -> tuple[str, Raw]:
    """Arguments joined by spaces; `raw` keeps argv itself where it is not UTF-8."""
    joined = argv.removesuffix(b"\0").replace(b"\0", b" ")
    try:
        return joined.decode(), raw
    except UnicodeDecodeError:
        kept = {} if raw is None else raw
        kept["CommandLine"] = argv
        return joined.decode(errors="replace"), kept


def marked_cut(path: str) -> str:
    """A path whose upper components were not read: `…/tail`."""
    return CUT + path if path.startswith("/") else f"{CUT}/{path}"


def clean_name(name: str) -> str:
    """Fit for a metric label and a terminal: control and format characters replaced, bounded."""
    cut = name[:NAME_MAX]
    return cut if cut.isprintable() else "".join(c if c.isprintable() else "?" for c in cut)
