"""Rules of the shapes that public rule sets have: all load, those whose events we have match, the rest say why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sensor.rules import taxonomy
from sensor.rules.engine import Engine
from sensor.rules.fields import CATEGORIES
from sensor.rules.files import rule_files
from sensor.rules.ruleset import Ruleset
from sensor.rules.sigma import build
from sensor.rules.testing import activity, examples_file, run_examples
from tests.rules.helpers import matches

FOREIGN = Path(__file__).resolve().parents[1] / "data/foreign"
FILES = rule_files([FOREIGN])
# What each rule that cannot match here lacks.
DORMANT = {
    "auditd_execve_far_position": "field a90",
    "auditd_key_alone": "key odd_tools",
    "auditd_service_stop": "type SERVICE_STOP",
    "auditd_sockaddr": "field saddr",
    "auditd_syscall_numbers_at_once": "field auid",
    "auditd_user_cmd": "type USER_CMD",
    "category_elsewhere": "category webserver (logs of web servers are not read)",
    "ecs_other_event": "event.category authentication",
    "file_modes": "field Command, FileMode",
    "process_absent_fields": "field LogonId, OriginalFileName",
    "process_misspelt": "field Commandline",
    "sysmon_other": "EventID 16",
    "sudo_user": "service sudo (its log is not read)",
    "unknown_service": "service oddd (its log is not read)",
} | {
    f"{service}_keywords": f"service {service} (its log is not read)"
    for service in ("auth", "clamav", "cron", "guacamole", "sshd", "syslog", "vsftpd")
}


@pytest.fixture(scope="module")
def ruleset() -> Ruleset:
    return build([FOREIGN])


def test_all_load(ruleset: Ruleset) -> None:
    assert ruleset.refused == ()
    assert len(FILES) >= 60
    assert {Path(rule.file).stem for rule in ruleset.rules} | set(DORMANT) == {path.stem for path in FILES}


def test_a_rule_that_cannot_match_says_what_is_missing(ruleset: Ruleset) -> None:
    said = {}
    for line in ruleset.dormant:
        place, _, missing = line.rpartition(": ")
        said[Path(place.split(":")[0]).stem] = missing
    assert said == DORMANT


def test_each_rule_that_can_match_has_events_that_prove_it(ruleset: Ruleset) -> None:
    with_events = {path.stem for path in FILES if examples_file(path).exists()}
    assert with_events == {Path(rule.file).stem for rule in ruleset.rules}


def test_their_events_match_and_near_misses_do_not() -> None:
    results = [result for result in run_examples([FOREIGN]) if result.example]
    assert len(results) >= 80
    assert [f"{result.file}: {result.example}: {result.reason}" for result in results if not result.ok] == []


def test_a_rule_for_several_categories_counts_as_one(ruleset: Ruleset) -> None:
    (path,) = (path for path in FILES if path.stem == "auditd_path")
    categories = [rule.category for rule in ruleset.rules if rule.file == str(path)]
    assert len(categories) == len(set(categories)) > 5
    assert len({rule.id for rule in ruleset.rules if rule.file == str(path)}) == 1
    engine = Engine(ruleset)
    event = activity("file_delete", {"TargetFilename": "/etc/inputrc"})
    assert [Path(rule.file).stem for rule in engine.match(event)] == ["auditd_path"]


def test_the_table_names_fields_and_categories_that_there_are() -> None:
    table = yaml.safe_load((Path(taxonomy.__file__).parent / "taxonomy.yaml").read_text())
    named = {*table["product"], *table["categories"].values()}
    named.update(name for of in table["services"].values() for name in of)
    named.update({*table["fields"], *table["constants"]} - {"all"})
    assert named <= set(CATEGORIES)
    for category in CATEGORIES:
        event = activity(category, {})
        for name in {**table["fields"]["all"], **table["fields"].get(category, {})}:
            meaning = taxonomy.look(category, name)
            assert meaning is not None
            assert all(hasattr(event, field.attribute) for field in meaning.fields), (category, name)


@pytest.mark.parametrize(
    ("value", "hit", "miss"),
    [
        ("destination.address|cidr: 10.0.0.0/8", {"DestinationIp": "10.1.2.3"}, {"DestinationIp": "11.1.2.3"}),
        ("destination.address: a.test", {"DestinationHostname": "a.test"}, {"DestinationHostname": "b.test"}),
        ("destination.address: null", {}, {"DestinationIp": "10.1.2.3"}),
        ("destination.address|exists: true", {"DestinationHostname": "a"}, {}),
        ("destination.address|neq: a", {"DestinationHostname": "b"}, {"DestinationHostname": "a"}),
    ],
)
def test_a_name_for_two_fields_is_either(value: str, hit: dict[str, str], miss: dict[str, str]) -> None:
    detection = f"s:\n  {value}\ncondition: s"
    assert matches(detection, hit, "network_connection")
    assert not matches(detection, miss, "network_connection")


def test_system_calls_by_number() -> None:
    assert [taxonomy.system_call(number) for number in (0, 59, 101, 165, 321, 425, 428)] == [
        "read", "execve", "ptrace", "mount", "bpf", "io_uring_setup", "open_tree",
    ]  # fmt: skip
    assert taxonomy.system_call(400) == ""
