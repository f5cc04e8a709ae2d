from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.names import KNOWN_MAX, NAMES_MAX, Names, NamesSettings, Source, address_of

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
BOX, OTHER = 7, 8
CDN = "198.51.100.7"


def test_the_last_name_of_an_address_is_shown_for_an_hour_after_its_time() -> None:
    names = Names()
    names.learn(BOX, "one.example.com", CDN, 100 * SECOND, "dns")
    names.learn(BOX, "two.example.com", CDN, 60 * SECOND, "dns")
    assert names.name_of(BOX, CDN, 50 * SECOND) == "two.example.com"
    assert names.names_of(BOX, CDN, 50 * SECOND) == ["two.example.com", "one.example.com"]
    assert names.name_of(BOX, CDN, HOUR + 60 * SECOND) == "one.example.com"
    assert names.name_of(BOX, CDN, HOUR + 100 * SECOND) == ""
    assert names.names_of(BOX, CDN, HOUR + 100 * SECOND) == []


def test_one_sandbox_has_nothing_of_anothers() -> None:
    names = Names()
    names.learn(BOX, "one.example.com", CDN, HOUR, "dns")
    assert names.name_of(OTHER, CDN, 0) == ""
    assert names.names_of(OTHER, CDN, 0) == []
    assert not names.asked(OTHER, CDN)
    assert not names.has_name(OTHER, CDN, "one.example.com")


def test_what_a_configured_resolver_said_goes_before_what_a_sandbox_may_make_up() -> None:
    names = Names()
    names.learn(BOX, "true.example.com", CDN, 10 * SECOND, "resolver")
    for source in ("dns", "hosts"):
        names.learn(BOX, f"github.{source}", CDN, HOUR, source)
        assert names.name_of(BOX, CDN, 0) == names.trusted_name(BOX, CDN, 0) == "true.example.com"
    assert names.names_of(BOX, CDN, 0) == ["true.example.com", "github.dns", "github.hosts"]
    names.learn(BOX, "github.com", "203.0.113.9", HOUR, "hosts")
    assert names.name_of(BOX, "203.0.113.9", 0) == "github.com"
    assert names.trusted_name(BOX, "203.0.113.9", 0) == ""


def test_a_hosts_file_does_not_lengthen_what_a_resolver_said() -> None:
    names = Names()
    names.learn(BOX, "one.example.com", CDN, 10 * SECOND, "resolver")
    names.learn(BOX, "one.example.com", CDN, 9 * HOUR, "hosts")
    assert names.names_of(BOX, CDN, 0) == ["one.example.com"]
    assert names.trusted_name(BOX, CDN, HOUR + 11 * SECOND) == ""
    assert names.name_of(BOX, CDN, HOUR + 11 * SECOND) == "one.example.com"


def test_a_flood_of_made_up_names_does_not_push_out_a_resolvers() -> None:
    names = Names()
    names.learn(BOX, "true.example.com", CDN, HOUR, "resolver")
    for number in range(100):
        names.learn(BOX, f"n{number}.example.org", CDN, HOUR, "dns")
    assert names.names_of(BOX, CDN, 0) == ["true.example.com", *(f"n{n}.example.org" for n in (99, 98, 97))]


def test_names_known_for_fronting_are_exact() -> None:
    names = Names()
    names.learn(BOX, "www.example.com", CDN, 1, "dns", ("www.example.com.cdn.net", "edge7.cdn.net"))
    for name in ("www.example.com", "WWW.example.com.", "www.example.com.cdn.net", "edge7.cdn.net"):
        assert names.has_name(BOX, CDN, name)
    for name in ("example.com", "other.example.com", "x.www.example.com", "cdn.net", "edge8.cdn.net", ""):
        assert not names.has_name(BOX, CDN, name)
    assert names.asked(BOX, CDN)
    assert not names.asked(BOX, "198.51.100.8")
    assert not names.has_name(BOX, "198.51.100.8", "www.example.com")


def test_more_names_than_are_shown_are_known() -> None:
    names = Names()
    for number in range(KNOWN_MAX + 5):
        names.learn(BOX, f"n{number}.example.com", CDN, HOUR, "dns")
    assert len(names.names_of(BOX, CDN, 0)) == NAMES_MAX
    assert [names.has_name(BOX, CDN, f"n{n}.example.com") for n in range(KNOWN_MAX + 5)] == [False] * 5 + [True] * 32


def test_bounds_the_oldest_goes_and_a_flood_costs_only_its_sandbox() -> None:
    names = Names(NamesSettings(addresses_per_sandbox=100, addresses=1000))
    names.learn(BOX, "mine.example.com", CDN, HOUR, "dns")
    for number in range(150):
        names.learn(OTHER, "x.example.com", f"10.0.0.{number}", HOUR, "dns")
        names.learn(OTHER, "x.example.com", "10.0.0.0", HOUR, "dns")
    assert len(names) == 101
    assert names.counters["names_dropped_sandbox"] == 50
    assert names.asked(OTHER, "10.0.0.0"), "it was learned again and again"
    assert not names.asked(OTHER, "10.0.0.1") and names.asked(OTHER, "10.0.0.149")
    for box in range(100, 200):
        for number in range(90):
            names.learn(box, "x.example.com", f"10.0.1.{number}", HOUR, "dns")
            assert len(names) <= 1000
    assert names.counters["names_dropped_all"] > 0
    assert names.name_of(BOX, CDN, 0) == "mine.example.com"
    names = Names(NamesSettings(addresses_per_sandbox=1, addresses=1))
    for box in range(50):
        names.learn(box, "x.example.com", CDN, HOUR, "dns")
        assert len(names) == 1 and names.asked(box, CDN)


def test_what_is_no_name_is_not_learned() -> None:
    names = Names()
    names.learn(BOX, "", CDN, HOUR, "dns")
    names.learn(BOX, "x" * 254, CDN, HOUR, "dns")
    names.learn(BOX, "x.example.com", "", HOUR, "dns")
    assert len(names) == 0


def test_a_sandbox_is_forgotten() -> None:
    names = Names()
    names.learn(BOX, "one.example.com", CDN, HOUR, "dns")
    names.learn(OTHER, "one.example.com", CDN, HOUR, "dns")
    names.forget(BOX)
    names.forget(99)
    assert len(names) == 1
    assert names.name_of(BOX, CDN, 0) == "" and names.name_of(OTHER, CDN, 0) == "one.example.com"


def test_addresses_are_text_as_connect_records_have_it() -> None:
    texts = {
        text: address.text
        for text in ("192.0.2.1", "::ffff:192.0.2.1", "2001:DB8::0:1")
        if (address := address_of(text))
    }
    assert texts == {"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:DB8::0:1": "2001:db8::1"}
    for text in ("", "x", "1.2.3", "1.2.3.4.5", "::g", "\0", "\ud800", "1.2.3.4\n", "fe80::1%eth0"):
        assert address_of(text) is None, text


SOURCES: list[Source] = ["resolver", "dns", "hosts"]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from("abcdef"), st.sampled_from("123456"), st.sampled_from(SOURCES)),
        max_size=200,
    )
)
def test_the_count_is_what_is_held(learned: list[tuple[int, str, str, Source]]) -> None:
    names = Names(NamesSettings(addresses_per_sandbox=4, addresses=9))
    for box, name, address, source in learned:
        names.learn(box, name, address, HOUR, source)
        assert names.has_name(box, address, name)
        assert len(names) == sum(names.asked(b, a) for b in range(4) for a in "123456") <= 9
        if source == "resolver":
            assert names.name_of(box, address, 0) == names.trusted_name(box, address, 0) == name
