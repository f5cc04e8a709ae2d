"""Which server names look like Tor's, and that people's and firms' do not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sensor.enrich.protocols.result import Found
from sensor.enrich.protocols.tor import looks_random, refine
from tests.fuzz.checks import checked

HELLO = Found("tls", "client", "client_hello", "1.3", server_name="www.x3vqkz7wmtb5fpdu.com", ja4="t13d")
BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
ORDINARY = """
wikipedia facebook instagram linkedin microsoft cloudflare wordpress pinterest whatsapp amazonaws stackoverflow
digitalocean bloomberg washingtonpost theguardian huffingtonpost businessinsider techcrunch arstechnica
nationalgeographic sciencedirect springer researchgate jetbrains atlassian bitbucket salesforce mailchimp sendgrid
cloudfront fastlycdn akamaized doubleclick googletagmanager googleapis googleusercontent squarespace aliexpress
xinhuanet bilibili chinadaily mercadolibre flipkart snapdeal timesofindia hindustantimes ndtvprofit deutschebank
commerzbank volkswagen lufthansa carrefour leboncoin cdiscount societegenerale creditagricole bouyguestelecom gazzetta
repubblica corriere mediaset telefonica santander mercadona elcorteingles vkontakte yandexcloud sberbank gazprombank
kaspersky wildberries statefarm progressive wellsfargo bankofamerica jpmorganchase goldmansachs morganstanley
capitalone americanexpress mastercard accenture mckinsey pricewaterhouse kpmgcareers lockheedmartin northropgrumman
raytheon generalelectric rottentomatoes metacritic gamespot eurogamer rockpapershotgun huggingface anthropic
tensorflow pytorchlightning kubernetes dockerhub canonical debianforum archlinux gentooforum slackware postgresql
mysqlperformance cassandra elasticsearch rabbitmq clickhouse snowflake databricks cloudera hortonworks splunkbase
datadoghq newrelic pagerduty opsgenie statuspage hashicorp terraform pulumicorp circleci jenkinsci crunchbase
glassdoor monsterjobs ziprecruiter craigslist tripadvisor skyscanner expediagroup marriott hiltonhonors airbnbcitizen
southwest walgreens cvshealth unitedhealthgroup kaiserpermanente mayoclinic webmdhealth healthline homedepot
lowesforpros bestbuyhealth walmartlabs costcotravel kohlscorporate f2poolmining 2minerspool 7zipsetup 3dprinting
24hourfitness 37signals 5gworldpro jsfiddle jqueryui npmjsregistry expressjs nextjsconf vuejsdev bbcworldnews
cnnbusiness nbcsports abcnewsgo foxbusiness espncricinfo xkcdstore dynatrace duckdnsorg freebsdfoundation openbsdstore
netbsdblog gnomeshell xfceforum mtggoldfish chesscomfiles lichessorg boardgamegeek warhammer tcgplayer swarthmore
dartmouth princeton stanford berkeley columbia northwestern johnshopkins zhongguancun jianshuwang guangzhou
shenzhenair xiaohongshu pinduoduo xunleigame icicibank hdfcbank phpmyadmin css3tricks njtransit nycgovparks
dhlexpress fedexship wwfworld mtvnews mkyongblog
""".split()  # noqa: SIM905 - two hundred quotes less


def generated(count: int, shortest: int, longest: int) -> list[str]:
    """As crypto_random_hostname makes them."""
    source = random.Random(7)  # noqa: S311
    return ["".join(source.choices(BASE32, k=source.randint(shortest, longest))) for _ in range(count)]


def test_ordinary_names_are_not_random() -> None:
    """One in 100 may be taken for random, and the result says "not certain": `jqueryui` is, by its letters."""
    assert len(ORDINARY) >= 200
    assert [name for name in ORDINARY if looks_random(name)] == ["jqueryui"]


@pytest.mark.parametrize(
    ("shortest", "longest", "least"), [(8, 11, 0.75), (12, 15, 0.85), (16, 20, 0.93), (8, 25, 0.88)]
)
def test_generated_names_are(shortest: int, longest: int, least: float) -> None:
    """A short one has too few letters to tell: of eight, three in four are seen, and Tor makes several hellos."""
    names = generated(2000, shortest, longest)
    assert sum(map(looks_random, names)) / len(names) >= least
    assert all(map(looks_random, ["x3vqkz7wmtb5fpdu", "zq7xk2vj", "3hjq5xw2cz7vk4bndpmf"]))


def test_at_least_nine_in_ten_of_two_hundred() -> None:
    assert sum(map(looks_random, generated(200, 8, 20))) >= 175


def test_a_hello_of_tor() -> None:
    assert refine(HELLO) == replace(HELLO, dialect="tor-like", certain=False)
    net = replace(HELLO, server_name="www.x3vqkz7wmtb5fpdu.net")
    assert refine(net).dialect == "tor-like"


@pytest.mark.parametrize(
    "found",
    [
        replace(HELLO, alpn="h2"),
        replace(HELLO, kind="server_hello"),
        replace(HELLO, protocol="quic"),
        replace(HELLO, server_name=""),
        replace(HELLO, server_name="www.com"),
        replace(HELLO, server_name="www..com"),
        replace(HELLO, server_name="www.wikipedia.com"),
        replace(HELLO, server_name="x3vqkz7wmtb5fpdu.com"),
        replace(HELLO, server_name="www.x3vqkz7wmtb5fpdu.org"),
        replace(HELLO, server_name="www.x3vqkz7.com"),  # seven
        replace(HELLO, server_name="www." + "x3vqkz7wmtb5fpdux3vqkz7wmt.com"),  # 26
        replace(HELLO, server_name="www.x3vqkz71mtb5fpdu.com"),  # 1 is not of base32
        replace(HELLO, server_name="www.x3vq-z7wmtb5fpdu.com"),
        replace(HELLO, server_name="www.x3vq.z7wmtb5fpdu.com"),
    ],
)
def test_what_stays_as_it_was(found: Found) -> None:
    assert refine(found) is found


@given(st.text(max_size=30))
def test_noise(name: str) -> None:
    printable = "".join(c for c in f"www.{name}.com" if c.isprintable())
    checked(refine(replace(HELLO, server_name=printable)))
