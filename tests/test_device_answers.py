"""What a broken or malicious device answers: an error that names it, never a traceback, never a control character."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.bench.answers import ANSWERS, parse_answer, printable
from edgecnn.device.adb import Adb
from edgecnn.device.ssh import Ssh

GOOD: dict[str, dict[str, Any]] = {
    "block": {"samples_ns": [1, 2], "wall_ns": 3, "cpu_ns": 3, "states": [{"clocks_mhz": {"policy0": 1500.0}}]},
    "cold": {"cold_ns": [7]},
    "energy": {"unavailable": "no sensor"},
    "profile": {"engine": {"name": "o", "version": "1"}, "nodes": [{"name": "a", "kind": "Conv", "median_ns": 1.0}]},
    "first": {"first_ns": 5},
    "memory": {"peak_rss_bytes": 2, "before_rss_bytes": 1},
    "feed": {},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("request_", GOOD)
def test_a_good_answer_passes_unchanged(request_: str) -> None:
    assert parse_answer(request_, json.dumps({"ok": True, **GOOD[request_]})) == {"ok": True, **GOOD[request_]}


@given(st.sampled_from(sorted(ANSWERS)), JSON)
def test_any_json_is_an_answer_or_a_value_error(request_: str, value: Any) -> None:
    for line in (json.dumps(value), json.dumps({"ok": True, "x": value}), json.dumps({"ok": False, "error": value})):
        try:
            answer = parse_answer(request_, line)
        except ValueError:
            continue  # what `Agent.ask` explains; nothing else may come
        assert answer["ok"] in (True, False)


@given(st.sampled_from(sorted(set(GOOD) - {"feed", "energy"})), st.data())
def test_one_wrong_field_is_named(request_: str, data: st.DataObject) -> None:
    good = GOOD[request_]
    key = data.draw(st.sampled_from(sorted(good)))
    wrong = data.draw(st.sampled_from([None, "7", [], -1, {"clocks_mhz": "b"}, [-1], [1.5], float("nan"), 2**70]))
    with pytest.raises(ValueError, match=key):
        parse_answer(request_, json.dumps({"ok": True, **good, key: wrong}))


def test_half_an_answer_on_energy_is_none() -> None:
    whole = {"sensor": "VDD_IN", "covers": "a rail", "idle_watts": 1.0, "busy_watts": 2.0, "runs": 3, "readings": 4}
    whole |= {"joules_per_run": 0.5, "above_idle_joules_per_run": -0.1}
    assert parse_answer("energy", json.dumps({"ok": True, **whole})) == {"ok": True, **whole}
    for key in whole:
        with pytest.raises(ValueError, match=key):
            parse_answer("energy", json.dumps({"ok": True, **{k: v for k, v in whole.items() if k != key}}))


@pytest.mark.parametrize("line", ["", "null", "[" * 100_000, '{"ok": 1}', '{"ok": false}', "\x1b[2J", '{"ok": true'])
def test_lines_that_are_no_answers(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_answer("first", line)


@given(JSON)
def test_no_control_character_survives(value: Any) -> None:
    text = json.dumps(printable(value), ensure_ascii=False)
    assert not [c for c in text if ord(c) < 32 or ord(c) == 127 or 0x80 <= ord(c) < 0xA0]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("error: device '127.0.0.1:5' not found", "adb devices"),
        ("error: device offline", "adb reconnect"),
        ("error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set", "allow USB debugging"),
        ("adb: device offline", "adb reconnect"),
        ("error: no devices/emulators found", "adb devices"),
        ("error: more than one device/emulator", "set `serial`"),
        ("error: closed", "adb devices"),
    ],
)
def test_adb_s_own_failures_are_told_from_those_of_commands(said: str, advice: str) -> None:
    failure = Adb("phone", None).lost(1, said)
    assert failure is not None
    assert advice in (failure.do or "")
    assert Adb("phone", None).lost(1, "mktemp: failed: Permission denied") is None
    assert Adb("phone", None).lost(0, said) is None


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Host key verification failed.", "compare the key"),
        ("me@pi: Permission denied (publickey).", "ssh-copy-id pi"),
        ("ssh: Could not resolve hostname pi: Name or service not known", "check `host`"),
        ("ssh: connect to host pi port 22: Connection refused", "start the ssh server"),
        ("ssh: connect to host pi port 22: Connection timed out", "on this network"),
        ("", "try `ssh pi true` by hand"),
    ],
)
def test_ssh_s_failures_say_what_to_do(said: str, advice: str) -> None:
    failure = Ssh("board", "pi").lost(255, said)
    assert failure is not None
    assert advice in (failure.do or "")
    assert Ssh("board", "pi").lost(1, said) is None
