"""Which services a name stands for, where workers offer wildcards and versions.

A worker offers a plain name, a wildcard, `files.*`, for all names that begin with what stands before the star, or a
version, `calc@1.2.3`.  A client asks for a plain name, or for `calc@^1.2`: a range, as npm writes them.  An exact name
is the broker's own table's business; what is here is asked only where nobody offers that.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Final

from semantic_version import NpmSpec, Version

from ..._errors import InvalidArgument
from .service import Service

#: Comparisons in one range: a client's words must not cost much more than the next one's.
MAX_COMPARISONS: Final = 6
#: Ranges whose meaning is remembered, and for each name with versions, those whose services are.
MAX_REMEMBERED: Final = 1_000
#: Versions of one name that are offered, or lately were, and ranges of it that are waited for though none is there.
MAX_VERSIONS: Final = 64
MAX_RANGES: Final = 500

WILDCARD: Final = "*"
VERSION: Final = "@"


def split(name: str) -> tuple[str, str] | None:
    """Return the two sides of a name's last `@`; None for one without, or with nothing before it."""
    base, _, version = name.rpartition(VERSION)
    return (base, version) if base else None


def read_version(text: str) -> Version | None:
    """Return the version that is written out in full, and in no other way than semver.org has it; None if none is."""
    try:
        version = Version(text)
    except ValueError:
        return None
    return version if str(version) == text else None


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

    def __len__(self) -> int:
        return len(self._offered)

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
        #: With the version, None for a wildcard.
        self._known: dict[Service, Version | None] = {}
        self._wildcards: dict[str, Service] = {}
        self._lengths: Counter[int] = Counter()
        #: How long the wildcards' prefixes are, longest first.
        self._longest_first: list[int] = []
        self._versions: dict[str, _Versions] = {}
        self._ranges: dict[str, NpmSpec | None] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, service: Service) -> bool:
        """Note a service that is offered, if it is a wildcard or a version; False if there are too many versions."""
        if service in self._known:
            return True
        parts = split(service.name)
        if parts is not None:
            version = read_version(parts[1])
            return version is None or self._add_version(parts[0], version, service)
        if service.name.endswith(WILDCARD):
            prefix = service.name.removesuffix(WILDCARD)
            self._known[service] = None
            self._wildcards[prefix] = service
            self._count(len(prefix), 1)
        return True

    def _add_version(self, base: str, version: Version, service: Service) -> bool:
        versions = self._versions.setdefault(base, _Versions())
        if len(versions) >= MAX_VERSIONS:
            return False
        self._known[service] = version
        versions.add(version, service)
        return True

    def prefix(self, service: Service) -> str | None:
        """Return what the names begin with that a service may serve beside its own; None if there are no such names."""
        if service not in self._known:
            return None
        parts = split(service.name)
        return service.name.removesuffix(WILDCARD) if parts is None else parts[0] + VERSION

    def fits(self, service: Service, name: str) -> bool:
        """Whether a service may serve a name that begins with its prefix."""
        version, parts = self._known[service], split(name)
        if version is None:
            return parts is None and not name.endswith(WILDCARD)
        range = None if parts is None else self._range(parts[1])
        return range is not None and bool(range.match(version))

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

    def read(self, name: str) -> tuple[str, str] | None:
        """Return a name's base and its range; None for a plain one.

        Raises:
            InvalidArgument: the range can't be read.
        """
        parts = split(name)
        if parts is not None and self._range(parts[1]) is None:
            raise InvalidArgument(f"{parts[1][:80]!r} is no range of versions, such as ^1.2 or >=1.0 <3")
        return parts

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
        if not isinstance(name, str):
            return False
        at = bisect_left(self._sorted, name)
        return at < len(self._sorted) and self._sorted[at] == name

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

    def count(self, prefix: str) -> int:
        """Return how many names have a prefix."""
        start, end = self._stretch(prefix)
        return end - start

    def beginning_with(self, prefix: str) -> list[str]:
        """Return the names with a prefix, in order."""
        return self._sorted[slice(*self._stretch(prefix))]

    def _stretch(self, prefix: str) -> tuple[int, int]:
        """Return where the names with a prefix begin, and where they end."""
        start = bisect_left(self._sorted, prefix)
        return start, bisect_right(self._sorted, prefix, start, key=lambda name: name[: len(prefix)])
