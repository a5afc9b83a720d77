"""Asks every address of a network for its status with aiohttp, as a peer for the scan of Reflash.

Prints one JSON object: how many devices answered, and the seconds until the first of them and in all.

    python3 aiohttp_scan.py NETWORK PORT AT_ONCE TIMEOUT_S
"""

import asyncio
import ipaddress
import json
import sys
import time

import aiohttp


async def scan(network, port, at_once, timeout_s):
    began = time.monotonic()
    found = []
    turn = asyncio.Semaphore(at_once)
    limit = aiohttp.ClientTimeout(total=timeout_s)
    connector = aiohttp.TCPConnector(limit=at_once, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:

        async def ask(address):
            async with turn:
                try:
                    async with session.get(f"http://{address}:{port}/api/status") as answer:
                        status = await answer.json(content_type=None)
                except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError):
                    return
            if status.get("deviceType") == "mini":
                found.append(time.monotonic() - began)

        await asyncio.gather(*(ask(address) for address in ipaddress.ip_network(network).hosts()))
    return {"found": len(found), "first_s": min(found, default=None), "took_s": time.monotonic() - began}


if __name__ == "__main__":
    arguments = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    print(json.dumps(asyncio.run(scan(*arguments))))
