"""What a run's checkpoints are called among the artifacts of its project."""

from __future__ import annotations

from typing import Final

from runwire_schemas.identity import run_key
from runwire_store.manifest import NAME_BYTES_MAX

__all__ = ["checkpoint_name"]

# "%" too, so that two run ids never become one name.
_QUOTED: Final = str.maketrans({sign: f"%{ord(sign):02X}" for sign in "%:/\\"})


def checkpoint_name(project: str, run_id: str) -> str:
    """Return the name; run ids may hold what names may not, and be longer.

    Only the name of an overlong id depends on the project.
    """
    name = f"checkpoint-{run_id.translate(_QUOTED)}"
    if len(name.encode("utf-8", "surrogatepass")) <= NAME_BYTES_MAX:
        return name
    return f"checkpoint-{run_key(project, run_id).hex()}"
