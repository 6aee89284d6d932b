"""The `runwire` command: finds a command's module by its entry point and runs it.

Commands register in the entry-point group `runwire.commands`, so this file imports neither the
consumers nor the query side. A command module has `SUMMARY`, `EXAMPLE`, `add_arguments(parser)`
and `run(args) -> int`, and imports drivers inside `run` only: `runwire --help` stays fast.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from runwire_disk.survey import install_command
from runwire_schemas.errors import MISUSE, CommandError, RunwireError

GROUP = "runwire.commands"
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
BROKEN_PIPE = 141  # 128 + SIGPIPE


class CommandModule(Protocol):
    """The names that a module of the group defines."""

    SUMMARY: str
    EXAMPLE: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if sys.platform == "win32":
        return _complain("runwire needs Linux (or macOS, untested): on Windows use WSL 2.", 1)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return _quiet_broken_pipe()
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as stop:  # argparse: 0 after --help, 2 after a misuse
        return stop.code if isinstance(stop.code, int) else MISUSE
    except Exception as error:
        return _report(error)
    return status


def _dispatch(arguments: list[str]) -> int:
    commands = find_commands()
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_overview(commands))
        return 0 if arguments else MISUSE
    if arguments[0] in {"-V", "--version", "version"}:
        print(f"runwire {importlib.metadata.version('runwire')}")
        return 0
    name = arguments[0]
    if name not in commands:
        return _complain(_unknown(name, commands), MISUSE)
    module = load_command(commands[name])
    return module.run(_parse(build_parser(name, module), arguments[1:]))


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Allow options between the words: `spool cat --limit 3 RUN`."""
    try:
        return parser.parse_intermixed_args(arguments)
    except TypeError:  # a parser that hands the rest of the line on, such as `exec -- COMMAND`
        return parser.parse_args(arguments)


def find_commands() -> dict[str, str]:
    """Return the modules of all installed commands, by command name."""
    entries = importlib.metadata.entry_points(group=GROUP)
    return {entry.name: entry.value for entry in sorted(entries, key=lambda entry: entry.name)}


def build_parser(name: str, module: CommandModule) -> argparse.ArgumentParser:
    """Return the parser of one command; every command has `--dir`."""
    parser = argparse.ArgumentParser(
        prog=f"runwire {name}",
        description=module.SUMMARY,
        epilog=f"example:\n  {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--dir",
        metavar="DIR",
        help="data folder (default: $RUNWIRE_DIR, else the user state folder)",
    )
    module.add_arguments(parser)
    return parser


def load_command(module: str) -> CommandModule:
    """Import a command's module. Raises: CommandError when it is not installed."""
    try:
        return cast("CommandModule", importlib.import_module(module))
    except ModuleNotFoundError as error:
        if error.name is not None and module.startswith(error.name):
            sentence = f"the module {module} of this command is not installed; reinstall runwire"
            raise CommandError(sentence) from error
        raise


def _overview(commands: dict[str, str]) -> str:
    lines = ["usage: runwire COMMAND [options]", "", "commands:"]
    width = max((len(name) for name in commands), default=0)
    for name, module in commands.items():
        try:
            summary = load_command(module).SUMMARY
        except ModuleNotFoundError as error:
            summary = f"(not installed: {install_command(error)})"
        except CommandError as error:
            summary = f"({error})"
        lines.append(f"  {name:<{width}}  {summary}")
    lines += ["", "`runwire COMMAND --help` shows its options and an example."]
    lines += ["Start here: `runwire up`, then run a script that calls `runwire.init()`."]
    return "\n".join(lines)


def _unknown(name: str, commands: dict[str, str]) -> str:
    close = difflib.get_close_matches(name, commands, n=3)
    hint = f" Did you mean {' or '.join(f'`{word}`' for word in close)}?" if close else ""
    return f"`{name}` is not a runwire command.{hint} `runwire --help` lists them all."


def _report(error: Exception) -> int:
    """Print an expected error as one sentence; anything else is our bug and keeps its traceback."""
    if os.environ.get("RUNWIRE_DEBUG") == "1":
        raise error
    if isinstance(error, ModuleNotFoundError):
        what = f"this command needs the module {error.name}, which is not installed"
        return _complain(f"{what}: {install_command(error)}", 1)
    if isinstance(error, CommandError):
        return _complain(str(error), error.exit_code)
    if isinstance(error, OSError | RunwireError):
        return _complain(_sentence(error), 1)
    raise error


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _complain(sentence: str, status: int) -> int:
    print(f"runwire: {sentence}", file=sys.stderr)
    return status


def _quiet_broken_pipe() -> int:
    # The interpreter flushes stdout once more at exit and would print the error then.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
