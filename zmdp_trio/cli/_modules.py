"""Find the services that `zmdp worker MODULE[:NAME]` means."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from zmdp_trio import Service

from ._failures import Failure, usage

AnyService = Service[..., Any]


def collect(targets: Sequence[str]) -> list[AnyService]:
    """Import each MODULE[:NAME] and gather the services, each once.

    Raises:
        Failure: no such module or name, no services in it, two services of one name.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found = [service for target in targets for service in _services(target)]
    return list(_by_name(found).values())


def _services(target: str) -> list[AnyService]:
    name, separator, attribute = target.partition(":")
    if not name or (separator and not attribute):
        raise usage(f"{target!r} is not of the form MODULE or MODULE:NAME")
    module = _import(name)
    services = _flatten(vars(module).values()) if not attribute else _named(module, attribute)
    if not services:
        raise usage(f"{target!r} holds no services", "a service is a function under @service(...)")
    return services


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            hint = "write it as in an import, without .py: folder.module"
            raise usage(f"there is no module {name!r}, neither in this folder nor installed", hint) from error
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> Failure:
    if isinstance(error, SyntaxError) and error.filename is not None:
        what, file, line = error.msg, error.filename, error.lineno
    else:
        where = traceback.extract_tb(error.__traceback__)[-1]
        what, file, line = str(error), where.filename, where.lineno
    return usage(f"importing {name!r} failed: {type(error).__name__}: {what} ({file}, line {line})")


def _named(module: ModuleType, attribute: str) -> list[AnyService]:
    value: Any = getattr(module, attribute, None)
    if value is None:
        raise usage(f"module {module.__name__!r} has no {attribute!r}")
    if inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value):
        hint = "what makes services is a plain function"
        raise usage(f"{module.__name__}:{attribute} is an async function, not a service", hint)
    if callable(value) and not isinstance(value, Service):
        try:
            value = value()
        except Exception as error:
            raise usage(f"{module.__name__}:{attribute} failed: {type(error).__name__}: {error}") from error
    return _flatten([value])


def _flatten(values: Iterable[object]) -> list[AnyService]:
    found: list[AnyService] = []
    for value in values:
        members = value if isinstance(value, list | tuple) else (value,)
        found.extend(member for member in members if isinstance(member, Service))
    return found


def _by_name(services: Iterable[AnyService]) -> dict[str, AnyService]:
    chosen: dict[str, AnyService] = {}
    for service in services:
        if chosen.setdefault(service.name, service) is not service:
            raise usage(f"there are two services named {service.name!r}")
    return chosen
