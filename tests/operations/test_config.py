"""The configuration: what a wrong file is told, what the command line changes, what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, Rate
from gateway.configfile import load, parse_assignment, settings, to_toml

CONFIGS = Path(__file__).parents[2] / "configs"


def write(directory: Path, text: str) -> Path:
    path = directory / "node.toml"
    path.write_text(text, encoding="utf-8")
    return path


CLUSTER = """
[serve]
workers = 3
[cluster]
node = 1
host = "10.0.0.1"
link_keys = [{ id = "a", secret = "x" }]
[store]
backend = "scylla"
[directory]
backend = "redis"
"""

WRONG = [
    ("[serve]\nprot = 1", "unknown setting serve.prot; did you mean serve.port?"),
    ("[serv]\nport = 1", "unknown setting serv; did you mean serve?"),
    ("port = 1", "unknown setting port; did you mean serve.port?"),
    ("[session]\nxyzzy = 1", "unknown setting session.xyzzy; known here: hello_timeout_s"),
    (
        "[limits]\ndevice_sends = { per_s = 1, brust = 2 }",
        "unknown setting limits.device_sends.brust; did you mean limits.d",
    ),
    ('[[auth.keys]]\nkid = "a"\nsecrets = "x"', "unknown setting auth.keys.secrets; did you mean auth.keys.secret?"),
    ('[serve]\nport = "7800"', "serve.port: Expected `int`, got `str`"),
    ("[serve]\nport = 65536", "serve.port: Expected `int` <= 65535"),
    ("[limits]\ndevice_sends = { per_s = 1 }", "limits.device_sends: Object missing required field `burst`"),
    ("serve = 3", "serve: Expected `object`, got `int`"),
    ("[serve", "not TOML"),
    ("[session]\nkeepalive_min_s = 300", "session: keepalive_min_s, keepalive_default_s and keepalive_max_s must rise"),
    ("[session]\nwindow_default = 300", "session: window_default 300 is above window_max 256"),
    ("[outbox]\nsession_bytes = 65536", "outbox.session_bytes must hold two frames"),
    ('[store]\nbackend = "memory"', "set serve.workers = 1"),
    ('[[auth.keys]]\nkid = "a"', "kid 'a' needs exactly one of secret, secret_file, public_key_file"),
    ('[[auth.keys]]\nkid = "a"\nsecret = "x"\nsecret_file = "y"', "kid 'a' needs exactly one of"),
    ('[auth]\nkeys = [{ kid = "a", secret = "x" }, { kid = "a", secret = "y" }]', "kid 'a' is named twice"),
    ('[auth]\nalgorithms = ["EdDSA"]\nkeys = [{ kid = "a", secret = "x" }]', "signs with HS256, which auth.algorithms"),
    ('[auth]\nalgorithms = ["none"]', "auth.algorithms[0]: Invalid enum value 'none'"),
    ('[auth]\nkeys = [{ kid = "a", secret = "(hidden)" }]', "auth.keys: a secret is (hidden), as it is printed"),
    ('[store]\nbackend = "scylla"', 'store.backend "scylla" is for a cluster: set cluster.node'),
    ('[directory]\nbackend = "redis"', 'directory.backend "redis" is for a cluster: set cluster.node'),
    ('[cluster]\nhost = "a"', "cluster.host is for a cluster: set cluster.node"),
    ("[cluster]\nnode = 1024", "cluster.node: Expected `int` <= 1023"),
    ("[cluster]\nnode = 1", 'store.backend "sqlite" is one node\'s own: a cluster needs "scylla"'),
    ('[cluster]\nnode = 1\n[store]\nbackend = "scylla"', 'directory.backend "embedded" is one node\'s own'),
    (CLUSTER.replace('host = "10.0.0.1"', ""), "cluster.host: say where the other nodes reach this one"),
    (
        CLUSTER.replace("link_keys = [", "advertise = []\n#"),
        "cluster.link_keys: nodes know each other by a shared secret",
    ),
    (CLUSTER.replace(', secret = "x"', ""), "cluster.link_keys: id 'a' needs exactly one of secret, secret_file"),
    (CLUSTER.replace('"x" }', '"x" }, { id = "a", secret = "y" }'), "cluster.link_keys: id 'a' is named twice"),
    (
        CLUSTER.replace('secret = "x"', 'secret = "(hidden)"'),
        "cluster.link_keys: a secret is (hidden), as it is printed",
    ),
    (CLUSTER + "[cluster.x]", "unknown setting cluster.x"),
    (CLUSTER.replace("node = 1", "node = 1\nlink_port = 65535"), "3 workers need as many ports from there on"),
    (CLUSTER.replace("node = 1", 'node = 1\nadvertise = ["chat2"]'), "cluster.advertise: 'chat2' is not host:port"),
    (CLUSTER + '[directory.redis]\nurl = "http://a"', "directory.redis.url: write redis://host:port"),
    (
        CLUSTER + '[directory.redis]\nurl = "redis://:secret@a"',
        "directory.redis.url: a password in it would be printed",
    ),
    (CLUSTER + '[directory.redis]\npassword = "a"\npassword_file = "b"', "give password or password_file, not both"),
    (CLUSTER + '[store.scylla]\npassword = "a"\npassword_file = "b"', "give password or password_file, not both"),
    (CLUSTER + "[store.scylla]\ncontact_points = []", "store.scylla.contact_points: Expected `array` of length >= 1"),
    (CLUSTER + '[store.scylla]\nkeyspace = "a; DROP"', "store.scylla.keyspace: Expected `str` matching regex"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_file_is_one_line_that_names_the_file_and_the_mend(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; print one to start from with `parley serve --check`"):
        load(tmp_path / "absent.toml")


def test_no_file_is_the_defaults() -> None:
    assert load() == Config()


def test_overrides_win_over_the_file_and_none_is_no_override(tmp_path: Path) -> None:
    path = write(tmp_path, "[serve]\nport = 1111\nops_port = 2222")
    config = load(path, {"serve.port": 3333, "serve.ops_port": None, "serve.data": "/elsewhere"})
    assert (config.serve.port, config.serve.ops_port, config.serve.data) == (3333, 2222, "/elsewhere")


def test_an_override_is_checked_as_the_file_is() -> None:
    with pytest.raises(ConfigError, match=r"serve.port: Expected `int` >= 0"):
        load(None, {"serve.port": -1})


def test_what_is_printed_is_read_as_the_same_configuration(tmp_path: Path) -> None:
    text = """
    [serve]
    host = "::1"
    data = "a \\"quoted\\" \\u00fcber path\\\\n"
    workers = 3
    [limits]
    device_sends = { per_s = 0.5, burst = 7 }
    [[auth.keys]]
    kid = "old"
    secret_file = "old.key"
    [[auth.keys]]
    kid = "new"
    public_key_file = "new.pem"
    """
    config = load(write(tmp_path, text))
    assert config.limits.device_sends == Rate(0.5, 7)
    assert load(write(tmp_path, to_toml(config))) == config


def test_a_printed_configuration_hides_secrets(tmp_path: Path) -> None:
    config = load(write(tmp_path, '[[auth.keys]]\nkid = "a"\nsecret = "correct horse"'))
    assert "correct horse" not in to_toml(config)
    assert 'secret = "(hidden)"' in to_toml(config)


def test_no_secret_of_a_cluster_is_printed(tmp_path: Path) -> None:
    secrets = (
        '[auth]\nresume_secret = "correct horse 1"\n[store.scylla]\npassword = "correct horse 2"\n'
        '[directory.redis]\npassword = "correct horse 3"\n'
    )
    text = CLUSTER.replace('secret = "x"', 'secret = "correct horse 4"') + secrets
    printed = to_toml(load(write(tmp_path, text)))
    assert "correct horse" not in printed
    assert printed.count('= "(hidden)"') == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cluster.node=2", ("cluster.node", 2)),
        ("cluster.host=node2", ("cluster.host", "node2")),
        ("cluster.host=10.0.0.2", ("cluster.host", "10.0.0.2")),
        ('cluster.host="7"', ("cluster.host", "7")),
        ('store.scylla.contact_points=["a", "b"]', ("store.scylla.contact_points", ["a", "b"])),
        ("store.scylla.tls=true", ("store.scylla.tls", True)),
        ("auth.resume_secret=a=b", ("auth.resume_secret", "a=b")),
        ("cluster.host=", ("cluster.host", "")),
    ],
)
def test_an_assignment_is_toml_or_a_string_as_it_is(text: str, expected: tuple[str, object]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["cluster.node", "=2"])
def test_what_is_no_assignment_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="write NAME=VALUE"):
        parse_assignment(text)


def test_an_override_of_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting cluster\.nod; did you mean cluster\.node\?"):
        load(None, {"cluster.nod": 3})


def test_the_defaults_as_a_file_are_the_defaults() -> None:
    assert load(CONFIGS / "embedded.toml") == Config()
    assert (CONFIGS / "embedded.toml").read_text().endswith(to_toml(Config()))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_every_configuration_that_ships_is_valid(path: Path) -> None:
    load(path)


def test_every_setting_says_what_it_means_and_numbers_say_their_unit() -> None:
    for name, default, description in settings():
        assert description, name
        if isinstance(default, float):
            assert name.endswith("_s"), name
