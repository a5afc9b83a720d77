# What is done often, by name. `just` lists it.

[private]
default:
    @just --list --unsorted

# What CI runs; or only some of it: just check fmt clippy
check *STAGES:
    .ci/run {{ STAGES }}

# All tests, or those of one crate or name: just test -p model
test *ARGUMENTS:
    cargo test {{ if ARGUMENTS == "" { "--workspace" } else { ARGUMENTS } }}

# Rollouts in virtual time against simulated devices, with misfortune of some thirty kinds: just torture-worlds 100000 SEED
torture-worlds N="1000000" FIRST="0":
    REFLASH_ROLLOUTS={{ N }} REFLASH_FIRST={{ FIRST }} cargo test --release -p model --test torture in_ten -- --nocapture

# One of those worlds once more, with everything that happens in it
replay SEED:
    REFLASH_SEED={{ SEED }} cargo test -p model --test torture played_again -- --nocapture

# Format all code
fmt:
    cargo fmt --all

# Clippy, with every warning an error
lint:
    .ci/run clippy

# Licences, sources and banned crates
deny:
    .ci/run deny

# The demo: a simulated fleet, updated
demo *ARGUMENTS:
    cargo run --release -- demo {{ ARGUMENTS }}

# The page in a real browser; with SCREENSHOTS=FOLDER it leaves pictures of it there
browser:
    .ci/run browser

# A page that is open for long: its memory over minutes of rollouts, and its frames; just page-memory 10
page-memory MINUTES="10":
    cargo build --release --bin reflash
    npm --prefix tests/browser ci --ignore-scripts
    REFLASH=${CARGO_TARGET_DIR:-$PWD/target}/release/reflash node tests/browser/long.js {{ MINUTES }}

# The pictures of the guide, taken anew
pictures:
    cargo build --bin reflash
    npm --prefix tests/browser ci --ignore-scripts
    REFLASH=${CARGO_TARGET_DIR:-$PWD/target}/debug/reflash node tests/browser/pictures.js

# The integration in a real Home Assistant: just homeassistant component, or a file of tests/homeassistant/e2e
homeassistant *ARGUMENTS:
    tests/homeassistant/run {{ ARGUMENTS }}

# The folder of the server that the next three speak of; another one: just data=/tmp/x serve
data := "target/data"

# The server: just serve --config reflash.yaml
serve *ARGUMENTS:
    cargo run --release -- serve --data {{ data }} {{ ARGUMENTS }}

# The server for simulated devices on loopback, from `just sim ir-remote --bind 127.0.0.2 --count 3 --http-port 8080`
try *ARGUMENTS:
    mkdir -p {{ data }}/firmware
    cp docs/guide/try.yaml {{ data }}/reflash.yaml
    cargo run --release -- serve --data {{ data }} {{ ARGUMENTS }}

# Ask that server: just ask device list
ask *ARGUMENTS:
    cargo run --release -- {{ ARGUMENTS }} --data {{ data }}

# Manual pages and completions, for a package: just pages target/pages
pages FOLDER:
    cargo run --release -- man --output {{ FOLDER }}/man1
    for shell in bash zsh fish; do cargo run --release -- completions $shell > {{ FOLDER }}/reflash.$shell; done

# Simulated devices: just sim ir-remote --count 4 --bind 127.0.0.2
sim *ARGUMENTS:
    cargo run --release -- simulate {{ ARGUMENTS }}

# Fuzz one parser: just fuzz espota_answer 600
fuzz TARGET SECONDS="60":
    FUZZ_TARGETS={{ TARGET }} FUZZ_SECONDS={{ SECONDS }} .ci/run fuzz

# Take the new snapshots of insta as the right ones; look at them with `git diff` before you commit
accept *ARGUMENTS="--workspace":
    INSTA_UPDATE=always cargo test {{ ARGUMENTS }}

# Take the routes as they are into api/openapi.json; look at it with `git diff` before you commit
accept-api:
    REFLASH_ACCEPT=1 cargo test -p server --test api openapi

# Look what rights the systemd unit leaves to the server: at most 2.0
unit:
    systemd-analyze security --offline=true --threshold=20 packaging/systemd/reflash.service

# One of the side-by-side benchmarks: just bench scan --runs 10; bench/README.md tells which there are
bench *ARGUMENTS:
    cargo build --release -p app -p bench
    target/release/bench {{ ARGUMENTS }}

# Kill the server at system calls, and let them fail; needs strace: just torture-kills --points 100
torture-kills *ARGUMENTS:
    cargo build -p app --bin reflash --example torture
    target/debug/examples/torture {{ ARGUMENTS }}

# How long a release build takes from nothing, in CPU seconds, and how large the program is
build-cold:
    #!/usr/bin/env bash
    set -euo pipefail
    built=$(mktemp -d)
    trap 'rm -rf "$built"' EXIT
    time CARGO_TARGET_DIR=$built cargo build --release
    ls -l "$built/release/reflash"

# Both: a million worlds, then every point of the real server (some hours)
torture: torture-worlds torture-kills
