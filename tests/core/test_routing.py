"""Wildcards and versions: which services a name stands for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmdp_trio._core.broker.routing import (
    MAX_COMPARISONS,
    MAX_REMEMBERED,
    MAX_VERSIONS,
    Names,
    Routes,
    read_range,
    split,
)
from zmdp_trio._core.broker.service import Offer, Service
from zmdp_trio._core.broker.session import Session
from zmdp_trio._core.link import Ledger
from zmdp_trio._errors import InvalidArgument
from zmdp_trio._settings import Settings
from zmdp_trio._wire import commands as c


def offered(*names: str, slots: int = 1, worker: str = "worker") -> list[Service]:
    """Return services of these names, each offered by a worker."""
    return [offer(Service(name), slots=slots, worker=worker) for name in names]


def offer(service: Service, *, slots: int = 1, worker: str = "worker") -> Service:
    hello = c.Hello(1, worker.encode() * 16, worker, b"", c.Limits(1, 1, 1), 1.0, [], [])
    added = Offer(Session.of(hello, [], {}, Ledger(), Settings()), service)
    service.add_offer(added)
    service.set_slots(added, slots)
    return service


def table(*names: str) -> Routes:
    routes = Routes()
    for service in offered(*names):
        routes.add(service)
    return routes


def found(routes: Routes, name: str) -> str | None:
    service = routes.find(name)
    return service.name if service else None


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("files.read", None),
        ("files.*", None),
        ("*", None),
        ("fil*es", None),
        ("calc@1.2.3", ("calc", "1.2.3")),
        ("calc@^1.2", ("calc", "^1.2")),
        ("calc@", ("calc", "")),
        ("calc@*", ("calc", "*")),
        ("@scope/calc", None),
        ("@scope/calc@^1", ("@scope/calc", "^1")),
        ("a@b@1", ("a@b", "1")),
        ("@*", None),
    ],
)
def test_names_are_read(name: str, parts: tuple[str, str] | None) -> None:
    assert split(name) == parts


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("files.read.now", "files.read*"),
        ("files.read", "files.read*"),
        ("files.write", "files.*"),
        ("files.", "files.*"),
        ("files", "f*"),
        ("echo", "*"),
        ("", "*"),
        # A star at the end is a name like any other to those who ask.
        ("files.*", None),
        ("other*", None),
        # Wildcards know nothing of versions.
        ("files.read@^1", None),
        ("@scope/x", "*"),
    ],
)
def test_the_longest_wildcard_wins(name: str, service: str | None) -> None:
    assert found(table("*", "f*", "files.*", "files.read*", "files.reader*", "echo.*"), name) == service


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("calc@^1.2.0", "calc@1.10.0"),
        ("calc@~1.2.0", "calc@1.2.9"),
        ("calc@1.x", "calc@1.10.0"),
        ("calc@>=1.2.0 <1.3", "calc@1.2.9"),
        ("calc@>= 1.2.0 <  1.3", "calc@1.2.9"),
        ("calc@~>1.2.0", "calc@1.2.9"),
        ("calc@1.2.0 - 1.2.9", "calc@1.2.9"),
        ("calc@^1.2.0 || ^2", "calc@2.0.0"),
        ("calc@1.2.0||3", "calc@1.2.0"),
        ("calc@*", "calc@2.0.0"),
        ("calc@", "calc@2.0.0"),
        ("calc@^2.1.0-beta", "calc@2.1.0-beta.2"),
        ("calc@1.2.9", "calc@1.2.9"),
        ("calc@^0.1", None),
        ("calc@>2.1", None),
        ("calc", None),
        ("calculus@^1", None),
        ("calc@nonsense", None),
    ],
)
def test_the_highest_version_in_the_range_wins(name: str, service: str | None) -> None:
    versions = ("1.2.9", "2.0.0", "1.10.0", "1.2.0", "2.1.0-beta.2", "2.1.0-alpha")
    assert found(table(*(f"calc@{version}" for version in versions), "calc@latest", "x@1.2.3"), name) == service


def test_of_versions_the_highest_with_a_free_slot_is_taken_else_the_highest() -> None:
    routes = Routes()
    low, middle, high = offered("calc@1.0.0", "calc@1.1.0", "calc@1.2.0")
    for service in (low, high, middle):
        routes.add(service)
    assert routes.find("calc@^1") is high
    [of_high], [of_middle], [of_low] = (list(each.offers.values()) for each in (high, middle, low))
    high.take_slot(of_high)
    assert routes.find("calc@^1") is middle
    middle.take_slot(of_middle)
    assert routes.find("calc@^1") is low
    low.take_slot(of_low)
    assert routes.find("calc@^1") is high
    low.free_slot(of_low)
    assert routes.find("calc@^1") is low


def test_a_named_worker_is_found_behind_what_others_offer() -> None:
    routes = Routes()
    [long, short, old, new] = [Service(name) for name in ("files.read*", "files*", "calc@1.0.0", "calc@1.1.0")]
    for service, worker in ((long, "a"), (short, "b"), (old, "b"), (new, "a")):
        routes.add(offer(service, worker=worker))
    assert routes.find("files.read.x", "b") is short
    assert routes.find("calc@^1", "b") is old
    assert routes.find("files.read.x", "c") is routes.find("calc@^1", "c") is None


def test_what_is_offered_no_more_is_passed_over_but_known() -> None:
    routes = Routes()
    long, short, version = offered("files.*", "f*", "calc@1.0.0")
    for service in (long, short, version):
        routes.add(service)
    for service in (long, version):
        service.remove_offer(next(iter(service.offers.values())))
    assert routes.find("files.read") is short
    assert routes.find("calc@^1") is None
    assert list(routes.matching("files.read")) == [long, short]
    assert list(routes.matching("calc@^1")) == [version]
    for service in (long, short, version):
        routes.remove(service)
        routes.remove(service)
    assert not len(routes)
    assert list(routes.matching("files.read")) == list(routes.matching("calc@^1")) == []


def test_what_is_added_tells_which_names_it_may_serve() -> None:
    routes = Routes()
    prefixes = {
        "files.*": "files.",
        "*": "",
        "calc@1.2.3": "calc@",
        "a@b@1.0.0-beta+build": "a@b@",
        "calc@v1.0.0": None,
        "calc@1": None,
        "calc@1.2.3\n": None,
        "calc@\u0661.2.3": None,
        "calc@*": None,
        "calc": None,
    }
    services = offered(*prefixes)
    assert all(routes.add(service) for service in services)
    assert [routes.prefix(service) for service in services] == list(prefixes.values())
    assert len(routes) == 4


@pytest.mark.parametrize(
    ("name", "offer", "fits"),
    [
        ("files.read", "files.*", True),
        ("files.*", "files.*", False),
        ("files.x@^1", "files.*", False),
        ("calc@^1", "calc@1.2.3", True),
        ("calc@^2", "calc@1.2.3", False),
        ("calc@nonsense", "calc@1.2.3", False),
    ],
)
def test_what_fits(name: str, offer: str, fits: bool) -> None:
    routes = Routes()
    [service] = offered(offer)
    routes.add(service)
    assert routes.fits(service, name) is fits


def test_there_is_a_limit_of_versions_per_name() -> None:
    routes = Routes()
    services = offered(*(f"calc@1.{minor}.0" for minor in range(MAX_VERSIONS + 1)))
    assert [routes.add(service) for service in services] == [True] * MAX_VERSIONS + [False]
    assert routes.add(services[0])
    assert routes.add(*offered("other@1.0.0"))
    routes.remove(services[-1])
    routes.remove(services[0])
    assert routes.add(services[-1])


def test_a_range_is_found_anew_when_versions_come_and_go() -> None:
    routes = table("calc@1.0.0")
    assert found(routes, "calc@^1") == "calc@1.0.0"
    [newer] = offered("calc@1.1.0")
    routes.add(newer)
    assert found(routes, "calc@^1") == "calc@1.1.0"
    routes.remove(newer)
    assert found(routes, "calc@^1") == "calc@1.0.0"


@pytest.mark.parametrize(
    "text", ["latest", "1.2.3.4", ">>1", "^^1", "=", "1 | 2", "ü", "\u0663", "01.2.3", "1.2.3-01", "\0"]
)
def test_an_unreadable_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="no range of versions"):
        Routes().read(f"calc@{text}")


@pytest.mark.parametrize("name", ["calc", "calc@", "calc@^1", "calc@1.2.3", "@scope/calc", "files.*", "calc@*"])
def test_other_names_are_not(name: str) -> None:
    Routes().read(name)


def test_a_range_that_would_take_long_to_read_is_refused() -> None:
    assert read_range(" ".join(["1"] * MAX_COMPARISONS)) is not None
    assert read_range("||".join(["1"] * MAX_COMPARISONS)) is not None
    for text in (" ".join(["1"] * (MAX_COMPARISONS + 1)), "||".join(["1"] * (MAX_COMPARISONS + 1)), "||" * 100):
        assert read_range(text) is None


def test_no_more_is_remembered_of_ranges_than_the_limit() -> None:
    routes = table("calc@1.0.0")
    for patch in range(2 * MAX_REMEMBERED + 10):
        assert routes.find(f"calc@{patch}.0.0") is None or patch == 1
    assert len(routes._ranges) <= MAX_REMEMBERED
    assert len(routes._versions["calc"]._satisfying) <= MAX_REMEMBERED
    assert found(routes, "calc@^1") == "calc@1.0.0"


NAMES = st.text("ab.", max_size=4)


@given(st.lists(NAMES, unique=True), st.lists(NAMES))
def test_wildcards_are_found_as_one_who_tries_them_all_would(prefixes: list[str], names: list[str]) -> None:
    routes = table(*(prefix + "*" for prefix in prefixes))
    for name in names:
        fit = [prefix for prefix in prefixes if name.startswith(prefix)]
        assert found(routes, name) == (max(fit, key=len) + "*" if fit else None)


@given(st.lists(st.tuples(st.booleans(), NAMES)), NAMES)
def test_names_with_a_prefix(changes: list[tuple[bool, str]], prefix: str) -> None:
    names, plain = Names(), set[str]()
    for add, name in changes:
        (names.add if add else names.discard)(name)
        (plain.add if add else plain.discard)(name)
    assert names.beginning_with(prefix) == sorted(name for name in plain if name.startswith(prefix))
    assert names.count(prefix) == len(names.beginning_with(prefix))
    assert len(names) == len(plain)
    assert all(name in names for name in plain)
