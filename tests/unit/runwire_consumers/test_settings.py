"""Worker settings from the environment."""

from __future__ import annotations

import pytest

from runwire_consumers.settings import WorkerSettings, from_environment
from runwire_schemas.errors import ConfigError


def test_settings_come_from_the_environment() -> None:
    """An unset or empty variable keeps the default; values have the types of the defaults."""
    assert from_environment({"RUNWIRE_WORKER_BATCH_ROWS": ""}) == WorkerSettings()
    settings = from_environment(
        {"RUNWIRE_WORKER_BATCH_AGE_S": "0.5", "RUNWIRE_WORKER_METRICS_PORT": "0"}
    )
    assert (settings.batch_age_s, settings.metrics_port) == (0.5, 0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BATCH_ROWS", "many"),
        ("BATCH_ROWS", "1.5"),
        ("SHUTDOWN_S", "-1"),
        ("SHUTDOWN_S", "nan"),
        ("GROUP_PROTOCOL", "sometimes"),
    ],
)
def test_settings_error_names_the_variable(name: str, text: str) -> None:
    """A value that cannot be read is refused with the name of its variable."""
    with pytest.raises(ValueError, match=f"environment variable RUNWIRE_WORKER_{name} is "):
        from_environment({f"RUNWIRE_WORKER_{name}": text})


def test_groups_carry_the_topic_prefix_unless_they_are_named() -> None:
    """Two pipelines in one cluster have different groups; a named group stays as it is."""
    assert WorkerSettings().groups("") == ("runwire-clickhouse", "runwire-objects")
    assert WorkerSettings().groups("second") == ("second-clickhouse", "second-objects")
    assert WorkerSettings(group="mine").groups("second") == ("mine", "second-objects")


def test_one_group_for_both_kinds_of_worker_is_refused() -> None:
    """Each worker would take artifacts from the other; the sentence names both variables."""
    settings = WorkerSettings(group="runwire-objects")
    with pytest.raises(ConfigError, match=r"RUNWIRE_WORKER_GROUP and .*_OBJECTS_GROUP are both"):
        settings.groups("runwire")
