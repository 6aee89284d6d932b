"""Lifecycle rules of others in a bucket: whatever they contain, their bytes stay."""

from __future__ import annotations

import pytest

from runwire_consumers.objects.lifecycle import ExpiryRule, LifecycleError, has_rule, set_rule

pytestmark = pytest.mark.fault

STAGING = ExpiryRule(name="runwire-staging", prefix="staging/", days=7)
UPLOADS = ExpiryRule(name="runwire-incomplete-uploads", prefix="", days=7, is_for_uploads=True)
XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
# Elements that no version of a client library may know, comments, entities, an empty action.
FOREIGN = (
    "<Rule>\n  <ID>theirs &amp; ours</ID><Status>Enabled</Status>"
    "<Filter><And><Prefix>logs/</Prefix><Tag><Key>k</Key><Value>&lt;v&gt;</Value></Tag>"
    "<ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter>"
    "<!-- keep --><NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays>"
    "<NewerNoncurrentVersions>2</NewerNoncurrentVersions></NoncurrentVersionExpiration>"
    "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"
    "<DelMarkerExpiration><Days>9</Days></DelMarkerExpiration></Rule>"
)
NAMELESS = (
    "<Rule><Prefix>tmp/</Prefix><Status>Disabled</Status>"
    "<Expiration><Date>2030-01-01T00:00:00Z</Date></Expiration></Rule>"
)
WRONG = (
    "<Rule><ID>runwire-staging</ID><Status>Disabled</Status><Filter><Prefix>blobs/</Prefix>"
    "</Filter><Expiration><Days>1</Days></Expiration></Rule>"
)


def document(*rules: str, head: str = "", root: str = f"LifecycleConfiguration {XMLNS}") -> bytes:
    return f"{head}<{root}>{''.join(rules)}\n</{root.split(maxsplit=1)[0]}>\n".encode()


@pytest.mark.parametrize("rules", [[], [FOREIGN], [FOREIGN, NAMELESS], [NAMELESS, WRONG, FOREIGN]])
@pytest.mark.parametrize("head", ["", '<?xml version="1.0" encoding="UTF-8"?>\n', "\ufeff"])
def test_rules_of_others_stay_byte_for_byte(rules: list[str], head: str) -> None:
    """Ours is set by its id, also in place of a wrong one; a second time nothing changes."""
    made = set_rule(document(*rules, head=head), STAGING)
    kept = [rule for rule in rules if rule != WRONG]
    ours = made.decode().split("".join(kept))[1] if kept else made.decode()
    assert made.decode().startswith(document(*kept, head=head).decode().split("\n</")[0])
    assert "<ID>runwire-staging</ID>" in ours
    assert has_rule(made, STAGING)
    assert set_rule(made, STAGING) == made
    both = set_rule(made, UPLOADS)
    assert has_rule(both, STAGING)
    assert has_rule(both, UPLOADS)


def test_bucket_without_rules_gets_a_document_of_its_own() -> None:
    """None, and a document without rules, are the same."""
    made = set_rule(None, STAGING)
    assert has_rule(made, STAGING)
    assert set_rule(b"<LifecycleConfiguration/>", STAGING) == made
    assert not has_rule(None, STAGING)
    assert not has_rule(made, UPLOADS)


def test_rule_follows_the_version_and_namespace_of_the_document() -> None:
    """S3 refuses a document that mixes prefixes with and without filters."""
    assert b"<Prefix>staging/</Prefix><Exp" in set_rule(document(NAMELESS), STAGING)
    assert b"<Filter><Prefix>staging/" in set_rule(document(FOREIGN), STAGING)
    root = f"s3:LifecycleConfiguration {XMLNS.replace('xmlns', 'xmlns:s3')}"
    made = set_rule(document(root=root), STAGING)
    assert b"<s3:Rule><s3:ID>runwire-staging</s3:ID>" in made
    assert has_rule(made, STAGING)


@pytest.mark.parametrize(
    ("change", "is_ours"),
    [
        (("7", "30"), False),
        (("Enabled", "Disabled"), False),
        (("staging/", "blobs/"), False),
        (("runwire-staging", "abc"), True),
        (("<Status>", "<Transition><Days>7</Days></Transition><Status>"), False),
    ],
)
def test_changed_rule_is_not_taken_for_ours(change: tuple[str, str], is_ours: bool) -> None:
    """Only the name may differ: other tools choose one for the rule that we print."""
    made = set_rule(None, STAGING).decode().replace(*change)
    assert has_rule(made.encode(), STAGING) == is_ours


@pytest.mark.parametrize(
    "unknown",
    [
        b"",
        b"not xml",
        b"<html><body>sign in</body></html>",
        document(FOREIGN)[:-5],
        document(FOREIGN) + b"<more/>",
        document("<Rule><ID>a</ID><ID>b</ID></Rule>"),
        b'<!DOCTYPE x [<!ENTITY e "v">]>' + document("<Rule><ID>&e;</ID></Rule>"),
        document(head='<?xml version="1.0" encoding="UTF-16"?>').decode().encode("utf-16"),
    ],
)
def test_document_of_an_unknown_form_is_refused(unknown: bytes) -> None:
    """Rather than guess, nothing is changed; a person gets a sentence."""
    with pytest.raises(LifecycleError):
        set_rule(unknown or b" ", STAGING)
