"""Configuration files of the embedded engine: config.xml and users.xml."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from runwire_consumers.clickhouse.engine_settings import EngineSettings

# The engine itself logs in as `default` over loopback, so that user must exist without a
# password; these two grants are enough for the listener, and an anonymous client can do nothing
# with them. `readonly` 2 and not 1: clients must be able to set formats and limits.
_USERS = """<clickhouse>
  <profiles>
    <default/>
    <reading>
      <readonly>2</readonly>
      <max_memory_usage>{query_bytes}</max_memory_usage>
      <max_execution_time>{query_s:g}</max_execution_time>
      <max_rows_to_read>{query_rows}</max_rows_to_read>
      <max_result_bytes>{result_bytes}</max_result_bytes>
    </reading>
  </profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password></password><networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile><quota>default</quota>
      <grants>
        <query>GRANT SYSTEM LISTEN ON *.*</query>
        <query>GRANT SELECT ON system.numbers</query>
      </grants>
    </default>
    <writer>
      <password_sha256_hex>{writer}</password_sha256_hex><networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile><quota>default</quota>
    </writer>
    <reader>
      <password_sha256_hex>{reader}</password_sha256_hex><networks><ip>127.0.0.1</ip></networks>
      <profile>reading</profile><quota>default</quota>
      <grants><query>GRANT SELECT ON runwire.*</query></grants>
    </reader>
  </users>
</clickhouse>
"""

# Merges run in threads of the lowest priority, beside a training on the same cores. Parts that were
# merged stay the usual eight minutes: a merged part is not synced, the kernel writes it meanwhile.
# The query log is the only log table; each flush of it makes a part, so it is flushed seldom.
_CONFIG = """<clickhouse>
  <logger><level>warning</level><console>1</console></logger>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{http_port}</http_port>
  <tcp_port>{tcp_port}</tcp_port>
  <path>{data}/</path>
  <users_config>{users}</users_config>
  <max_server_memory_usage>{memory_bytes}</max_server_memory_usage>
  <mark_cache_size>{cache_bytes}</mark_cache_size>
  <index_mark_cache_size>{cache_bytes}</index_mark_cache_size>
  <primary_index_cache_size>{cache_bytes}</primary_index_cache_size>
  <os_threads_nice_value_merge_mutate>19</os_threads_nice_value_merge_mutate>
  <query_log>
    <database>system</database><table>query_log</table>
    <ttl>event_date + INTERVAL 3 DAY DELETE</ttl>
    <flush_interval_milliseconds>60000</flush_interval_milliseconds>
  </query_log>
  <backups><allowed_path>{data}/backups/</allowed_path></backups>
</clickhouse>
"""


# Of the engine's memory, for each cache of what it knows about parts; 5 GiB each otherwise.
_CACHE_SHARE = 8


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step, readable by its owner alone."""
    partial = path.with_name(path.name + ".new")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAccess:
    """Ports of the engine and passwords of its two users."""

    http_port: int
    tcp_port: int
    writer_password: str = field(repr=False)
    reader_password: str = field(repr=False)


def write_config(folder: Path, access: EngineAccess, settings: EngineSettings) -> None:
    """Write config.xml and users.xml."""
    users = _USERS.format(
        writer=_sha256(access.writer_password),
        reader=_sha256(access.reader_password),
        query_bytes=settings.memory_bytes_of_query,
        query_s=settings.query_s,
        query_rows=settings.query_rows,
        result_bytes=settings.result_bytes,
    )
    write_private(folder / "users.xml", users)
    config = _CONFIG.format(
        http_port=access.http_port,
        tcp_port=access.tcp_port,
        data=escape(str(folder / "data")),
        users=escape(str(folder / "users.xml")),
        memory_bytes=settings.memory_bytes,
        cache_bytes=settings.memory_bytes // _CACHE_SHARE,
    )
    write_private(folder / "config.xml", config)


def _sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()
