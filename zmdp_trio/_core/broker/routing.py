"""Which services a name stands for, where workers offer wildcards and versions.

A worker offers a plain name, a wildcard, `files.*`, for all names that begin with what stands before the star, or a
version, `calc@1.2.3`.  A client asks for a plain name, or for `calc@^1.2`: a range, as npm writes them.  An exact name
is the broker's own table's business; what is here is asked only where nobody offers that.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Final

from semantic_version import NpmSpec, Version

from ..._errors import InvalidArgument
from .service import Service

#: Comparisons in one range: a client's words must not cost much more than the next one's.
MAX_COMPARISONS: Final = 8
#: Ranges whose meaning is remembered, and for each name with versions, those whose services are.
MAX_REMEMBERED: Final = 1_000

WILDCARD: Final = "*"
VERSION: Final = "@"


def split(name: str) -> tuple[str, str] | None:
    """Return the two sides of a name's last `@`; None for one without, or with nothing before it."""
    base, _, version = name.rpartition(VERSION)
    return (base, version) if base else None


def read_version(text: str) -> Version | None:
    """Return the version that is written out in full; None if none is."""
    try:
        return Version(text)
    except ValueError:
        return None


def read_range(text: str) -> NpmSpec | None:
    """Return what npm understands by a range, None if that is nothing."""
    parts = text.replace("||", " || ").replace("~>", "~").split()
    if len(parts) > 2 * MAX_COMPARISONS or len(parts) - parts.count("||") > MAX_COMPARISONS:
        return None
    text = " ".join(parts)
    for operator in "<>=~^":
        # Not in npm's own grammar, but npm takes it.
        text = text.replace(f"{operator} ", operator)
    try:
        return NpmSpec(text)
    except ValueError:
        return None


class _Versions:
    """The versions of one name, highest first."""

    __slots__ = ("_offered", "_satisfying")

    def __init__(self) -> None:
        self._offered: list[tuple[Version, Service]] = []
        #: By range, what was found before.
        self._satisfying: dict[str, list[Service]] = {}

    def __bool__(self) -> bool:
        return bool(self._offered)

    def add(self, version: Version, service: Service) -> None:
        self._offered.append((version, service))
        self._offered.sort(key=lambda each: each[0].precedence_key, reverse=True)
        self._satisfying.clear()

    def remove(self, service: Service) -> None:
        self._offered = [each for each in self._offered if each[1] is not service]
        self._satisfying.clear()

    def satisfying(self, text: str, range: NpmSpec) -> list[Service]:
        found = self._satisfying.get(text)
        if found is None:
            found = [service for version, service in self._offered if range.match(version)]
            if len(self._satisfying) >= MAX_REMEMBERED:
                self._satisfying.clear()
            self._satisfying[text] = found
        return found


class Routes:
    """The wildcards and versions that workers offer, or lately offered: a service that is forgotten is removed."""

    def __init__(self) -> None:
        self._known: dict[Service, None] = {}
        self._wildcards: dict[str, Service] = {}
        self._lengths: Counter[int] = Counter()
        #: How long the wildcards' prefixes are, longest first.
        self._longest_first: list[int] = []
        self._versions: dict[str, _Versions] = {}
        self._ranges: dict[str, NpmSpec | None] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, service: Service) -> str | None:
        """Note a service that is offered; return what the names that it may serve begin with, None for a plain one."""
        name = service.name
        parts = split(name)
        if parts is not None:
            version = read_version(parts[1])
            if version is None:
                return None
            if service not in self._known:
                self._known[service] = None
                self._versions.setdefault(parts[0], _Versions()).add(version, service)
            return parts[0] + VERSION
        if not name.endswith(WILDCARD):
            return None
        prefix = name.removesuffix(WILDCARD)
        if service not in self._known:
            self._known[service] = None
            self._wildcards[prefix] = service
            self._count(len(prefix), 1)
        return prefix

    def remove(self, service: Service) -> None:
        """Forget a service, if it is one of these."""
        if service not in self._known:
            return
        del self._known[service]
        parts = split(service.name)
        if parts is None:
            prefix = service.name.removesuffix(WILDCARD)
            del self._wildcards[prefix]
            self._count(len(prefix), -1)
            return
        versions = self._versions[parts[0]]
        versions.remove(service)
        if not versions:
            del self._versions[parts[0]]

    def _count(self, length: int, change: int) -> None:
        self._lengths[length] += change
        if self._lengths[length] <= 0:
            del self._lengths[length]
        self._longest_first = sorted(self._lengths, reverse=True)

    def matching(self, name: str) -> Iterator[Service]:
        """Yield the services that a name may stand for, beside its own: highest version, or longest wildcard, first.

        A name with a range stands for versions alone, and one that is a wildcard itself for nothing else.
        """
        parts = split(name)
        if parts is not None:
            versions, range = self._versions.get(parts[0]), self._range(parts[1])
            if versions is not None and range is not None:
                yield from versions.satisfying(parts[1], range)
            return
        if name.endswith(WILDCARD):
            return
        for length in self._longest_first:
            service = self._wildcards.get(name[:length]) if length <= len(name) else None
            if service is not None:
                yield service

    def serving(self, name: str, wanted: str | None = None) -> list[Service]:
        """Return the services that requests for a name go to: all versions that satisfy a range, or one wildcard.

        Args:
            name: one that nobody offers.
            wanted: only a worker of this name will do; None for any.
        """
        offered = (service for service in self.matching(name) if service.offered_by(wanted))
        return list(offered if split(name) is not None else islice(offered, 1))

    def find(self, name: str, wanted: str | None = None) -> Service | None:
        """Return the service that a request goes to now: of versions, the highest that has a free slot."""
        if not self._known:
            return None
        serving = self.serving(name, wanted)
        if len(serving) > 1:
            return next((service for service in serving if service.has_slot(wanted)), serving[0])
        return serving[0] if serving else None

    def check(self, name: str) -> None:
        """Make sure that the range in a name can be read.

        Raises:
            InvalidArgument: it can't.
        """
        parts = split(name)
        if parts is not None and self._range(parts[1]) is None:
            raise InvalidArgument(f"{parts[1][:80]!r} is no range of versions, such as ^1.2 or >=1.0 <3")

    def _range(self, text: str) -> NpmSpec | None:
        if text not in self._ranges:
            if len(self._ranges) >= MAX_REMEMBERED:
                self._ranges.clear()
            self._ranges[text] = read_range(text)
        return self._ranges[text]


class Names:
    """A set of names in which those with a prefix are found quickly."""

    def __init__(self) -> None:
        self._sorted: list[str] = []

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._sorted[(at := bisect_left(self._sorted, name)) : at + 1] == [name]

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, name: str) -> None:
        """Put a name in, unless it is."""
        if name not in self:
            insort(self._sorted, name)

    def discard(self, name: str) -> None:
        """Take a name out, if it is in."""
        if name in self:
            del self._sorted[bisect_left(self._sorted, name)]

    def beginning_with(self, prefix: str) -> list[str]:
        """Return the names with a prefix, in order."""
        start = end = bisect_left(self._sorted, prefix)
        while end < len(self._sorted) and self._sorted[end].startswith(prefix):
            end += 1
        return self._sorted[start:end]
