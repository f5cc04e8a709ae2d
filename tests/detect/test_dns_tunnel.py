"""Names as tunnels make them, and names of ordinary work that look like them."""

from __future__ import annotations

import base64
import random
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.configdetect import DnsTunnelSettings
from sensor.detect.dns_tunnel import DnsTunnel, entropy
from sensor.enrich.domains import registered_domain
from sensor.events.activity import DnsQuery, NetworkBehavior

SECOND = 1_000_000_000
BOX = 7
BASE32 = "abcdefghijklmnopqrstuvwxyz012345"
# iodine's base128 as it arrives here: lower case, high bytes escaped.
BASE128 = [*"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz0123456789", *(f"\\{n}" for n in range(188, 254))]


EMPTY: dict[object, object] = {str: "", int: 0, bool: False}
FIELDS = {name: EMPTY.get(kind) for name, kind in get_type_hints(DnsQuery).items() if name != "category"}
FIELDS |= {"generation": 3, "position": 800, "SandboxId": BOX, "ProcessId": 4242, "Protocol": "udp", "Initiated": True}
FIELDS |= {"DestinationIp": "9.9.9.9", "DestinationPort": 53, "SocketCookie": 0xAB, "Resolver": True}


def query(name: str, at_s: float = 100.0, type_: str = "A", **changes: Any) -> DnsQuery:
    asked: dict[str, Any] = {"QueryName": name, "QueryType": type_, "RegisteredDomain": registered_domain(name)}
    asked |= {"monotonic_ns": int(at_s * SECOND), "MessageBytes": 17 + len(name)}
    return DnsQuery(**{**FIELDS, **asked, **changes})


def answer(name: str, at_s: float, size: int, type_: str = "A", status: str = "NOERROR", **changes: Any) -> DnsQuery:
    return query(name, at_s, type_, Answered=True, QueryStatus=status, MessageBytes=size, **changes)


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - the same names each time


def dotted(text: str, most: int) -> str:
    return ".".join(text[at : at + most] for at in range(0, len(text), most))


def iodine(rng: random.Random, domain: str = "t1.example.net", size: int = 200) -> str:
    """User, counter and a header of three characters, then data in base32, a dot after each 57 (inline_dotify)."""
    head = "0" + rng.choice("abcdefghijklmnopqrstuvwxyz0123456789") + "".join(rng.choices(BASE32, k=3))
    return dotted(head + "".join(rng.choices(BASE32, k=size)), 57) + "." + domain


def iodine_128(rng: random.Random) -> str:
    labels = ["".join(rng.choices(BASE128, k=57)) for _ in range(3)]
    return ".".join(labels) + ".t1.example.net"


def dnscat2(rng: random.Random, size: int = 17) -> str:
    """Idle: packet and session, sequence numbers, signature and nonce; 17 bytes as hex."""
    return dotted(rng.randbytes(size).hex(), 60) + ".c2.example.org"


def dns2tcp(rng: random.Random) -> str:
    text = base64.b64encode(rng.randbytes(100)).decode().lower().replace("+", "-").replace("/", "_").rstrip("=")
    return dotted(text, 63) + ".d2t.example.com"


def played(names: list[str], types: str = "A", seconds: float = 10, size: int = 120, **changes: Any) -> int:
    """The highest score of questions and answers spread over so many seconds."""
    detector = DnsTunnel()
    told: list[NetworkBehavior] = []
    choices = types.split()
    for number, name in enumerate(names):
        at_s = 100 + seconds * number / len(names)
        type_ = choices[number % len(choices)]
        told += detector.observe(query(name, at_s, type_, **changes))
        told += detector.observe(answer(name, at_s + 0.001, size, type_, **changes))
    return max((behavior.Score for behavior in told), default=0)


RNG = seeded(2)
TUNNELS = {
    "iodine, NULL": ([iodine(RNG) for _ in range(20)], "NULL", 700),
    "iodine, PRIVATE": ([iodine(RNG) for _ in range(20)], "TYPE65399", 700),
    "iodine, TXT, base128": ([iodine_128(RNG) for _ in range(20)], "TXT", 400),
    "iodine, A only": ([iodine(RNG) for _ in range(20)], "A", 300),
    "iodine, a short -M": ([iodine(RNG, size=45) for _ in range(20)], "CNAME", 150),
    "dnscat2, idle": ([dnscat2(RNG) for _ in range(20)], "TXT CNAME MX", 120),
    "dnscat2, data": ([dnscat2(RNG, 100) for _ in range(20)], "TXT CNAME MX", 300),
    "dns2tcp, KEY": ([dns2tcp(RNG) for _ in range(20)], "KEY", 300),
    "dns2tcp, TXT": ([dns2tcp(RNG) for _ in range(20)], "TXT", 300),
    "a byte a label": ([dotted(RNG.randbytes(30).hex(), 2) + ".example.net" for _ in range(20)], "A", 100),
}


@pytest.mark.parametrize("which", TUNNELS)
@pytest.mark.parametrize("resolver", [True, False])
def test_a_tunnel_is_told_within_its_first_twenty_names(which: str, resolver: bool) -> None:
    names, types, size = TUNNELS[which]
    assert played(names, types, size=size, Resolver=resolver) >= 60


@pytest.mark.parametrize("which", ["iodine, NULL", "iodine, TXT, base128", "dnscat2, data", "dns2tcp, KEY"])
def test_one_that_uses_roomy_types_reaches_the_top_level(which: str) -> None:
    names, types, size = TUNNELS[which]
    assert played(names, types, size=size) >= 80


def test_dnscat2_that_only_polls_each_second_is_told_in_its_first_minute() -> None:
    names = [dnscat2(RNG) for _ in range(40)]
    assert played(names, "TXT CNAME MX", seconds=40) >= 60


WORDS = """
api www static img cdn assets media edge auth login data mail blog shop docs fonts stats events track
""".split()  # noqa: SIM905 - a table
SITES = """
www.google.com fonts.gstatic.com pagead2.googlesyndication.com securepubads.g.doubleclick.net www.googletagmanager.com
cdn.jsdelivr.net connect.facebook.net static.xx.fbcdn.net bat.bing.com snap.licdn.com px.ads.linkedin.com
cdn.segment.com js.stripe.com m.stripe.network api.segment.io cdn.cookielaw.org geolocation.onetrust.com
script.hotjar.com s.pinimg.com
ct.pinterest.com analytics.tiktok.com tr.snapchat.com sc-static.net browser.sentry-cdn.com o37442.ingest.sentry.io
api-js.mixpanel.com widget.intercom.io js.intercomcdn.com nexus-websocket-a.intercom.io
edge.fullstory.com rs.fullstory.com
cdn.optimizely.com logx.optimizely.com js.hs-scripts.com track.hubspot.com forms.hsforms.com munchkin.marketo.net
bam.nr-data.net js-agent.newrelic.com cdnjs.cloudflare.com challenges.cloudflare.com use.typekit.net p.typekit.net
i.ytimg.com yt3.ggpht.com rr4---sn-4g5ednsl.googlevideo.com www.redditstatic.com alb.reddit.com abs.twimg.com
github.githubassets.com avatars.githubusercontent.com collector.github.com registry.npmjs.org files.pythonhosted.org
""".split()  # noqa: SIM905


def spread(name: str, count: int) -> list[str]:
    return [
        name.format(n=n, h=RNG.randbytes(16).hex(), s=RNG.randbytes(5).hex(), w=WORDS[n % 19]) for n in range(count)
    ]


def address(n: int) -> str:
    return f"{n % 251}.{n % 7}.{RNG.randrange(256)}.{RNG.randrange(256)}"


SEARCH = "{} {}.default.svc.cluster.local {}.svc.cluster.local {}.cluster.local {}.eu-central-1.compute.internal"
HOSTS = [site.replace("www", word) for word in WORDS[:2] for site in SITES]
ORDINARY = {
    "browser": (HOSTS, "A AAAA HTTPS", "NOERROR"),
    "browser, all again": (HOSTS * 3, "A AAAA HTTPS", "NOERROR"),
    "pip, npm": (["files.pythonhosted.org", "registry.npmjs.org", "proxy.golang.org"] * 60, "A AAAA", "NOERROR"),
    "one CDN, many customers": (spread("d{s}xyz.cloudfront.net", 60), "A AAAA", "NOERROR"),
    "video hosts": (spread("rr{n}---sn-{s}.googlevideo.com", 60), "A", "NOERROR"),
    "a crawler, blogs": (spread("{w}-of-{n}-days.wordpress.com", 300), "A", "NOERROR"),
    "a crawler, one host a domain": (spread("www.{w}{n}-online.com", 600), "A", "NOERROR"),
    "analytics": (spread("{h}.safeframe.example-ads.com", 4), "A AAAA", "NOERROR"),
    "reverse": ([f"{address(n)}.in-addr.arpa" for n in range(400)], "PTR", "NXDOMAIN"),
    "reverse, IPv6": ([f"{dotted(RNG.randbytes(16).hex(), 1)}.ip6.arpa" for _ in range(200)], "PTR", "NXDOMAIN"),
    "block lists": ([f"{address(n)}.zen.spamhaus.org" for n in range(300)], "A TXT", "NXDOMAIN"),
    "block lists with a key": (
        [f"{address(n)}.{'k3y' * 8}ab.zen.dq.spamhaus.net" for n in range(300)], "A TXT", "NXDOMAIN",
    ),
    "buckets": (spread("training-data-{s}.s3.eu-west-1.amazonaws.com", 100), "A", "NOERROR"),
    "buckets, unknown service": (spread("training-{s}.objects.example-cloud.com", 100), "A AAAA", "NOERROR"),
    "previews": (spread("{w}-{n}-{s}.preview.example-pages.com", 100), "A AAAA HTTPS", "NOERROR"),
    "instances": (spread("ip-10-0-{n}-17.eu-west-1.compute.internal", 200), "A", "NOERROR"),
    "outside instances": (spread("ec2-3-120-{n}-17.eu-west-1.compute.amazonaws.com", 200), "A", "NOERROR"),
    "pods": (spread("worker-7d4b9c6f5-{s}.training.svc.cluster.local", 200), "A AAAA", "NOERROR"),
    "search path": (
        [path.format(f"{word}.{site}") for word in WORDS for site in SITES[:20] for path in SEARCH.split()],
        "A AAAA", "NXDOMAIN",
    ),
    "mail": ([f"_dmarc.{w}{n}.com" for n, w in enumerate(WORDS * 10)], "TXT MX", "NOERROR"),
    "services": ([f"_{w}._tcp.example.com" for w in WORDS], "SRV", "NOERROR"),
    "validation": (spread("_acme-challenge.{w}{n}.example.org", 40), "TXT", "NOERROR"),
}  # fmt: skip


@pytest.mark.parametrize("which", ORDINARY)
def test_ordinary_names_stay_below_every_level(which: str) -> None:
    names, types, status = ORDINARY[which]
    detector = DnsTunnel()
    told = []
    for number, name in enumerate(names):
        at_s = 100 + 55 * number / len(names)
        type_ = types.split()[number % len(types.split())]
        told += detector.observe(query(name, at_s, type_))
        told += detector.observe(answer(name, at_s, 280, type_, status))
    assert [(behavior.Domain, behavior.Score, behavior.ScoreParts) for behavior in told] == []


def test_a_browser_that_asks_a_public_resolver_itself_is_silent() -> None:
    """Its names are also taken together by that address."""
    assert played(HOSTS, "A AAAA", seconds=50, Resolver=False) == 0


def test_what_is_told() -> None:
    detector = DnsTunnel()
    told: list[NetworkBehavior] = []
    rng = seeded(5)
    for number in range(60):
        name = iodine(rng)
        told += detector.observe(query(name, 100 + number / 10, "NULL", SocketCookie=0xAB + number % 20))
        told += detector.observe(answer(name, 100 + number / 10, 700, "NULL"))
    assert [[level for level in (40, 60, 80) if one.Score >= level][-1] for one in told] == [40, 60, 80]
    last = told[-1]
    assert (last.Behavior, last.Domain, last.ApplicationProtocol) == ("dns_tunnel", "example.net", "dns")
    assert (last.generation, last.position, last.ProcessId, last.SandboxId) == (3, 801, 4242, BOX)
    assert 10 < last.QueriesPerMinute < 30
    assert 4300 < last.EntropyMilliBits < 5000
    assert last.BytesOut > 15 * 200 and last.BytesIn >= 14 * 700
    cookies = [int(cookie, 16) for cookie in last.Cookies.split()]
    assert cookies == list(range(cookies[-1] - len(cookies) + 1, cookies[-1] + 1)) and 10 <= len(cookies) <= 16
    parts = dict(part.split("=") for part in last.ScoreParts.split())
    assert list(parts) == ["names", "length", "entropy", "types", "answers", "characters", "nxdomain"]
    assert sum(map(int, parts.values())) >= last.Score >= 80


def test_each_level_is_told_once_an_hour_and_again_after_it() -> None:
    detector = DnsTunnel()
    rng = seeded(6)
    at: list[int] = []
    for second in range(0, 2 * 3600 + 100):
        for event in detector.observe(query(iodine(rng), 1000 + second, "NULL")):
            at.append(event.monotonic_ns // SECOND - 1000)
            assert event.Score >= 40
        detector.tick((1000 + second) * SECOND, 0)
    first = [second for second in at if second < 60]
    assert len(first) == 3
    assert len(at) <= 9
    assert any(3600 <= second < 3700 for second in at)


def test_rotating_domains_do_not_hide_a_tunnel_that_asks_its_server_itself() -> None:
    rng = seeded(7)
    detector = DnsTunnel()
    told = []
    for number in range(60):
        name = f"{''.join(rng.choices(BASE32, k=57))}.{''.join(rng.choices(BASE32, k=40))}.com"
        told += detector.observe(query(name, 100 + number / 10, "TXT", Resolver=False, DestinationIp="198.51.100.9"))
    assert told and told[-1].Score >= 80
    assert {(one.Domain, one.DestinationIp) for one in told} == {("", "198.51.100.9")}


def test_internal_zones_are_passed_over_only_where_nobody_outside_is_asked() -> None:
    names = [iodine(RNG, "t.corp.internal") for _ in range(25)]
    assert played(names, "NULL") == 0
    assert played(names, "NULL", Resolver=False, DestinationIsPrivate=True) == 0
    assert played(names, "NULL", Resolver=False) >= 80


def test_names_that_only_end_like_reverse_look_ups_count() -> None:
    assert played([iodine(RNG, "4.3.2.in-addr.arpa") for _ in range(25)], "PTR") >= 60


def test_what_is_asked_of_a_sandbox_is_no_way_out() -> None:
    assert played([iodine(RNG) for _ in range(40)], "NULL", Initiated=False) == 0


def test_a_domain_that_the_operator_trusts_is_passed_over() -> None:
    detector = DnsTunnel(DnsTunnelSettings(trusted=("example.net",)))
    assert not any(detector.observe(query(iodine(RNG), 100 + n / 10)) for n in range(60))


def test_slow_names_do_not_add_up() -> None:
    """Five a minute for half an hour: below what is seen, and said so."""
    detector = DnsTunnel()
    assert not any(detector.observe(query(iodine(RNG), 100 + 12 * n)) for n in range(150))


def test_a_flood_of_domains_is_bounded_and_costs_only_its_sandbox() -> None:
    detector = DnsTunnel(DnsTunnelSettings(domains=1024))
    rng = seeded(8)
    others = [query("www.example.org", 100, SandboxId=box) for box in range(100, 110)]
    for event in others:
        detector.observe(event)
    for number in range(100_000):
        detector.observe(query(f"x.d{number}.com", 100 + number / 10_000, SandboxId=number % 8))
        assert len(detector) <= 1024
    assert detector.counters["dns_domains_dropped_all"] > 0
    assert all(len(detector._sandboxes[event.SandboxId]) == 1 for event in others)
    flooded = DnsTunnel()
    for number in range(100_000):
        flooded.observe(query(f"x.d{rng.randrange(1 << 40)}.com", 100 + number / 10_000))
    assert len(flooded) == 256
    assert flooded.counters["dns_domains_dropped_sandbox"] > 90_000


def test_idle_domains_and_ended_sandboxes_are_forgotten() -> None:
    detector = DnsTunnel()
    detector.observe(query("www.example.org", 100))
    detector.observe(query("www.example.org", 100, SandboxId=8))
    detector.observe(query("www.example.com", 900, SandboxId=8))
    assert len(detector) == 3
    assert detector.tick(1000 * SECOND, 0) == []
    assert len(detector) == 1
    detector.forget(8)
    detector.forget(99)
    assert len(detector) == 0
    detector.observe(query("www.example.com", 1001, SandboxId=8))
    assert len(detector) == 1


def test_entropy() -> None:
    assert (entropy(""), entropy("a"), entropy("aaaa"), entropy("ab"), entropy("abcd")) == (0, 0, 0, 1000, 2000)
    assert entropy("0123456789abcdef" * 4) == 4000


def test_events_of_one_sandbox_are_bounded_however_many_domains_it_uses() -> None:
    detector = DnsTunnel()
    names = (iodine(RNG, f"t.domain{n // 25}.net") for n in range(25 * 80))
    told = sum(len(detector.observe(query(name, 100 + n / 100, "NULL"))) for n, name in enumerate(names))
    assert told == 64
    assert detector.counters["behaviors_over_hourly_limit"] > 0
    again = [detector.observe(query(iodine(RNG, "t.x.net"), 9000 + n / 100, "NULL")) for n in range(25)]
    assert any(again), "an hour later"


@given(st.lists(st.tuples(st.text(max_size=300), st.integers(0, 10**15), st.booleans()), max_size=40))
def test_nothing_raises_for_any_name_or_order_of_times(events: list[tuple[str, int, bool]]) -> None:
    detector = DnsTunnel()
    for name, at_ns, resolver in events:
        for told in detector.observe(query(name, 0, monotonic_ns=at_ns, Resolver=resolver)):
            assert 0 <= told.Score <= 100
        detector.observe(answer(name, 0, 99, monotonic_ns=at_ns))
