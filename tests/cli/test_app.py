from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sensor.cli import main
from sensor.errors import ActError, ClientError, DeniedError, NotFoundError, UnreachableError, UsageError

REPOSITORY = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "sensor.cli"]


def pinfold(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def bad_config(tmp_path: Path) -> str:
    path = tmp_path / "bad.yaml"
    path.write_text('instance: A\nring:\n  size_bytes: "\\e[31mx"\n')
    return str(path)


def test_help_tells_commands_and_exit_statuses_in_80_columns() -> None:
    done = pinfold("--help")
    assert done.returncode == 0
    names = "run events doctor sandbox rules disarm arm demo status quarantine kill policy completion"
    for word in (*names.split(), "Exit status: 0 done; 1 "):
        assert word in done.stdout
    for status in ("2 wrong", "3 not found", "4 permission", "5 the daemon", "10 findings", "130 interrupted"):
        assert status in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stderr == ""


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom sensor.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'rich', 'yaml', 'orjson', 'msgspec', 'bcc', 'sigma', 'aiohttp', 'asyncio', 're2', 'http'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("run", "--nonsense"), ("events", "-n", "-1"), ("events", "--where", "x"), ("sandbox", "run", "a")],
)
def test_wrong_usage_is_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Error: " in err


@pytest.mark.parametrize("command", [["events"], ["doctor"], ["rules", "list"], ["arm", "--reason", "x"], ["status"]])
def test_a_bad_configuration_is_2_with_a_line_for_each_problem(
    bad_config: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--config", bad_config]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"pinfold: {bad_config}:3: ring.size_bytes: expected an integer, found '\\x1b[31mx'"]


def test_no_configuration_where_one_was_named_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "--config", "/nonexistent/\x1bx.yaml"]) == 2
    assert capsys.readouterr().err == (
        "pinfold: '/nonexistent/\\x1bx.yaml':1: file: expected a file that can be read, "
        "found no such file or directory\n"
    )


def test_the_configuration_can_come_from_the_environment(bad_config: str) -> None:
    done = pinfold("events", PINFOLD_CONFIG=bad_config)
    assert (done.returncode, done.stdout) == (2, "")
    assert bad_config in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("why", "status"),
    [
        (PermissionError(13, "Permission denied", "/var/log/\x1b"), 4),
        (FileNotFoundError(2, "No such file", "/var/log/\x1b"), 1),
        (DeniedError("/var/log/\x1b: no"), 4),
        (NotFoundError("/var/log/\x1b: no"), 3),
        (UnreachableError("/var/log/\x1b: no"), 5),
        (ClientError("/var/log/\x1b: no"), 1),
        (UsageError("/var/log/\x1b: no"), 2),
        (ActError("/var/log/\x1b: no"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_one_line_and_a_status_of_its_own(
    why: BaseException, status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise why

    monkeypatch.setattr("sensor.cli.common.config_file", refuse)
    assert main(["doctor"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    if not isinstance(why, KeyboardInterrupt):
        assert err.count("\n") == 1
        assert err.startswith("pinfold: /var/log/\\x1b: ")


def test_the_version_is_told() -> None:
    assert pinfold("--version").stdout == "pinfold 0.1.0\n"


def test_run_without_a_view_becomes_the_sensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[Any] = []

    class Became(Exception):
        pass

    def execve(*arguments: Any) -> None:
        became.extend(arguments)
        raise Became

    monkeypatch.setattr(os, "execve", execve)
    config = tmp_path / "c.yaml"
    config.touch()
    with pytest.raises(Became):
        main(["run", "--config", str(config)])
    program, command, environment = became
    assert (program, command) == (
        sys.executable,
        [sys.executable, "-P", "-m", "sensor.daemon", "--config", str(config)],
    )
    assert environment["PYTHONPATH"].split(":")[0] == str(REPOSITORY)


def test_the_sensor_is_not_taken_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "sensor").mkdir()
    (tmp_path / "sensor/__init__.py").write_text("print('taken')")
    (tmp_path / "sensor/daemon.py").write_text("print('taken')")
    start = [
        "-P",
        "-c",
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from sensor.cli import main; sys.exit(main())",
    ]
    done = subprocess.run(
        [sys.executable, *start, str(REPOSITORY), "run", "--config", "/nonexistent"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "taken" not in done.stdout
    assert done.returncode != 0
