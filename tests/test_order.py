"""Calls in any order, against a model of the protocol: what is refused, what is answered again, and what it changed.

The model knows the last committed step, the step in hand, and the numbers of calls; the session knows the rest.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness import DOUBLE, Caller, batches, reference, same
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from spliteasy.heads import CALL, Call, digest
from spliteasy.server.app import create_app
from spliteasy.server.session import Commit
from spliteasy.server.sessions import Sessions

STEPS = len(batches(2))
HOW = st.sampled_from(["new", "new", "new", "again", "late"])


class Protocol(RuleBasedStateMachine):
    """A session, and what it should be in."""

    @initialize()
    def open(self) -> None:
        self.caller = Caller(create_app(Sessions()), DOUBLE)
        self.committed, self.pending, self.open_step = -1, None, None
        self.number = 0
        self.answered: dict[str, tuple[int, int, bytes]] = {}
        self.newest = 0

    @rule(step=st.integers(0, STEPS), how=HOW)
    def forward(self, step: int, how: str) -> None:
        body = self.caller.body(f"/steps/{min(step, STEPS - 1)}/forward")
        if step == STEPS:
            step, body = 7, self.caller.body("/steps/0/forward")
        number = self._number(how)
        response = self._call("PUT", f"/steps/{step}/forward", body, number)
        if self._is_answered("forward", step, number, response):
            return
        if number < self.newest or self._used(number):
            self._refused(response)
            return
        if step == 7:  # another step's frame: it lies
            assert response.status_code == 400
            self.newest, self.answered = number, {"forward": (number, 7, response.data)}
            return
        self._settle(step - 1)
        if step - 1 != self.committed:
            self.answered = {}
            self._refused(response, self.committed + 1)
            return
        assert response.status_code == 200, response.data
        self.open_step, self.newest, self.answered = step, number, {"forward": (number, step, response.data)}

    @rule(step=st.integers(0, STEPS - 1), how=HOW)
    def backward(self, step: int, how: str) -> None:
        number = self._number(how)
        response = self._call("PUT", f"/steps/{step}/backward", self.caller.body(f"/steps/{step}/backward"), number)
        if self._is_answered("backward", step, number, response):
            return
        if number < self.newest or self._used(number) or self.open_step != step:
            self._refused(response)
            return
        assert response.status_code == 200, response.data
        self.open_step, self.pending, self.newest = None, step, number
        self.answered["backward"] = (number, step, response.data)

    @rule(step=st.integers(-1, STEPS), how=HOW)
    def commit(self, step: int, how: str) -> None:
        number = self._number(how)
        response = self._call("POST", "/commit", json.dumps(Commit(step, 0.05).to_dict()).encode(), number)
        if number < self.newest or self._used(number):
            self._refused(response)
            return
        self._settle(step)
        if step != self.committed:
            self._refused(response, self.committed + 1)
            return
        assert response.status_code == 200
        self.newest, self.answered = number, {}

    @rule(step=st.integers(-1, STEPS))
    def weights_of_a_step(self, step: int) -> None:
        response = self.caller.send("GET", f"/weights?step={step}")
        assert response.status_code == (200 if step == self.committed else 409)

    @invariant()
    def the_session_is_in_its_last_committed_step(self) -> None:
        if hasattr(self, "caller") and self.committed >= 0:
            assert same(self.caller.state(), reference(DOUBLE, self.committed + 1))

    def teardown(self) -> None:
        """Whatever came before: the device can begin the next step, and end where an undisturbed one ends."""
        if not hasattr(self, "caller"):
            return
        for step in range(self.committed + 1, STEPS):
            for phase in ("forward", "backward"):
                path = f"/steps/{step}/{phase}"
                if step == self.committed + 1 and phase == "forward" and self.pending is not None:
                    self._call("POST", "/commit", json.dumps(Commit(self.committed, 0.05).to_dict()).encode(), 10**6)
                assert self._call("PUT", path, self.caller.body(path), 10**7 + 2 * step + len(phase)).status_code == 200
        last = self._call("POST", "/commit", json.dumps(Commit(STEPS - 1, 0.05).to_dict()).encode(), 10**8)
        assert last.status_code == 200 and same(self.caller.state(), reference(DOUBLE, STEPS))

    def _number(self, how: str) -> int:
        if how == "again" and self.newest:
            return self.newest
        if how == "late" and self.newest > 1:
            return self.newest - 1
        self.number += 2
        return self.number

    def _call(self, method: str, path: str, body: bytes, number: int) -> Any:
        headers = {"Authorization": f"Bearer {self.caller.token}", CALL: str(Call(number, digest([body])))}
        path = f"/v1/sessions/{self.caller.session}{path}"
        response = self.caller.client.open(path, method=method, data=body, headers=headers)
        answered = Call.parse(response.headers[CALL])
        assert answered == Call(number, digest([response.data]))
        return response

    def _is_answered(self, phase: str, step: int, number: int, response: Any) -> bool:
        """Whether this very call was answered before: then so it is again."""
        known = self.answered.get(phase)
        if known is None or known[:2] != (number, step):
            return False
        assert response.data == known[2] or b"another body" in response.data
        return True

    def _used(self, number: int) -> bool:
        return any(number == known for known, _, _ in self.answered.values())

    def _settle(self, step: int) -> None:
        if self.pending is not None and step == self.pending:
            self.committed = self.pending
        self.pending = self.open_step = None

    def _refused(self, response: Any, expected: int | None = None) -> None:
        assert response.status_code == 409 and response.get_json()["title"] == "OrderError", response.data
        if expected is not None:
            assert response.get_json()["expected"] == {"step": expected, "phase": "forward"}


def test_calls_in_any_order(record_property: Any) -> None:
    record_property("fault", "calls in any order, repeated, late: sequences of 12")
    record_property("cases", 200)
    run_state_machine_as_test(Protocol, settings=settings(
        max_examples=200, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
    ))  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_times(record_property: Any) -> None:
    record_property("fault", "calls in any order, repeated, late: sequences of 20")
    record_property("cases", 10_000)
    run_state_machine_as_test(Protocol, settings=settings(
        max_examples=10_000, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
    ))  # fmt: skip
