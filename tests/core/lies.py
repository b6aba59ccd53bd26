"""What a peer of the crowd says against the rules: each lie is told by one peer, by its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from stage import FROM_CLIENT, FROM_WORKER, SAMPLES, ask, hello

from zmdp_trio._wire import commands as c
from zmdp_trio._wire import zmdp1

if TYPE_CHECKING:
    from crowd import Crowd

Lie: TypeAlias = "Callable[[Crowd, str], None]"

#: What a reply says that its sender had no right to: no client may ever see it.
FORGED: Final = b"forged"
#: Lengths of time that peers speak of, the absurd ones too.
TIMES: Final = (*(None,) * 8, 0.0, 1e-300, 0.5, 3.0, 3.0, 1e300, math.inf)


def say_what_is_not_its_to_say(crowd: Crowd, name: str) -> None:
    allowed = FROM_CLIENT if name in crowd.clients else FROM_WORKER
    crowd.speaker(name).send(crowd.random.choice([SAMPLES[kind] for kind in SAMPLES if kind not in allowed]))


def send_garbage(crowd: Crowd, name: str) -> None:
    random = crowd.random
    frames = [
        [random.randbytes(random.randint(0, 40)) for _ in range(random.randint(0, 3))],
        [zmdp1.MAGIC, random.randbytes(random.randint(0, 40))],
        [zmdp1.MAGIC, b"\x91" * 5000],
        [zmdp1.MAGIC, b"\xdd\xff\xff\xff\xff"],
        [zmdp1.MAGIC, msgspec.msgpack.encode([c.Batch(1, 0), ask(1)])[: random.randint(0, 20)]],
        [zmdp1.MAGIC, b"\x91\x93\x00\x00\x00", b"a frame too many"],
    ]
    crowd.hand_over(name, random.choice(frames))


def acknowledge_what_was_never_sent(crowd: Crowd, name: str) -> None:
    link = crowd.speaker(name).link
    crowd.hand_over(name, zmdp1.encode(c.Batch(0, link.received + 1 + crowd.random.choice((0, 5, 2**61))), []))


def want_it_again(crowd: Crowd, name: str) -> None:
    """An honest wish, too often."""
    for _ in range(crowd.random.randint(1, 20)):
        crowd.hand_over(name, zmdp1.encode(c.Batch(0, crowd.speaker(name).link.received, True), []))


def skip_a_number_or_repeat_one(crowd: Crowd, name: str) -> None:
    number = crowd.speaker(name).link.sent + crowd.random.choice((-1, 0, 2, 2**61))
    crowd.hand_over(name, zmdp1.encode(c.Batch(max(number, 0), 0), []))


def greet_again(crowd: Crowd, name: str) -> None:
    for _ in range(crowd.random.randint(1, 20)):
        crowd.hand_over(name, zmdp1.encode(c.Batch(0, 0), [crowd.speaker(name).greeting]))


def greet_as_another(crowd: Crowd, name: str) -> None:
    crowd.hand_over(name, zmdp1.encode(c.Batch(0, 0), [hello("somebody else")]))


def speak_of_what_is_not_theirs(crowd: Crowd, name: str) -> None:
    """Cancels, credit, and deadlines for requests of others, or of nobody."""
    ids = [id for who, id in crowd.open if who != name] + [0, 2**62]
    id = crowd.random.choice([id for id in ids if (name, id) not in crowd.open])
    amount, left = c.MAX_AMOUNT, crowd.random.choice(TIMES)
    commands = [c.Cancel(id), c.Credit(id, amount, amount, left), c.Heartbeat([c.Held(id, left)] * 50)]
    crowd.speaker(name).send(crowd.random.choice(commands))


def ask_for_the_impossible(crowd: Crowd, name: str) -> None:
    random = crowd.random
    id = random.randrange(20)
    fields: dict[str, Any] = random.choice(
        [
            {"service": "x" * 10_000},
            {"service": ""},
            {"key": "k" * 10_000},
            {"worker": "w" * 10_000},
            {"headers": {"h" * 10_000: "v" * 10_000}},
            {"service": "a", "left": 1e300, "retry": c.MAX_RETRY, "messages": c.MAX_AMOUNT, "bytes": c.MAX_AMOUNT},
        ]
    )
    crowd.ask(name, ask(id, **{"service": "a", "body": f"{name}:{id}".encode(), **fields}))


def forge_a_reply(crowd: Crowd, name: str) -> None:
    """Replies to what another worker holds, or nobody."""
    ids = [id for who in crowd.held if who != name for id in crowd.held[who]] or [0, 2**62]
    id = crowd.random.choice(ids)
    commands = [
        *(c.Partial(id, 0, FORGED), c.Final(id, 0, FORGED), c.Error(id, "INTERNAL", "", FORGED.decode())),
        *(c.Reject(id), c.Heartbeat([c.Held(id)] * 50)),
    ]
    crowd.speaker(name).send(crowd.random.choice(commands))


def break_a_promise(crowd: Crowd, name: str) -> None:
    """What costs a worker its session: replies without credit, or without measure."""
    if not crowd.held[name]:
        return
    id = crowd.random.choice(list(crowd.held[name]))
    held = crowd.held[name][id]
    if crowd.random.random() < 0.3:
        crowd.speaker(name).send(c.Error(id, "INTERNAL", "", "x" * 200_000))
    elif held.partials and crowd.random.random() < 0.5:
        crowd.speaker(name).send(c.Reject(id))
    else:
        crowd.speaker(name).send(*[c.Partial(id, 0, held.body)] * min(held.messages + 1, 1000))
        held.messages = 0


def offer_too_much(crowd: Crowd, name: str) -> None:
    names = [f"s{crowd.random.randrange(10**6)}" for _ in range(crowd.random.randint(1, 5))] + ["x" * 10_000, ""]
    crowd.speaker(name).send(*(c.Slots(each, c.MAX_AMOUNT) for each in names))


LIES: Final[tuple[Lie, ...]] = (
    say_what_is_not_its_to_say,
    send_garbage,
    acknowledge_what_was_never_sent,
    want_it_again,
    skip_a_number_or_repeat_one,
    greet_again,
    greet_as_another,
)
CLIENT_LIES: Final[tuple[Lie, ...]] = (ask_for_the_impossible, speak_of_what_is_not_theirs)
WORKER_LIES: Final[tuple[Lie, ...]] = (forge_a_reply, break_a_promise, offer_too_much)
