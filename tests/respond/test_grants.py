"""What names of egress lists are granted, and for how long."""

from __future__ import annotations

import ipaddress

from sensor.bpf import state
from sensor.confignetwork import TCP, UDP, Egress
from sensor.respond.egress import MOST_ENTRIES_OF_ADDRESS, Change, NameGrants
from tests.respond.test_egress import allows, config, deny, entry

SECOND = 1_000_000_000


def written(changes: list[Change]) -> list[tuple[int, str, state.Name | None]]:
    result = []
    for change in changes:
        key = state.NameKey.unpack(change.key)
        address = ipaddress.IPv6Address(key.address)
        text = str(address.ipv4_mapped or address)
        result.append((key.sandbox_id, text, None if change.value is None else state.Name.unpack(change.value)))
    return result


def granted(changes: list[Change]) -> state.Name:
    [(_, _, value)] = written(changes)
    assert value is not None
    return value


NAMES = deny(entry("git.x.org", 22, protocol="tcp"), entry("*.x.org", 443), entry("y.org", "8000-8010"))


def grants(most: int = 64, most_of_sandbox: int = 16, egress: Egress = NAMES) -> NameGrants:
    return NameGrants(config(strict=egress, default=Egress()), most, most_of_sandbox)


def test_an_answer_for_a_listed_name_is_granted_with_its_ports() -> None:
    changes = grants().grant("strict", 7, "Git.X.org", "203.0.113.1", 5 * SECOND)
    [(sandbox, address, value)] = written(changes)
    assert (sandbox, address) == (7, "203.0.113.1")
    assert value is not None and value.until_ns == 5 * SECOND
    assert allows(value, 22, TCP) and allows(value, 443, UDP) and not allows(value, 22, UDP)
    assert not allows(value, 8000, TCP)


def test_what_no_list_names_is_granted_nothing() -> None:
    table = grants()
    assert table.grant("strict", 7, "z.org", "203.0.113.1", SECOND) == []
    assert table.grant("strict", 7, "y.org", "203.0.113", SECOND) == []
    assert table.grant("default", 7, "y.org", "203.0.113.1", SECOND) == []
    assert table.grant("gone", 7, "y.org", "203.0.113.1", SECOND) == []
    assert len(table) == 0


def test_a_renewal_never_shortens() -> None:
    table = grants()
    table.grant("strict", 7, "y.org", "2001:db8::1", 9 * SECOND)
    assert granted(table.grant("strict", 7, "y.org", "2001:db8::1", 5 * SECOND)).until_ns == 9 * SECOND
    assert granted(table.grant("strict", 7, "y.org", "2001:db8::1", 20 * SECOND)).until_ns == 20 * SECOND
    assert table.expire(9 * SECOND) == []
    assert written(table.expire(20 * SECOND)) == [(7, "2001:db8::1", None)]
    assert table.expire(99 * SECOND) == []
    assert len(table) == 0


def test_an_address_of_several_names_has_the_ports_of_all_and_loses_those_that_ended() -> None:
    table = grants()
    table.grant("strict", 7, "git.x.org", "203.0.113.1", 5 * SECOND)
    both = granted(table.grant("strict", 7, "y.org", "203.0.113.1", 9 * SECOND))
    assert both.until_ns == 9 * SECOND
    assert allows(both, 22, TCP) and allows(both, 8005, TCP)
    later = granted(table.expire(5 * SECOND))
    assert allows(later, 8005, TCP) and not allows(later, 22, TCP) and not allows(later, 443, TCP)
    assert later.until_ns == 9 * SECOND


def test_an_ended_sandbox_takes_its_grants_with_it() -> None:
    table = grants()
    for last in range(3):
        table.grant("strict", 7, "y.org", f"203.0.113.{last}", SECOND)
    table.grant("strict", 8, "y.org", "203.0.113.9", SECOND)
    assert [value for _, _, value in written(table.forget(7))] == [None] * 3
    assert table.forget(7) == []
    assert written(table.expire(SECOND)) == [(8, "203.0.113.9", None)]


def test_a_sandbox_that_resolves_much_loses_what_ends_first() -> None:
    table = grants(most_of_sandbox=2)
    table.grant("strict", 7, "y.org", "203.0.113.1", 9 * SECOND)
    table.grant("strict", 7, "y.org", "203.0.113.2", 5 * SECOND)
    changes = written(table.grant("strict", 7, "y.org", "203.0.113.3", 6 * SECOND))
    assert [(address, value is None) for _, address, value in changes] == [
        ("203.0.113.2", True),
        ("203.0.113.3", False),
    ]
    assert len(table) == 2


def test_a_sandbox_of_one_grant_can_change_it() -> None:
    table = grants(most_of_sandbox=1)
    for last in range(5):
        table.grant("strict", 7, "y.org", f"203.0.113.{last}", (9 - last) * SECOND)
        assert len(table) == 1
    assert written(table.expire(5 * SECOND)) == [(7, "203.0.113.4", None)]


def test_a_full_table_takes_from_oneself_or_from_who_has_most() -> None:
    table = grants(most=4)
    for last in range(3):
        table.grant("strict", 7, "y.org", f"203.0.113.{last}", (1 + last) * SECOND)
    table.grant("strict", 8, "y.org", "203.0.113.9", SECOND)
    dropped, made = written(table.grant("strict", 9, "y.org", "203.0.113.20", SECOND))
    assert dropped == (7, "203.0.113.0", None)
    assert made[:2] == (9, "203.0.113.20")
    dropped, made = written(table.grant("strict", 9, "y.org", "203.0.113.21", SECOND))
    assert dropped == (9, "203.0.113.20", None)
    assert len(table) == 4


def test_entries_of_one_address_are_bounded() -> None:
    table = grants(egress=deny(*(entry(f"n{number}.x.org", 443) for number in range(2 * MOST_ENTRIES_OF_ADDRESS))))
    for number in range(2 * MOST_ENTRIES_OF_ADDRESS):
        value = granted(table.grant("strict", 7, f"n{number}.x.org", "203.0.113.1", (1 + number) * SECOND))
    assert value.until_ns == 2 * MOST_ENTRIES_OF_ADDRESS * SECOND
    # Those that end first are gone already: the address does.
    assert table.expire(MOST_ENTRIES_OF_ADDRESS * SECOND) == []
    assert written(table.expire(value.until_ns)) == [(7, "203.0.113.1", None)]


def test_a_flood_of_answers_leaves_no_more_than_the_table_has() -> None:
    table = grants(most=64, most_of_sandbox=16)
    held: dict[bytes, bytes] = {}
    for number in range(20_000):
        address = str(ipaddress.IPv4Address(0x0B000000 + number % 5000))
        for change in table.grant("strict", number % 7, "y.org", address, (1 + number) * SECOND):
            if change.value is None:
                del held[change.key]
            else:
                held[change.key] = change.value
        assert len(held) == len(table) <= 64
    assert len(table._ends) <= 2 * 64 + 1024
    assert len(table.expire(20_001 * SECOND)) == len(held)
    assert len(table) == 0


def test_a_reload_ends_what_the_list_has_no_more() -> None:
    table = grants()
    table.grant("strict", 7, "git.x.org", "203.0.113.1", 9 * SECOND)
    table.grant("strict", 7, "y.org", "203.0.113.2", 9 * SECOND)
    table.grant("strict", 8, "y.org", "203.0.113.3", 9 * SECOND)
    table.grant("strict", 9, "y.org", "203.0.113.4", 9 * SECOND)
    later = config(strict=deny(entry("*.x.org", 80), entry("y.org", 81)), lax=Egress())
    changes = {address: value for _, address, value in written(table.reload(later, {8: "lax", 9: "gone"}))}
    first, second = changes["203.0.113.1"], changes["203.0.113.2"]
    assert first is not None and allows(first, 80, TCP) and not allows(first, 22, TCP) and not allows(first, 443, TCP)
    assert second is not None and allows(second, 81, TCP) and not allows(second, 8000, TCP)
    assert changes["203.0.113.3"] is None and changes["203.0.113.4"] is None
    assert len(table) == 2
    assert {value for _, _, value in written(table.expire(9 * SECOND))} == {None}
