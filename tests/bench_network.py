"""What the network cases of tests/bench run; prints the seconds that count, without those of starting and ending.

bench_network.py out|in WHO   iperf3 moves bytes from a namespace to the host, or back, through WHO
bench_network.py ready WHO    from the start of WHO to its word that the network is up
bench_network.py forward WHO  iperf3 moves bytes from the host to a server behind a forwarded port
"""
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

BYTES = 256 << 20
GUEST_PORT = 5201
# The same addresses for all; the host's 127.0.0.1 is the gateway's address, so that nothing leaves this machine.
PASTA = ["pasta", "--foreground", "--quiet", "--config-net", "--no-dhcp", "--ipv4-only", "--ns-ifname", "tap0", "--mtu", "65520",
         "--address", "10.0.2.100", "--netmask", "24", "--gateway", "10.0.2.2",
         "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"]
CONNECTED = {
    "d-netup": ["d-netup", "--allow-host-loopback", "--ready-fd", "{fd}", "{pid}"],
    "slirp4netns": ["slirp4netns", "--configure", "--mtu=65520", "--ready-fd={fd}", "{pid}", "tap0"],
    "d-netup-pasta": ["d-netup", "--backend", "pasta", "--allow-host-loopback", "--ready-fd", "{fd}", "{pid}"],
    "pasta": [*PASTA, "--pid", "/proc/self/fd/{fd}", "{pid}"],
}
SERVER = ["iperf3", "--server", "--port", str(GUEST_PORT)]
FORWARDED = {
    "d-netup": ["d-netup", "--forward", "builtin", "-p", "{port}:5201", "--", *SERVER],
    "slirp4netns": ["d-netup", "--forward", "slirp", "-p", "{port}:5201", "--", *SERVER],
    "rootlesskit": ["rootlesskit", "--net=slirp4netns", "--mtu=65520", "--disable-host-loopback", "--copy-up=/etc",
                    "--port-driver=builtin", "--publish", "127.0.0.1:{port}:5201/tcp", *SERVER],
    # A relay as one writes it by hand: a process a connection on either side.
    "socat": ["unshare", "-Urn", "sh", "-c", "ip link set lo up; echo $$; exec \"$@\"", "sh", *SERVER],
}


@contextlib.contextmanager
def running(argv, **options):
    """A process that is ended at the end."""
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def namespace():
    """The pid of a process in a network namespace of its own."""
    own = os.readlink("/proc/self/ns/net")
    with running(["unshare", "-Urn", "sleep", "1000"]) as holder:
        # The map is the last thing that unshare(1) does before it becomes sleep(1).
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own or "sleep" not in open(f"/proc/{holder.pid}/comm").read():
            time.sleep(0.001)
        yield holder.pid


@contextlib.contextmanager
def connected(who, pid):
    """Connects the network of `pid`; the seconds until it said that it is ready."""
    ready, fd = os.pipe()
    argv = [word.format(fd=fd, pid=pid) for word in CONNECTED[who]]
    start = time.perf_counter()
    with running(argv, stdout=subprocess.DEVNULL, pass_fds=[fd]):
        os.close(fd)
        if not os.read(ready, 1):
            sys.exit(f"{who} did not start")
        yield time.perf_counter() - start


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def transfer(argv, patience=5.0):
    """The seconds that iperf3 counts, asked again until its server is there."""
    deadline = time.monotonic() + patience
    while True:
        done = subprocess.run([*argv, "--bytes", str(BYTES), "--json"], stdout=subprocess.PIPE, check=False)
        report = json.loads(done.stdout or "{}")
        if done.returncode == 0 and "sum_received" in report.get("end", {}):
            received = report["end"]["sum_received"]
            return received["bytes"] and BYTES * 8 / received["bits_per_second"]
        if time.monotonic() > deadline:
            sys.exit(f"{argv}: {report.get('error', done.returncode)}")
        time.sleep(0.05)


def through(who, *direction):
    port = free_port()
    with running(["iperf3", "--server", "--bind", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL), \
            namespace() as pid, connected(who, pid):
        inside = ["nsenter", "--preserve-credentials", "-U", "-n", "-t", str(pid)]
        return transfer([*inside, "iperf3", "--client", "10.0.2.2", "--port", str(port), *direction])


def forward(who):
    port = free_port()
    client = ["iperf3", "--client", "127.0.0.1", "--port", str(port)]
    argv = [word.format(port=port) for word in FORWARDED[who]]
    with tempfile.TemporaryDirectory() as runtime:
        with running(argv, stdout=subprocess.PIPE, env={**os.environ, "XDG_RUNTIME_DIR": runtime}) as server:
            if who != "socat":
                return transfer(client)
            pid = server.stdout.readline().decode().strip()
            enter = f"nsenter --preserve-credentials -U -n -t {pid} socat -b 65536 - TCP4\\:127.0.0.1\\:{GUEST_PORT}"
            with running(["socat", "-b", "65536", f"TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork", f"EXEC:{enter}"]):
                return transfer(client)


def ready(who):
    with namespace() as pid, connected(who, pid) as seconds:
        return seconds


if __name__ == "__main__":
    what, who = sys.argv[1:]
    print({"out": through, "in": lambda who: through(who, "--reverse"), "ready": ready, "forward": forward}[what](who))
