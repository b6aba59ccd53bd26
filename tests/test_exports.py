"""What is public: re-exported by its own name, documented, typed, and nothing else."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import types
import typing
from pathlib import Path
from typing import Any

import attrs
import pytest

import zmdp_trio
import zmdp_trio.testing
from zmdp_trio import Code, RequestError, Settings
from zmdp_trio._errors import error_from_wire
from zmdp_trio._settings import DEFAULTS, Overrides, settings_with

INIT = Path(zmdp_trio.__file__)
PUBLIC = {
    name: value
    for name, value in vars(zmdp_trio).items()
    if not name.startswith("_") and not isinstance(value, types.ModuleType) and name != "annotations"
}
#: What the harness offers, beside aliases and variables.
TESTING = {
    f"testing.{name}": value
    for name, value in vars(zmdp_trio.testing).items()
    if name in zmdp_trio.testing.__all__ and (inspect.isclass(value) or inspect.isfunction(value))
}
#: The names that are fixed: other people's code uses these.
CONTRACT = {
    *("service", "Service", "Request", "Final", "ServiceError", "Reject"),
    *("serve_worker", "open_worker", "serve_broker", "open_broker", "open_client", "Client", "ReplyStream"),
    *("Code", "RequestError", "WorkerLost", "BrokerLost", "ServiceNotFound", "Overloaded", "DeadlineExceeded"),
}
CLASSES = [pytest.param(value, id=name) for name, value in (PUBLIC | TESTING).items() if inspect.isclass(value)]


def test_the_names_of_the_contract_are_there() -> None:
    assert set(PUBLIC) >= CONTRACT


def test_every_import_is_a_re_export() -> None:
    """`from ._x import Name as Name`: the form that type checkers take for public."""
    for node in ast.parse(INIT.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            assert node.level == 1
            assert (node.module or "").startswith("_"), "public names live in private modules"
            assert all(alias.asname == alias.name for alias in node.names)


def test_only_what_is_meant_to_be_is_public() -> None:
    exported = {
        alias.name
        for node in ast.parse(INIT.read_text()).body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    assert set(PUBLIC) == exported


def test_every_error_is_exported() -> None:
    def tree(cls: type[RequestError]) -> set[type[RequestError]]:
        return {cls}.union(*(tree(each) for each in cls.__subclasses__() if each.__module__ == cls.__module__))

    assert {cls.__name__ for cls in tree(RequestError)} <= set(PUBLIC)


def test_the_package_is_marked_as_typed_and_has_a_version() -> None:
    assert INIT.with_name("py.typed").exists()
    assert zmdp_trio.__version__.count(".") == 2


def test_the_package_imports_neither_the_command_line_nor_the_tests_tools() -> None:
    for name in ("cli", "testing"):
        if importlib.util.find_spec(f"zmdp_trio.{name}") is not None:
            assert f"{name} import" not in INIT.read_text()


@pytest.mark.parametrize("name", PUBLIC | TESTING)
def test_every_public_name_is_documented(name: str) -> None:
    doc = (PUBLIC | TESTING)[name].__doc__
    assert doc
    assert doc.strip()


def members(cls: type) -> dict[str, Any]:
    """Return the public methods and properties that a class itself defines."""
    return {
        name: value
        for name, value in vars(cls).items()
        if not name.startswith("_") and isinstance(value, types.FunctionType | property | classmethod | staticmethod)
    }


@pytest.mark.parametrize("cls", CLASSES)
def test_every_public_method_is_documented(cls: type) -> None:
    assert [name for name, value in members(cls).items() if not (value.__doc__ or "").strip()] == []


def functions() -> list[Any]:
    found = []
    for name, value in (PUBLIC | TESTING).items():
        if inspect.isfunction(inspect.unwrap(value)):
            found.append(pytest.param(inspect.unwrap(value), id=name))
        elif inspect.isclass(value):
            for method, member in members(value).items():
                function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                found.append(pytest.param(function, id=f"{name}.{method}"))
    return found


@pytest.mark.parametrize("function", functions())
def test_every_public_function_is_typed(function: Any) -> None:
    signature = inspect.signature(function)
    untyped = [
        parameter.name
        for position, parameter in enumerate(signature.parameters.values())
        if parameter.annotation is inspect.Parameter.empty and not (position == 0 and parameter.name in ("self", "cls"))
    ]
    assert untyped == []
    assert signature.return_annotation is not inspect.Signature.empty


# ---- errors and settings, which everybody holds in their hands


@pytest.mark.parametrize("code", Code, ids=lambda code: code.name)
def test_a_code_s_value_is_its_name_on_the_wire(code: Code) -> None:
    assert code.value == code.name
    assert type(error_from_wire(code.value, "", "m", None, None)) is RequestError
    assert error_from_wire(code.value, "", "m", None, None).code is code


@pytest.mark.parametrize("cls", [param for param in CLASSES if issubclass(param.values[0], RequestError)])
def test_every_error_comes_back_from_the_wire_as_itself(cls: type[RequestError]) -> None:
    error = error_from_wire(cls.default_code.value, cls.reason, "why", {"a": 1}, "echo")
    assert type(error) is cls
    assert (error.code, error.message, error.details, error.service) == (cls.default_code, "why", {"a": 1}, "echo")
    assert str(error) == f"echo: why [{cls.default_code.value}]"
    assert str(cls("why")) == f"why [{cls.default_code.value}]"


def test_errors_of_a_later_version_fall_back_to_what_is_known() -> None:
    error = error_from_wire("NEW", "new", "m", None, None)
    assert (type(error), error.code) == (RequestError, Code.INTERNAL)


def test_the_overrides_are_the_settings() -> None:
    fields = {field.name: field.type for field in attrs.fields(Settings)}
    assert set(typing.get_type_hints(Overrides)) == set(fields)
    assert Overrides.__annotations__.keys() == fields.keys()


@pytest.mark.parametrize("field", attrs.fields(Settings), ids=lambda field: field.name)
@pytest.mark.parametrize("value", [-1, float("nan"), "1", None])
def test_settings_out_of_range_are_refused(field: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=field.name):
        settings_with(None, **{field.name: value})


def test_settings_are_replaced_one_by_one() -> None:
    assert settings_with(None) == DEFAULTS
    assert settings_with(Settings(timeout=5.0), misses=7) == Settings(timeout=5.0, misses=7)


@pytest.mark.parametrize(
    ("name", "why"),
    [("timout", "there is no setting 'timout'; is 'timeout' meant?"), ("nonsense", "there is no setting 'nonsense'")],
)
def test_a_setting_that_there_is_not_is_named(name: str, why: str) -> None:
    wrong: Any = {name: 1}
    with pytest.raises(TypeError) as raised:
        settings_with(None, **wrong)
    assert str(raised.value) == why
