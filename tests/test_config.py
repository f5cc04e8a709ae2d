from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sensor import configfile
from sensor.config import Config, Limits, Ring, SandboxClass, SandboxPattern, complete, load, rule_paths
from sensor.errors import ConfigError

EXAMPLE = Path(__file__).parents[1] / "packaging" / "pinfold.yaml"
# Lists whose entries are comments of comments: see test_confignetwork and test_configpolicy.
SHOWN_ELSEWHERE = {
    ("egress", "allow"), ("responses", "rules"), ("responses", "exceptions"), ("assign",), ("examples",),
    ("control", "launchers"),
}  # fmt: skip


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(content: str | bytes) -> str:
        path = tmp_path / "pinfold.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def refusal(path: str) -> list[str]:
    """The problems, without the file's name: `LINE: KEY: expected …, found …`."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.exit_status == 2
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


def uncommented(text: str) -> str:
    return re.sub(r"^(\s*)#(?=- |[a-z0-9_]+:|  class:)", r"\1", text, flags=re.MULTILINE)


def struct_keys(kind: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of every Struct; [] and {} stand for the items of lists and mappings."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            yield (*path, field.encode_name)
            yield from struct_keys(field.type, (*path, field.encode_name))
    elif get_origin(kind) is tuple and path[-2:] not in SHOWN_ELSEWHERE:
        yield from struct_keys(get_args(kind)[0], (*path, "[]"))
    elif get_origin(kind) is dict:
        yield from struct_keys(get_args(kind)[1], (*path, "{}"))


def present(data: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if part == "[]":
            data = data[0]
        elif part == "{}":
            data = next(iter(data.values()))
        elif part not in data:
            return False
        else:
            data = data[part]
    return True


def test_the_example_is_the_defaults(written: Any) -> None:
    assert load(written(EXAMPLE.read_text())) == complete(Config())


def test_the_example_uncommented_shows_every_key_with_its_default(written: Any) -> None:
    text = uncommented(EXAMPLE.read_text())
    data = yaml.safe_load(text)
    missing = [".".join(path) for path in struct_keys(Config) if not present(data, path)]
    assert missing == []
    settings = load(written(text))
    assert msgspec.structs.replace(settings, sandboxes=complete(Config()).sandboxes) == complete(Config())


def test_an_empty_file_is_the_defaults(written: Any) -> None:
    assert load(written("")) == load(written("# nothing\n")) == complete(Config())
    assert load(written("ring:\nclasses:\n  default:\n")) == complete(Config())


def test_complete_adds_the_class_and_the_pattern_of_sandbox_run(written: Any) -> None:
    settings = load(written("instance: lab\nsandboxes:\n- path: docker/*\nclasses:\n  strict: {mode: enforce}\n"))
    assert settings.sandboxes == (SandboxPattern("docker/*"), SandboxPattern("lab/*"))
    assert settings.classes == {"default": SandboxClass(), "strict": SandboxClass(mode="enforce")}
    settings = load(written("sandboxes: [{path: pinfold/*, class: s}]\nclasses: {s: {}, default: {mode: enforce}}\n"))
    assert settings.sandboxes == (SandboxPattern("pinfold/*", "s"),)
    assert settings.classes["default"].mode == "enforce"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "ring:\n  size: 1\n",
            "2: ring.size: expected one of the keys sandbox_budget_bytes, size_bytes, found the unknown key size",
        ),
        ("ring:\n  size_bytes: big\n", "2: ring.size_bytes: expected an integer, found 'big'"),
        ("ring:\n  size_bytes: true\n", "2: ring.size_bytes: expected an integer, found true"),
        ("rules:\n  keep_going: 1\n", "2: rules.keep_going: expected true or false, found 1"),
        ("rules:\n  placeholders:\n    a: b\n", "3: rules.placeholders.a: expected a list"),
        ("rules:\n  placeholders:\n    a: [b, 1]\n", "3: rules.placeholders.a[1]: expected text"),
        ("\nclasses:\n  a:\n    mode: block\n", "4: classes.a.mode: expected one of monitor, enforce, found 'block'"),
        ("classes:\n  a: {granted_devices: [fuse, gpu]}", "2: classes.a.granted_devices[1]: expected one of nvidia,"),
        (
            "classes: {a: {responses: {high: shout}}}",
            "1: classes.a.responses.high: expected one of log, kill, freeze, quarantine, kill-sandbox,",
        ),
        ("sandboxes:\n- class: default\n", "2: sandboxes[0]: expected the key path, found none"),
        ("sandboxes: docker/*\n", "1: sandboxes: expected a list, found 'docker/*'"),
        ("classes: []\n", "1: classes: expected a mapping, found a list"),
        ("ring: 5\n", "1: ring: expected a mapping, found 5"),
        ("- a\n", "1: file: expected a mapping, found a list"),
        ("instance: null\n", "1: instance: expected text, found nothing"),
        ("instance: a\ninstance: b\n", "1: instance: expected each key once, found a second one in line 2"),
        ("1: x\n", "1: 1: expected a name (quote it), found '1'"),
        ("a: &x [1]\nb: *x\n", "2: file: expected no aliases, found *x"),
        ("a: [1\n", "2: file: expected YAML, found "),
        ("a: 1\n---\nb: 2\n", "2: file: expected YAML, found "),
        ("a: \x01\n", "1: file: expected YAML, found "),
        ("instance: !!python/object:os.system x\n", "1: instance: expected a plain value, found 'x'"),
        ("instance: 2026-13-45\n", "1: instance: expected a plain value, found '2026-13-45'"),
        (b"instance: x\n# \xff\n", "2: file: expected UTF-8, found the byte 0xff"),
        ("[" * 100000, "1: file: expected at most 12 levels, found more"),
        ("#" * (configfile.MAX_BYTES + 1), f"1: file: expected at most {configfile.MAX_BYTES} bytes, found more"),
    ],
)
def test_what_is_no_setting_is_named_with_line_and_key(written: Any, text: str | bytes, expected: str) -> None:
    assert refusal(written(text))[0].startswith(expected)


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("instance: Pin_Fold", "instance", "1 to 32 of a-z, 0-9 and -"),
        ("instance: ''", "instance", "1 to 32 of a-z, 0-9 and -"),
        (f"instance: {'a' * 33}", "instance", "1 to 32 of a-z, 0-9 and -"),
        ("ring: {size_bytes: 1000000}", "ring.size_bytes", "a power of two"),
        ("ring: {size_bytes: 2048}", "ring.size_bytes", "a power of two"),
        ("ring: {size_bytes: -8}", "ring.size_bytes", "a power of two"),
        ("ring: {size_bytes: 1073741824}", "ring.size_bytes", "a power of two"),
        (
            "ring: {size_bytes: 65536, sandbox_budget_bytes: 131072}",
            "ring.sandbox_budget_bytes",
            "0, or 16384 to the ring's 65536",
        ),
        ("ring: {sandbox_budget_bytes: 1}", "ring.sandbox_budget_bytes", "0, or 16384 to"),
        ("ring: {sandbox_budget_bytes: -1}", "ring.sandbox_budget_bytes", "0, or 16384 to"),
        ("limits: {sandboxes: 0}", "limits.sandboxes", "1 to 65536"),
        ("limits: {processes: 99999999999}", "limits.processes", "1 to 4194304"),
        ("limits: {repeats: -5}", "limits.repeats", "1 to 1048576"),
        ("limits: {watched_cgroups: 0}", "limits.watched_cgroups", "1 to 1048576"),
        ("log: {max_bytes: 1}", "log.max_bytes", "4096 to"),
        ("log: {keep: 0}", "log.keep", "1 to 1000"),
        ("log: {file: a/b}", "log.file", "a file's name"),
        ("log: {file: ..}", "log.file", "a file's name"),
        ("paths: {state: var/lib}", "paths.state", "an absolute path"),
        ("paths: {log: /var/../etc}", "paths.log", "an absolute path"),
        ("rules: {paths: [rules]}", "rules.paths[0]", "an absolute path"),
        ("rules: {fold_seconds: -1}", "rules.fold_seconds", "0 to 86400"),
        ("rules: {most_per_minute: 1000001}", "rules.most_per_minute", "0 to 1000000"),
        ("metrics: {listen: '0.0.0.0:9817'}", "metrics.listen", "a loopback address"),
        ("metrics: {listen: '[::]:9817'}", "metrics.listen", "a loopback address"),
        ("metrics: {listen: '10.0.0.1:9817'}", "metrics.listen", "a loopback address"),
        ("metrics: {listen: '127.0.0.1'}", "metrics.listen", "a loopback address and a port"),
        ("metrics: {listen: '127.0.0.1:70000'}", "metrics.listen", "a loopback address and a port"),
        ("metrics: {listen: 'unix:run/x'}", "metrics.listen", "unix: and an absolute path"),
        (f"metrics: {{listen: 'unix:/{'x' * 120}'}}", "metrics.listen", "unix: and an absolute path"),
        ("classes: {'a b': {}}", "classes.a b", "a name of 1 to 32"),
        ("sandboxes: [{path: docker/*, class: strict}]", "sandboxes[0].class", "one of the classes default"),
        ("sandboxes: [{path: a}, {path: a}]", "sandboxes[1].path", "each path once"),
    ],
)
def test_values_out_of_range_are_refused(written: Any, text: str, key: str, expected: str) -> None:
    lines = refusal(written(text + "\n"))
    assert len(lines) == 1
    assert lines[0].startswith(f"1: {key}: expected {expected}")
    assert ", found " in lines[0]


@pytest.mark.parametrize(
    "path",
    [
        "", "/", ".", "..", "a/..", "a//b", "a/", "/docker/*", "a*b*", "**", "a?", "a/[0-9]", "a/{b}", "a\nb",
        "x" * 65 + "*", "*" + "x" * 33, "x" * 65, "x" * 65 + "/y", "\u202ea",
    ],
)  # fmt: skip
def test_patterns_that_could_not_work_are_refused(written: Any, path: str) -> None:
    lines = refusal(written(yaml.safe_dump({"sandboxes": [{"path": path}]})))
    assert len(lines) == 1
    assert ": sandboxes[0].path: expected " in lines[0]
    assert lines[0].isprintable()


@pytest.mark.parametrize(
    "path",
    [
        "docker/*", "*", "system.slice/docker-*.scope", "x" * 64 + "*" + "y" * 32, "x" * 64, "x" * 64 + "/y",
        "kubepods.slice/kubepods-*.slice/kubepods-*-pod.slice/*", "a..b/c", "dev-disk\\x2d*.swap",
    ],
)  # fmt: skip
def test_patterns_that_work_are_taken(written: Any, path: str) -> None:
    assert load(written(yaml.safe_dump({"sandboxes": [{"path": path}]}))).sandboxes[0].path == path


@pytest.mark.parametrize(
    "listen", ["", "127.0.0.1:1", "127.9.9.9:65535", "[::1]:9817", "localhost:80", "unix:/run/x.sock"]
)
def test_places_to_listen_that_stay_on_the_host(written: Any, listen: str) -> None:
    assert load(written(yaml.safe_dump({"metrics": {"listen": listen}}))).metrics.listen == listen


def test_all_problems_come_at_once_in_the_file_s_order(written: Any) -> None:
    lines = refusal(written("limits: {sandboxes: 0}\ninstance: A\nring:\n  size_bytes: 3\n"))
    assert [line.split(":")[0] for line in lines] == ["1", "2", "4"]
    many = refusal(written("".join(f"unknown{index}: 1\n" for index in range(100))))
    assert len(many) == configfile.MAX_PROBLEMS


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    assert refusal(str(tmp_path / "absent.yaml")) == [
        "1: file: expected a file that can be read, found no such file or directory"
    ]
    assert refusal(str(tmp_path)) == ["1: file: expected a file that can be read, found is a directory"]


def test_limits_meant_for_big_hosts_load(written: Any) -> None:
    settings = load(
        written("limits: {sandboxes: 65536}\nring: {size_bytes: 67108864, sandbox_budget_bytes: 67108864}\n")
    )
    assert settings.limits == Limits(sandboxes=65536)
    assert settings.ring == Ring(67108864, 67108864)


def test_rules_are_those_that_come_with_pinfold_unless_configured(written: Any) -> None:
    assert rule_paths(complete(Config())) == (str(EXAMPLE.parents[1] / "rules"),)
    assert rule_paths(load(written("rules: {paths: [/etc/rules]}\n"))) == ("/etc/rules",)


@pytest.mark.parametrize("key", ["instance", "metrics: {listen", "log: {file", "paths: {state", "sandboxes: [{path"])
def test_half_characters_are_refused_like_any_other_text(written: Any, key: str) -> None:
    closing = "}]" if "[" in key else "}" if "{" in key else ""
    assert all(line.isprintable() for line in refusal(written(f'{key}: "/\\uD800"{closing}\n')))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
keys = st.sampled_from(
    [
        "ring",
        "classes",
        "sandboxes",
        "path",
        "mode",
        "default",
        "log",
        "listen",
        "metrics",
        "egress",
        "allow",
        "to",
        "detect",
        "relay",
        "dns_tunnel",
        "dial_ms",
        "names",
        "marks",
        "trusted",
        "responses",
        "rules",
        "exceptions",
        "budget",
        "assign",
        "labels",
        "class",
        "examples",
        "detection",
        "granted_devices",
        "denied_executables",
        "action",
        "expect",
    ]
) | st.text(max_size=5)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=15
)


@given(trees | st.binary(max_size=60))
def test_whatever_the_file_holds_it_is_settings_or_a_printable_refusal(
    tmp_path_factory: pytest.TempPathFactory, tree: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(
        tree if isinstance(tree, bytes) else yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "replace")
    )
    try:
        load(str(path))
        message = ""
    except ConfigError as why:
        message = str(why)
    assert all(line.isprintable() and len(line) < 1000 for line in message.split("\n"))
