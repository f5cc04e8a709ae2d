from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.domains import SUFFIX_LABELS, SUFFIXES, labels_of, registered_domain


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("example.com", "example.com"),
        ("www.example.com", "example.com"),
        ("a.b.c.d.e.f.example.com", "example.com"),
        ("www.example.co.uk", "example.co.uk"),
        ("example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("x.y.com.cn", "y.com.cn"),
        ("alice.github.io", "alice.github.io"),
        ("www.alice.github.io", "alice.github.io"),
        ("abc.trycloudflare.com", "abc.trycloudflare.com"),
        ("x.abc.eu.ngrok.io", "abc.eu.ngrok.io"),
        ("home.duckdns.org", "home.duckdns.org"),
        ("bucket.s3.amazonaws.com", "bucket.s3.amazonaws.com"),
        ("a.bucket.s3.eu-west-1.amazonaws.com", "bucket.s3.eu-west-1.amazonaws.com"),
        ("ec2-1-2-3-4.compute-1.amazonaws.com", "amazonaws.com"),
        ("4.3.2.1.in-addr.arpa", "in-addr.arpa"),
        ("localhost", "localhost"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        (".", "."),
        ("", ""),
        # A dot within a label parts nothing: the name is not GitHub's.
        (r"x\.github.com", r"x\.github.com"),
        (r"www.x\.github.com", r"x\.github.com"),
        (r"www.x\\.github.com", "github.com"),
        (r"a\032b.example.com", "example.com"),
    ],
)
def test_registered_domains(name: str, domain: str) -> None:
    assert registered_domain(name) == domain


def test_the_table_is_well_formed() -> None:
    assert all(2 <= len(suffix.split(".")) <= SUFFIX_LABELS for suffix in SUFFIXES)
    assert all(suffix == suffix.lower().strip(".") for suffix in SUFFIXES)
    assert {"co.uk", "github.io", "ngrok.io", "trycloudflare.com", "loca.lt", "eu.org"} <= SUFFIXES


@given(st.text(max_size=1100))
def test_any_name_has_one_and_it_ends_the_name(name: str) -> None:
    assert name.endswith(registered_domain(name))


@given(st.text(alphabet="ab.\\", max_size=60))
def test_labels_join_to_the_name(name: str) -> None:
    assert ".".join(labels_of(name)) == name
