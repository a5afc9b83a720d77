"""The reads of one look at a ventilation unit, by pymodbus (PyPI), for comparison.

Prints one JSON object: the reads, and the CPU seconds that they took.
`one` keeps one connection for all of them, `each` opens one for each look, `asyncio` is `one` with the asynchronous client.

    python3 pymodbus_reads.py ADDRESS PORT LOOKS one|each|asyncio
"""

import asyncio
import json
import sys
import time

from pymodbus.client import AsyncModbusTcpClient, ModbusTcpClient

# Address in the frame, which counts from 0, and how many: controller, connected panels, first panel.
READS = [(999, 2), (953, 1), (1001, 2)]
UNIT_ID = 254


def check(answer, count):
    if answer.isError() or len(answer.registers) != count:
        sys.exit(f"the unit answers {answer}")


def look(client):
    for address, count in READS:
        check(client.read_holding_registers(address, count=count, device_id=UNIT_ID), count)


def one(address, port, n_looks):
    client = ModbusTcpClient(address, port=port)
    if not client.connect():
        sys.exit("no connection")
    begun = time.process_time()
    for _ in range(n_looks):
        look(client)
    cpu_s = time.process_time() - begun
    client.close()
    return cpu_s


def each(address, port, n_looks):
    begun = time.process_time()
    for _ in range(n_looks):
        client = ModbusTcpClient(address, port=port)
        if not client.connect():
            sys.exit("no connection")
        look(client)
        client.close()
    return time.process_time() - begun


async def with_asyncio(address, port, n_looks):
    client = AsyncModbusTcpClient(address, port=port)
    if not await client.connect():
        sys.exit("no connection")
    begun = time.process_time()
    for _ in range(n_looks):
        for register, count in READS:
            check(await client.read_holding_registers(register, count=count, device_id=UNIT_ID), count)
    cpu_s = time.process_time() - begun
    client.close()
    return cpu_s


def main():
    address, port, n_looks, how = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if how == "asyncio":
        cpu_s = asyncio.run(with_asyncio(address, port, n_looks))
    else:
        cpu_s = {"one": one, "each": each}[how](address, port, n_looks)
    print(json.dumps({"n_reads": n_looks * len(READS), "cpu_s": cpu_s}))


main()
