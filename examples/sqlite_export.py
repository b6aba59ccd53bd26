"""Stream the rows of a database out of a plain generator.

    python examples/sqlite_export.py

A synchronous generator runs in one thread from start to end, so it may hold what must not change threads, such as
a sqlite3 connection.  When the caller leaves, it is closed at the next `yield`, and so is the connection.
"""

import sqlite3
from collections.abc import Generator
from contextlib import closing

import trio

from zmdp_trio import open_broker, open_client, open_worker, service


@service("export")
def export(fewest: int) -> Generator[tuple[str, int], None, int]:
    rows = 0
    with closing(open_database()) as database:
        for row in database.execute("SELECT city, people FROM cities WHERE people >= ? ORDER BY city", (fewest,)):
            rows += 1
            yield row
    return rows


def open_database() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE cities (city TEXT, people INTEGER)")
    cities = [("Oslo", 717_710), ("Riga", 605_273), ("Turin", 846_916), ("Vaduz", 5_741)]
    database.executemany("INSERT INTO cities VALUES (?, ?)", cities)
    return database


async def main() -> None:
    async with (
        open_broker("tcp://127.0.0.1:*") as broker,
        open_worker([export], *broker.endpoints),
        open_client(*broker.endpoints) as client,
        client.stream("export", 100_000) as stream,
    ):
        async for city, people in stream:
            print(f"{city:8}{people:>10,}")
        print(stream.final, "cities")


if __name__ == "__main__":
    trio.run(main)
