#!/usr/bin/env bash
# A real Home Assistant and what its tests need, below one folder, on a fresh Debian 12: install.sh [FOLDER]
# Everything comes from the registries that apt, pip and uv are set to; what is there already is reused.
#
# Home Assistant wants a newer Python than Debian 12 has.
# It is taken from a minimal tree of a newer Debian and pointed at that tree's libraries: nothing is mounted, no root is
# changed, and neither the host's apt nor its libc notice. The tree must stay where it is, as its path is in that Python.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(realpath -m "${1:-$here/../../target/homeassistant}")
tree=$folder/tree
HOME_ASSISTANT=${HOME_ASSISTANT:-2026.11.0}
# The Debian that the Python is taken from.
SUITE=${SUITE:-forky}
mkdir -p "$folder"

# One at a time, should two be started.
exec 9>"$folder/lock"
flock 9

# What is written into this file was made with these words; other words make it anew.
made_with() { [[ -f $1 && $(<"$1") == "$2" ]]; }

step() { echo "$(printf '%4d' "$SECONDS") s  $*"; }

programs() {
    local missing=()
    command -v debootstrap >/dev/null || missing+=(debootstrap)
    command -v patchelf >/dev/null || missing+=(patchelf)
    command -v g++ >/dev/null || missing+=(g++)
    command -v curl >/dev/null || missing+=(curl)
    command -v ip >/dev/null || missing+=(iproute2)
    command -v unshare >/dev/null || missing+=(util-linux)
    command -v pip3 >/dev/null || missing+=(python3-pip)
    [[ -x $(PATH=$PATH:/usr/sbin command -v mosquitto) ]] || missing+=(mosquitto)
    command -v mosquitto_pub >/dev/null || missing+=(mosquitto-clients)
    if [[ -z ${WITHOUT_BROWSER:-} ]]; then
        [[ -x /usr/bin/chromium ]] || missing+=(chromium)
        command -v node >/dev/null || missing+=(nodejs)
        command -v npm >/dev/null || missing+=(npm)
        [[ -e /usr/share/fonts/truetype/liberation ]] || missing+=(fonts-liberation)
    fi
    [[ ${#missing[@]} -gt 0 ]] || return 0
    step "installing ${missing[*]}"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install --yes -q --no-install-recommends "${missing[@]}" >/dev/null
}

python_tree() {
    python=$tree/usr/bin/python3.14
    if [[ ! -e $folder/tree.done ]]; then
        step "Python 3.14 from Debian $SUITE"
        rm -rf "$tree"
        # The mirror is the one of the host's apt.
        local mirror
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
        # `sid` is the name of the script: Debian 12's debootstrap has none for younger suites.
        debootstrap --variant=minbase --include=python3.14,python3.14-venv,python3.14-dev,ca-certificates \
            "$SUITE" "$tree" "$mirror" sid >"$folder/debootstrap.log" 2>&1 \
            || { tail -n 20 "$folder/debootstrap.log" >&2; return 1; }
        rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
        local libraries=$tree/usr/lib/x86_64-linux-gnu loader=$tree/lib64/ld-linux-x86-64.so.2
        if [[ $(uname -m) == aarch64 ]]; then
            libraries=$tree/usr/lib/aarch64-linux-gnu loader=$tree/lib/ld-linux-aarch64.so.1
        fi
        patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries:${libraries/usr\/}" "$python"
        touch "$folder/tree.done"
    fi
}

# An environment of that Python with what uv is given.
environment() {
    local name=$1
    shift
    [[ -x $folder/$name/bin/python ]] || "$python" -m venv --without-pip "$folder/$name"
    # The compiler is the host's, the headers are the tree's.
    CC=gcc CXX=g++ CFLAGS="-idirafter $tree/usr/include" CXXFLAGS="-idirafter $tree/usr/include" \
        "$uv" pip install -q --python "$folder/$name/bin/python" "$@"
}

# Home Assistant itself, as a user has it, and pytest to drive it.
home_assistant() {
    local wanted
    wanted=$HOME_ASSISTANT-$(cat "$here/requirements-e2e.txt" "$here/default_requirements.py" | md5sum)
    made_with "$folder/venv.done" "$wanted" && return
    step "Home Assistant $HOME_ASSISTANT"
    environment venv "homeassistant==$HOME_ASSISTANT" -r "$here/requirements-e2e.txt"
    "$folder/venv/bin/python" "$here/default_requirements.py" >"$folder/requirements.txt"
    environment venv -r "$folder/requirements.txt"
    echo "$wanted" >"$folder/venv.done"
}

# The environment of the component's own tests; the Home Assistant in it is the one that they name.
component_tests() {
    local wanted
    wanted=$(cat "$here/requirements-component.txt" "$here/default_requirements.py" | md5sum)
    made_with "$folder/pytest-venv.done" "$wanted" && return
    step "the component's tests"
    environment pytest-venv -r "$here/requirements-component.txt"
    "$folder/pytest-venv/bin/python" "$here/default_requirements.py" >"$folder/requirements-pytest.txt"
    environment pytest-venv -r "$folder/requirements-pytest.txt"
    echo "$wanted" >"$folder/pytest-venv.done"
}

browser() {
    [[ -z ${WITHOUT_BROWSER:-} ]] || return 0
    [[ -d $here/../browser/node_modules/playwright-core ]] || npm --prefix "$here/../browser" ci --ignore-scripts --silent
}

programs
browser &
python_tree
uv=$folder/uv/bin/uv
if [[ ! -x $uv ]]; then
    python3 -m pip install -q --target "$folder/uv" uv 2>/dev/null || python3 -m pip install -q --break-system-packages --target "$folder/uv" uv
fi
home_assistant &
component_tests &
for _ in 1 2 3; do wait -n; done
step "all is there, in $folder"
