"""Names, versions, aliases and checkpoints are found from the store alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runwire_store.catalog import Catalog, CatalogError
from runwire_store.layout import NAMES, tombstone_key, version_key
from runwire_store.manifest import ManifestError
from runwire_store.memory import MemoryObjectStore
from runwire_store.releasing import delete_objects
from runwire_store.versions import VersionEntry
from support.stored import AT_NS, manifest, put_artifact, put_checkpoint


def numbers(store: MemoryObjectStore, **wanted: str) -> list[tuple[str, int, tuple[str, ...]]]:
    found = Catalog(store).artifacts("p", **wanted)
    return [(v.manifest.name, v.number, v.aliases) for v in found]


def test_catalog_lists_versions_newest_first_with_the_aliases_that_point_to_them() -> None:
    """Newest first; an alias belongs to the newest version that carries it."""
    store = MemoryObjectStore()
    put_artifact(store, 1, aliases=("best", "old"))
    put_artifact(store, 2, aliases=("best",))
    put_artifact(store, 3)
    put_artifact(store, 4, name="other", type="model", run_id="r2")
    by_name = sorted(numbers(store), key=lambda row: (row[0], -row[1]))
    assert by_name == [
        ("data", 2, ("latest",)),
        ("data", 1, ("best",)),
        ("data", 0, ("old",)),
        ("other", 0, ("latest",)),
    ]
    assert numbers(store, type="model") == [("other", 0, ("latest",))]
    assert numbers(store, run_id="r2") == [("other", 0, ("latest",))]
    assert len(numbers(store, name="data")) == 3
    assert numbers(store, name="data", run_id="r2") == []


@pytest.mark.parametrize(
    ("ref", "number"),
    [
        ("data", 2),
        ("data:latest", 2),
        ("data:best", 1),
        ("data:old", 0),
        ("data:v0", 0),
        ("data:v1", 1),
        ("p/data:best", 1),
        ("p/data", 2),
    ],
)
def test_resolve_accepts_every_form_of_a_reference(ref: str, number: int) -> None:
    """Name, alias, number and project resolve to the same version as long as they mean it."""
    store = MemoryObjectStore()
    put_artifact(store, 1, aliases=("best", "old"))
    put_artifact(store, 2, aliases=("best",))
    put_artifact(store, 3)
    found = Catalog(store).resolve(ref, "p")
    assert (found.number, found.ref) == (number, f"data:v{number}")
    assert Catalog(store).resolve("p/data:v1", "elsewhere").number == 1


@pytest.mark.parametrize("name", ["a/b", "a:b", "p/data", "ünï ☃", "a" * 1000, "..", "x:v1"])
def test_resolve_finds_artifacts_of_any_valid_name(name: str) -> None:
    """A name is hashed, never a path; what looks like a reference is first tried as a name."""
    store = MemoryObjectStore()
    put_artifact(store, 1, name=name)
    for ref in (name, f"{name}:latest", f"{name}:v0", f"p/{name}:v0"):
        assert Catalog(store).resolve(ref, "p").manifest.name == name


def test_resolve_names_existing_versions_when_one_is_missing() -> None:
    """The error says which versions the name has had, or that the name is unknown."""
    store = MemoryObjectStore()
    put_artifact(store, 1)
    for ref in ("nothing", "other/data:latest", "", ":", "data:v0:v0"):
        with pytest.raises(CatalogError, match="artifact ls"):
            Catalog(store).resolve(ref, "p")
    for ref in ("data:v1", "data:v999999999", "data:best"):
        with pytest.raises(CatalogError, match="v0 to v0"):
            Catalog(store).resolve(ref, "p")


def test_a_deleted_version_keeps_its_number() -> None:
    """Later versions keep theirs, "latest" and other aliases go to what exists."""
    store = MemoryObjectStore()
    for n in range(1, 4):
        put_artifact(store, n, aliases=("good",))
    catalog = Catalog(store)
    store.delete([catalog.resolve("data:v2", "p").manifest.key])
    assert catalog.resolve("data", "p").number == 1
    assert catalog.resolve("data:good", "p").number == 1
    assert catalog.resolve("data:v1", "p").aliases == ("good", "latest")
    with pytest.raises(CatalogError):
        catalog.resolve("data:v2", "p")
    put_artifact(store, 4)
    assert catalog.resolve("data", "p").number == 3


def test_catalog_lists_all_projects_without_a_project() -> None:
    """Without a project versions of every project are listed."""
    store = MemoryObjectStore()
    for n, project in enumerate(["p", "q"], start=1):
        put_artifact(store, n, project=project)
    catalog = Catalog(store)
    assert {v.manifest.project for v in catalog.artifacts(None)} == {"p", "q"}
    assert catalog.projects_of("data") == ["p", "q"]
    assert catalog.projects_of("nothing") == []


def test_listing_by_run_includes_content_that_another_run_had_first() -> None:
    """Both runs produced v0; who asks by run sees that run's artifact."""
    store = MemoryObjectStore()
    put_artifact(store, 1, {"d": b"x"})
    put_artifact(store, 2, {"d": b"x"}, run_id="r2")
    for run_id in ("r", "r2"):
        (version,) = Catalog(store).artifacts("p", run_id=run_id)
        assert (version.manifest.run_id, version.number) == (run_id, 0)
    (version,) = Catalog(store).artifacts("p")
    assert version.manifest.run_id == "r"


def _newer(data: bytes) -> bytes:
    return json.dumps({**json.loads(data), "format": 2, "files_at": "elsewhere"}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        _newer,
        lambda data: data[: len(data) // 2],
        lambda data: data[:0],
        lambda data: data[:0] + b"[" * 100_000,
        lambda data: data[:0] + b"[]",
        lambda data: b"\xff\x00" + data,
        lambda data: data.replace(b'"size": 1', b'"size": 2', 1),
        lambda data: json.dumps({**json.loads(data), "files": [{"path": 5}]}).encode(),
        lambda data: json.dumps({**json.loads(data), "run_id": "r2"}).encode(),
    ],
)
def test_unreadable_manifest_hides_only_its_own_version(damage) -> None:
    """A listing leaves it out and reports it in `damaged`; resolving it raises."""
    store = MemoryObjectStore()
    put_artifact(store, 1)
    broken = put_artifact(store, 2)
    store.put(broken.key, damage(store.get(broken.key)))
    catalog = Catalog(store)
    listing = catalog.artifacts("p")
    assert [v.number for v in listing] == [0]
    assert len(listing.damaged) == 1
    for ref in ("data:latest", "data:v1"):
        with pytest.raises(ManifestError):
            catalog.resolve(ref, "p")
    assert catalog.resolve("data:v0", "p").number == 0


def test_version_entry_that_names_another_artifact_is_refused() -> None:
    """Whoever may write names cannot make one name show another's content unnoticed."""
    store = MemoryObjectStore()
    good = put_artifact(store, 1)
    liar = manifest(9, name="trusted")
    store.put(
        version_key("p", "trusted", stamp_ns=AT_NS, artifact=liar.artifact),
        VersionEntry.of(replace(good, artifact=good.artifact)).to_json(),
    )
    store.put(f"{NAMES}nonsense", b"x")
    catalog = Catalog(store)
    assert [v.manifest.name for v in catalog.artifacts("p")] == ["data"]
    with pytest.raises(ManifestError, match="something else"):
        catalog.resolve("trusted", "p")


def test_checkpoints_of_a_run_are_listed_oldest_first_with_missing_ranks() -> None:
    """Oldest first; a sharded one is complete when every rank's part is there."""
    store = MemoryObjectStore()
    put_checkpoint(store, 1, 10, metrics={"loss": 2.0})
    put_checkpoint(store, 2, 20, kind="sharded", world_size=3, rank=0)
    put_checkpoint(store, 3, 20, kind="sharded", world_size=3, rank=2)
    catalog = Catalog(store)
    first, second = catalog.checkpoints("p", "r")
    assert (first.step, first.is_complete, dict(first.metrics)) == (10, True, {"loss": 2.0})
    assert (second.is_complete, second.missing_ranks, second.size) == (False, (1,), 2)
    assert catalog.checkpoint("p", "r", "latest").step == 10
    put_checkpoint(store, 4, 20, kind="sharded", world_size=3, rank=1)
    latest = catalog.checkpoint("p", "r", "latest")
    assert (latest.step, sorted(latest.manifests)) == (20, [0, 1, 2])
    assert latest.saved_at_ns == AT_NS + 4 * 10**9


def test_same_step_of_two_attempts_gives_two_checkpoints() -> None:
    """The newest attempt's checkpoint of a step counts, and "latest" is the newest, not highest."""
    store = MemoryObjectStore()
    put_checkpoint(store, 1, 100, attempt="a1")
    put_checkpoint(store, 2, 150, attempt="a1")
    put_checkpoint(store, 3, 100, attempt="a2")
    put_checkpoint(store, 4, 120, attempt="a2")
    catalog = Catalog(store)
    assert catalog.checkpoint("p", "r", "latest").step == 120
    assert catalog.checkpoint("p", "r", 100).attempt == "a2"
    assert catalog.checkpoint("p", "r", 150).attempt == "a1"


def test_a_step_saved_twice_counts_once() -> None:
    """The last save of a step is the checkpoint; the earlier one is superseded."""
    store = MemoryObjectStore()
    put_checkpoint(store, 1, 10, metrics={"loss": 1.0})
    put_checkpoint(store, 2, 10, metrics={"loss": 2.0})
    (view,) = Catalog(store).checkpoints("p", "r")
    assert view.metrics == {"loss": 2.0}
    assert [m.artifact for m in view.superseded] == [f"{1:032x}"]


def test_best_checkpoint_is_the_marked_one_else_the_best_by_metric() -> None:
    """By mark, else by the metric of the rules it was saved with; never one with NaN."""
    store = MemoryObjectStore()
    rules = {"keep_best": 1, "metric": "loss"}
    for n, loss in enumerate([2.0, 1.0, float("nan"), 3.0], start=1):
        put_checkpoint(store, n, n * 10, metrics={"loss": loss}, retention=rules)
    catalog = Catalog(store)
    assert catalog.checkpoint("p", "r", "best").step == 20
    put_checkpoint(store, 7, 5, is_best=True)
    assert catalog.checkpoint("p", "r", "best").step == 5
    assert catalog.resolve("checkpoint-r:best", "p").manifest.artifact == f"{7:032x}"


def test_missing_checkpoint_raises_with_the_steps_that_exist() -> None:
    """The error lists the complete steps and says when none is complete."""
    store = MemoryObjectStore()
    catalog = Catalog(store)
    with pytest.raises(CatalogError, match="no complete one yet"):
        catalog.checkpoint("p", "r", "latest")
    put_checkpoint(store, 1, 10)
    with pytest.raises(CatalogError, match=r"it has 1, the last at steps 10$"):
        catalog.checkpoint("p", "r", 20)
    with pytest.raises(CatalogError, match="is_best=True"):
        catalog.checkpoint("p", "r", "best")
    with pytest.raises(ValueError, match="'latest', 'best' or a step"):
        catalog.checkpoint("p", "r", "newest")


def test_damaged_checkpoint_manifest_falls_back_to_the_one_before() -> None:
    """The latest readable checkpoint is chosen; the damaged manifest is reported."""
    store = MemoryObjectStore()
    put_checkpoint(store, 1, 10)
    broken = put_checkpoint(store, 2, 20)
    store.put(broken.key, b"{}")
    catalog = Catalog(store)
    assert catalog.checkpoint("p", "r", "latest").step == 10
    assert list(catalog.checkpoints("p", "r").damaged) == [broken.key]


def test_catalog_knows_the_runs_that_keep_something() -> None:
    """A checkpoint or an artifact is enough; a deleted run is not known, whatever is left."""
    store = MemoryObjectStore()
    catalog = Catalog(store)
    put_checkpoint(store, 1, 10, run_id="saves")
    put_artifact(store, 2, run_id="logs")
    put_artifact(store, 3, run_id="deleted")
    delete_objects(store, "p", "deleted")
    put_artifact(store, 4, run_id="left")
    store.put(tombstone_key("p", "left"), b"{}")
    runs = ("saves", "logs", "deleted", "left", "typo")
    assert [catalog.knows_run("p", run_id) for run_id in runs] == [True, True, *[False] * 3]
    assert not catalog.knows_run("other", "saves")
