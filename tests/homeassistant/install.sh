#!/usr/bin/env bash
# A real Home Assistant and what its tests need, below one folder, on a fresh Debian 12: install.sh [FOLDER]
# Everything comes from the registries that apt, pip and uv are set to; what is there already is reused.
#
# Home Assistant wants a newer Python than Debian 12 has.
# Its files and those of the libraries that it uses are taken out of a newer Debian's packages into a folder, and it is
# pointed at them: nothing is mounted or installed, and neither the host's apt nor its libc notice. The folder must stay
# where it is, as its path is in that Python.
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
    [[ ! -e $folder/tree.done ]] || return 0
    step "Python 3.14 from Debian $SUITE"
    rm -rf "$tree"
    mkdir -p "$tree" "$folder/apt/lists/partial" "$folder/apt/archives/partial"
    : >"$folder/apt/status"
    # The mirror is the one of the host's apt; suites that move are sometimes signed for a shorter time than it takes.
    echo "deb $(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1) $SUITE main" >"$folder/apt/sources.list"
    # An apt that knows nothing of the host: nothing is installed, files are only taken out of packages.
    local apt=(apt-get -q -o "Dir::State=$folder/apt" -o "Dir::State::status=$folder/apt/status" -o "Dir::Cache=$folder/apt"
        -o "Dir::Etc::sourcelist=$folder/apt/sources.list" -o Dir::Etc::sourceparts=- -o Acquire::Check-Valid-Until=false
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        -o APT::Install-Recommends=false -o "APT::Sandbox::User=$(id -un)")
    "${apt[@]}" update >"$folder/apt.log"
    "${apt[@]}" install --yes --download-only python3.14 libpython3.14-dev >>"$folder/apt.log"
    local package
    for package in "$folder"/apt/archives/*.deb; do dpkg-deb -x "$package" "$tree"; done
    rm -rf "$folder/apt"
    local libraries loader
    libraries=$(dirname "$(find "$tree/usr/lib" -name libc.so.6)")
    loader=$(find "$tree/usr" -name 'ld-linux*.so.*' ! -type l | head -n 1)
    patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$python"
    touch "$folder/tree.done"
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
