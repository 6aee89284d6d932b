"""`runwire migrate` reads the environment as the settings tables do."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire import cli

NAMES = (
    "RUNWIRE_KAFKA_BOOTSTRAP_SERVERS",
    "RUNWIRE_S3_ENDPOINT",
    "RUNWIRE_SCHEMA_REGISTRY_URL",
    "RUNWIRE_CLICKHOUSE_URL",
)


@pytest.mark.parametrize("name", NAMES)
def test_blank_variable_of_a_server_counts_as_unset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A template that leaves the value empty configures nothing, and one sentence says so."""
    monkeypatch.setenv(name, "  ")
    assert cli.main(["migrate", "--dir", str(tmp_path)]) == 1
    assert "nothing to migrate" in capsys.readouterr().err


def test_printed_commands_follow_the_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brokers, prefix and bucket are those of the environment, blanks around them cut."""
    monkeypatch.setenv("RUNWIRE_KAFKA_BOOTSTRAP_SERVERS", " kafka:9092 ")
    monkeypatch.setenv("RUNWIRE_KAFKA_TOPIC_PREFIX", "team ")
    monkeypatch.setenv("RUNWIRE_S3_BUCKET", "bucket-7 ")
    assert cli.main(["migrate", "--print"]) == 0
    printed = capsys.readouterr().out
    assert "--bootstrap-server kafka:9092 --create" in printed
    assert "--topic team.metric.v1 " in printed
    assert "mc mb --ignore-existing STORE/bucket-7" in printed
