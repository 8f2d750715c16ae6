#!/usr/bin/env bash
# Runs the isolation tests on a machine with cgroup v2 alone: Debian's kernel under qemu.
#
#   bash agent/tests/cgroup2/run.sh              what depends on the version of cgroups
#   bash agent/tests/cgroup2/run.sh all          all of isolation, hardening and mounts, too
#
# The machine this is written on has the controllers in v1 hierarchies, which the kernel gives to
# one version only. The virtual machine has the test binaries as its payload and no disk, no
# network and no other programs than those that the tests call. Needs root nowhere; installs
# nothing: it says which packages are missing. Uses no KVM, so that it runs anywhere.
set -euo pipefail
cd "$(dirname "$0")/../../.."

# --- What is needed ------------------------------------------------------------------------
missing=()
command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
command -v busybox >/dev/null || missing+=(busybox-static)
command -v cpio >/dev/null || missing+=(cpio)
if [ ${#missing[@]} -gt 0 ]; then
    echo "cgroup2: needs the packages ${missing[*]}: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cache=${CARGO_TARGET_DIR:-target}/cgroup2
mkdir -p "$cache"

# The kernel alone, out of its package: nothing of it is installed on this machine.
if [ ! -e "$cache/vmlinuz" ]; then
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
    (cd "$work" && apt-get download -qq "$package")
    dpkg-deb --fsys-tarfile "$work"/linux-image-*.deb | tar -x -C "$work" --wildcards './boot/vmlinuz-*'
    mv "$work"/boot/vmlinuz-* "$cache/vmlinuz"
fi

# --- The tests and the programs that they call -----------------------------------------------
root=$work/root
mkdir -p "$root"/{bin,dev,etc,proc,sys,tmp,tests,usr/bin,lib64}
built=$(cargo test -p allotment-agent --test isolation --test hardening --test mounts \
    --test session --test pods \
    --no-run --message-format=json 2>/dev/null | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
with_libraries() {
    cp -L "$1" "$2"
    { ldd "$1" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        [ -e "$root$library" ] || cp -L "$library" "$root$library"
    done
}
for binary in $built; do
    name=$(basename "$binary" | sed 's/-[0-9a-f]*$//')
    with_libraries "$binary" "$root/tests/$name"
    strip "$root/tests/$name"
done
for program in sh cat chmod cp cut dd env find grep head id ln ls mkdir mknod mount mv nsenter \
    readlink rm rmdir seq setpriv setsid sleep sort tail tar touch tr true unshare wc; do
    with_libraries "$(type -P "$program")" "$root/usr/bin/$program"
done
ln -s ../usr/bin/sh "$root/bin/sh"
ln -s ../usr/bin/true "$root/bin/true"
cp "$(command -v busybox)" "$root/bin/busybox"
printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' > "$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' > "$root/etc/group"
echo cgroup2 > "$root/etc/hostname"

# Without KVM every test counts: by default those that meet a control file, and one each that
# enters a container and shares one.
suites='isolation exceeds_its_memory fork_bomb limits_ ceiling groups_and contained_task weighs
session walled_in sessions_end_with_their_task
pods share_their_processes'
[ "${1:-}" = all ] && suites='isolation
hardening
mounts
session walled_in sessions_end_with_their_task
pods share_their_processes'
cat > "$root/init" <<EOF
#!/bin/busybox sh
b=/bin/busybox
\$b mount -t proc proc /proc
\$b mount -t sysfs sys /sys
\$b mount -t cgroup2 cgroup2 /sys/fs/cgroup
\$b mount -t devtmpfs dev /dev
\$b mkdir -p /dev/pts /dev/shm
\$b mount -t devpts devpts /dev/pts
\$b mount -t tmpfs shm /dev/shm
\$b mount -t tmpfs -o mode=1777 tmp /tmp
\$b ip link set lo up
export PATH=/usr/bin:/bin HOME=/ ALLOT_TEST_LAUNCHER=/tests/allotment-launcher RUST_BACKTRACE=0
echo "controllers: \$(\$b cat /sys/fs/cgroup/cgroup.controllers)"
failed=0
while read -r tests filters; do
    echo "== \$tests"
    /tests/\$tests --test-threads=2 \$filters < /dev/null || failed=1
done <<SUITES
$suites
SUITES
[ \$failed = 0 ] && echo cgroup2-all-passed
\$b poweroff -f
EOF
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 > "$work/initramfs"

# --- The machine ---------------------------------------------------------------------------
timeout 540 qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 1536 \
    -kernel "$cache/vmlinuz" -initrd "$work/initramfs" -no-reboot -nographic -nic none \
    -append "console=ttyS0 quiet panic=-1" < /dev/null | tee "$work/log" | tr -d '\r'
grep -q cgroup2-all-passed "$work/log" || { echo "cgroup2: a test failed" >&2; exit 1; }
