#!/usr/bin/env bash
# Ends the Home Assistant that start.sh began over this folder, as its user would: stop.sh FOLDER
set -euo pipefail
pid=$(<"$1/hass.pid")
kill -TERM "$pid" 2>/dev/null || exit 0
for _ in $(seq 900); do
    kill -0 "$pid" 2>/dev/null || exit 0
    sleep 0.1
done
echo "Home Assistant, pid $pid, does not end" >&2
exit 1
