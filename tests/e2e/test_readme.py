"""Commands and programs of the READMEs, run unchanged and in the order of the page.

Python blocks are always run; shell blocks are run if `<!-- runnable -->` precedes them. Lines that
install packages are skipped, because the test's environment has the packages.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from house.checks import ROOT

BLOCK = re.compile(r"^(<!-- runnable -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ARRIVAL_S = 60.0
BLOCK_S = 180.0
LEFT_SQL = "SELECT sum(accepted) AS accepted, sum(pending) AS pending FROM v_completeness"


def runnable_blocks(text: str) -> list[tuple[str, str]]:
    """Return (language, code) of the blocks that a test runs."""
    found = [(language, code, bool(mark)) for mark, language, code in BLOCK.findall(text)]
    return [(language, code) for language, code, marked in found if language == "python" or marked]


class Shell:
    """A user's terminal: one folder, one data root, the environment's commands on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = os.environ | {"RUNWIRE_DIR": str(folder / "root"), "PATH": path}
        self.env["RUNWIRE_AGENT"] = "process"

    def run(self, language: str, code: str) -> str:
        """Run one block and return what it printed; it must succeed."""
        lines = [line for line in code.splitlines() if not line.startswith("pip install")]
        command = (
            [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
        )
        done = subprocess.run(
            [*command, "\n".join(lines)], cwd=self.folder, env=self.env, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=BLOCK_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{code}\nprinted:\n{done.stdout}\n{self.logs()}"
        return done.stdout

    def wait_until_stored(self) -> None:
        """Wait like a reader who reads on, until nothing accepted is pending."""
        end = time.monotonic() + ARRIVAL_S
        answer = ""
        while time.monotonic() < end:
            answer = self.run("sh", f'runwire sql --format json "{LEFT_SQL}"')
            rows = json.loads(answer)
            if rows and int(rows[0]["accepted"] or 0) > 0 and int(rows[0]["pending"] or 0) == 0:
                return
            time.sleep(0.5)
        pytest.fail(f"points are still pending after {ARRIVAL_S:.0f} s: {answer}\n{self.logs()}")

    def wait_until_agent_ended(self) -> None:
        """Wait until the agent has exited by itself, some seconds after the last trainer."""
        end = time.monotonic() + ARRIVAL_S
        while json.loads(self.run("sh", "runwire status --json"))["agent"]["alive"]:
            assert time.monotonic() < end, f"the agent did not exit\n{self.logs()}"
            time.sleep(0.5)

    def logs(self) -> str:
        files = sorted((self.folder / "root").rglob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text()[-2000:]}" for file in files)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    terminal = Shell(tmp_path)
    yield terminal
    terminal.run("sh", "runwire down")
    terminal.wait_until_agent_ended()


@pytest.mark.engine
def test_readme_blocks_work_in_order(shell: Shell) -> None:
    """Up, a trainer, runs, SQL, status, down: each block succeeds, and the run is shown."""
    printed = ""
    before, _, _ = sections((ROOT / "README.md").read_text())
    blocks = runnable_blocks(before)
    assert [language for language, _ in blocks] == ["sh", "python", "sh"]
    for language, code in blocks:
        if "runwire sql" in code:
            shell.wait_until_stored()
        printed += shell.run(language, code)
    assert "train/loss" in printed
    assert "first" in printed
    assert "finished" in printed


@pytest.mark.engine
def test_readme_trainer_resumes_from_checkpoint(shell: Shell) -> None:
    """The trainer runs twice: the second run resumes after the last step and adds no checkpoint."""
    import support.torch_here  # noqa: F401 - skips where there is none

    _, checkpoints, _ = sections((ROOT / "README.md").read_text())
    trainer, commands = runnable_blocks(checkpoints)
    assert (trainer[0], commands[0]) == ("python", "sh")
    for _ in range(2):
        shell.run(*trainer)
        shell.wait_until_agent_ended()
    printed = shell.run(*commands)
    for step in (9, 19, 29):
        assert re.search(rf"^\D*{step}\b.*complete", printed, re.MULTILINE), printed
    assert "labels.txt" in printed
    assert (shell.folder / "restored" / "state.pt").stat().st_size > 0


def sections(text: str) -> tuple[str, str, str]:
    """Return the README before, in and after its section about checkpoints."""
    before, heading, rest = text.partition("## Checkpoints\n")
    checkpoints, following, after = rest.partition("\n## ")
    assert heading
    assert following
    return before, checkpoints, after


# Names that the blocks of the producer's README use without defining them.
ARTIFACTS = """
import matplotlib.pyplot, numpy, pathlib, runwire
for name in ("model.pt", "huge.bin", "data/a", "train/b"):
    path = pathlib.Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(name.encode())
image, figure = numpy.zeros((4, 4, 3), "u1"), matplotlib.pyplot.figure()
rows, values = [{"a": 1}], numpy.arange(10.0)
run = runwire.init("cats")
earlier = run.log_artifact(runwire.Artifact("cats", "dataset").add_bytes(b"cat", "name"))
assert earlier.wait(60)
"""
CHECKPOINTS = """
import runwire, torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
steps, epoch, loss, best = 2, 0, 1.0, 2.0
"""


def test_producer_readme_logs_without_stack(shell: Shell) -> None:
    """The trainer logs without `runwire up` and leaves its points in the spool."""
    shell.env["RUNWIRE_AGENT"] = "none"
    shell.env["RUNWIRE_STRICT"] = "1"
    trainer, artifacts, _ = runnable_blocks((ROOT / "producer" / "README.md").read_text())
    shell.run(*trainer)
    assert "1 pts" in shell.run("sh", "runwire spool ls")
    shell.env["RUNWIRE_AGENT"] = "process"
    code = artifacts[1].replace("/mnt/shared/huge.bin", "huge.bin")
    shell.run("python", f"{ARTIFACTS}\n{code}\nassert (folder / 'name').read_bytes() == b'cat'")


def test_producer_readme_saves_and_loads_checkpoint(shell: Shell) -> None:
    """The loop starts without a checkpoint the first time, and from step 0 the second time."""
    import support.torch_here  # noqa: F401 - skips where there is none

    shell.env["RUNWIRE_STRICT"] = "1"
    _, _, checkpoints = runnable_blocks((ROOT / "producer" / "README.md").read_text())
    for start in ("None", "0"):
        end = f"assert (found and found.step) is {start}; run.finish()"
        shell.run("python", f"{CHECKPOINTS}\n{checkpoints[1]}\n{end}")


def test_unmarked_shell_block_is_not_run() -> None:
    """A shell block without the mark may change the machine, so no test runs it."""
    text = "```sh\nrm x\n```\n<!-- runnable -->\n```sh\nls\n```\n```python\nx = 1\n```\n"
    assert runnable_blocks(text) == [("sh", "ls\n"), ("python", "x = 1\n")]
