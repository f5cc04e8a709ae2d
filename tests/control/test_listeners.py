from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from sensor.config import Config, Paths
from sensor.config import Metrics as MetricsConfig
from sensor.control.listeners import Address, bind, listen, parse_listen, protected_ports
from sensor.errors import ConfigError, HostError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("127.0.0.1:9817", Address("127.0.0.1", 9817)),
        ("127.8.9.1:1", Address("127.8.9.1", 1)),
        ("[::1]:9817", Address("::1", 9817)),
        ("unix:/run/pinfold/metrics.sock", Address(path="/run/pinfold/metrics.sock")),
    ],
)
def test_usable_addresses(text: str, expected: Address | None) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0:9817",
        "10.0.0.1:9817",
        "[::]:9817",
        "[::ffff:127.0.0.1]:9817",
        "::1:9817",
        "localhost:9817",
        ":9817",
        "9817",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:²",
        "127.1:9817",
        "unix:relative",
        "unix:",
        "unix:/" + "x" * 120,
        "unix:/a\0b",
        "tcp://127.0.0.1:9817",
    ],
)
def test_unusable_addresses_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^metrics\.listen: expected 127\.0\.0\.1:PORT.*found '"):
        parse_listen(text)


def test_the_control_socket_is_for_its_owner_and_group(tmp_path: Path) -> None:
    config = Config(paths=Paths(runtime=str(tmp_path / "run")), metrics=MetricsConfig(listen=""))
    before = os.umask(0)
    try:
        (control,) = listen(config)
    finally:
        os.umask(before)
    path = tmp_path / "run" / "control.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    assert protected_ports([control]) == ()
    control.close()
    control.close()
    assert not path.exists()


def test_a_tcp_port_is_protected_and_a_taken_one_is_said(tmp_path: Path) -> None:
    first = bind("metrics", Address("127.0.0.1", 0))
    try:
        assert protected_ports([first]) == (first.address.port,)
        taken = Config(
            paths=Paths(runtime=str(tmp_path / "run")),
            metrics=MetricsConfig(listen=f"127.0.0.1:{first.address.port}"),
        )
        with pytest.raises(HostError, match="cannot listen there: taken by another process"):
            listen(taken)
        assert not (tmp_path / "run" / "control.sock").exists()
    finally:
        first.close()


def test_what_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    listener = bind("control", Address(path=str(path)))
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
    listener.close()


def test_a_socket_that_is_served_and_a_file_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = bind("control", Address(path=str(path)))
    try:
        with pytest.raises(HostError, match="taken by another process"):
            bind("control", Address(path=str(path)))
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
    finally:
        first.close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(HostError, match="no socket is there"):
        bind("control", Address(path=str(tmp_path / "file")))
    assert (tmp_path / "file").read_text() == "precious"
