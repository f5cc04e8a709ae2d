"""The rules of the house: who imports whom, what the core carries, style, types, and READMEs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
PACKAGE = TOP / "sensor"
MOST_LINES = 400

# Units of the package, lowest first: each imports from lower lines only, and not from its own line.
LAYERS = (
    {"errors", "private"},
    {"configfile", "events"},
    {
        "configassign",
        "configcontrol",
        "configdetect",
        "configdevices",
        "configexecutables",
        "configfiles",
        "confignetwork",
    },
    {"configquarantine", "configrespond"},
    {"configexamples"},
    {"config", "metriclist"},
    {"metrics"},
    {"bpf", "enrich", "export", "notify", "process", "rules", "say"},
    {"detect", "files", "respond", "trajectories"},
    {"control", "correlating", "cuts", "kernel", "rulecosts"},
    {"network"},
    {"guard"},
    {"pipeline"},
    {"reports"},
    {"reload"},
    {"recording"},
    {"operations"},
    {"hand"},
    {"daemon"},
    {"demo"},
    {"cli"},
)
RANKS = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}
# Stricter than the layers.
ONLY = {"events": {"errors"}, "bpf": {"errors", "events", "private"}, "rules": {"errors", "events", "private"}}
# These start the daemon as a process of its own: what they carry, it must not.
_CORE = {"daemon", "kernel", "hand", "network", "operations", "reload", "pipeline", "recording", "reports", "rulecosts"}
NOT_FOR = {"cli": _CORE, "demo": _CORE}
# Foreign modules and the modules of ours that may import them.
KEPT = {
    "click": ("sensor.cli",),
    "rich": ("sensor.cli",),
    "bcc": ("sensor.bpf.loader",),
    "aiohttp": ("sensor.control",),
    "asyncio": ("sensor.control",),
    "prometheus_client": ("sensor.control", "sensor.metrics"),
    "http": ("sensor.control",),
    # A demonstration reads /metrics as anybody would; its stubs play programs of a sandbox.
    "urllib": ("sensor.demo.watch", "sensor.demo.stubs"),
    "socketserver": ("sensor.demo.stubs",),
    "pyroute2": (),
    "sigma": ("sensor.rules",),
    "yaml": ("sensor.configfile", "sensor.rules"),
    "re2": ("sensor.rules",),
    "zstandard": ("sensor.recording",),
    "orjson": ("sensor.export", "sensor.cli"),
}
# What the core process must never carry, however it got there: memory and start-up time.
TOO_HEAVY = ("bcc", "sigma", "yaml", "aiohttp", "asyncio", "prometheus_client", "pyroute2", "click", "rich", "http")


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(TOP).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute"
            module = node.module or ""
            if module == "sensor":
                yield from ((node.lineno, f"sensor.{name.name}") for name in node.names)
            else:
                yield node.lineno, module


def unit(module: str) -> str:
    """`enrich` of `sensor.enrich.processes`; "" of the package itself."""
    return module.partition(".")[2].partition(".")[0]


def wrong_direction(module: str, imported: str) -> bool:
    here, there = unit(module), unit(imported)
    if here == there or there not in RANKS:
        return False
    allowed = ONLY.get(here)
    if allowed is not None:
        return there not in allowed
    return RANKS[there] >= RANKS[here] or there in NOT_FOR.get(here, ())


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


@pytest.mark.parametrize(
    ("module", "imported", "wrong"),
    [
        ("sensor.enrich.procfs", "sensor.rules.engine", True),
        ("sensor.rules.engine", "sensor.enrich.procfs", True),
        ("sensor.bpf.ring", "sensor.config", True),
        ("sensor.events.decode", "sensor.enrich.text", True),
        ("sensor.pipeline", "sensor.daemon", True),
        ("sensor.cli.run", "sensor.daemon", True),
        ("sensor.errors", "sensor.events.layouts", True),
        ("sensor.respond.kill", "sensor.enrich.procfs", False),
        ("sensor.enrich.procfs", "sensor.enrich.text", False),
        ("sensor.bpf.ring", "sensor.errors", False),
        ("sensor.daemon", "sensor.pipeline", False),
    ],
)
def test_the_direction_of_an_import_is_judged(module: str, imported: str, wrong: bool) -> None:
    assert wrong_direction(module, imported) is wrong


def test_imports_go_one_way() -> None:
    wrong = [
        f"{path.relative_to(TOP)}:{line}: {unit(module)} imports {imported}"
        for module, path in modules()
        for line, imported in imports(path)
        if imported.startswith("sensor.") and wrong_direction(module, imported)
    ]
    assert wrong == []


def test_every_unit_has_its_place_in_the_order() -> None:
    units = {unit(module) for module, _ in modules()} - {""}
    assert units <= set(RANKS), "say in LAYERS where it stands"


@pytest.mark.parametrize("foreign", KEPT)
def test_who_may_import_it(foreign: str) -> None:
    wrong = [
        f"{path.relative_to(TOP)}:{line}: imports {imported}"
        for module, path in modules()
        for line, imported in imports(path)
        if imported.split(".")[0] == foreign and not within(module, KEPT[foreign])
    ]
    assert wrong == []


def carried(code: str) -> set[str]:
    """Top-level modules of a fresh process after `code`."""
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-P", "-c", code]
    environment = {"PYTHONPATH": str(TOP), "PATH": "/usr/bin:/bin"}
    return set(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split())


def test_the_core_carries_nothing_heavy() -> None:
    found = carried("import sensor.daemon")
    assert "sensor" in found
    assert found.isdisjoint(TOO_HEAVY), found & set(TOO_HEAVY)


def test_the_core_carries_nothing_heavy_with_rules_loaded() -> None:
    """From a cache, as a warm start has them: the compiler is a child."""
    code = (
        "import sensor.daemon, tempfile; from sensor.config import Config, rule_paths; "
        "from sensor.rules.ruleset import load; "
        "from sensor.rules.engine import Engine; Engine(load(rule_paths(Config()), tempfile.mkdtemp()))"
    )
    found = carried(code)
    assert found.isdisjoint(TOO_HEAVY), found & set(TOO_HEAVY)


def tool(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_style() -> None:
    tool("ruff", "check", "--quiet", "--output-format", "concise", ".")


def test_format() -> None:
    tool("ruff", "format", "--check", "--quiet", ".")


def test_types() -> None:
    tool("mypy", "--strict", "sensor", "tests")


def tracked() -> list[Path]:
    """Files that git knows, or in an export without it, all that are not made by tools."""
    done = subprocess.run(["git", "-C", str(TOP), "ls-files", "-z"], capture_output=True, check=False)
    if done.returncode == 0:
        names = done.stdout.decode().rstrip("\0").split("\0")
        return [TOP / name for name in names if (TOP / name).is_file()]
    made = re.compile(r"/(?:\.|__pycache__|build/|dist/|\w+\.egg-info/)")
    return [path for path in TOP.rglob("*") if path.is_file() and not made.search("/" + str(path.relative_to(TOP)))]


# The brackets are there so that this line does not match itself.
FOREIGN = [re.compile(text) for text in (rb"(?<![\w.-])[/]work/", rb"[/]tmp/venv", rb"pypi[.]org", rb"index[-]url")]
# Command lines to be judged, addresses and all.
QUOTES = ("rules/", "sensor/rules/ordinary.py", "tests/data/", "tests/rules/", "tests/bench/data/")


def test_no_file_names_one_machine_or_one_registry() -> None:
    wrong = []
    for path in tracked():
        if str(path.relative_to(TOP)).startswith(QUOTES):
            continue
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if any(pattern.search(line) for pattern in FOREIGN):
                wrong.append(f"{path.relative_to(TOP)}:{number}: {line[:100]!r}")
    assert wrong == []


def test_no_file_of_python_is_too_long() -> None:
    generated = {PACKAGE / "events" / "layouts.py", PACKAGE / "bpf" / "state.py"}
    long = {}
    for path in tracked():
        if path.suffix == ".py" and path not in generated:
            lines = len(path.read_text().splitlines())
            if lines > MOST_LINES:
                long[str(path.relative_to(TOP))] = lines
    assert long == {}


def folders() -> list[Path]:
    """Of the package, the probes, and the rest of the top level."""
    found = {path.parent for path in PACKAGE.rglob("*.py")}
    return sorted(found | {TOP / name for name in ("probes", "rules", "packaging", "tests")} | {TOP})


def written(readme: Path) -> int:
    """Lines of it, a generated table left out: that is looked up, not read."""
    before, begin, rest = readme.read_text().partition("<!-- generated: ")
    return len(before.splitlines()) + (len(rest.rpartition("<!-- end")[2].splitlines()) if begin else 0)


def test_every_folder_says_what_lives_there_on_one_screen() -> None:
    missing = [str(folder.relative_to(TOP)) for folder in folders() if not (folder / "README.md").is_file()]
    assert missing == []
    long = {
        str(folder.relative_to(TOP)): lines
        for folder in folders()
        if folder != TOP and (lines := written(folder / "README.md")) > 60
    }
    assert long == {}


def test_every_file_that_a_readme_names_is_there() -> None:
    """In the package: `name.py` in backticks is a file beside the README, or below its folder."""
    wrong = []
    for readme in PACKAGE.rglob("README.md"):
        for name in re.findall(r"`([\w/.-]+\.(?:py|json|c|h))`", readme.read_text()):
            there = any((folder / name).is_file() for folder in (readme.parent, PACKAGE, TOP))
            if not there and not list(readme.parent.rglob(Path(name).name)):
                wrong.append(f"{readme.relative_to(TOP)}: {name}")
    assert wrong == []
