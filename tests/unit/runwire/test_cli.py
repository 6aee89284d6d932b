"""The `runwire` command finds, explains and fails as its users expect."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import pytest

from runwire import cli

COMMANDS = {
    "agent",
    "archive",
    "artifact",
    "checkpoints",
    "dead-letters",
    "delete",
    "doctor",
    "down",
    "migrate",
    "purge",
    "retain",
    "runs",
    "show",
    "spool",
    "sql",
    "status",
    "sync",
    "tail",
    "unarchive",
    "up",
}


def runwire(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "runwire.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_every_command_is_registered_with_a_summary(capsys):
    """`runwire --help` lists every command, each with its one line."""
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert set(cli.find_commands()) >= COMMANDS
    for name in cli.find_commands():
        line = next(line for line in shown.splitlines() if line.startswith(f"  {name} "))
        assert len(line.split(None, 1)[1]) > 10
        assert "not installed" not in line


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_has_help_with_an_example_and_a_data_folder(name, capsys):
    """`runwire X --help` succeeds, shows an example of itself, and offers --dir."""
    assert cli.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "example:" in shown
    assert f"runwire {name}" in shown.partition("example:")[2]
    assert "--dir" in shown


@pytest.mark.process
def test_help_of_all_commands_imports_no_driver():
    """The overview stays fast: no driver, numpy or engine is loaded for it."""
    code = (
        "import sys; from runwire import cli; cli.main(['--help']); "
        "heavy = {'clickhouse_connect', 'numpy', 'pandas', 'chdb', 'confluent_kafka', 'psutil'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sql"],
        ["sql", "--format", "xml", "SELECT 1"],
        ["runs", "--limit", "0"],
        ["runs", "--limit", "x"],
        ["show"],
        ["spool", "burn"],
        ["status", "--nonsense"],
        ["stat"],
    ],
)
def test_misuse_ends_with_status_2(arguments, capsys):
    """A command line that makes no sense ends with 2, as scripts expect."""
    assert cli.main(arguments) == cli.MISUSE
    capsys.readouterr()


def test_an_unknown_command_names_the_close_ones(capsys):
    """A typo is answered with what was probably meant."""
    cli.main(["statsu"])
    assert "Did you mean `status`" in capsys.readouterr().err


class _Module:
    SUMMARY = "does something"
    EXAMPLE = "runwire something"

    def __init__(self, act):
        self._act = act

    def add_arguments(self, parser):
        pass

    def run(self, _args):
        return self._act()


def _run(monkeypatch, act):
    monkeypatch.setattr(cli, "find_commands", lambda: {"something": "unused"})
    monkeypatch.setattr(cli, "load_command", lambda _name: _Module(act))
    return cli.main(["something"])


def _raiser(error):
    def act():
        raise error

    return act


def test_an_expected_error_is_one_sentence(monkeypatch, capsys):
    """A CommandError prints its text without a traceback and sets the exit status."""
    assert _run(monkeypatch, _raiser(cli.CommandError("the tape is full", exit_code=7))) == 7
    assert capsys.readouterr().err == "runwire: the tape is full\n"


def test_an_os_error_names_the_file(monkeypatch, capsys):
    """A failing file is named with the reason."""
    assert _run(monkeypatch, _raiser(PermissionError(13, "Permission denied", "/x"))) == 1
    assert capsys.readouterr().err == "runwire: /x: Permission denied\n"


def test_our_own_value_errors_are_sentences_and_foreign_ones_are_bugs(monkeypatch, capsys):
    """Errors of runwire packages are for users; anything else keeps its traceback."""
    from runwire_schemas.errors import DecodeError

    assert _run(monkeypatch, _raiser(DecodeError("no such schema"))) == 1
    assert "no such schema" in capsys.readouterr().err
    with pytest.raises(KeyError):
        _run(monkeypatch, _raiser(KeyError("bug")))


def test_debug_shows_the_traceback(monkeypatch):
    """RUNWIRE_DEBUG=1 lets every error through."""
    monkeypatch.setenv("RUNWIRE_DEBUG", "1")
    with pytest.raises(cli.CommandError):
        _run(monkeypatch, _raiser(cli.CommandError("x")))


@pytest.mark.parametrize(
    ("module", "extra"), [("clickhouse_connect", "embedded"), ("matplotlib", "query")]
)
def test_a_missing_extra_says_what_to_install(monkeypatch, capsys, module, extra):
    """A module that is not installed is answered with the pip line that brings it."""
    error = ModuleNotFoundError(f"No module named {module!r}", name=module)
    assert _run(monkeypatch, _raiser(error)) == 1
    assert f"pip install 'runwire[{extra}]'" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(monkeypatch):
    """SIGINT is no traceback but the shell's own status."""
    assert _run(monkeypatch, _raiser(KeyboardInterrupt())) == cli.INTERRUPTED


def test_windows_is_refused_with_a_sentence(monkeypatch, capsys):
    """On Windows nothing starts, and the sentence says what to use."""
    monkeypatch.setattr(cli.sys, "platform", "win32")
    assert cli.main(["status"]) == 1
    assert "WSL" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet():
    """`runwire ... | head -1` leaves no traceback."""
    command = f"{sys.executable} -m runwire.cli migrate --print | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("--")


def test_the_data_folder_option_wins_over_a_modules_own(monkeypatch):
    """Every parser has --dir, whatever the module adds."""
    parser = cli.build_parser("something", _Module(lambda: 0))
    assert isinstance(parser, argparse.ArgumentParser)
    assert parser.parse_args(["--dir", "/x"]).dir == "/x"


@pytest.mark.process
def test_status_and_down_answer_without_a_stack(tmp_path):
    """With nothing there, status and down say so and succeed; nothing is created."""
    root = tmp_path / "none"
    status = runwire("status", "--dir", str(root), "--json")
    assert status.returncode == 0
    parts = json.loads(status.stdout)
    names = {"dir", "supervisor", "engine", "worker", "objects", "agent", "destinations"}
    assert names | {"uploads", "runs", "dead_letters", "not_installed"} == set(parts)
    assert parts["supervisor"]["alive"] is False
    assert parts["not_installed"] == {}
    down = runwire("down", "--dir", str(root))
    assert (down.returncode, down.stdout.strip()) == (0, f"nothing runs for {root}")
    assert not root.exists()


@pytest.mark.process
def test_a_query_without_a_stack_says_how_to_start_one(tmp_path):
    """The read commands name the folder and `runwire up`."""
    done = runwire("runs", "--dir", str(tmp_path), RUNWIRE_CLICKHOUSE_URL="")
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
    assert "`runwire up`" in done.stderr


@pytest.mark.process
def test_an_unreachable_server_is_named_without_its_password(tmp_path):
    """The sentence has host, port and the place the URL came from, never the password."""
    url = "http://me:geheim@127.0.0.1:9/runwire"
    done = runwire("runs", "--dir", str(tmp_path), RUNWIRE_CLICKHOUSE_URL=url)
    assert done.returncode == 1
    assert "ClickHouse at http://127.0.0.1:9/runwire does not answer" in done.stderr
    assert "geheim" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.process
def test_an_empty_query_is_misuse(tmp_path):
    """Nothing is sent for nothing."""
    done = runwire("sql", "--dir", str(tmp_path), "   ")
    assert done.returncode == cli.MISUSE
