"""CPU of `reflash firmware inspect` as a whole process, beside `esptool image-info` where that is installed.

    python3 bench/inspect_cpu.py REFLASH IMAGE [ESPTOOL]

Both look at the same image by turns; what is printed are medians of 21 runs each, user and system time.
"""

import os
import statistics
import subprocess
import sys

N_RUNS = 21
LIMIT_MS = 15


def cpu_ms(command):
    """User and system time of one process, milliseconds."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{command} ended with {child.returncode}")
    return (usage.ru_utime + usage.ru_stime) * 1000


def main():
    reflash, image = sys.argv[1:3]
    peers = {"reflash firmware inspect": [reflash, "firmware", "inspect", image]}
    if len(sys.argv) > 3:
        peers["esptool image-info"] = [sys.argv[3], "image-info", image]
    times = {name: [] for name in peers}
    for command in peers.values():
        cpu_ms(command)  # Warms the page cache and Python's compiled files.
    for _ in range(N_RUNS):
        for name, command in peers.items():
            times[name].append(cpu_ms(command))
    print(f"image {os.path.getsize(image)} B, load average {os.getloadavg()[0]:.2f}")
    for name, all_ms in times.items():
        print(f"  {name}: median {statistics.median(all_ms):.1f} ms, {min(all_ms):.1f} to {max(all_ms):.1f} ms")
    medians = [statistics.median(all_ms) for all_ms in times.values()]
    print(f"  at most {LIMIT_MS} ms: {'met' if medians[0] <= LIMIT_MS else 'MISSED'}")
    if len(medians) > 1:
        print(f"  esptool / reflash: {medians[1] / medians[0]:.1f}")


main()
