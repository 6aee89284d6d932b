"""`runwire migrate` on real S3 servers: the bucket, its rules, and policies just wide enough."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from minio import MinioAdmin
from minio.commonconfig import ENABLED, Filter
from minio.credentials.providers import StaticProvider
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from minio.versioningconfig import VersioningConfig

from runwire import cli
from runwire_agent.survey.outbox import examine_store
from runwire_consumers.objects import policies
from runwire_consumers.stack.checkup import bucket_findings
from runwire_disk.survey import FAIL, OK, WARN
from runwire_schemas.connections.s3 import S3Settings
from runwire_store.catalog import Catalog
from runwire_store.download import download
from runwire_store.layout import blob_key
from runwire_store.manifest import FileEntry, Manifest
from runwire_store.publish import publish
from runwire_store.s3.requests import SignedRequests, new_pool
from runwire_store.s3.store import S3Store
from runwire_store.store import StoreRefused
from runwire_store.sweep import sweep
from support.servers import ObjectStore

MIB = 1024 * 1024
DAY_NS = 86400 * 10**9


@pytest.fixture(params=["versitygw", "minio"])
def server(request: pytest.FixtureRequest) -> ObjectStore:
    name = {"versitygw": "s3", "minio": "minio"}[request.param]
    found: ObjectStore = request.getfixturevalue(name)
    return found


@pytest.fixture
def unmade(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Settings]:
    """A bucket that is not there, named by the environment; what the test makes of it goes."""
    buckets = server.new_bucket()
    settings = next(buckets)
    server.client().remove_bucket(settings.bucket)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    yield settings
    next(buckets, None)


def test_migrate_makes_the_bucket_and_its_rules_once(
    request: pytest.FixtureRequest, unmade: S3Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run finds nothing to do; rules that a server does not support are reported."""
    assert cli.main(["migrate"]) == 0
    printed = capsys.readouterr()
    assert f"created bucket {unmade.bucket}" in printed.out
    S3Store(unmade).check()
    if request.node.callspec.params["server"] == "versitygw":
        assert "the object worker deletes pieces in staging/" in printed.err
        assert "--print s3" in printed.err
    else:
        assert "staging/" in printed.out
        assert policies.policy_name("trainer", unmade.bucket) in printed.out
    assert cli.main(["migrate", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)["s3"]
    assert (done["bucket"], done["done"]) == (unmade.bucket, [])


def test_migrate_keeps_foreign_lifecycle_rules(
    minio: ObjectStore, minio_bucket: S3Settings
) -> None:
    """Foreign rules stay; ours is repaired, whatever was there under its name."""
    from runwire_consumers.objects.bucket import prepare

    client = minio.client()
    theirs = Rule(
        ENABLED, rule_filter=Filter(prefix="theirs/"), rule_id="t", expiration=Expiration(days=1)
    )
    wrong = Rule(
        ENABLED,
        rule_filter=Filter(prefix="blobs/"),
        rule_id="runwire-staging",
        expiration=Expiration(days=1),
    )
    client.set_bucket_lifecycle(minio_bucket.bucket, LifecycleConfig([theirs, wrong]))
    assert prepare(minio_bucket).done == [f"staging/ of {minio_bucket.bucket} expires after 7 days"]
    kept = client.get_bucket_lifecycle(minio_bucket.bucket)
    assert kept is not None
    found = {
        (rule.rule_id, rule.rule_filter and rule.rule_filter.prefix): rule.expiration
        and rule.expiration.days
        for rule in kept.rules
    }
    assert found == {("t", "theirs/"): 1, ("runwire-staging", "staging/"): 7}
    assert prepare(minio_bucket).done == []


def test_migrate_keeps_what_the_client_cannot_parse_in_foreign_rules(
    minio: ObjectStore, minio_bucket: S3Settings
) -> None:
    """Elements that the client library has no class for survive on a real server."""
    from runwire_consumers.objects.bucket import missing_rules, prepare

    theirs = (
        b"<LifecycleConfiguration><Rule><ID>theirs</ID><Status>Enabled</Status><Filter><And>"
        b"<Prefix>logs/</Prefix><Tag><Key>k</Key><Value>v</Value></Tag>"
        b"<ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter>"
        b"<NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays>"
        b"<NewerNoncurrentVersions>2</NewerNoncurrentVersions></NoncurrentVersionExpiration>"
        b"</Rule></LifecycleConfiguration>"
    )
    http = new_pool(minio_bucket)
    client = minio.client()
    client.set_bucket_versioning(minio_bucket.bucket, VersioningConfig(ENABLED))
    requests = SignedRequests(minio_bucket, client, http, 10.0)
    digest = base64.b64encode(hashlib.md5(theirs).digest()).decode()
    requests.send("PUT", None, {"lifecycle": ""}, body=theirs, headers={"Content-MD5": digest})
    before = requests.send("GET", None, {"lifecycle": ""}).data
    (rule,) = re.findall(rb"<Rule>.*?</Rule>", before, re.DOTALL)
    assert "runwire-staging" in missing_rules(minio_bucket)
    (finding,) = bucket_findings(minio_bucket.environment())
    assert (finding.level, "`runwire migrate`" in finding.advice) == (WARN, True)
    assert len(prepare(minio_bucket).done) == 1
    after = requests.send("GET", None, {"lifecycle": ""}).data
    assert rule in after
    assert b"NewerNoncurrentVersions" in rule
    assert b"ObjectSizeGreaterThan" in rule
    assert "runwire-staging" not in missing_rules(minio_bucket)
    http.clear()


def test_migrate_names_the_variable_of_a_wrong_key(
    unmade: S3Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong secret key ends the command with status 1 and the name of its variable."""
    monkeypatch.setenv("RUNWIRE_S3_SECRET_KEY", "guessed-by-somebody")
    assert cli.main(["migrate"]) == 1
    assert "RUNWIRE_S3_SECRET_KEY_FILE" in capsys.readouterr().err


def test_migrate_refuses_a_malformed_endpoint_option(
    unmade: S3Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option wins over the environment, and the sentence shows it."""
    assert cli.main(["migrate", "--s3", "ftp://store"]) == 1
    assert "RUNWIRE_S3_ENDPOINT" in capsys.readouterr().err


def test_migrate_print_shows_commands_and_whole_policies(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An administrator gets the commands of the client and the policies as JSON."""
    assert cli.main(["migrate", "--print", "s3"]) == 0
    printed = capsys.readouterr().out
    assert "mc mb --ignore-existing STORE/runwire" in printed
    assert "mc ilm rule add --prefix staging/ --expire-days 7 STORE/runwire" in printed
    documents = [text.partition("JSON\n")[0] for text in printed.split("<<'JSON'\n")[1:]]
    expected = [policies.policy(role, "runwire") for role in policies.ROLES]
    assert [json.loads(document) for document in documents] == expected


@pytest.fixture
def users(minio: ObjectStore, minio_bucket: S3Settings) -> Iterator[dict[str, S3Settings]]:
    """A user for each role, with the policy that `migrate` made for it."""
    done, reason = policies.apply(minio_bucket)
    assert (len(done), reason) == (len(policies.ROLES), "")
    admin = MinioAdmin(
        endpoint=minio.address,
        credentials=StaticProvider(minio.access_key, minio.secret_key),
        secure=False,
    )
    made = {}
    for role in policies.ROLES:
        user, secret = f"{role}-{secrets.token_hex(4)}", secrets.token_hex(16)
        admin.user_add(user, secret)
        admin.policy_set(policies.policy_name(role, minio_bucket.bucket), user=user)
        made[role] = replace(minio_bucket, access_key=user, secret_key=secret)
    yield made
    for role, settings in made.items():
        admin.user_remove(settings.access_key)
        admin.policy_remove(policies.policy_name(role, minio_bucket.bucket))


def manifest_of(data: bytes) -> Manifest:
    entry = FileEntry(path="a.bin", size=len(data), sha256=hashlib.sha256(data).hexdigest())
    facts = {"project": "p", "run_id": "r", "attempt": "1", "writer": "0" * 16, "rank": 0}
    return Manifest(
        artifact=secrets.token_hex(16),
        name="a",
        type="file",
        created_at_ns=1,
        files=(entry,),
        **facts,  # type: ignore[arg-type]
    )


def test_policies_allow_each_role_its_work_and_no_more(
    users: dict[str, S3Settings], minio_bucket: S3Settings, tmp_path: Path
) -> None:
    """The trainer publishes, the reader finds and downloads, the worker cleans up."""
    trainer, worker, reader = (S3Store(users[role]) for role in ("trainer", "worker", "reader"))
    data = secrets.token_bytes(20 * MIB)
    source, manifest = tmp_path / "source", manifest_of(data)
    source.write_bytes(data)
    key = blob_key(manifest.files[0].sha256)
    trainer.check()
    trainer.put_file(key, source, journal=tmp_path / "journal")
    published = publish(trainer, manifest, now_ns=time.time_ns())
    trainer.expire_uploads(3600.0)
    reader.check()
    assert Catalog(reader).resolve("a:latest", "p").manifest == published
    (fetched,) = download(reader, published, tmp_path / "into")
    assert fetched.read_bytes() == data
    worker.put("staging/x/1", bytes(5 * MIB))
    worker.compose("blobs/aa/joined", ["staging/x/1", "staging/x/1"])
    worker.delete(["staging/x/1"])
    trainer.delete([published.key])  # retention
    report = sweep(worker, now_ns=time.time_ns() + 2 * DAY_NS)
    assert manifest.files[0].sha256 in report.blobs
    assert trainer.stat(key) is None
    refused = [
        lambda: trainer.put("staging/x/1", b""),
        lambda: trainer.get("staging/x/1"),
        lambda: trainer.delete(["staging/sweep/mark"]),
        lambda: trainer.put("elsewhere", b""),
        lambda: worker.put("elsewhere", b""),
        lambda: reader.put("blobs/aa/x", b""),
        lambda: reader.put_file("blobs/aa/x", source),
        lambda: reader.delete([key]),
        lambda: reader.compose("blobs/aa/x", ["blobs/aa/joined"]),
        lambda: S3Store(replace(users["trainer"], bucket="another-bucket")).check(),
    ]
    for call in refused:
        with pytest.raises(StoreRefused, match=r"--print s3|AccessDenied"):
            call()
    for store in (trainer, worker, reader):
        store.close()


def test_migrate_reports_policies_that_the_key_may_not_create(users: dict[str, S3Settings]) -> None:
    """With a key that may not administer, the bucket is made and the policies are reported."""
    done, reason = policies.apply(users["worker"])
    assert done == []
    assert "may not administrate" in reason


def test_doctor_reports_the_store_it_uses(server: ObjectStore, tmp_path: Path) -> None:
    """It names the store, or what to do; without an endpoint it is the folder."""
    found = examine_store({}, tmp_path)
    assert (found.level, found.found) == (OK, f"file://{tmp_path}/objects")
    missing = server.settings("there-is-no-such")
    found = examine_store(missing.environment(), tmp_path)
    assert (found.level, "`runwire migrate` makes it" in found.advice) == (FAIL, True)
    found = examine_store({"RUNWIRE_S3_ENDPOINT": "http://s"}, tmp_path)
    assert (found.level, "RUNWIRE_S3_ACCESS_KEY" in found.advice) == (FAIL, True)


def test_doctor_is_ok_after_a_migration(bucket: S3Settings, tmp_path: Path) -> None:
    """On a migrated bucket the findings of `runwire doctor` about the store are OK."""
    found = examine_store(bucket.environment(), tmp_path)
    assert (found.level, found.found) == (OK, f"{bucket.bucket} at {bucket.url}")
