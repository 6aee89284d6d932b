"""Recorded environment of a process: an allow-list without secrets."""

from pathlib import Path

import pytest

from runwire.job.environment import environment_facts, git_facts
from runwire.safe_text import redact_argv, redact_text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--password=x --lr=1", "--password=[redacted] --lr=1"),
        ("--api-key abc --lr 1", "--api-key [redacted] --lr 1"),
        ("hf.token=abc", "hf.token=[redacted]"),
        ("--num-tokens=5 --max_tokens 6 --tokenizer gpt2", None),
        ("--db postgres://u:pw@h/x", "--db postgres://u:[redacted]@h/x"),
        ("--use-token --lr 1", "--use-token --lr 1"),
        ("--hub hf_abcdefghijklmnopqrst", "--hub [redacted]"),
    ],
)
def test_redact_argv_masks_secrets_of_the_command_line(words: str, expected: str | None) -> None:
    """Values of secret options are masked, harmless ones stay."""
    assert " ".join(redact_argv(words.split())) == (words if expected is None else expected)


def test_redact_text_masks_secrets_in_messages() -> None:
    """Quoted assignments and bearer tokens are masked."""
    text = redact_text("failed: {'password': 'hunter2'}, Authorization: Bearer abc.def")
    assert "hunter2" not in text
    assert "abc.def" not in text


def test_the_environment_is_an_allow_list() -> None:
    """Nothing of the user's environment is recorded that we do not name."""
    facts = environment_facts(git=False, environ={"SLURM_JOB_ID": "7", "AWS_SECRET_KEY": "s"})
    assert facts["env.SLURM_JOB_ID"] == "7"
    assert not any("AWS" in key or value == "s" for key, value in facts.items())
    assert {"python", "host", "pid", "argv", "cwd", "platform"} <= facts.keys()


def test_git_facts_are_empty_outside_a_repository(tmp_path: Path) -> None:
    """A folder without a repository gives no facts."""
    assert git_facts(str(tmp_path)) == {}
    (tmp_path / ".git").write_text("gitdir: nowhere\n")
    assert git_facts(str(tmp_path)) == {}


def test_commit_and_branch_are_read_from_the_files(tmp_path: Path) -> None:
    """They are known even when git itself is slow or absent."""
    git = tmp_path / ".git"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text(f"# pack-refs\n{'a' * 40} refs/heads/main\n")
    inner = tmp_path / "x"
    inner.mkdir()
    facts = git_facts(str(inner), {"PATH": "/nonexistent"})
    assert (facts["git.commit"], facts["git.branch"]) == ("a" * 40, "main")
    (git / "refs/heads/main").write_text("b" * 40 + "\n")
    assert git_facts(str(inner), {"PATH": "/nonexistent"})["git.commit"] == "b" * 40
