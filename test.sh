#!/usr/bin/env bash
# Runs every check and test. Needs Rust and gcc; installs what else it needs.
#
#   bash test.sh
#
# Takes root for the tests of cgroups, namespaces and users; without root those parts have
# nothing to test and the plain-process tests run alone.
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s\n' "$*"; }

# --- What a bare Debian lacks -------------------------------------------------------------
# python3-venv: the htcondor wheel, which reads our event logs and expands submit files.
# util-linux: setpriv, to run the plain-process tests without root.
# iproute2: `ip`, for tests on a network of namespaces.
# qemu, busybox, cpio, binutils: a virtual machine with cgroup v2 (agent/tests/cgroup2/run.sh).
need=()
python3 -c 'import venv, ensurepip' 2>/dev/null || need+=(python3 python3-venv)
command -v setpriv >/dev/null || need+=(util-linux)
command -v ip >/dev/null || need+=(iproute2)
command -v qemu-system-x86_64 >/dev/null || need+=(qemu-system-x86)
command -v busybox >/dev/null || need+=(busybox-static)
command -v cpio >/dev/null || need+=(cpio)
command -v strip >/dev/null || need+=(binutils)
if [ ${#need[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "test.sh needs ${need[*]}; install them (apt-get install ${need[*]}) and run it again" >&2
        exit 1
    fi
    step "apt-get install ${need[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}"
fi

step "formatting"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --quiet -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

if command -v cargo-deny >/dev/null; then
    step "licences, bans, sources"
    cargo deny --log-level error check licenses bans sources
fi

step "tests"
if command -v cargo-nextest >/dev/null; then
    cargo nextest run --workspace --no-fail-fast
else
    cargo test --workspace --no-fail-fast
fi

step "isolation on cgroup v2, in a virtual machine"
bash agent/tests/cgroup2/run.sh

step "documentation examples"
cargo test --workspace --doc --quiet

echo
echo "all checks passed"
