from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.config import Config, Responses, SandboxClass
from sensor.errors import RefusedError
from sensor.events.detection import LEVELS
from sensor.events.layouts import Device
from sensor.respond.policy import (
    MODE_ENFORCE,
    MODE_MONITOR,
    UNRECORDED_ALLOW,
    UNRECORDED_REFUSE,
    Policy,
    class_index,
    device_mask,
    kernel_classes,
)

CONFIG = Config(
    classes={
        "zoo": SandboxClass(mode="enforce", granted_devices=("nvidia",), when_unrecorded="allow"),
        "agents": SandboxClass(mode="enforce", responses=Responses(high="kill", critical="kill-sandbox")),
    }
)


def test_classes_have_default_first_and_the_rest_by_name() -> None:
    assert [(entry.index, entry.name) for entry in kernel_classes(CONFIG, class_index(CONFIG, {}))] == [
        (0, "default"),
        (1, "agents"),
        (2, "zoo"),
    ]
    assert class_index(CONFIG, {}) == {"default": 0, "agents": 1, "zoo": 2}


@given(
    st.lists(st.lists(st.sampled_from([f"c{n}" for n in range(80)]), max_size=60, unique=True), min_size=1, max_size=6)
)
def test_a_class_keeps_its_number_over_reloads_and_no_two_share_one(configurations: list[list[str]]) -> None:
    known: dict[str, int] = {}
    for names in configurations:
        config = Config(classes={name: SandboxClass() for name in names})
        numbers = class_index(config, known)
        assert numbers["default"] == 0 and set(numbers) == {"default", *names}
        assert len(set(numbers.values())) == len(numbers) and max(numbers.values()) < 64
        assert all(numbers[name] == known[name] for name in names if name in known)
        known = {name: number for name, number in known.items() if number not in numbers.values()} | numbers


def test_a_configured_default_stays_at_index_zero() -> None:
    config = Config(classes={"a": SandboxClass(), "default": SandboxClass(mode="enforce")})
    assert kernel_classes(config, class_index(config, {}))[0].mode == MODE_ENFORCE
    assert [entry.name for entry in kernel_classes(config, class_index(config, {}))] == ["default", "a"]


def test_a_class_in_the_kernels_numbers() -> None:
    default, agents, zoo = kernel_classes(CONFIG, class_index(CONFIG, {}))
    assert (default.mode, default.when_unrecorded) == (MODE_MONITOR, UNRECORDED_REFUSE)
    assert (agents.mode, agents.when_unrecorded) == (MODE_ENFORCE, UNRECORDED_REFUSE)
    assert (zoo.mode, zoo.when_unrecorded) == (MODE_ENFORCE, UNRECORDED_ALLOW)
    assert zoo.granted == 1 << Device.ORDINARY | 1 << Device.NVIDIA
    assert default.granted == 1 << Device.ORDINARY | 1 << Device.FUSE | 1 << Device.OTHER


def test_every_device_class_has_the_bit_of_its_number() -> None:
    for device in Device:
        if device is not Device.ORDINARY:
            assert device_mask((device.name.lower(),)) == 1 | 1 << device


def test_decisions_are_by_class_and_level() -> None:
    policy = Policy(CONFIG)
    assert [policy.decide("agents", level).action for level in LEVELS] == ["log", "log", "log", "kill", "kill-sandbox"]
    assert policy.decide("agents", "high").mode == "enforce"
    assert policy.decide("default", "critical").action == "log"


def test_a_class_that_is_no_more_is_treated_as_default() -> None:
    decision = Policy(CONFIG).decide("removed by a reload", "critical")
    assert (decision.mode, decision.action) == ("monitor", "log")


def test_a_level_that_is_none_is_an_error() -> None:
    with pytest.raises(KeyError):
        Policy(CONFIG).decide("default", "fatal")


NAMES = st.lists(st.sampled_from([f"c{n}" for n in range(80)]), max_size=63, unique=True)


@given(st.lists(NAMES, min_size=2, max_size=6))
def test_a_number_in_force_is_no_other_classs_until_it_is_not(configurations: list[list[str]]) -> None:
    known: dict[str, int] = {}
    before: list[str] = []
    for names in configurations:
        config = Config(classes={name: SandboxClass() for name in names})
        if len({*names, *before}) > 63:
            with pytest.raises(RefusedError, match="take the old ones out first"):
                class_index(config, known, before)
            continue
        numbers = class_index(config, known, before)
        assert not {known[name] for name in before} & {numbers[name] for name in {*names} - {*before}}
        known = {name: number for name, number in known.items() if number not in numbers.values()} | numbers
        before = names
