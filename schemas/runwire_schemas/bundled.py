"""The ids of the schemas that come with the package: a high range that no registry reaches."""

from __future__ import annotations

from typing import Final

BUNDLED_ID_BASE: Final = 0x7F000000

BUNDLED: Final[dict[int, tuple[str, str]]] = {
    BUNDLED_ID_BASE + 1: ("run.v1", "daf10edff2586ac6"),
    BUNDLED_ID_BASE + 2: ("param.v1", "4ceb162c2ebb80c8"),
    BUNDLED_ID_BASE + 3: ("metric.v1", "8dc69071044cb53b"),
    BUNDLED_ID_BASE + 4: ("heartbeat.v1", "1067af081b41db2f"),
    BUNDLED_ID_BASE + 5: ("log.v1", "4df17f2ae8a6eb7c"),
    BUNDLED_ID_BASE + 6: ("deadletter.v1", "e4645a9c98b5766a"),
    BUNDLED_ID_BASE + 7: ("checkpoint.v1", "b1d66e1ea9d602fe"),
    BUNDLED_ID_BASE + 8: ("artifact.v1", "23901c2b32d7ebda"),
    BUNDLED_ID_BASE + 9: ("chunk.v1", "3e80f0581e4e5836"),
}
"""Schema stem and CRC-64-AVRO fingerprint by id. Rows are only ever added: old bytes stay."""
