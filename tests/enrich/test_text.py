from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.text import CACHED, NAME_MAX, TextCache, clean_name, walked_path
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
        cache.convert(b"%d\0" % index, "Image", None)
    known = [index for index in range(3 * CACHED) if cache.find(b"%d\0" % index) is not None]
    assert 0 < len(known) <= CACHED
    cache.convert(b"x" * 1000, "Image", None)
    assert cache.find(b"x" * 1000) is None


def test_what_is_not_utf8_is_never_cached_without_its_bytes() -> None:
    cache = TextCache(walked_path)
    for _ in range(2):
        assert cache.find(b"\xff\0") is None
        assert cache.convert(b"\xff\0", "Image", None) == ("/\ufffd", {"Image": b"/\xff"})


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
