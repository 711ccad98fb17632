//! A network namespace that podman(1) has made, for an ordinary user's container without a network.

use d_tests::{Scratch, have, is_root, run, skip};

/// Works in a folder of the ordinary user's; stdout is what the test looks at.
const SCRIPT: &str = r#"
export XDG_RUNTIME_DIR="$PWD/runtime" HOME="$PWD"
mkdir -m 700 runtime
mkdir -p rootfs/bin rootfs/proc rootfs/sys rootfs/dev rootfs/etc rootfs/tmp rootfs/run
cp /bin/busybox rootfs/bin/
for applet in sh nc id ip; do ln -s busybox rootfs/bin/$applet; done
podman() { command podman --root "$PWD/store" --runroot "$PWD/runroot" --cgroup-manager cgroupfs --events-backend none "$@"; }
podman run -d --name box --cgroups disabled --network none --rootfs "$PWD/rootfs" \
    sh -c 'while :; do echo hello from $(id -u) | nc -l -p 80; done' >/dev/null
# podman leaves a process behind that holds its namespaces.
trap 'podman rm -f -t 0 box >/dev/null; podman unshare rm -rf store runroot; kill $(cat runtime/libpod/tmp/pause.pid)' EXIT
pid=$(podman inspect -f '{{.State.Pid}}' box)
d-netup --background -p 80 "$pid" >started
supervisor=$(head -n 1 started)
port=$(sed -n 's/^1 tcp 127.0.0.1:\([0-9]*\) 80$/\1/p' started)
socat -u "TCP:127.0.0.1:$port,retry=100,interval=0.1" -
podman exec box ip -4 addr show tap0 | grep -o 'inet [0-9./]*'
podman rm -f -t 0 box >/dev/null
n=0
while kill -0 "$supervisor" 2>/dev/null && [ $n -lt 100 ]; do n=$((n + 1)); sleep 0.1; done
kill -0 "$supervisor" 2>/dev/null || echo ended with it
"#;

/// podman refuses a hybrid cgroup tree: it gets a pure one, in a mount namespace that only root can make for it.
#[test]
fn as_root_a_podman_container_is_connected() {
    let user = std::env::var("D_USER").unwrap_or_default();
    if !is_root() || user.is_empty() {
        return skip("not root, or no ordinary user (D_USER)");
    }
    if !have("podman") {
        return skip("no podman");
    }
    let scratch = Scratch::new();
    run(["chown", "-R", &user]).arg(scratch.path()).ok();
    let script = "[ $(stat -fc %T /sys/fs/cgroup) = cgroup2fs ] || \
        { umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; }; exec runuser -u \"$0\" -- sh -euc \"$1\"";
    let done = scratch.run(["unshare", "-m", "sh", "-euc", script, &user, SCRIPT]).ok();
    done.prints("hello from 0\ninet 10.0.2.100/24\nended with it");
}
