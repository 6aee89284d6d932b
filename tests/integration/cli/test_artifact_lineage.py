"""Lineage and what is on its way: the views joined with the store, on a running stack."""

from __future__ import annotations

import json
import time

import pytest

pytestmark = pytest.mark.engine

PRODUCE = """
import runwire
run = runwire.init(project="p", run_id="maker")
run.log_artifact(b"content", "data", type="dataset", aliases=["good"])
run.finish()
"""
USE = """
import runwire
run = runwire.init(project="p", run_id="user")
print(run.use_artifact("data:good").download())
run.log_artifact(b"weights", "model", type="model")
run.finish()
"""


def until(answers, what: str):
    deadline = time.monotonic() + 60
    while not (found := answers()):
        assert time.monotonic() < deadline, what
        time.sleep(0.3)
    return found


def list_artifacts(stack, *options: str):
    return json.loads(stack("artifact", "ls", "--json", *options).stdout)


def test_artifact_lineage_shows_producer_and_users(stack) -> None:
    """ls counts users; show names the producer, the users and the inputs."""
    stack.train(PRODUCE)
    until(
        lambda: [row["state"] for row in list_artifacts(stack, "data")] == ["complete"],
        "the artifact did not arrive",
    )
    stack.train(USE)
    until(lambda: list_artifacts(stack, "data")[0]["used_by"] == ["user"], "the use did not arrive")
    until(
        lambda: [row["state"] for row in list_artifacts(stack, "model")] == ["complete"],
        "the model did not arrive",
    )
    page = json.loads(stack("artifact", "show", "p/model", "--json").stdout)
    assert [(row["name"], row["produced_by"]) for row in page["made_from"]] == [("data", "maker")]
    assert page["used_by"] == []
    text = stack("artifact", "show", "data", "--project", "p")
    assert "used by   user" in text.stdout
    assert "by run maker" in text.stdout
    assert text.stderr == ""


def test_an_artifact_that_waits_for_its_agent_is_listed_as_pending(stack) -> None:
    """With its run, while the agent is stopped; afterwards it is complete."""
    # Starts an agent where the last one has left.
    stack.train("import runwire; runwire.init('p', run_id='earlier').finish()")
    agents = [p for p in stack.processes() if "runwire_agent" in p.cmdline()]
    assert agents
    for agent in agents:
        agent.suspend()
    try:
        code = PRODUCE.replace('"maker"', '"slow"').replace('b"content"', 'b"other"')
        stack.train(code.replace('"data"', '"late"'))
        (row,) = until(lambda: list_artifacts(stack, "late"), "what was logged did not arrive")
        assert (row["run_id"], row["bytes"], row["state"]) == ("slow", 5, "pending")
        assert "pending" in stack("artifact", "ls", "--run", "slow").stdout
        assert "no artifact" in stack("artifact", "get", "p/late", check=False).stderr
    finally:
        for agent in agents:
            agent.resume()
    until(
        lambda: [row["version"] for row in list_artifacts(stack, "late")] == [0],
        "the artifact did not arrive",
    )
