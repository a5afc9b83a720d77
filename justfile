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

# The server, with its data in target/data: just serve --config reflash.yaml
serve *ARGUMENTS:
    cargo run --release -- serve --data target/data {{ ARGUMENTS }}

# Ask that server: just ask device list
ask *ARGUMENTS:
    cargo run --release -- {{ ARGUMENTS }} --data target/data

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

# The side-by-side benchmarks
bench *ARGUMENTS:
    cargo build --release -p app -p bench
    target/release/bench {{ ARGUMENTS }}

# How long a release build takes from nothing, in CPU seconds, and how large the program is
build-cold:
    #!/usr/bin/env bash
    set -euo pipefail
    built=$(mktemp -d)
    trap 'rm -rf "$built"' EXIT
    time CARGO_TARGET_DIR=$built cargo build --release
    ls -l "$built/release/reflash"
