"""Polls the status of many devices with aiohttp into SQLite, as a peer for the server of Reflash.

Asks 32 at once, writes 50 to a transaction (write-ahead log, `synchronous = normal`), as ours does.
The first round is not measured. Prints one JSON object: polls, failures, and the CPU seconds and seconds of the measured rounds.

    python3 aiohttp_poll.py FIRST_ADDRESS COUNT PORT INTERVAL_S ROUNDS DATABASE
"""

import asyncio
import ipaddress
import json
import sqlite3
import sys
import time

import aiohttp

AT_ONCE = 32
PER_TRANSACTION = 50
LIMIT = aiohttp.ClientTimeout(total=5, connect=2)


class Fleet:
    def __init__(self, path):
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.execute("pragma journal_mode = wal")
        self.database.execute("pragma synchronous = normal")
        self.database.execute(
            "create table device (address text primary key, mac text, online integer, seen_ms integer, snapshot text)"
        )
        self.waiting = []

    def add(self, addresses):
        self.database.execute("begin")
        self.database.executemany("insert into device (address) values (?)", ((address,) for address in addresses))
        self.database.execute("commit")

    def save(self, row):
        self.waiting.append(row)
        if len(self.waiting) >= PER_TRANSACTION:
            self.flush()

    def flush(self):
        if not self.waiting:
            return
        self.database.execute("begin immediate")
        self.database.executemany(
            "update device set mac = ?, online = ?, seen_ms = ?, snapshot = ? where address = ?", self.waiting
        )
        self.database.execute("commit")
        self.waiting.clear()


async def poll(first, count, port, interval_s, rounds, database):
    start = ipaddress.ip_address(first)
    addresses = [str(start + n) for n in range(count)]
    fleet = Fleet(database)
    fleet.add(addresses)
    failures = 0
    turn = asyncio.Semaphore(AT_ONCE)
    connector = aiohttp.TCPConnector(limit=AT_ONCE, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=LIMIT) as session:

        async def ask(address):
            nonlocal failures
            async with turn:
                try:
                    async with session.get(f"http://{address}:{port}/api/status") as answer:
                        status = await answer.json(content_type=None)
                except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError):
                    failures += 1
                    return
            now_ms = int(time.time() * 1000)
            fleet.save((status.get("macAddress"), 1, now_ms, json.dumps(status), address))

        async def look():
            began = time.monotonic()
            await asyncio.gather(*(ask(address) for address in addresses))
            fleet.flush()
            await asyncio.sleep(max(0, interval_s - (time.monotonic() - began)))

        await look()
        failures = 0
        cpu_s, began = time.process_time(), time.monotonic()
        for _ in range(rounds):
            await look()
        cpu_s, took_s = time.process_time() - cpu_s, time.monotonic() - began
    return {"polls": rounds * count, "failed": failures, "cpu_s": cpu_s, "took_s": took_s}


if __name__ == "__main__":
    first, count, port, interval_s, rounds, database = sys.argv[1:]
    print(json.dumps(asyncio.run(poll(first, int(count), int(port), float(interval_s), int(rounds), database))))
