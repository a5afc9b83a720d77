"""CPU time of a cold build in a fresh target folder, its ten dearest parts, and the size of the program.

    python3 bench/build_cost.py [--dist]

Downloads are not part of it: `cargo fetch` comes first.
"""

import glob
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time

# CPU seconds and MB.
LIMITS = {"release": (800, 20), "dist": (None, 15)}


def main():
    profile = "dist" if "--dist" in sys.argv[1:] else "release"
    subprocess.run(["cargo", "fetch", "--locked"], check=True)
    with tempfile.TemporaryDirectory(prefix="bench-build-") as target:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begun = time.monotonic()
        # Not in the environment: a build by another wrapper or with another cache is not a cold one.
        environment = {name: value for name, value in os.environ.items() if name != "RUSTC_WRAPPER"}
        environment |= {"CARGO_TARGET_DIR": target, "CARGO_INCREMENTAL": "0"}
        command = ["cargo", "build", "--locked", "--quiet", "--timings", "--profile", profile]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        wall_s = time.monotonic() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        size_mb = os.path.getsize(os.path.join(target, profile, "reflash")) / 1e6
        page = open(glob.glob(os.path.join(target, "cargo-timings", "cargo-timing-2*.html"))[0]).read()
        units = json.loads(re.search(r"const UNIT_DATA = (\[.*?\]);\n", page, re.S).group(1))
    cpu_limit_s, size_limit_mb = LIMITS[profile]

    def verdict(figure, limit):
        return "no target" if limit is None else f"at most {limit}: {'met' if figure <= limit else 'MISSED'}"

    print(f"{profile}: {cpu_s:.0f} CPU s ({verdict(cpu_s, cpu_limit_s)}), {wall_s:.0f} s wall, {len(units)} units")
    print(f"  reflash: {size_mb:.1f} MB ({verdict(size_mb, size_limit_mb)})")
    print("  dearest units, seconds of wall time (they share the cores):")
    for unit in sorted(units, key=lambda unit: -unit["duration"])[:10]:
        print(f"    {unit['duration']:6.1f}  {unit['name']} {unit['version']}{unit['target']}")


main()
