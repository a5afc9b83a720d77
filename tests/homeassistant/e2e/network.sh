#!/usr/bin/env bash
# Runs a command in a network of its own, in which every address of 192.168.1.0/24 is this machine: network.sh COMMAND…
# Nothing in it reaches the world, and whatever it leaves running ends with it.
set -euo pipefail
if [[ ${1:-} != --inside ]]; then
    rights=()
    [[ $(id -u) == 0 ]] || rights=(--user --map-root-user)
    exec unshare "${rights[@]}" --net --pid --fork --mount-proc --kill-child "$0" --inside "$@"
fi
shift
ip link set lo up multicast on
# On loopback the whole network of an address is this machine.
ip address add 192.168.1.2/24 dev lo
# What is announced (mDNS) goes around in here.
ip route add 224.0.0.0/4 dev lo
# As the first process of its world it takes care of what others leave behind; so it waits, instead of becoming the command.
export REFLASH_HOME_NETWORK=1
status=0
"$@" || status=$?
exit "$status"
