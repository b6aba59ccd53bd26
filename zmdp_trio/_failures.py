"""Handlers that came to no reply: what their callers are told, and what the log is."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import msgspec
import trio

from ._core.worker import Execution, WorkerMachine
from ._errors import Code, DeadlineExceeded, InvalidArgument, Reject, RequestCancelled, ServiceError
from ._service import Service

logger = logging.getLogger("zmdp_trio.worker")


class Failures:
    """Reports how handlers of one worker have failed.

    Where the worker is `leaving`, its handlers were cut off, and its broker tells that it is lost.
    """

    def __init__(self, worker: str, machine: WorkerMachine, services: Mapping[str, Service[..., Any]]) -> None:
        self._worker = worker
        self._machine = machine
        self._services = services

    def cancelled(self, execution: Execution, *, leaving: bool) -> None:
        """Report that a handler's scope has ended it."""
        if execution.ended:
            return
        if execution.active:
            message = "the deadline passed while the handler ran"
            self._machine.fail(execution, Code.DEADLINE_EXCEEDED, message, reason=DeadlineExceeded.reason)
        else:
            self._end_cancelled(execution, leaving)

    def _end_cancelled(self, execution: Execution, leaving: bool) -> None:
        if not (leaving or execution.active):
            self._machine.fail(execution, Code.CANCELLED, "cancelled", reason=RequestCancelled.reason)

    def raised(self, execution: Execution, error: BaseException, *, leaving: bool) -> None:
        """Report what a handler raised, or its payload's own code: what it said on purpose, or its type's name."""
        error = _only(error)
        machine, service = self._machine, self._services[execution.request.service]
        if execution.ended:
            logger.error("service %r failed after its final reply", service.name, exc_info=error)
        elif not execution.active or trio.current_effective_deadline() == -math.inf:
            # In the latter case, all handlers were cancelled from outside, and this one is quicker than `open_worker`.
            self._end_cancelled(execution, leaving)
            logger.info("service %r failed while it was cancelled", service.name, exc_info=error)
        elif isinstance(error, Reject) and not execution.partials:
            machine.reject(execution)
        elif isinstance(error, ServiceError):
            machine.fail(execution, error.code, error.message, details=_encode_details(service, error.details))
        else:
            message = type(error).__name__
            if isinstance(error, InvalidArgument) and error.service is None:
                message = f"a reply is no good: {error.message}"
            elif service.expose_errors:
                message = f"{message}: {_text_of(error)}"
            logger.error("%s failed", self.describe(execution), exc_info=error)
            machine.fail(execution, Code.INTERNAL, message)

    def describe(self, execution: Execution) -> str:
        """Name an execution, for people."""
        request = execution.request
        return f"service {execution.asked!r} of {self._worker}, request {request.id} of {request.peer or 'nobody'}"


def _only(error: BaseException) -> BaseException:
    """Return the exception in a group of one: a handler's own nursery wraps what its tasks raise."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "its text can't be had"


def _encode_details(service: Service[..., Any], details: Any) -> bytes:
    if details is None:
        return b""
    try:
        return msgspec.msgpack.encode(details)
    except Exception:
        logger.exception("service %r: the details of an error can't be encoded", service.name)
        return b""
