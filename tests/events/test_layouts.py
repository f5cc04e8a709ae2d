"""The two sides agree: the C compiler, the generator and the modules that it wrote."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct as PackedStruct
from struct import calcsize
from types import ModuleType

import pytest

from sensor.bpf import state
from sensor.events import generate, layouts
from tests.events import compiled

HEADERS = {layouts: "events.h", state: "state.h"}


def text_of(module: ModuleType) -> str:
    return (compiled.INCLUDE / HEADERS[module]).read_text()


def test_the_modules_are_what_the_headers_give() -> None:
    for path, text in generate.texts().items():
        assert path.read_text() == text, f"{path.name} is stale: python -m sensor.events.generate"


def test_check_says_whether_a_module_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["generate", "--check"])
    assert generate.main() == 0
    stale = {path: text + "\n" for path, text in generate.texts().items()}
    monkeypatch.setattr(generate, "texts", lambda: stale)
    assert generate.main() == 1


@pytest.mark.parametrize("module", HEADERS, ids=HEADERS.values())
def test_every_struct_is_as_the_compiler_lays_it_out(module: ModuleType) -> None:
    text = text_of(module)
    true = compiled.layouts(text)
    _, structs = generate.parse(text)
    assert list(structs) == list(compiled.members(text))
    for struct, names in compiled.members(text).items():
        letters = [letter for _, letter, _ in structs[struct].members]
        assert len(letters) == len(names), struct
        assert structs[struct].size == true[struct]
        for number, (name, letter) in enumerate(zip(names, letters, strict=True)):
            assert calcsize("<" + "".join(letters[:number])) == true[f"{struct}.{name}"], f"{struct}.{name}"
            assert calcsize("<" + letter) == true[f"{struct}.{name}#"], f"{struct}.{name}"


@pytest.mark.parametrize("module", HEADERS, ids=HEADERS.values())
def test_every_generated_format_has_the_compilers_size(module: ModuleType) -> None:
    true = compiled.layouts(text_of(module))
    packed = {name: value for name, value in vars(module).items() if isinstance(value, PackedStruct)}
    assert packed
    for name, value in packed.items():
        struct = name.removeprefix("_").removesuffix("_FIXED").removesuffix("_TAILS").removesuffix("_SPLIT")
        assert value.size == true[struct.lower()], name
        assert value.format.startswith("<")


def test_sizes_of_the_state_are_the_compilers() -> None:
    true = compiled.layouts(text_of(state))
    assert {name: true[name] for name in state.SIZES} == state.SIZES
    assert set(state.SIZES) == set(compiled.members(text_of(state)))


def test_every_enumerator_has_the_compilers_value() -> None:
    enums, _ = generate.parse(text_of(layouts))
    names = [member for members in enums.values() for member in members]
    true = compiled.constants(names)
    for enum, members in enums.items():
        generated = getattr(layouts, "".join(map(str.capitalize, enum.removeprefix("pf_").split("_"))))
        assert issubclass(generated, IntEnum | IntFlag)
        prefix = enum.upper() + "_"
        assert {m.removeprefix(prefix): true[m] for m in members} == {m.name: m.value for m in generated}


def test_the_header_size_and_abi_are_those_of_the_header() -> None:
    assert compiled.layouts(text_of(layouts))["pf_header"] == layouts.HEADER_SIZE
    assert compiled.constants(["PF_ABI"])["PF_ABI"] == layouts.ABI


def test_there_is_a_reader_for_every_type() -> None:
    assert set(layouts.READERS) == {kind.value for kind in layouts.Type}
    _, structs = generate.parse(text_of(layouts))
    for kind in layouts.Type:
        smallest, _ = layouts.READERS[kind]
        assert smallest == structs[generate.RECORDS[f"PF_TYPE_{kind.name}"]].size
