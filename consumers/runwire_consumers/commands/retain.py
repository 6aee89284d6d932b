"""`runwire retain`: delete or thin old runs by rules, of a file or given here."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire_consumers.housekeeping.retain import Planned
    from runwire_consumers.housekeeping.rules import RunRule

SUMMARY = "delete or thin old runs by the rules of retention.toml, or by one given here"
EXAMPLE = "runwire retain --older-than 90d --state failed --delete --dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `retain`."""
    parser.add_argument(
        "--rules", type=Path, metavar="FILE", help="default: retention.toml in the data folder"
    )
    parser.add_argument("--older-than", metavar="AGE", help="one rule: since the end, such as 90d")
    parser.add_argument("--project", help="one rule: only of this project")
    parser.add_argument("--state", action="append", help="one rule: only in this state; repeat it")
    parser.add_argument("--tag", help="one rule: only with tag NAME or NAME=VALUE")
    parser.add_argument("--without-tag", help="one rule: only without this tag")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--delete", action="store_true", help="one rule: delete the runs")
    action.add_argument(
        "--keep-every", type=int, metavar="N", help="one rule: keep steps that are multiples of N"
    )
    action.add_argument(
        "--bucket", type=int, metavar="N", help="one rule: keep least, greatest, last of N steps"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would happen")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the plan, ask, carry it out; 1 when the answer is no."""
    from runwire_consumers.commands.run_choice import confirm
    from runwire_consumers.housekeeping.purge import send_deletions
    from runwire_consumers.housekeeping.retain import apply_plan, plan
    from runwire_consumers.stack.access import opened_client, opened_store
    from runwire_disk import paths

    root = paths.state_dir(args.dir)
    rules = _rules(args, root)
    with opened_client(root) as client:
        planned = plan(client, rules)
        todo = [it for it in planned if not it.kept_for]
        print(_as_json(planned) if args.json else _as_text(planned, rules))
        if args.dry_run or not todo:
            return 0
        if not args.yes and not confirm(f"Delete or thin {len(todo)} runs?"):
            print("nothing was changed", file=sys.stderr)
            return 1
        with opened_store(root) as store:
            done = apply_plan(client, store, todo)
        send_deletions(client)
    if left := len(todo) - len(done):
        print(
            f"{left} runs are left: they were resumed meanwhile, or the server still removes "
            "points of others; run the command again",
            file=sys.stderr,
        )
    return 0


def _rules(args: argparse.Namespace, root: Path) -> list[RunRule]:
    """Return the rules. Raises: RuleError, StackError when there are none."""
    from runwire_consumers.housekeeping.rules import RULES_FILE, RunRule, read_rules
    from runwire_consumers.stack.state import StackError

    given = {
        "project": args.project,
        "state": args.state,
        "tag": args.tag,
        "without_tag": args.without_tag,
        "keep_every": args.keep_every,
        "bucket": args.bucket,
        "older_than": args.older_than,
    }
    table = {name: value for name, value in given.items() if value is not None}
    if table or args.delete:
        if args.rules:
            raise StackError("give rules in a file or one by options, not both", 2)
        return [RunRule.from_table({**table, "action": "delete" if args.delete else "thin"})]
    path = args.rules or root / RULES_FILE
    rules = read_rules(path)
    if not rules:
        raise StackError(
            f"{path} has no rules: write some (`runwire retain --help`), or give one by options", 2
        )
    return rules


def _as_json(planned: Sequence[Planned]) -> str:
    rows = [
        {
            "project": it.project,
            "run_id": it.run_id,
            "status": it.status,
            "ended_at": it.over_at.isoformat(),
            "action": it.rule.text,
            "kept_for": it.kept_for,
        }
        for it in planned
    ]
    return json.dumps(rows)


def _as_text(planned: Sequence[Planned], rules: Sequence[RunRule]) -> str:
    if not planned:
        return f"no run fits {'the rule' if len(rules) == 1 else f'one of {len(rules)} rules'}"
    lines = []
    for it in planned:
        action = f"kept for artifact {it.kept_for}" if it.kept_for else it.rule.text
        run = f"{it.run_id} of {it.project} ({it.status}, ended {it.over_at:%Y-%m-%d})"
        lines.append(f"{run}: {action}")
    return "\n".join(lines)
