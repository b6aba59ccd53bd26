"""`@service`: functions that become services."""

from __future__ import annotations

import enum
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, overload

import attrs

from . import _payload
from ._core.shared import is_reserved
from ._request import Request, SyncRequest

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_CONTEXTS = (Request, SyncRequest)
#: Annotations that take whatever came.
_ANYTHING = (inspect.Parameter.empty, Any, object)


@attrs.frozen
class Final(Generic[T]):
    """Yielded last by a generator: the final reply.  Nothing after it runs but cleanup."""

    value: T


class Shape(enum.Enum):
    """The four kinds of functions that can be services."""

    COROUTINE = "coroutine"
    ASYNC_GENERATOR = "async generator"
    FUNCTION = "function"
    GENERATOR = "generator"

    @property
    def sync(self) -> bool:
        """It runs in a thread."""
        return self in (Shape.FUNCTION, Shape.GENERATOR)


def _proper(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function behind wrappers, partials, and instances that can be called."""
    target: Callable[..., Any] = inspect.unwrap(function)
    while isinstance(target, functools.partial):
        target = inspect.unwrap(target.func)
    if not inspect.isroutine(target):
        target = getattr(target, "__call__", target)  # noqa: B004  an instance that can be called
    return target


def _shape_of(function: Callable[..., Any]) -> Shape:
    target = _proper(function)
    if inspect.isasyncgenfunction(target):
        return Shape.ASYNC_GENERATOR
    if inspect.iscoroutinefunction(target):
        return Shape.COROUTINE
    return Shape.GENERATOR if inspect.isgeneratorfunction(target) else Shape.FUNCTION


class Service(Generic[P, R]):
    """A function and the name that it serves under; call it like the function itself.

    Attributes:
        name: what clients ask for.
        concurrency: requests at once per worker; None for the worker's default.
        expose_errors: whether callers see the messages of unexpected exceptions, not just their types.
        shape: which of the four kinds of handler it is.
        takes_context: whether it asks for the request's context.
    """

    def __init__(
        self,
        name: str,
        function: Callable[P, R],
        *,
        concurrency: int | None,
        expose_errors: bool,
        names: dict[str, Any],
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"a service's name is a string of at least one character, not {name!r}")
        if is_reserved(name):
            raise ValueError(f"no service can be called {name!r}: brokers answer mmi.* and $dir themselves")
        if concurrency is not None and (not isinstance(concurrency, int) or concurrency < 1):
            raise ValueError(f"concurrency must be a whole number, 1 or more, not {concurrency!r}")
        if not callable(function) or inspect.isclass(function):
            raise TypeError(f"a service is a function, not {function!r}")
        functools.update_wrapper(self, function, updated=())
        self.name = name
        self.function = function
        self.concurrency = concurrency
        self.expose_errors = expose_errors
        self.shape = _shape_of(function)
        parameters = _Parameters.of(name, function, names)
        if parameters.context is not None and not self.shape.sync and parameters.context.annotation is SyncRequest:
            raise TypeError(f"service {name!r}: SyncRequest is for sync handlers, this one gets a Request")
        #: Calls the function with the arguments that its signature asks for, of (payload, request's context).
        self.call: Callable[[Any, Any], Any] = parameters.binder(function)
        self.takes_context = parameters.context is not None
        #: Turns (content type, body) into the payload; raises ValueError.
        self.decode = parameters.decoder(name)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Service {self.name!r} {self.shape.value}>"


@attrs.frozen
class _Parameters:
    """Where a function takes the payload and the request's context."""

    payload: inspect.Parameter | None
    context: inspect.Parameter | None
    #: Both of them, in the order of the signature.
    arguments: list[inspect.Parameter]

    @classmethod
    def of(cls, name: str, function: Callable[..., Any], names: dict[str, Any]) -> _Parameters:
        """Read a signature.

        Raises:
            TypeError: it can't be served, and why.
        """
        payload = context = None
        signature = _signature(name, function, names)
        for parameter in signature.parameters.values():
            if _is_context(parameter.annotation):
                if context is not None:
                    raise TypeError(f"service {name!r}: two parameters are annotated as Request")
                context = parameter
            elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"service {name!r}: *{parameter.name} can't be served, only one payload comes")
            elif payload is None:
                payload = parameter
            elif parameter.default is parameter.empty:
                hint = "annotate the request's context as `request: Request`"
                if payload.name == "self":
                    hint = "make services of an instance's bound methods: service(name, instance.method)"
                raise TypeError(f"service {name!r}: {parameter.name!r} would be a second payload; {hint}")
        parameters = [each for each in signature.parameters.values() if each is payload or each is context]
        return cls(payload, context, parameters)

    def binder(self, function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
        """Return what calls the function with (payload, request)."""
        arguments = self.arguments
        if len(arguments) < 2 and all(parameter.kind is not parameter.KEYWORD_ONLY for parameter in arguments):
            return self._positional_binder(function)
        positional = [each.name for each in arguments if each.kind is each.POSITIONAL_ONLY]
        named = [each.name for each in arguments if each.kind is not each.POSITIONAL_ONLY]

        def call(payload: Any, request: Any) -> Any:
            values = {}
            if self.payload is not None:
                values[self.payload.name] = payload
            if self.context is not None:
                values[self.context.name] = request
            return function(*(values[name] for name in positional), **{name: values[name] for name in named})

        return call

    def _positional_binder(self, function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
        """Return the same for a function of at most one argument: the hot path."""
        if self.payload is not None:
            return lambda payload, request: function(payload)
        if self.context is not None:
            return lambda payload, request: function(request)
        return lambda payload, request: function()

    def decoder(self, name: str) -> Callable[[int, Any], Any]:
        """Return what reads and validates the payload."""
        if self.payload is None:
            return _decode_nothing
        annotation = self.payload.annotation
        if annotation in _ANYTHING:
            return _payload.decode
        try:
            return _payload.TypedDecoder(annotation)
        except Exception as error:
            raise TypeError(f"service {name!r}: payloads can't be validated as {annotation!r}: {error}") from error


def _decode_nothing(content: int, body: Any) -> None:
    """Read the payload of a service that takes none."""
    if content == _payload.OPAQUE and len(body) <= len(b"null") and bytes(body) in (b"", b"null"):
        return  # what the callers of protocols without a word for nothing send
    if _payload.decode(content, body) is not None:
        raise ValueError("this service takes no payload")


def _is_context(annotation: Any) -> bool:
    """Whether an annotation stands for the request's context, plain or as in `Request | None`."""
    kinds = [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not types.NoneType]
    return all(kind in _CONTEXTS for kind in kinds)


def _signature(name: str, function: Callable[..., Any], names: dict[str, Any]) -> inspect.Signature:
    """Return the signature with its annotations evaluated."""
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(_proper(function), localns=names, include_extras=True)
    except (NameError, AttributeError) as error:
        raise TypeError(f"service {name!r}: an annotation can't be evaluated: {error}") from error
    except (TypeError, ValueError):
        # No function at all (a class, a builtin): its annotations are taken as they are.
        return inspect.signature(function)
    parameters = [
        parameter.replace(annotation=hints.get(parameter.name, parameter.annotation))
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


@overload
def service(
    name: str, *, concurrency: int | None = None, expose_errors: bool = False
) -> Callable[[Callable[P, R]], Service[P, R]]: ...
@overload
def service(
    name: str, function: Callable[P, R], *, concurrency: int | None = None, expose_errors: bool = False
) -> Service[P, R]: ...
def service(
    name: str,
    function: Callable[..., Any] | None = None,
    *,
    concurrency: int | None = None,
    expose_errors: bool = False,
) -> Any:
    """Make a service of a function.

        @service("echo")
        async def echo(payload):
            return payload

    The function is a coroutine function, an async generator function, or a sync function or generator function, which
    runs in a thread.  It takes the payload, which is validated if it is annotated, and, if one is annotated as
    `Request`, the request's context; both are optional.  What it yields are partial replies; what it returns, or for
    an async generator what it yields in `Final`, is the final reply.

    Args:
        name: what clients ask for; `files.*` serves all names that begin with `files.`, `calc@1.2.3` is a version.
        function: the function itself, where a decorator is not wanted: `service("echo", echo)`.
        concurrency: requests that a worker runs at once; by default 100, or 32 for sync functions.
        expose_errors: send the messages of unexpected exceptions to the callers, not just the types' names.

    Raises:
        TypeError: the signature can't be served, and why.
        ValueError: the name is empty, or one that brokers answer themselves; or the concurrency is out of range.
    """
    # So that annotations may name what is local to the function that the service is defined in.
    names = sys._getframe(1).f_locals

    if callable(name):
        raise TypeError('a service has a name: decorate with @service("name")')

    def decorate(function: Callable[..., Any]) -> Service[..., Any]:
        return Service(name, function, concurrency=concurrency, expose_errors=expose_errors, names=names)

    return decorate if function is None else decorate(function)
