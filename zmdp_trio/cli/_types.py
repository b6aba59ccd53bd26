"""The types of what options and arguments say: a mistake is found before the command begins."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from zmdp_trio import Settings

if TYPE_CHECKING:
    _TextType = click.ParamType[str]
    _SecondsType = click.ParamType[float | None]
    _SpanType = click.ParamType[float]
    _NumbersType = click.ParamType[tuple[float, ...]]
    _SizeType = click.ParamType[int]
    _HeaderType = click.ParamType[tuple[str, str]]
    _SettingType = click.ParamType[tuple[str, float]]
else:  # older versions of click know no types of parameter types
    _TextType = _SecondsType = _SpanType = _NumbersType = _SizeType = _HeaderType = _SettingType = click.ParamType

_TCP = re.compile(r"tcp://(?:\[[^\]]+\]|[^:/\s]+):(\d+|\*|!)")


class Endpoint(_TextType):
    """A ZeroMQ endpoint whose mistakes are found before a socket is opened."""

    name = "endpoint"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        scheme, separator, address = text.partition("://")
        if not separator or not address or scheme not in ("tcp", "ipc"):
            self.fail(f"{text!r} is not an endpoint: write tcp://HOST:PORT or ipc://PATH", param, ctx)
        port = _TCP.fullmatch(text)
        if scheme == "tcp" and (not port or (port[1].isdigit() and int(port[1]) > 65535)):
            self.fail(f"{text!r} has no usable host and port: write tcp://HOST:PORT", param, ctx)
        return text

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return re.findall(r"[^\s,]+", rv)


class Seconds(_SecondsType):
    """A time span above zero, or `none` for no limit."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if str(value).lower() in ("none", "inf"):
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            self.fail(f"{value!r} is not a number of seconds above 0, nor 'none'", param, ctx)
        return seconds


class Span(_SpanType):
    """A time span of `least` seconds or more; `inf` for no limit."""

    name = "seconds"

    def __init__(self, least: float = 0.0) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not seconds >= self.least:
            self.fail(f"{value!r} is not a number of seconds, {self.least:g} or more, nor 'inf'", param, ctx)
        return seconds


class Numbers(_NumbersType):
    """One number from `least` to `most` or more of them, with commas between; whole ones, if `least` is one."""

    name = "numbers"

    def __init__(self, least: float, most: float) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(type(self.least)(each) for each in str(value).split(","))
        except ValueError:
            numbers = (math.nan,)
        if not all(self.least <= each <= self.most for each in numbers):
            what = "a whole number" if isinstance(self.least, int) else "a number"
            self.fail(
                f"{value!r} is not {what} from {self.least:g} to {self.most:,}, nor some with commas between",
                param,
                ctx,
            )
        return numbers


_SIZE: Final = re.compile(r"(\d+)(KiB|MiB|GiB)")
_FACTORS: Final = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class Size(_SizeType):
    """A number of bytes, also with KiB, MiB, or GiB behind it."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        size = _SIZE.fullmatch(text)
        if size:
            return int(size[1]) * _FACTORS[size[2]]
        if not text.isdecimal():
            self.fail(f"{text!r} is not a whole number of bytes, nor one with KiB, MiB, or GiB behind it", param, ctx)
        return int(text)


class ServiceName(_TextType):
    """The name of a service: any text but none."""

    name = "service"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("a service's name has at least one character", param, ctx)
        return str(value)


class Target(_TextType):
    """What a worker offers: MODULE or MODULE:NAME, the module as in an absolute import."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        module = text.partition(":")[0]
        if not all(module.split(".")):
            self.fail(
                f"{text!r} names no module: write MODULE or FOLDER.MODULE, without a dot at either end", param, ctx
            )
        return text


class Header(_HeaderType):
    """One header, written `NAME=VALUE`."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, separator, content = str(value).partition("=")
        if not separator or not name:
            self.fail(f"{value!r} is not of the form NAME=VALUE", param, ctx)
        return name, content


_ROLES: Final = {"b": "brokers", "w": "workers", "c": "clients", "g": "gateways"}
_SWITCH: Final = {"1": True, "true": True, "0": False, "false": False}


class Setting(_SettingType):
    """One field of `Settings` and its value, written `NAME=VALUE`.

    Args:
        roles: the letters of those whose settings the command uses: b, w, c, g.
        options: the settings that have an option of their own, and which.
    """

    name = "name=value"

    def __init__(self, roles: str, options: Mapping[str, str]) -> None:
        self.roles = roles
        self.options = options

    def names(self) -> Iterator[str]:
        """Name the settings that can be given."""
        for field in attrs.fields(Settings):
            if field.name not in self.options and set(field.metadata["who"]) & set(self.roles):
                yield field.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        name, separator, text = str(value).partition("=")
        if not separator or not name:
            self.fail(f"{value!r} is not of the form NAME=VALUE", param, ctx)
        try:
            return self._read(name, text)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def _read(self, name: str, text: str) -> tuple[str, float]:
        fields = attrs.fields_dict(Settings)
        if name not in fields:
            close = " or ".join(get_close_matches(name, self.names()))
            raise ValueError(f"there is no setting {name!r}" + (f": is {close} meant?" if close else ""))
        who = fields[name].metadata["who"]
        if not set(who) & set(self.roles):
            raise ValueError(f"{name} is a setting of {' and '.join(_ROLES[role] for role in who)}: not used here")
        if name in self.options:
            raise ValueError(f"{name} has an option of its own: {self.options[name]}")
        chosen: dict[str, Any] = {name: _number(fields[name], text)}
        Settings(**chosen)
        return name, chosen[name]


def _number(field: attrs.Attribute[Any], text: str) -> float:
    """Read a number of what the setting counts; its range is not looked at."""
    if isinstance(field.default, bool):
        return _switch(field.name, text)
    size = _SIZE.fullmatch(text) if field.metadata["unit"] == "bytes" else None
    if size:
        return int(size[1]) * _FACTORS[size[2]]
    try:
        return float(text) if isinstance(field.default, float) else int(text)
    except ValueError:
        if field.metadata["unit"] == "bytes":
            wanted = "a whole number of bytes, nor one with KiB, MiB, or GiB behind it"
        else:
            wanted = "a number of seconds" if isinstance(field.default, float) else "a whole number"
        raise ValueError(f"{field.name}: {text!r} is not {wanted}") from None


def _switch(name: str, text: str) -> bool:
    try:
        return _SWITCH[text.lower()]
    except KeyError:
        raise ValueError(f"{name}: {text!r} is not 1 or true, nor 0 or false") from None
