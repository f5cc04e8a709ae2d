from __future__ import annotations

import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from rich.cells import cell_len

from sensor.cli import main
from sensor.config import Config, Paths
from sensor.export import EventLog, lines
from sensor.respond.silences import FILE, Silence, Silences
from tests.cli.fake_api import FakeApi, serving
from tests.cli.test_app import COMMAND, REPOSITORY
from tests.export import samples

RULE = "9ee2d1a6-0000-4000-8000-000000000001"
SECRET = "curl --password hunter2 -R 1:localhost:22 \x1b[31mhost"  # noqa: S105


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(f"paths: {{log: {tmp_path}/log, runtime: {tmp_path}, state: {tmp_path}/state}}\n")
    return str(path)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    with serving(tmp_path) as fake:
        fake.answers["GET /v1/silences"] = (200, [])
        yield fake


@pytest.fixture
def log(tmp_path: Path, config: str) -> EventLog:
    log = EventLog(Config(paths=Paths(log=f"{tmp_path}/log")), lambda *_: None)
    log.recover()
    return log


def detection(position: int = 0xABC0, seconds: int = 0, **fields: Any) -> Any:
    time_ns = 1_700_000_000_000_000_000 + seconds * 1_000_000_000
    event = samples.network_connection(position=position, time_ns=time_ns, CommandLine=SECRET)
    return samples.detection(event, id=f"1f-{position:x}/{RULE}", time_ns=time_ns, **fields)


def record(found: Any, **more: Any) -> dict[str, Any]:
    parsed: dict[str, Any] = orjson.loads(lines.detection_line(found))
    return parsed | more


def query(target: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(target).query)


def run(config: str, *arguments: str) -> int:
    command, *rest = arguments
    return main(["detections", command, "--config", config, *rest])


def test_the_list_comes_oldest_first_with_ids_that_tell_them_apart(
    config: str, api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    older, newer = record(detection(1, 0)), record(detection(2, 5), ack={"operator": "uid 0", "reason": "a test"})
    other = {**newer, "id": "1f-2/aaaaaaaa-0", "time": "2023-11-14T22:13:26Z", "ack": None, "silenced": "s1"}
    api.answers["GET /v1/detections"] = (200, [newer, other, older])
    assert run(config, "list", "--sandbox", "agent-1", "--level", "low", "--rule", RULE, "-n", "7") == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split()[-2:] for row in rows] == [
        ["new", "1f-1"],
        ["acked", "1f-2/9ee2d1a6"],
        ["silenced", "1f-2/aaaaaaaa"],
    ]
    assert query(api.asked[0][1]) == {"sandbox": ["agent-1"], "level": ["low"], "rule": [RULE], "limit": ["7"]}


def test_the_list_fits_80_columns_and_hides_secrets(
    config: str, api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    api.answers["GET /v1/detections"] = (
        200,
        {"detections": [record(samples.detection(samples.process_creation(CommandLine=SECRET)))]},
    )
    assert run(config, "list") == 0
    out = capsys.readouterr().out
    assert max(map(cell_len, out.splitlines())) <= 80
    assert "hunter2" not in out and "\x1b" not in out


@pytest.mark.parametrize(
    ("said", "status"),
    [({}, 10), ({"ack": {"reason": "x"}}, 0), ({"silenced": "s1"}, 0), ({"acks": []}, 10)],
)
def test_check_is_10_where_one_is_neither_acknowledged_nor_silenced(
    config: str, api: FakeApi, said: dict[str, Any], status: int
) -> None:
    api.answers["GET /v1/detections"] = (200, [record(detection(1), ack={"reason": "y"}), record(detection(2), **said)])
    assert run(config, "list", "--check") == status
    assert run(config, "list") == 0


def test_check_of_nothing_is_0(config: str, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["GET /v1/detections"] = (200, [])
    assert run(config, "list", "--check") == 0
    assert capsys.readouterr() == ("", "no detections\n")


def test_a_sandbox_that_has_ended_is_found_by_what_was_detected_in_it(
    config: str, api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(method: str, target: str, body: bytes) -> bytes:
        api.answers["GET /v1/detections"] = (
            (404, {"error": "no sandbox"}) if "sandbox=" in target else (200, [record(detection(1))])
        )
        return original(method, target, body)

    original = api.answer
    monkeypatch.setattr(api, "answer", answer)
    assert run(config, "list", "--sandbox", "agent-1", "-o", "json") == 0
    assert orjson.loads(capsys.readouterr().out)["id"] == f"1f-1/{RULE}"
    assert run(config, "list", "--sandbox", "agent-2") == 0
    assert capsys.readouterr().out == ""


def test_without_the_sensor_the_log_is_read_with_the_responses(
    config: str, log: EventLog, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for position in (1, 2, 3):
        found = detection(position, position, level="high" if position > 1 else "low")
        log.add_detection(found)
        log.add_response(samples.response(detection_id=found.id, outcome="intent"))
        log.add_activity(found.activity)
        log.add_response(samples.response(detection_id=found.id, outcome="done", latency_ns=2_000_000))
    log.close()
    assert run(config, "list", "--level", "high", "-n", "1", "-o", "json", "--check") == 10
    out, err = capsys.readouterr()
    shown = orjson.loads(out)
    assert shown["id"] == f"1f-3/{RULE}"
    assert [one["outcome"] for one in shown["responses"]] == ["intent", "done"]
    assert "no daemon runs here" in err and err.count("\n") == 1
    assert run(config, "list", "--since", "2023-11-14T22:13:22", "-o", "compact") == 0
    assert [row.split("\t")[-1] for row in capsys.readouterr().out.splitlines()] == [f"1f-2/{RULE}", f"1f-3/{RULE}"]
    assert run(config, "describe", "1f-2") == 0
    out = capsys.readouterr().out
    assert "kill: done, 2 processes, after 2.0 ms" in out and "intent" not in out
    assert run(config, "describe", "1f-9") == 3
    assert run(config, "describe", "1f-") == 2
    assert "3 detections begin with" in capsys.readouterr().err


def test_without_the_sensor_what_was_said_is_read_from_where_it_keeps_it(
    config: str, log: EventLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for position in (1, 2, 3):
        log.add_detection(detection(position, position, rule_id=f"r{position}"))
    log.close()
    said = Silences(str(tmp_path / "state"), lambda *_, **__: None)
    said.acknowledge(f"1f-1/{RULE}", "seen", "uid 0")
    said.add(Silence("", "night", "uid 0", 0, time.time_ns() + 10**12, rule="r2", sandbox="4242", class_="default"))
    assert run(config, "list", "-o", "compact", "--check") == 10
    assert [row.split("\t")[-2] for row in capsys.readouterr().out.splitlines()] == ["acked", "silenced", "new"]
    (tmp_path / "state" / FILE).write_bytes(b"{")
    assert run(config, "list", "-o", "compact", "--check") == 10
    assert [row.split("\t")[-2] for row in capsys.readouterr().out.splitlines()] == ["?", "?", "?"]


def test_silences_are_told_by_when_the_detection_was(
    config: str, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers["GET /v1/detections"] = (200, [record(detection(1, 0)), record(detection(2, 100))])
    window = {
        "id": "s1",
        "class": "default",
        "from_ns": 1_700_000_050_000_000_000,
        "until_ns": 1_700_000_150_000_000_000,
    }
    api.answers["GET /v1/silences"] = (200, [{**window, "sandbox": 7}, window])
    assert run(config, "list", "-o", "compact") == 0
    assert [row.split("\t")[-2] for row in capsys.readouterr().out.splitlines()] == ["new", "silenced"]


def test_describe_tells_everything_in_80_columns(
    config: str, api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    whole = record(
        detection(1),
        responses=[record_of_response("intent"), record_of_response("done")],
        ack={"time_ns": 1_700_000_000_000_000_000, "operator": "uid 0, pid 7", "reason": "known\x07 job"},
        Score=85,
    )
    api.answers[f"GET /v1/detections/1f-1/{RULE}"] = (200, whole)
    api.answers["GET /v1/detections"] = (200, [whole])
    assert run(config, "describe", "1f-1") == 0
    out = capsys.readouterr().out
    assert max(map(cell_len, out.splitlines())) <= 80
    text = " ".join(out.split())
    for told in (
        f"1f-1/{RULE}", "high", "Reverse SSH tunnel", RULE, "attack.t1572", "agent-1", "class default", "4242",
        "/bin/bash: bash -l", "998 /bin/bash: bash -c x", "999 /usr/bin/ssh: curl --password *** -R",
        "tcp 203.0.113.7:443", "kill: done, 2 processes", "2023-11-14 22:13:20Z, uid 0, pid 7, known\\x07 job",
    ):  # fmt: skip
        assert told in text, told
    assert "hunter2" not in out and "\x1b" not in out


def test_what_was_done_comes_from_the_log_where_the_sensor_does_not_tell(
    config: str, api: FakeApi, log: EventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    for position in (1, 2):
        log.add_detection(detection(position, position))
        log.add_response(samples.response(detection_id=f"1f-{position}/{RULE}", outcome="done", action="freeze"))
    log.close()
    for position, told in ((1, "freeze: done"), (3, "not known")):
        api.answers[f"GET /v1/detections/1f-{position}/{RULE}"] = (200, record(detection(position, position)))
        assert run(config, "describe", f"1f-{position}/{RULE}") == 0
        assert told in capsys.readouterr().out


def record_of_response(outcome: str) -> dict[str, Any]:
    made = samples.response(detection_id=f"1f-1/{RULE}", outcome=outcome)
    parsed: dict[str, Any] = orjson.loads(lines.response_line(made, (4242, "agent-1")))
    return parsed


def test_acknowledging_needs_a_reason_and_takes_beginnings_of_ids(
    config: str, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers["GET /v1/detections"] = (200, [record(detection(1)), record(detection(2))])
    api.answers[f"POST /v1/detections/1f-1/{RULE}/ack"] = (200, {})
    assert run(config, "ack", "1f-1") == 2
    assert api.asked == []
    assert run(config, "ack", "1f-1", "--reason", " looked at ") == 0
    method, target, body = api.asked[-1]
    assert (method, body) == ("POST", {"reason": "looked at"})
    assert target == f"/v1/detections/1f-1%2F{RULE}/ack"
    assert run(config, "ack", "1f-1", "1f-7", "--reason", "x") == 3
    assert api.asked[-1][0] == "GET"  # nothing was acknowledged
    assert run(config, "ack", "1f-1", "--dry-run") == 0
    assert api.asked[-1][2] == {"reason": "dry run", "dry_run": True}
    assert "would acknowledge" in capsys.readouterr().err


def test_a_silence_now(config: str, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["POST /v1/silences"] = (200, {"id": "s1"})
    assert run(config, "silence", "--rule", "R", "--class", "ci", "--for", "1h30m", "--reason", "x") == 0
    assert api.asked[-1][2] == {"reason": "x", "rule": "R", "class": "ci", "until_seconds": 5400}
    assert capsys.readouterr().out == "s1\n"


def test_a_maintenance_window_begins_later(config: str, api: FakeApi) -> None:
    api.answers["POST /v1/silences"] = (200, {"id": "s1"})
    window = ("--from", "2099-01-01T02:00", "--until", "2099-01-01T06:00+00:00")
    assert run(config, "silence", "--sandbox", "a", *window, "--reason", "x") == 0
    body = api.asked[-1][2]
    assert body["until_seconds"] - body["from_seconds"] == 4 * 3600
    assert body["from_seconds"] > 0


@pytest.mark.parametrize(
    "wrong",
    [
        ("--for", "1h"),
        ("--rule", "R"),
        ("--rule", "R", "--for", "soon"),
        ("--rule", "R", "--for", "0s"),
        ("--rule", "R", "--until", "2020-01-01"),
        ("--rule", "R", "--for", "1h", "--until", "2099-01-01"),
        ("--rule", "R", "--from", "2099-01-01", "--until", "2098-01-01"),
        ("--rule", "R", "--from", "noon", "--for", "1h"),
    ],
)
def test_a_silence_without_end_or_object_is_wrong_usage(config: str, api: FakeApi, wrong: tuple[str, ...]) -> None:
    assert run(config, "silence", *wrong, "--reason", "x") == 2
    assert api.asked == []


def test_silences_are_listed_and_ended(config: str, api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"id": "s1", "rule": "R", "until_ns": 1_700_000_000_000_000_000, "operator": "uid 0", "reason": "x"}
    api.answers["GET /v1/silences"] = (200, [one])
    api.answers["DELETE /v1/silences/s1"] = (200, {})
    assert run(config, "silences", "-o", "compact") == 0
    assert capsys.readouterr().out == "s1\tR\tany\tany\t\t2023-11-14 22:13:20Z\tuid 0\tx\n"
    assert run(config, "unsilence", "s1", "--reason", "over now") == 0
    assert api.asked[-1][:2] == ("DELETE", "/v1/silences/s1?reason=over%20now")
    assert run(config, "unsilence", "s2", "--reason", "x") == 3


def test_what_is_not_reached_or_not_allowed_has_its_status(config: str, tmp_path: Path) -> None:
    assert run(config, "silences") == 5
    assert run(config, "ack", "1f-1", "--reason", "x") == 5
    assert run(config, "list") == 1  # no sensor, no log
    with serving(tmp_path) as api:
        api.answers["POST /v1/silences"] = (403, {"error": "uid 7 may not change anything"})
        assert run(config, "silence", "--rule", "R", "--for", "1h", "--reason", "x") == 4


def test_unredacted_is_root_s_alone(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert run(config, "list", "--unredacted") == 4
    assert main(["events", "--config", config, "--unredacted"]) == 4
    assert "only root" in capsys.readouterr().err


def streamed(*records: dict[str, Any]) -> list[bytes]:
    return [orjson.dumps(one) + b"\n" for one in records]


def following(config: str, *arguments: str) -> subprocess.Popen[bytes]:
    command, *rest = arguments
    return subprocess.Popen(
        [*COMMAND, command, "follow", "--config", config, "-o", "json", *rest],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_following_detections_shows_their_responses_and_goes_on_with_the_log(
    config: str, api: FakeApi, log: EventLog
) -> None:
    mine, others = record(detection(1)), record(detection(2), SandboxName="agent-2")
    response = record_of_response("done")
    strange = {**response, "detection": others["id"]}
    api.answers["GET /v1/detections/stream"] = streamed(
        mine, others, strange, {"kind": "dropped", "count": 7}, response
    )
    with following(config, "detections", "--sandbox", "agent-1") as child:
        assert child.stdout is not None and child.stderr is not None
        shown = [orjson.loads(child.stdout.readline()) for _ in range(2)]
        told = [child.stderr.readline() for _ in range(2)]
        later = detection(3)
        log.add_detection(later)
        log.flush()
        shown.append(orjson.loads(child.stdout.readline()))
        child.terminate()
    assert [one.get("id", one["kind"]) for one in shown] == [mine["id"], "response", later.id]
    assert b"7 lines are missing here" in told[0]
    assert b"has ended the stream; following the log" in told[1]
    assert "hunter2" not in str(shown)


def test_unredacted_comes_from_the_log(
    config: str, api: FakeApi, log: EventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    log.add_detection(detection(1))
    log.close()
    for arguments in (("list", "-o", "json"), ("describe", "1f-1")):
        assert run(config, *arguments, "--unredacted") == 0
        assert "hunter2" in capsys.readouterr().out
    assert api.asked == []


def test_following_events_without_the_sensor_follows_the_log(config: str, log: EventLog) -> None:
    log.add_activity(samples.process_creation(position=1))
    log.flush()
    with following(config, "events", "--category", "process_creation", "--unredacted") as child:
        assert child.stdout is not None and child.stderr is not None
        # It stands at the log's end only when it has read what follows; earlier lines may come before.
        for position in range(2, 200):
            log.add_activity(samples.network_connection(position=position))
            log.add_activity(samples.process_creation(position=position, CommandLine=SECRET))
            log.flush()
        first = orjson.loads(child.stdout.readline()) if wait_for(child, log) else {}
        child.terminate()
    assert first["CommandLine"] == SECRET


def wait_for(child: subprocess.Popen[bytes], log: EventLog) -> bool:
    """Logs on until something is shown."""
    assert child.stdout is not None
    for position in range(200, 2000):
        if select.select([child.stdout], [], [], 0.02)[0]:
            return True
        log.add_activity(samples.process_creation(position=position, CommandLine=SECRET))
        log.flush()
    return False


def test_events_are_redacted_in_every_output(config: str, log: EventLog, capsys: pytest.CaptureFixture[str]) -> None:
    log.add_activity(samples.process_creation(CommandLine=SECRET, argv=SECRET.replace(" ", "\0").encode()))
    log.flush()
    for output in ("json", "compact"):
        assert main(["events", "--config", config, "-o", output]) == 0
        out = capsys.readouterr().out
        assert "hunter2" not in out and "***" in out
        assert main(["events", "--config", config, "-o", output, "--unredacted"]) == 0
        assert "hunter2" in capsys.readouterr().out
