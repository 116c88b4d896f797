"""The configuration: what a file may say, and what is said about a file that is wrong."""

import re
import tomllib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.config import SECTIONS, ActorsConfig, Config, DoorConfig, StorageConfig
from palyra_actors.errors import ConfigInvalid
from palyra_actors.limits import APPEND_EVENTS_MAX, BUDGET_MS_DEFAULT, FRAME_BYTES_MAX

CONFIGS = Path(__file__).parent.parent / "configs"
DEFAULT = CONFIGS / "default.toml"


def refusal(values: Mapping[str, Any]) -> ConfigInvalid:
    with pytest.raises(ConfigInvalid) as caught:
        Config.from_mapping(values)
    return caught.value


def test_the_default_file_equals_the_defaults_in_the_code() -> None:
    assert Config.load(DEFAULT) == Config()


def test_the_default_file_names_every_key_there_is() -> None:
    named = {
        (section, key)
        for section, table in tomllib.loads(DEFAULT.read_text()).items()
        for key in table
    }
    known = {(s, key) for s, table in Config().to_mapping().items() for key in table}
    assert named == known


def test_the_default_file_gives_a_reason_for_every_key() -> None:
    lines = DEFAULT.read_text().splitlines()
    bare = [
        line
        for before, line in pairwise(lines)
        if re.match(r"\w+ = ", line) and not before.startswith("#")
    ]
    assert bare == []


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_every_shipped_file_is_valid_and_durable(path: Path) -> None:
    assert Config.load(path).storage.durable


def test_the_shipped_files_differ_from_the_default_in_every_key_they_name_except_the_log() -> None:
    default = Config().to_mapping()
    same = [
        f"{name}: {section}.{key}"
        for name in ("dev.toml", "durable.toml")
        for section, table in tomllib.loads((CONFIGS / name).read_text()).items()
        for key, value in table.items()
        if section != "log" and default[section][key] == value
    ]
    assert same == []


def test_keys_that_a_file_leaves_out_keep_their_defaults(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text("[door]\npeers_max = 7\n")
    assert Config.load(file) == Config(door=DoorConfig(peers_max=7))


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "empty.toml"
    file.write_text("")
    assert Config.load(file) == Config()


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"nowhere\.toml cannot be read"):
        Config.load(tmp_path / "nowhere.toml")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin.toml"
    file.write_bytes(b'[engine]\ndb = "caf\xe9"\n')
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        Config.load(file)


def test_a_file_that_is_not_toml_is_refused_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("[engine]\ndb = \n")
    with pytest.raises(ConfigInvalid, match="line 2"):
        Config.load(file)


@pytest.mark.parametrize(
    ("values", "field", "hint"),
    [
        ({"storage": {"reader": 2}}, "storage.reader", "did you mean 'readers'?"),
        ({"stroage": {}}, "stroage", "did you mean 'storage'?"),
        ({"door": {"write_ms": 5}}, "door.write_ms", "it belongs to [budget]"),
        ({"db": "x.db"}, "db", "it belongs to [engine]"),
        ({"log": {"zzz": 1}}, "log.zzz", "known: format, level"),
    ],
)
def test_an_unknown_name_is_refused_with_the_one_that_was_meant(
    values: dict[str, Any], field: str, hint: str
) -> None:
    error = refusal(values)
    assert error.field == field
    assert error.hint == hint


def test_a_value_where_a_section_belongs_is_refused() -> None:
    error = refusal({"log": "json"})
    assert (error.field, error.hint) == ("log", "write [log]")


@pytest.mark.parametrize(
    ("section", "key", "value", "allowed"),
    [
        ("door", "peers_max", 0, "a whole number in 1..65536"),
        ("door", "peers_max", 65_537, "a whole number in 1..65536"),
        ("door", "peers_max", True, "a whole number in 1..65536"),
        ("door", "peers_max", 1.0, "a whole number in 1..65536"),
        ("door", "peers_max", "many", "a whole number in 1..65536"),
        ("budget", "write_ms", -1, "a whole number in 0..600000, in ms"),
        ("canvas", "snapshots_max", 10_001, "a whole number in 2..10000"),
        ("actors", "idle_seconds", 0, "a number above 0, at most 86400, in seconds"),
        ("actors", "idle_seconds", float("nan"), "a number above 0, at most 86400, in seconds"),
        ("actors", "idle_seconds", False, "a number above 0, at most 86400, in seconds"),
        ("engine", "db", "", "a string of 1..4096 characters"),
        ("engine", "db", 5, "a string of 1..4096 characters"),
        ("log", "format", "xml", '"console" | "json"'),
        ("storage", "synchronous", ["full"], '"extra" | "full" | "normal" | "off"'),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_what_is_allowed(
    section: str, key: str, value: object, allowed: str
) -> None:
    error = refusal({section: {key: value}})
    assert error.field == f"{section}.{key}"
    assert repr(value)[:20] in error.message
    assert error.hint == f"allowed: {allowed}"


def test_a_wrong_value_given_in_code_is_refused_like_one_in_a_file() -> None:
    with pytest.raises(ConfigInvalid, match=r"storage\.readers"):
        StorageConfig(readers=0)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:7447", "http://localhost", "inproc://x"])
def test_an_endpoint_of_another_kind_is_refused(endpoint: str) -> None:
    assert refusal({"door": {"endpoint": endpoint}}).field == "door.endpoint"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"door": {"peer_requests_max": 65_537}}, "door.peer_requests_max"),
        ({"door": {"requests_max": 4095}}, "door.peer_requests_max"),
        ({"storage": {"wal_keep_bytes": 2**29}}, "storage.wal_keep_bytes"),
        ({"storage": {"checkpoint_bytes": 2**25}}, "storage.checkpoint_bytes"),
        (
            {"storage": {"wal_keep_bytes": 0, "checkpoint_bytes": 2**28}},
            "storage.checkpoint_bytes",
        ),
        ({"budget": {"group_ms_max": 25}}, "budget.group_ms_max"),
        ({"actors": {"turn_messages_max": 4097}}, "actors.turn_messages_max"),
        ({"actors": {"restart_backoff_ms": 5001}}, "actors.restart_backoff_ms"),
    ],
)
def test_limits_that_do_not_fit_each_other_are_refused(values: dict[str, Any], field: str) -> None:
    error = refusal(values)
    assert error.field == field
    assert error.hint


def test_without_a_budget_a_group_may_take_its_time() -> None:
    config = Config.from_mapping({"budget": {"write_ms": 0, "group_ms_max": 1000}})
    assert config.budget.group_ms_max == 1000


def test_limits_that_come_from_the_contract_agree_with_it() -> None:
    assert Config().budget.write_ms == BUDGET_MS_DEFAULT
    assert refusal({"budget": {"group_events_max": APPEND_EVENTS_MAX - 1}})
    assert refusal({"door": {"peer_reply_bytes_max": FRAME_BYTES_MAX - 1}})


@pytest.mark.parametrize(
    ("synchronous", "durable"),
    [("full", True), ("extra", True), ("normal", False), ("off", False)],
)
def test_only_full_and_extra_count_as_durable(synchronous: Any, durable: bool) -> None:
    assert StorageConfig(synchronous=synchronous).durable is durable


def test_a_replaced_key_leaves_the_original_and_the_other_keys_alone() -> None:
    before = Config(actors=ActorsConfig(resident_max=5))
    after = before.replaced("engine", db="other.db").replaced("actors", idle_seconds=1)
    assert (after.engine.db, after.actors.idle_seconds) == ("other.db", 1.0)
    assert after.actors.resident_max == 5
    assert before == Config(actors=ActorsConfig(resident_max=5))


def test_a_replaced_key_is_checked_like_one_in_a_file() -> None:
    with pytest.raises(ConfigInvalid, match="did you mean 'db'"):
        Config().replaced("engine", dbb="x")
    with pytest.raises(ConfigInvalid, match="did you mean 'engine'"):
        Config().replaced("enigne", db="x")


def test_whole_seconds_and_fractions_are_the_same_kind_of_number() -> None:
    assert type(ActorsConfig(idle_seconds=3).idle_seconds) is float


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        Config().engine.db = "x"  # type: ignore[misc]


def test_every_section_of_the_configuration_is_known_by_its_name() -> None:
    assert set(SECTIONS) == set(Config.__struct_fields__)
