"""Settings: precedence, types, and errors that say what to do."""

import logging
from pathlib import Path

import pytest

from runwire.errors import ConfigError
from runwire.settings import Settings
from runwire_schemas.connections.table import rows_of

SAMPLES: dict[str, tuple[object, str, object]] = {
    "dir": ("/a", "/b", "/b"),
    "project": ("p", "q", "q"),
    "run_id": ("r", "s", "s"),
    "mode": ("offline", "DISABLED", "disabled"),
    "strict": (False, "yes", True),
    "agent": ("none", "thread", "thread"),
    "quota_bytes": (10**7, "3MiB", 3 * 1024**2),
    "disk_free_ratio_min": (0.5, "0.25", 0.25),
    "fork_policy": ("raise", "ignore", "ignore"),
    "finish_timeout_s": (1.0, "2.5", 2.5),
    "preempt_signals": (("SIGUSR1",), "SIGTERM,SIGUSR1", ("SIGTERM", "SIGUSR1")),
    "capture_git": (True, "off", False),
}


def resolve(
    overrides: dict[str, object] | None = None,
    environ: dict[str, str] | None = None,
    cwd: Path = Path("/nonexistent"),
) -> Settings:
    return Settings.resolve(overrides, environ or {}, cwd)


def test_nothing_given_means_the_table_of_defaults() -> None:
    """The dataclass and the table cannot drift apart."""
    settings = resolve()
    assert {f.name: f.default for f in rows_of(Settings).values()} == {
        f.name: getattr(settings, f.name) for f in rows_of(Settings).values()
    }
    assert settings == Settings()
    assert settings.changed() == {}


@pytest.mark.parametrize("name", SAMPLES)
def test_arguments_win_over_environment_over_file(name: str, tmp_path: Path) -> None:
    """Each source is used exactly when no stronger one has a value."""
    argument, text, parsed = SAMPLES[name]
    flags = {"strict": "true", "capture_git": "false"}
    toml = f"{name} = {flags.get(name) or repr(text)}\n"
    (tmp_path / "runwire.toml").write_text(toml)
    environ = {f"RUNWIRE_{name.upper()}": text}
    assert getattr(resolve(cwd=tmp_path), name) == parsed
    (tmp_path / "runwire.toml").write_text("project = 'from-file'\n")
    assert getattr(resolve(environ=environ, cwd=tmp_path), name) == parsed
    assert getattr(resolve({name: argument}, environ, tmp_path), name) == argument


def test_an_empty_variable_counts_as_unset() -> None:
    """`RUNWIRE_MODE= python train.py` is how people switch a variable off."""
    assert resolve(environ={"RUNWIRE_MODE": "", "RUNWIRE_QUOTA_BYTES": " "}) == Settings()


def test_disabled_switches_everything_off() -> None:
    """RUNWIRE_DISABLED is the panic switch: it also wins where Kafka would be refused."""
    environ = {"RUNWIRE_DISABLED": "1", "RUNWIRE_KAFKA_BOOTSTRAP_SERVERS": "k:9092"}
    assert resolve(environ=environ).mode == "disabled"
    assert resolve(environ={"RUNWIRE_DISABLED": "0"}).mode == "online"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "onlin"),
        ("mode", 3),
        ("strict", "maybe"),
        ("strict", 2),
        ("quota_bytes", "-5"),
        ("quota_bytes", 0),
        ("quota_bytes", "500KiB"),
        ("quota_bytes", "2 parsecs"),
        ("quota_bytes", True),
        ("quota_bytes", 1.5),
        ("disk_free_ratio_min", 1),
        ("disk_free_ratio_min", "nan"),
        ("finish_timeout_s", -1),
        ("preempt_signals", "SIGNOTHING"),
        ("preempt_signals", 15),
        ("dir", ""),
        ("dir", b"/x"),
        ("project", 7),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted(name: str, value: object) -> None:
    """The message alone is enough to correct the mistake."""
    with pytest.raises(ConfigError) as caught:
        resolve({name: value})
    message = str(caught.value)
    assert name in message
    assert repr(value) in message
    assert rows_of(Settings)[name].kind.accepts in message


def test_wrong_value_in_the_environment_names_its_variable() -> None:
    """The error says where the value came from."""
    with pytest.raises(ConfigError, match="environment variable RUNWIRE_MODE is 'on'"):
        resolve(environ={"RUNWIRE_MODE": "on"})


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    """A typo in a file or argument is refused: it would otherwise silently not apply."""
    (tmp_path / "runwire.toml").write_text("projekt = 'x'\n")
    with pytest.raises(ConfigError, match="Did you mean 'project'"):
        resolve(cwd=tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'run_id'"):
        resolve({"runid": "x"})


def test_keys_of_other_installed_tables_may_share_the_file(tmp_path: Path) -> None:
    """And a key that no table has is refused, whatever its prefix."""
    (tmp_path / "runwire.toml").write_text("clickhouse_url = 'http://h'\nworker_group = 'g'\n")
    assert resolve(cwd=tmp_path) == Settings()
    (tmp_path / "runwire.toml").write_text("worker_grup = 'g'\n")
    with pytest.raises(ConfigError, match="unknown setting 'worker_grup'"):
        resolve(cwd=tmp_path)


@pytest.mark.parametrize("content", [b"project = ", b"\xff\xfe"])
def test_toml_file_that_cannot_be_read_is_refused(content: bytes, tmp_path: Path) -> None:
    """A file that is no TOML is an error, not an empty one."""
    (tmp_path / "runwire.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="is not valid TOML"):
        resolve(cwd=tmp_path)


def test_an_unknown_variable_warns_with_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    """A warning only: the variable may be meant for another version on the same machine."""
    with caplog.at_level(logging.WARNING, logger="runwire"):
        resolve(environ={"RUNWIRE_PROJEKT": "x", "RUNWIRE_CLICKHOUSE_URL": "y"})
    assert "RUNWIRE_PROJEKT" in caplog.text
    assert "RUNWIRE_PROJECT" in caplog.text
    assert "CLICKHOUSE" not in caplog.text


def test_brokers_make_a_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are made absolute: the agent that uses them runs elsewhere."""
    monkeypatch.chdir(tmp_path)
    environ = {
        "RUNWIRE_KAFKA_BOOTSTRAP_SERVERS": "k:9092",
        "RUNWIRE_KAFKA_SASL_USERNAME": "agent",
        "RUNWIRE_KAFKA_SASL_PASSWORD_FILE": "secrets/kafka",
        "RUNWIRE_KAFKA_TOPIC_PREFIX": "team",
    }
    kafka = resolve({"kafka_ssl_ca_location": "ca.pem"}, environ).kafka
    assert kafka is not None
    assert kafka.sasl_password_file == str(tmp_path / "secrets" / "kafka")
    assert kafka.ssl_ca_location == str(tmp_path / "ca.pem")
    assert (kafka.protocol, kafka.topic_prefix) == ("SASL_SSL", "team")
    assert resolve().kafka is None


def test_an_endpoint_makes_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment, arguments and runwire.toml together; paths are made absolute."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runwire.toml").write_text('s3_endpoint = "http://store:9000"\n')
    environ = {"RUNWIRE_S3_ACCESS_KEY": "trainer", "RUNWIRE_S3_SECRET_KEY_FILE": "secrets/s3"}
    s3 = Settings.resolve({"s3_region": "eu"}, environ, tmp_path).s3
    assert s3 is not None
    assert s3.secret_key_file == str(tmp_path / "secrets" / "s3")
    assert (s3.url, s3.bucket, s3.region) == ("http://store:9000", "runwire", "eu")
    (tmp_path / "runwire.toml").unlink()
    assert Settings.resolve({}, environ, tmp_path).s3 is None


def test_a_store_without_a_key_is_refused() -> None:
    """But not where nothing is logged."""
    with pytest.raises(ConfigError, match="RUNWIRE_S3_ACCESS_KEY_FILE"):
        resolve({"s3_endpoint": "http://store:9000"})
    assert resolve({"s3_endpoint": "http://store:9000", "mode": "disabled"}).mode == "disabled"


def test_half_a_kafka_login_is_refused() -> None:
    """A user without a password is refused when settings are resolved."""
    with pytest.raises(ConfigError, match="RUNWIRE_KAFKA_SASL_PASSWORD_FILE"):
        resolve({"kafka_bootstrap_servers": "k:9092", "kafka_sasl_username": "agent"})


def test_settings_never_show_their_passwords() -> None:
    """Neither repr nor errors hold a secret."""
    given = {"kafka_bootstrap_servers": "k:9092", "kafka_sasl_username": "agent"}
    settings = resolve(given | {"kafka_sasl_password": "hunter2"})
    assert "hunter2" not in repr(settings) + repr(settings.kafka)
    with pytest.raises(ConfigError) as caught:
        resolve(given | {"kafka_sasl_password": ["hunter2"]})
    assert "hunter2" not in str(caught.value)
    stored = {"s3_endpoint": "http://s:9000", "s3_access_key": "a", "s3_secret_key": "hunter2"}
    settings = resolve(stored)
    assert "hunter2" not in repr(settings) + repr(settings.s3)


def test_settings_object_joins_as_its_changed_fields() -> None:
    """Fields left at their default do not hide the environment."""
    given = Settings(agent="none").changed()
    settings = resolve(given, {"RUNWIRE_PROJECT": "p"})
    assert (settings.agent, settings.project) == ("none", "p")
