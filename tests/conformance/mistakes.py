"""Brokers that are wrong in one way each, and the checks that find it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio
from reference import (
    FINAL,
    PARTIAL,
    REQUEST,
    Broker,
    Invalid,
    Known,
    Message,
    Version,
    Waiting,
)

#: For each wrong broker the checks that it fails, without the RFC's number; it passes all others.
MISTAKES: Final[dict[type[Broker], set[str]]] = {}


def fails(*names: str) -> Callable[[type[Broker]], type[Broker]]:
    """Name the checks that a broker fails."""

    def register(broker: type[Broker]) -> type[Broker]:
        MISTAKES[broker] = set(names)
        return broker

    return register


def flipped(version: Version) -> Version:
    """The same version with an empty frame too many or too few at the start."""
    return attrs.evolve(version, envelope=() if version.envelope else (b"",))


# ---- forms


@fails("worker/request", "worker/address", "client/body/empty", "client/body/empty-frames")
class DropsTheDelimiter(Broker):
    def to_worker(self, worker: Known, command: str, rest: Message) -> None:
        super().to_worker(worker, command, [rest[0], *rest[2:]] if command == REQUEST else rest)


@fails("client/reply", "client/partial", "service/unicode", "found")
class RepliesInAnotherEnvelope(Broker):
    def to_client(self, request: Waiting, kind: str, body: Message) -> None:
        super().to_client(attrs.evolve(request, version=flipped(request.version)), kind, body)


@fails("client/reply", "client/partial", "service/unicode", "found")
class RepliesForAnotherService(Broker):
    def to_client(self, request: Waiting, kind: str, body: Message) -> None:
        super().to_client(attrs.evolve(request, service=b"another"), kind, body)


@fails("worker/heartbeat-form")
class BeatsInAnotherEnvelope(Broker):
    def beat(self, worker: Known) -> None:
        super().beat(attrs.evolve(worker, version=flipped(worker.version)))
        worker.told = trio.current_time()


@fails("worker/disconnect-form")
class SaysGoodbyeInAnotherEnvelope(Broker):
    def unexpected(self, peer: bytes, version: Version) -> None:
        super().unexpected(peer, flipped(version))


@fails("worker/address")
class HidesTheAddress(Broker):
    def to_worker(self, worker: Known, command: str, rest: Message) -> None:
        super().to_worker(worker, command, [b"client", *rest[1:]] if command == REQUEST else rest)

    def holds(self, worker: Known, client: bytes) -> bool:
        return worker.work is not None and client == b"client"


# ---- bodies


class ChangesBodies(Broker):
    """Both ways."""

    def change(self, body: Message) -> Message:
        raise NotImplementedError

    def to_worker(self, worker: Known, command: str, rest: Message) -> None:
        super().to_worker(worker, command, [*rest[:2], *self.change(rest[2:])])

    def to_client(self, request: Waiting, kind: str, body: Message) -> None:
        super().to_client(request, kind, self.change(body))


@fails(
    "client/body/several-frames",
    "client/body/binary",
    "client/body/empty-frames",
    "client/body/like-commands",
    "client/partial",
    "worker/request",
)
class JoinsFrames(ChangesBodies):
    def change(self, body: Message) -> Message:
        return [b"".join(body)] if body else []


@fails("client/body/empty", "client/body/empty-frames", "client/body/like-commands", "client/partial")
class DropsEmptyFrames(ChangesBodies):
    def change(self, body: Message) -> Message:
        return [frame for frame in body if frame]


@fails("client/body/binary", "client/body/large")
class TakesBodiesForText(ChangesBodies):
    def change(self, body: Message) -> Message:
        return [frame.decode(errors="replace").encode() for frame in body]


@fails("client/body/large")
class CutsLargeFrames(ChangesBodies):
    def change(self, body: Message) -> Message:
        return [frame[:65536] for frame in body]


@fails("client/body/like-commands")
class ReadsBodies(ChangesBodies):
    def change(self, body: Message) -> Message:
        return [frame for frame in body if not frame.startswith(b"MDP")]


# ---- the dialogue


@fails(
    "client/repeat",
    "client/fair",
    "worker/reply-to-another",
    "worker/replies-beat",
    "worker/no-needless-heartbeats",
    "beside/apart",
)
class ServesEachClientOnce(Broker):
    def __init__(self, *endpoints: str, heartbeat: float) -> None:
        super().__init__(*endpoints, heartbeat=heartbeat)
        self.served: set[bytes] = set()

    def from_client(self, peer: bytes, version: Version, frames: Message) -> None:
        if peer not in self.served:
            super().from_client(peer, version, frames)
            self.served.add(peer)


@fails("client/own-reply", "worker/many", "worker/one-at-a-time", "worker/expiry", "client/fair")
class RepliesToTheLatestClient(Broker):
    def __init__(self, *endpoints: str, heartbeat: float) -> None:
        super().__init__(*endpoints, heartbeat=heartbeat)
        self.latest: dict[bytes, bytes] = {}

    def enqueue(self, request: Waiting) -> None:
        self.latest[request.service] = request.client
        super().enqueue(request)

    def to_client(self, request: Waiting, kind: str, body: Message) -> None:
        super().to_client(attrs.evolve(request, client=self.latest.get(request.service, request.client)), kind, body)


@fails("client/partial", "client/partials", "worker/partials-beat")
class HoldsPartialsBack(Broker):
    """Each comes behind the one that was sent after it."""

    def __init__(self, *endpoints: str, heartbeat: float) -> None:
        super().__init__(*endpoints, heartbeat=heartbeat)
        self.held: dict[bytes, Message] = {}

    def to_client(self, request: Waiting, kind: str, body: Message) -> None:
        held = self.held.pop(request.client, None)
        if kind == PARTIAL and held is None:
            self.held[request.client] = body
            return
        if kind == PARTIAL or held is None:
            super().to_client(request, kind, body)
        if held is not None:
            super().to_client(request, PARTIAL, held)
        if kind == FINAL and held is not None:
            super().to_client(request, kind, body)


@fails("client/silence")
class RepeatsReplies(Broker):
    """Every two seconds, to whoever has asked nothing since."""

    def __init__(self, *endpoints: str, heartbeat: float) -> None:
        super().__init__(*endpoints, heartbeat=heartbeat)
        self.done: dict[bytes, tuple[Waiting, Message, float]] = {}

    def from_client(self, peer: bytes, version: Version, frames: Message) -> None:
        self.done.pop(peer, None)
        super().from_client(peer, version, frames)

    def to_client(self, request: Waiting, kind: str, body: Message) -> None:
        super().to_client(request, kind, body)
        if kind == FINAL:
            self.done[request.client] = request, body, trio.current_time()

    def tick(self) -> None:
        super().tick()
        for request, body, since in list(self.done.values()):
            if trio.current_time() >= since + 2:
                self.to_client(request, FINAL, body)

    def forget(self, peer: bytes) -> None:
        super().forget(peer)
        self.done.pop(peer, None)


@fails(
    "client/second-reply",
    "client/partial-after-final",
    "worker/second-reply",
    "worker/reply-when-idle",
    "worker/partial-when-idle",
    "worker/reply-to-another",
)
class TrustsWorkers(Broker):
    """It passes on what they say, to whomever they say."""

    def on_reply(self, peer: bytes, version: Version, worker: Known | None, rest: Message, kind: str) -> None:
        if worker is None:
            return self.unexpected(peer, version)
        worker.heard = trio.current_time()
        if kind in version.answering:
            self.to_client(Waiting(rest[0], version, worker.service, []), kind, rest[2:])
        if kind == FINAL:
            worker.work = None
            self.hand_out(worker.service)


@fails("worker/reply-to-another")
class TrustsBusyWorkers(Broker):
    def on_reply(self, peer: bytes, version: Version, worker: Known | None, rest: Message, kind: str) -> None:
        if worker and worker.work:
            worker.work.client = rest[0]
        super().on_reply(peer, version, worker, rest, kind)


@fails("client/queue", "worker/disconnect", "invalid/of-a-worker")
class DropsWhatNobodyOffers(Broker):
    def hand_out(self, service: bytes) -> None:
        super().hand_out(service)
        if not any(each.service == service for each in self.workers.values()):
            self.queues.pop(service, None)


@fails("client/fair")
class ServesTheLatestFirst(Broker):
    def enqueue(self, request: Waiting) -> None:
        self.queues.setdefault(request.service, []).insert(0, request)


# ---- names of services


@fails("service/apart")
class FoldsCase(Broker):
    def from_client(self, peer: bytes, version: Version, frames: Message) -> None:
        super().from_client(
            peer, version, [frame.lower() if frame.startswith(b"CONFORMANCE") else frame for frame in frames]
        )


@fails("service/unicode")
class WantsAsciiNames(Broker):
    def check_name(self, name: bytes) -> None:
        if not name.isascii():
            raise Invalid


@fails("service/apart", "service/unregistered")
class TakesTheBeginningForTheName(Broker):
    def hand_out(self, service: bytes) -> None:
        for worker in list(self.workers.values()):
            for name, queue in self.queues.items():
                if queue and self.is_free(worker) and worker.service.startswith(name):
                    self.give(worker, queue.pop(0))


# ---- workers


@fails("worker/ready", "worker/stays", "worker/heartbeats", "worker/heartbeat-form", "worker/late-heartbeat")
class DismissesIdleWorkers(Broker):
    """Instead of the first heartbeat, a little late."""

    def beat(self, worker: Known) -> None:
        if worker.work:
            super().beat(worker)
        elif trio.current_time() - worker.told >= 1.2 * self.heartbeat:
            self.unexpected(worker.name, worker.version)


@fails("worker/many")
class WantsOneWorkerPerService(Broker):
    def on_ready(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        if any(each.service == rest[0] for each in self.workers.values()):
            return self.unexpected(peer, version)
        super().on_ready(peer, version, worker, rest)


@fails("worker/one-at-a-time", "worker/many", "worker/expiry", "client/fair", "client/own-reply")
class OverloadsWorkers(Broker):
    def hand_out(self, service: bytes) -> None:
        for worker in list(self.workers.values()):
            while worker.service == service and not worker.gone and self.queues.get(service):
                self.give(worker, self.queues[service].pop(0))


@fails(
    "worker/ready-twice",
    "worker/ready-for-another-service",
    "worker/ready-while-busy",
    "worker/disconnect-form",
    "worker/register-again",
)
class IgnoresFurtherReadies(Broker):
    def on_ready(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        if worker is None:
            super().on_ready(peer, version, worker, rest)


@fails("worker/ready-for-another-service")
class LetsWorkersChange(Broker):
    def on_ready(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        if worker and worker.service != rest[0]:
            worker = self.workers.pop(peer, None)
        super().on_ready(peer, version, None, rest) if peer not in self.workers else self.unexpected(peer, version)


@fails(
    "worker/ready-twice",
    "worker/ready-for-another-service",
    "worker/ready-while-busy",
    "worker/reply-when-idle",
    "worker/partial-when-idle",
    "worker/second-reply",
    "worker/register-again",
)
class GoesOnAfterTheFarewell(Broker):
    def unexpected(self, peer: bytes, version: Version) -> None:
        worker = self.workers.get(peer)
        super().unexpected(peer, version)
        if worker:
            self.workers[peer] = worker


@fails("worker/reply-before-ready", "worker/partial-before-ready", "worker/heartbeat-before-ready")
class IgnoresStrangers(Broker):
    def from_worker(self, peer: bytes, version: Version, frames: Message) -> None:
        if peer in self.workers or version.commands.get(frames[0] if frames else b"") == "ready":
            super().from_worker(peer, version, frames)


@fails("worker/reply-when-idle", "worker/partial-when-idle", "worker/second-reply")
class IgnoresRepliesOfIdleWorkers(Broker):
    def on_reply(self, peer: bytes, version: Version, worker: Known | None, rest: Message, kind: str) -> None:
        if worker is None or worker.work:
            super().on_reply(peer, version, worker, rest, kind)


@fails("worker/disconnect", "worker/disconnect-while-busy", "absent-after-disconnect")
class IgnoresFarewells(Broker):
    def on_disconnect(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        if worker is None:
            super().on_disconnect(peer, version, worker, rest)


@fails("worker/disconnect", "worker/disconnect-while-busy", "worker/disconnect-before-ready")
class AnswersFarewells(Broker):
    def on_disconnect(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        self.unexpected(peer, version)


@fails("worker/register-again", "invalid/of-a-worker")
class NeverForgives(Broker):
    """No worker may offer again what another one was sent away with."""

    def __init__(self, *endpoints: str, heartbeat: float) -> None:
        super().__init__(*endpoints, heartbeat=heartbeat)
        self.banned: set[bytes] = set()
        self.leaving = False

    def give_up(self, peer: bytes, version: Version) -> Known:
        if peer in self.workers and not self.leaving:
            self.banned.add(self.workers[peer].service)
        return super().give_up(peer, version)

    def on_disconnect(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        self.leaving = True
        super().on_disconnect(peer, version, worker, rest)
        self.leaving = False

    def expire(self, worker: Known) -> None:
        self.leaving = True
        super().expire(worker)
        self.leaving = False

    def on_ready(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        if rest[0] not in self.banned:
            super().on_ready(peer, version, worker, rest)


# ---- heartbeats


@fails("worker/heartbeats", "worker/heartbeats-while-busy", "worker/heartbeat-form")
class NeverBeats(Broker):
    def beat(self, worker: Known) -> None:
        pass


@fails("worker/heartbeats", "worker/heartbeats-while-busy", "worker/heartbeat-form")
class BeatsTooRarely(Broker):
    def beat(self, worker: Known) -> None:
        if trio.current_time() - worker.told >= 3 * self.heartbeat:
            super().beat(worker)


@fails("worker/heartbeats-while-busy")
class BeatsForIdleWorkersAlone(Broker):
    def beat(self, worker: Known) -> None:
        if worker.work is None:
            super().beat(worker)


@fails("worker/no-needless-heartbeats")
class BeatsWhileItSendsRequests(Broker):
    def tick(self) -> None:
        super().tick()
        for worker in list(self.workers.values()):
            if not worker.gone and trio.current_time() - worker.told < self.heartbeat / 2:
                self.beat(worker)


@fails("worker/expiry", "worker/expiry-silence", "worker/expiry-while-busy", "absent-after-expiry")
class NeverExpires(Broker):
    def expire(self, worker: Known) -> None:
        if trio.current_time() - worker.told >= self.heartbeat:
            self.beat(worker)


@fails("worker/expiry-while-busy")
class ExpiresIdleWorkersAlone(Broker):
    def expire(self, worker: Known) -> None:
        if worker.work is None:
            super().expire(worker)
        elif trio.current_time() - worker.told >= self.heartbeat:
            self.beat(worker)


@fails("worker/expiry-silence", "worker/expiry-while-busy")
class BeatsForTheDead(Broker):
    def __init__(self, *endpoints: str, heartbeat: float) -> None:
        super().__init__(*endpoints, heartbeat=heartbeat)
        self.dead: list[Known] = []

    def expire(self, worker: Known) -> None:
        super().expire(worker)
        self.dead.append(worker)

    def tick(self) -> None:
        super().tick()
        for worker in self.dead:
            self.beat(worker)


@fails("worker/late-heartbeat")
class IsImpatient(Broker):
    misses = 1.3


@fails("worker/replies-beat", "worker/partials-beat")
class CountsHeartbeatsAlone(Broker):
    def on_reply(self, peer: bytes, version: Version, worker: Known | None, rest: Message, kind: str) -> None:
        heard = worker.heard if worker else 0
        super().on_reply(peer, version, worker, rest, kind)
        if worker:
            worker.heard = heard


@fails("worker/stays", "worker/heartbeats-while-busy")
class CountsRepliesAlone(Broker):
    def on_heartbeat(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        heard = worker.heard if worker else 0
        super().on_heartbeat(peer, version, worker, rest)
        if worker:
            worker.heard = heard


# ---- MMI


@fails("absent", "absent-though-asked-for", "absent-after-disconnect", "absent-after-expiry")
class FindsEverything(Broker):
    def inquire(self, service: bytes, name: bytes) -> bytes:
        return b"200" if service == b"mmi.service" else b"501"


@fails("found-while-busy")
class FindsIdleWorkersAlone(Broker):
    def inquire(self, service: bytes, name: bytes) -> bytes:
        if service == b"mmi.service" and all(each.work for each in self.workers.values() if each.service == name):
            return b"404"
        return super().inquire(service, name)


@fails("found", "found-while-busy")
class FindsNothing(Broker):
    def inquire(self, service: bytes, name: bytes) -> bytes:
        return b"404" if service == b"mmi.service" else b"501"


@fails("absent-though-asked-for")
class FindsWhatIsAskedFor(Broker):
    def inquire(self, service: bytes, name: bytes) -> bytes:
        return b"200" if self.queues.get(name) else super().inquire(service, name)


@fails("unimplemented", "internal")
class FindsNoOtherInquiry(Broker):
    def inquire(self, service: bytes, name: bytes) -> bytes:
        return b"404" if service != b"mmi.service" else super().inquire(service, name)


@fails("reserved", "reserved-directory")
class IgnoresIntruders(Broker):
    def on_ready(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        if not rest[0].startswith(b"mmi."):
            super().on_ready(peer, version, worker, rest)


@fails("reserved", "internal")
class LetsIntrudersIn(Broker):
    def on_ready(self, peer: bytes, version: Version, worker: Known | None, rest: Message) -> None:
        if rest[0].startswith(b"mmi.") and rest[0] != b"mmi.service":
            rest = [b"intruder:" + rest[0]]
        super().on_ready(peer, version, worker, rest)

    def from_client(self, peer: bytes, version: Version, frames: Message) -> None:
        place = len(version.asking)
        name = b"intruder:" + frames[place] if len(frames) > place else b""
        if any(each.service == name for each in self.workers.values()):
            frames = [*frames[:place], name, *frames[place + 1 :]]
        super().from_client(peer, version, frames)


@fails("namespace")
class TakesTooManyNames(Broker):
    def from_client(self, peer: bytes, version: Version, frames: Message) -> None:
        if len(frames) > len(version.asking) and frames[len(version.asking)].startswith(b"mmi-"):
            return
        super().from_client(peer, version, frames)


# ---- invalid messages, and both versions at once

#: Each kind of message that is invalid from the start, in one version or the other.
STRANGE: Final = {
    f"invalid/{name}"
    for name in (
        *("empty", "empty-twice", "garbage", "unknown-version", "without-envelope", "client-header-alone"),
        *("empty-request", "request-without-body", "request-without-command", "request-for-bytes"),
        *("unknown-client-command", "broker-s-command", "worker-header-alone", "empty-command", "unknown-command"),
        *("long-command", "ready-without-service", "ready-for-bytes"),
    )
}


@fails(*STRANGE, "invalid/of-a-worker")
class AnswersNonsense(Broker):
    def invalid(self, peer: bytes) -> None:
        super().invalid(peer)
        self.send(peer, [b"what?"])


@fails(*STRANGE, "invalid/reply-without-address", "invalid/reply-without-delimiter")
class StumblesOverNonsense(Broker):
    """Whatever is in its tables is lost."""

    def invalid(self, peer: bytes) -> None:
        self.workers.clear()
        self.queues.clear()


@fails("invalid/of-a-worker")
class ForgivesNonsense(Broker):
    def invalid(self, peer: bytes) -> None:
        pass


@fails("invalid/request-without-body")
class PassesOnWhatHasNoBody(Broker):
    def from_client(self, peer: bytes, version: Version, frames: Message) -> None:
        if len(frames) == len(version.asking) + 1 and frames[0] in (b"\x01", frames[-1]):
            self.enqueue(Waiting(peer, version, frames[-1], []))
            return self.hand_out(frames[-1])
        super().from_client(peer, version, frames)


@fails("invalid/reply-without-delimiter")
class PassesOnWhatIsMangled(Broker):
    def from_worker(self, peer: bytes, version: Version, frames: Message) -> None:
        if len(frames) > 3 and frames[2] == b"mangled":
            frames = [*frames[:2], b"", *frames[3:]]
        super().from_worker(peer, version, frames)


@fails("beside/crossed")
class PassesOnWhateverTheVersion(Broker):
    def hand_out(self, service: bytes) -> None:
        for worker in list(self.workers.values()):
            if worker.service == service and self.is_free(worker) and self.queues.get(service):
                self.give(worker, self.queues[service].pop(0))

    def to_worker(self, worker: Known, command: str, rest: Message) -> None:
        version = worker.work.version if worker.work and command == REQUEST else worker.version
        super().to_worker(attrs.evolve(worker, version=version), command, rest)
        worker.told = trio.current_time()


@fails("beside/apart")
class AnswersInTheVersionOfTheLatest(Broker):
    """Where services have much the same name, and the RFCs' checks give them no reason to mix them up otherwise."""

    def __init__(self, *endpoints: str, heartbeat: float) -> None:
        super().__init__(*endpoints, heartbeat=heartbeat)
        self.version: dict[bytes, Version] = {}

    def from_client(self, peer: bytes, version: Version, frames: Message) -> None:
        if len(frames) > len(version.asking):
            self.version[frames[len(version.asking)].removesuffix(b".other")] = version
        super().from_client(peer, version, frames)

    def to_client(self, request: Waiting, kind: str, body: Message) -> None:
        version = self.version[request.service.removesuffix(b".other")]
        super().to_client(attrs.evolve(request, version=version), kind, body)
