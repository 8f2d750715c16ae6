#!/usr/bin/env bash
# Measures three masters on a machine that cannot build them.
#
#   bash benches/masters.sh pack     # where they were built: target/carry/masters.tar.xz
#   bash benches/masters.sh run      # there, with that file at the same place; at most 10 minutes
#
# Before `pack`: cargo build --release -p allotment-cli -p allotment-benches
#                cargo bench -p allotment-master --bench registry --no-run
set -eu
cd "$(dirname "$0")/.."
carry=target/carry

pack() {
    mkdir -p "$carry"
    cp target/release/allot target/release/allot-bench "$carry"
    # Cargo names it by a hash: the newest one.
    cp "$(find target/release/deps -name 'registry-*' -type f -executable -printf '%T@ %p\n' |
        sort -n | tail -n 1 | cut -d' ' -f2)" "$carry/registry"
    strip "$carry/allot" "$carry/allot-bench" "$carry/registry"
    tar -C "$carry" -c allot allot-bench registry | xz -T0 -2 >"$carry/masters.tar.xz"
    rm "$carry/allot" "$carry/allot-bench" "$carry/registry"
    ls -l "$carry"
}

run() {
    # Above 5,000 agents share connections, each of which takes a file at the leader.
    ulimit -n "$(ulimit -H -n)"
    xz -dc "$carry/masters.tar.xz" | tar -C "$carry" -x
    cd "$carry"
    local part seconds
    while read -r part seconds; do
        printf '\n== %s\n' "$part"
        timeout "$seconds" ./allot-bench --allot ./allot masters "$part" 2>&1 ||
            echo "$part was not measured within $seconds s"
    done <<'PARTS'
writes 30
rate 30
memory 100
knowledge 60
knowledge-large 110
failover 180
PARTS
    printf '\n== the log alone, beside redb; then three masters in one process\n'
    timeout 70 ./registry 2>&1 || echo "registry was not measured within 70 s"
}

case "${1:-}" in
pack | run) "$1" ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
