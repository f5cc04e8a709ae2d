from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.text import CACHED, NAME_MAX, Paths, TextCache, clean_name, walked_path
from sensor.enrich.users import Users


@given(st.lists(st.binary(min_size=1, max_size=8).filter(lambda b: b"\0" not in b), min_size=1, max_size=8))
def test_a_walk_is_the_path_backwards(components: list[bytes]) -> None:
    walk = b"".join(component + b"\0" for component in reversed(components))
    assert walked_path(walk) == b"/" + b"/".join(components)


@given(st.text())
def test_names_are_printable_and_bounded(name: str) -> None:
    assert clean_name(name).isprintable()
    assert len(clean_name(name)) == min(len(name), NAME_MAX)


def test_the_cache_forgets_and_never_holds_long_keys() -> None:
    cache = TextCache(walked_path)
    for index in range(3 * CACHED):
        assert cache.read(b"%d\0" % index, "Image", None) == (f"/{index}", None)
    assert 0 < len(cache._known) <= CACHED
    cache.read(b"x" * 1000, "Image", None)
    assert b"x" * 1000 not in cache._known


def test_what_is_not_utf8_is_never_cached_without_its_bytes() -> None:
    cache = TextCache(walked_path)
    for _ in range(2):
        assert cache.read(b"\xff\0", "Image", None) == ("/\ufffd", {"Image": b"/\xff"})
    assert not cache._known


def test_paths_are_told_apart_by_their_lengths() -> None:
    """Joined, a component may belong to either neighbour: a sandbox chooses all of them."""
    paths = Paths()
    joined = b"sh\0bin\0usr\0"
    for lengths, texts in (
        ((3, 4), ("sh", "/bin", "/usr")),
        ((3, 8), ("sh", "/usr/bin", "/")),
        ((3, 0), ("sh", "", "/usr/bin")),
    ):
        for _ in range(2):
            found = paths.find((joined, *lengths))
            assert (found or paths.read(joined, *lengths)[:3]) == texts
        assert paths.find((joined, *lengths)) == texts


def test_paths_that_are_no_text_or_long_are_read_each_time() -> None:
    paths = Paths()
    given, image, folder, raw, added = paths.read(b"\xff\0sh\0w\xfe\0", 2, 3)
    assert (given, image, folder) == ("\ufffd", "/sh", "/w\ufffd")
    assert (raw, added) == ({"CurrentDirectory": b"/w\xfe"}, {"ImageInvoked": b"\xff"})
    assert paths.find((b"\xff\0sh\0w\xfe\0", 2, 3)) is None
    long = b"x" * 300 + b"\0"
    assert paths.read(b"a\0" + long, 2, 301)[1] == f"/{'x' * 300}"
    assert paths.find((b"a\0" + long, 2, 301)) is None
    for index in range(3 * CACHED):
        paths.read(b"%d\0" % index, 0, 0)
    assert 0 < len(paths._known) <= CACHED


def test_users_of_the_host(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_bytes(b"root:x:0:0::/:/bin/sh\nbuild:x:1000:1000::/:\nbad\nodd:x:1\xff:1\nalias:x:0:0::/:\n")
    users = Users(str(passwd))
    assert [users.name(0), users.name(1000), users.name(4_000_000_000)] == ["root", "build", "4000000000"]
    passwd.write_text("trainer:x:1000:1000::/:\n")
    users.refresh()
    assert users.name(1000) == "trainer"
    for uid in range(10_000, 30_000):
        assert users.name(uid) == str(uid)
    assert len(users.known) <= 4096
    passwd.unlink()
    users.refresh()
    assert users.failures == 1
    assert users.name(1000) == "trainer"
