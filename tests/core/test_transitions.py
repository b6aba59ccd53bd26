"""The transition tables, walked whole: every state times every input is a known state, or refused."""

from __future__ import annotations

import enum
import itertools
from typing import Any

import pytest
from stage import hello

from zmdp_trio._core import uplink as uplinks
from zmdp_trio._core.broker import job as jobs
from zmdp_trio._core.broker.service import Service
from zmdp_trio._core.broker.session import Session
from zmdp_trio._core.client import call as calls
from zmdp_trio._core.link import Ledger
from zmdp_trio._core.uplink import Identity, Uplink
from zmdp_trio._core.worker import Counters
from zmdp_trio._core.worker import execution as executions
from zmdp_trio._core.worker.leases import Lease
from zmdp_trio._errors import ProtocolError
from zmdp_trio._settings import DEFAULTS
from zmdp_trio._wire import commands as c

REQUEST = c.Request(1, "echo", 0, b"", 1, 1)


def an_uplink() -> Uplink:
    return Uplink("broker", Identity(bytes(16), "peer"), DEFAULTS, [])


def a_job() -> jobs.Job:
    client = Session.of(hello(), [], {}, Ledger(), DEFAULTS)
    return jobs.Job(1, client, client, Service("echo"), REQUEST, 1, 0.0)


MACHINES: dict[str, tuple[Any, type[enum.IntEnum], type[enum.IntEnum], Any, Any, type[Exception]]] = {
    # name: table, states, inputs, a subject, how it steps, how it refuses
    "uplink": (uplinks.TRANSITIONS, uplinks.State, uplinks.Input, an_uplink, Uplink._step, ProtocolError),
    "call": (
        calls.TRANSITIONS,
        calls.CallState,
        calls.CallInput,
        lambda: calls.Call(REQUEST),
        calls.Call.step,
        KeyError,
    ),
    "execution": (
        executions.TRANSITIONS,
        executions.ExecutionState,
        executions.ExecutionInput,
        lambda: executions.Execution(REQUEST, an_uplink(), Lease(), Counters(), 0.0),
        executions.Execution.step,
        KeyError,
    ),
    "job": (jobs.TRANSITIONS, jobs.JobState, jobs.JobInput, a_job, jobs.Job.step, KeyError),
}


@pytest.mark.parametrize("name", MACHINES)
def test_every_state_times_every_input_is_a_known_state_or_refused(name: str) -> None:
    table, states, inputs, make, step, refusal = MACHINES[name]
    for state, event in itertools.product(states, inputs):
        subject = make()
        subject.state = state
        if event in table[state]:
            step(subject, event)
            assert subject.state is table[state][event]
        else:
            with pytest.raises(refusal):
                step(subject, event)
            assert subject.state is state, "a refused input changes nothing"


@pytest.mark.parametrize("name", MACHINES)
def test_a_table_lists_every_state_and_nothing_else(name: str) -> None:
    table, states, inputs, *_ = MACHINES[name]
    assert list(table) == list(states)
    assert {event for row in table.values() for event in row} == set(inputs), "an input that no state takes"
    assert {type(state) for row in table.values() for state in row.values()} == {states}


@pytest.mark.parametrize("name", MACHINES)
def test_every_state_can_be_reached_from_the_first(name: str) -> None:
    table, states, *_ = MACHINES[name]
    reached, fringe = {states(0)}, [states(0)]
    while fringe:
        for state in table[fringe.pop()].values():
            if state not in reached:
                reached.add(state)
                fringe.append(state)
    assert reached == set(states)


@pytest.mark.parametrize(
    ("name", "state", "expected"),
    [
        ("call", calls.CallState.ENDED, {}),
        ("job", jobs.JobState.ENDED, {}),
        ("execution", executions.ExecutionState.ENDED, {}),
        # A connection that is lost again is no news.
        ("uplink", uplinks.State.DOWN, {uplinks.Input.CONNECTED, uplinks.Input.LOST}),
        # A refused uplink takes nothing but the end of its connection.
        ("uplink", uplinks.State.REFUSED, {uplinks.Input.LOST}),
        # A slot is kept until the worker has said that the handler ended, or is lost.
        ("job", jobs.JobState.CANCELLING, set(jobs.JobInput) & set(jobs.TRANSITIONS[jobs.JobState.CANCELLING])),
    ],
)
def test_what_a_last_state_takes(name: str, state: enum.IntEnum, expected: Any) -> None:
    assert set(MACHINES[name][0][state]) == set(expected)


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (an_uplink(), "<Uplink broker DOWN>"),
        (a_job(), "<Job 1 of 'echo' QUEUED>"),
        (calls.Call(REQUEST), "<Call 0 of 'echo' NEW>"),
        (executions.Execution(REQUEST, an_uplink(), Lease(), Counters(), 0.0), "<Execution 1 of 'echo' RUNNING>"),
        (Session.of(hello("anna"), [], {}, Ledger(), DEFAULTS), "<Session anna client requests=0 held=0>"),
        (Session.of(hello("otto", "echo"), [], {}, Ledger(), DEFAULTS), "<Session otto worker requests=0 held=0>"),
        (Service("echo"), "<Service 'echo' queued=0 running=0 workers=0>"),
    ],
)
def test_a_repr_tells_the_state(subject: Any, text: str) -> None:
    assert repr(subject) == text
