"""The cases of tests/bench, and how they are measured: medians of interleaved runs, their ratios, peak memory."""
import argparse
import contextlib
import hashlib
import json
import os
import platform
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, field

import bench_images

BIN = os.environ["D_BIN"]
BENCH = os.environ["D_BENCH"]
IMAGES = f"{BENCH}/images"
# Between two runs, in seconds.
SETTLE = 0.01
ENV = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": os.environ["HOME"], "LANG": "C.UTF-8"}


@dataclass
class Case:
    """One row: our command, the peers', and the ratio that is needed and aimed at. {new} is a fresh folder for each run."""
    name: str
    ours: str
    peers: dict = field(default_factory=dict)
    # peer -> (needed, aim), as ratios of medians, ours / theirs
    targets: dict = field(default_factory=dict)
    runs: int = 5
    # A figure in seconds that nothing can beat by much, where there is one.
    limit: object = None
    where: str = "tmpfs"
    # The seconds are those that the command prints, not its own; the best run counts, since what a network can do is bounded
    # from above, and all else that runs on a small machine only slows it.
    printed: bool = False


def layers(image):
    found, _ = bench_images.manifest(f"{IMAGES}/{image}")
    return [bench_images.blob_path(f"{IMAGES}/{image}", layer["digest"]) for layer in found["layers"]]


def manifest_path(image):
    return bench_images.manifest(f"{IMAGES}/{image}")[1]


def cases(registry, work):
    """All rows. `work` has what the peers need prepared: rootfs and containers of the small image."""
    box = f"{work}/box"
    crun = f"exec crun --root {work}/crun --cgroup-manager=disabled run -b {work}"
    fetch = "; ".join(
        f"curl -s http://{registry}/v2/python/blobs/sha256:{os.path.basename(blob)} | openssl dgst -sha256"
        for blob in layers("python"))
    podman = "podman --root {new}/store --runroot {new}/run --storage-driver overlay --cgroup-manager cgroupfs"
    kept = f"podman --root {work}/store --runroot {work}/run --storage-driver overlay --cgroup-manager cgroupfs"
    skopeo = "skopeo --insecure-policy copy --quiet --src-tls-verify=false"
    yield Case("pull python", f"d-pull -q --cache {{new}}/cache {registry}/python:latest",
               {"skopeo": f"{skopeo} docker://{registry}/python:latest oci:{{new}}/oci:x", "curl|openssl": fetch},
               {"skopeo": (0.65, 0.5), "curl|openssl": (1.2, 1.0)})
    yield Case("pull huge", f"d-pull -q --cache {{new}}/cache {registry}/huge:latest",
               {"skopeo": f"{skopeo} docker://{registry}/huge:latest oci:{{new}}/oci:x"}, {"skopeo": (0.65, 0.5)})
    yield Case("pull small (disk)", f"exec d-pull -q --cache {{new}}/cache {registry}/small:latest",
               {"skopeo": f"exec {skopeo} docker://{registry}/small:latest oci:{{new}}/oci:x"}, {"skopeo": (1.0, 0.7)}, runs=15,
               where="disk")
    for where in ("tmpfs", "disk"):
        yield Case(f"unpack python ({where})", f"d-unpack --map subid {manifest_path('python')} {{new}}/c",
                   {"umoci": f"umoci unpack --rootless --image {IMAGES}/python:latest {{new}}/b",
                    "tar -xzf": f"mkdir {{new}}/t; for l in {' '.join(layers('python'))}; do tar -xzf $l -C {{new}}/t; done; :"},
                   {"umoci": (0.25, 0.12), "tar -xzf": (0.5, 0.3)}, runs=5 if where == "tmpfs" else 3, where=where,
                   limit=floor if where == "tmpfs" else None)
    yield Case("unpack python-zstd", f"d-unpack --map subid {manifest_path('python-zstd')} {{new}}/c",
               {"zstdcat|tar": f"mkdir {{new}}/t; for l in {' '.join(layers('python-zstd'))}; do zstdcat $l | tar -x -C {{new}}/t; done; :"},
               {"zstdcat|tar": (0.8, 0.6)})
    yield Case("unpack many", f"d-unpack --map subid {manifest_path('many')} {{new}}/c",
               {"umoci": f"umoci unpack --rootless --image {IMAGES}/many:latest {{new}}/b"})
    yield Case("pull+unpack python", f'd-unpack "$(d-pull -q --cache {{new}}/cache {registry}/python:latest)" {{new}}/c',
               {"podman pull": f"{podman} pull -q --tls-verify=false {registry}/python:latest"}, {"podman pull": (0.3, 0.15)})
    yield Case("pull|unpack python (pipe)",
               f"d-pull -q --cache {{new}}/cache -o - {registry}/python:latest | d-unpack - {{new}}/c",
               {"podman pull": f"{podman} pull -q --tls-verify=false {registry}/python:latest"})
    yield Case("second container", f"d-unpack --layers {manifest_path('python')} {{new}}/c",
               {"podman create": f"{kept} create {registry}/python:latest"}, {"podman create": (0.1, 0.05)}, runs=20)
    single = f"{box}-single"
    yield Case("start, single map", f"exec d-enter --map single {single} /bin/true",
               {"bwrap (same mounts)": f"exec bwrap {same_mounts(single)} /bin/true",
                "bwrap (fewer mounts)": f"exec bwrap --unshare-all --proc /proc --dev /dev --tmpfs /tmp --bind {single}/rootfs / /bin/true",
                "unshare": f"exec unshare -Urmpfniu --root {single}/rootfs --mount-proc /bin/true"},
               {"bwrap (same mounts)": (0.8, 0.55), "bwrap (fewer mounts)": (1.0, 0.8), "unshare": (1.5, 1.1)}, runs=200)
    yield Case("start, subid map", f"exec d-enter --map subid {box} /bin/true",
               {"unshare": f"exec unshare -Ur --map-auto -mpf --root {box}/rootfs /bin/true",
                "crun (same container)": f"{crun}/same c{{n}}", "crun (its own spec)": f"{crun}/bundle c{{n}}"},
               {"unshare": (1.3, 1.0), "crun (same container)": (0.5, 0.3), "crun (its own spec)": (0.5, 0.3)}, runs=200)
    yield Case("start, --net user", f"exec d-enter --map subid -n {box} /bin/true",
               # Not crun: it refuses where cgroup v1 is in use, too.
               {"podman run (runc)": f"exec {kept} --runtime runc run --rm --network=slirp4netns {registry}/small:latest /bin/true"},
               {"podman run (runc)": (0.15, 0.08)}, runs=20)
    network = f"exec python3 {BENCH}/bench_network.py"
    for ours, peer in (("d-netup", "slirp4netns"), ("d-netup-pasta", "pasta")):
        for way in ("out", "in"):
            yield Case(f"netup-throughput {way}, {peer}", f"{network} {way} {ours}", {peer: f"{network} {way} {peer}"},
                       {peer: (1.05, 1.0)}, runs=31, printed=True)
        yield Case(f"netup-ready, {peer}", f"{network} ready {ours}", {peer: f"{network} ready {peer}"}, runs=50, printed=True)
    yield Case("netup-builtin", f"{network} forward d-netup",
               {peer: f"{network} forward {peer}" for peer in ("slirp4netns", "rootlesskit", "socat")}, runs=15, printed=True)


def same_mounts(container):
    """bwrap's options for the namespaces and mounts that d-enter makes for a container: its plan says which."""
    if not container.startswith("/"):
        return ""
    plan = json.loads(subprocess.run([f"{BIN}/d-enter", "-q", "--map", "single", "--dry-run", container], env=ENV, check=True,
                                     stdout=subprocess.PIPE).stdout)
    words = ["--unshare-all", "--die-with-parent", "--clearenv", "--hostname", "box", "--bind", f"{container}/rootfs", "/",
             "--proc", "/proc", "--dev", "/dev", "--mqueue", "/dev/mqueue", "--ro-bind", "/sys", "/sys", "--tmpfs", "/tmp", "--tmpfs", "/run"]
    for path, _ in plan["files"]:
        words += ["--ro-bind", "/etc/hosts", path]
    for path in plan["masked"]:
        if os.path.isdir(path):
            words += ["--tmpfs", path, "--remount-ro", path]
        elif os.path.exists(path):
            words += ["--ro-bind", "/dev/null", path]
    for path in filter(os.path.isdir, plan["readonly"]):
        words += ["--ro-bind", path, path]
    return shlex.join(words)


def floor():
    """(Inflate + hash + untar of the plain layers) / 2 cores: what unpacking `python` must cost at least."""
    start = time.perf_counter()
    plain = [zlib.decompressobj(31).decompress(open(blob, "rb").read()) for blob in layers("python")]
    for data in plain:
        hashlib.sha256(data)
    spent = time.perf_counter() - start
    with fresh("tmpfs") as new:
        for data in plain:
            with open(f"{new}/layer.tar", "wb") as file:
                file.write(data)
            start = time.perf_counter()
            subprocess.run(["tar", "-xf", f"{new}/layer.tar", "-C", new], stderr=subprocess.DEVNULL, check=False)
            spent += time.perf_counter() - start
    return spent / 2


@contextlib.contextmanager
def fresh(where):
    """A new folder. On disk it stays until the end: ext4 is slow to create right after much was deleted."""
    if where == "disk":
        yield tempfile.mkdtemp(prefix="run.", dir=f"{BENCH}/disk")
        return
    new = tempfile.mkdtemp(prefix="d-bench.", dir="/dev/shm")
    try:
        yield new
    finally:
        remove(new)


def remove(folder):
    """Removes a tree that holds files of subordinate ids and folders without write permission."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.exists(folder):
        subprocess.run(["unshare", "--map-auto", "--map-root-user", "rm", "-rf", folder], check=True)


def once(command, where, number, memory=False, printed=False):
    """Runs a shell command; its seconds, or with `memory` the peak of its largest process in MB, or what it has `printed`.
    None: it failed."""
    with fresh(where) as new:
        command = command.replace("{new}", new).replace("{n}", str(number))
        if command.startswith("exec ") and not (memory or printed):
            return spawned(shlex.split(command[5:]))
        argv = ["sh", "-c", command]
        report = f"{BENCH}/memory.{os.getpid()}"
        if memory:
            argv = ["/usr/bin/time", "-o", report, "-f", "%M", *argv]
        start = time.perf_counter()
        done = subprocess.run(argv, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        took = time.perf_counter() - start
        if done.returncode != 0:
            print(f"bench: {command}: status {done.returncode}: {done.stderr.decode(errors='replace')[-400:]}", file=sys.stderr)
            return None
        if printed:
            return float(done.stdout)
        if not memory:
            return took
        with open(report) as file:
            return int(file.read().split()[-1]) / 1024


def spawned(argv):
    """The seconds of what takes milliseconds: without a shell, nor pipes, nor what Python's subprocess does around them, all of
    which would be counted for both sides and bring every ratio nearer to 1."""
    path = shutil.which(argv[0], path=ENV["PATH"])
    nowhere = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)]
    start = time.perf_counter()
    pid = os.posix_spawn(path, argv, ENV, file_actions=nowhere)
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter() - start
    if status != 0:
        print(f"bench: {shlex.join(argv)}: status {os.waitstatus_to_exitcode(status)}", file=sys.stderr)
        return None
    return took


def measure(case, runs):
    """The row of a case: medians (or best) in seconds, ratios, peaks in MB."""
    commands = {"ours": case.ours, **case.peers}
    times = {who: [] for who in commands}
    first = {who: once(command, case.where, f"m-{os.getpid()}", not case.printed, case.printed) for who, command in commands.items()}
    working = [who for who, figure in first.items() if figure is not None]
    for run in range(runs):
        # Interleaved, and in turning order, so that a slow minute of the machine or a warm cache favours nobody.
        turn = run % len(working) if working else 0
        for who in working[turn:] + working[:turn]:
            # What the kernel still has to take down of one is not the next one's time: bwrap does not wait for that.
            time.sleep(SETTLE)
            took = once(commands[who], case.where, f"{run}-{os.getpid()}", printed=case.printed)
            if took is not None:
                times[who].append(took)
    typical = min if case.printed else statistics.median
    figures = {who: typical(taken) for who, taken in times.items() if taken}
    ours = figures.get("ours")
    return {
        "case": case.name, "runs": runs, "seconds": figures, "peak_mb": dict.fromkeys(first) if case.printed else first,
        "ratio": {peer: ours / figures[peer] for peer in case.peers if ours and peer in figures},
        "targets": case.targets, "limit_seconds": case.limit() if case.limit else None,
    }


def waiting_memory(work):
    """Peak memory of d-enter's processes and of d-netup while a container with a network waits, in MB."""
    enter = subprocess.Popen([f"{BIN}/d-enter", "-n", f"{work}/box", "sh", "-c", "echo up; exec sleep 1000"], env=ENV,
                             stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    enter.stdout.readline()
    peaks = {}
    for pid in descendants(enter.pid):
        with open(f"/proc/{pid}/status") as file:
            status = dict(line.split(":", 1) for line in file)
        name = status["Name"].strip()
        peaks[name] = max(peaks.get(name, 0), int(status["VmHWM"].split()[0]) / 1024)
    enter.terminate()
    enter.wait()
    return {name: peak for name, peak in peaks.items() if name.startswith("d-")}


def descendants(pid):
    yield pid
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        for child in file.read().split():
            yield from descendants(int(child))


def sizes():
    return {tool: os.path.getsize(f"{BIN}/{tool}") / 1e6 for tool in ("d-pull", "d-unpack", "d-enter", "d-netup")}


SCALES = {
    "megabytes": ([1, 10, 100, 1000], lambda n: {"megabytes": n}),
    "layers": ([1, 10, 50, 200], lambda n: {"layers": n, "files": n}),
    "files": ([100, 1000, 10_000, 100_000, 1_000_000], lambda n: {"files": n}),
}


def scale(quick):
    """Seconds of d-unpack against size, number of layers, number of files; also drawn, as scale.svg."""
    result = {}
    for axis, (points, options) in SCALES.items():
        result[axis] = []
        for n in points[:-1] if quick else points:
            with fresh("tmpfs") as new:
                bench_images.make_sized(f"{new}/image", **options(n))
                taken = [once(f"d-unpack --map subid {bench_images.manifest(f'{new}/image')[1]} {{new}}/c", "tmpfs", 0)
                         for _ in range(3)]
            result[axis].append((n, statistics.median(t for t in taken if t is not None)))
    with open(f"{BENCH}/scale.svg", "w") as file:
        file.write(drawing(result))
    return result


def drawing(result):
    """Three log-log plots side by side: a cost that grows linearly is a line of slope one."""
    import math
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="960" height="340" font-family="sans-serif" font-size="12">']
    for column, (axis, points) in enumerate(result.items()):
        left = 20 + column * 320
        place = lambda n, t: (left + 40 + 40 * math.log10(n), 280 - 60 * (math.log10(t) + 2.5))
        out.append(f'<text x="{left + 120}" y="325">{axis}</text>')
        out.append(f'<rect x="{left + 40}" y="10" width="250" height="270" fill="none" stroke="#999"/>')
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(n, t) for n, t in points))
        out.append(f'<polyline points="{path}" fill="none" stroke="#06c" stroke-width="2"/>')
        for n, t in points:
            x, y = place(n, t)
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#06c"/><text x="{x:.1f}" y="{y - 8:.1f}">{t:.3g} s</text>')
            out.append(f'<text x="{x:.1f}" y="296" text-anchor="middle">{n}</text>')
    return "\n".join(out + ["</svg>\n"])


@contextlib.contextmanager
def registry():
    """A docker-registry on a free port of the loopback address that has the images; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % probe.getsockname()[1]
    config = {"version": "0.1", "log": {"level": "error", "accesslog": {"disabled": True}},
              "storage": {"filesystem": {"rootdirectory": f"{BENCH}/registry"}}, "http": {"addr": address, "secret": "not-one"}}
    with open(f"{BENCH}/registry.yml", "w") as file:
        json.dump(config, file)
    server = subprocess.Popen(["docker-registry", "serve", f"{BENCH}/registry.yml"], stderr=subprocess.DEVNULL)
    try:
        while subprocess.run(["curl", "-fs", "-o", "/dev/null", f"http://{address}/v2/"], check=False).returncode:
            time.sleep(0.05)
        for image in bench_images.MAKERS:
            subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
                            f"oci:{IMAGES}/{image}:latest", f"docker://{address}/{image}:latest"], check=True)
        yield address
    finally:
        server.terminate()
        server.wait()


def prepare(address, work):
    """Containers of the small image for the start-up cases, for us and for the peers."""
    for name, choice in (("box", "subid"), ("box-single", "single")):
        subprocess.run([f"{BIN}/d-unpack", "-q", "--map", choice, manifest_path("small"), f"{work}/{name}"], env=ENV, check=True,
                       stdout=subprocess.DEVNULL)
    # What crun runs: the equal container, with its system call filter; and what `crun spec --rootless` writes, which has none.
    same, bundle = f"{work}/same", f"{work}/bundle"
    os.makedirs(same)
    with open(f"{same}/config.json", "w") as file:
        subprocess.run([f"{BIN}/d-enter", "-q", "--map", "subid", "--print-oci", f"{work}/box", "/bin/true"], env=ENV, check=True, stdout=file)
    os.makedirs(bundle)
    subprocess.run(["crun", "spec", "--rootless"], cwd=bundle, check=True)
    with open(f"{bundle}/config.json") as file:
        spec = json.load(file)
    spec["process"].update(args=["/bin/true"], terminal=False)
    spec["root"] = {"path": f"{work}/box/rootfs"}
    for kind, own in (("uid", os.getuid()), ("gid", os.getgid())):
        first = subordinate(kind)
        spec["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": own, "size": 1},
                                            {"containerID": 1, "hostID": first, "size": 65536}]
    with open(f"{bundle}/config.json", "w") as file:
        json.dump(spec, file)
    kept = ["podman", "--root", f"{work}/store", "--runroot", f"{work}/run", "--storage-driver", "overlay"]
    for image in ("small", "python"):
        subprocess.run([*kept, "pull", "-q", "--tls-verify=false", f"{address}/{image}:latest"], env=ENV, check=False,
                       stdout=subprocess.DEVNULL)


def subordinate(kind):
    import pwd
    name = pwd.getpwuid(os.getuid()).pw_name
    with open(f"/etc/sub{kind}") as file:
        return next(int(line.split(":")[1]) for line in file if line.startswith(f"{name}:"))


def table(rows):
    """The rows as text: times, ratio with what is needed and aimed at, peak memory."""
    lines = ["| case | ours | peer | theirs | ratio | needed | aim | peak MB, ours / theirs |", "|---|---|---|---|---|---|---|---|"]
    show = lambda t: "failed" if t is None else f"{t * 1000:.1f} ms" if t < 1 else f"{t:.2f} s"
    for row in rows:
        ours = show(row["seconds"].get("ours"))
        for peer in [p for p in row["peak_mb"] if p != "ours"]:
            ratio, target = row["ratio"].get(peer), row["targets"].get(peer)
            peaks = "/".join("-" if m is None else f" {m:.0f} " for m in (row["peak_mb"]["ours"], row["peak_mb"][peer]))
            lines.append(f"| {row['case']} | {ours} | {peer} | {show(row['seconds'].get(peer))} | "
                         f"{'-' if ratio is None else f'{ratio:.2f}'} | {target[0] if target else ''} | {target[1] if target else ''} | {peaks} |")
        if row["limit_seconds"] and ours != "failed":
            limit = row["limit_seconds"]
            lines.append(f"| {row['case']} | {ours} | (inflate+hash+untar)/2 | {show(limit)} | {row['seconds']['ours'] / limit:.2f} | 1.5 | 1.15 | |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(prog="tests/bench", description="Measures the d-utils against their peers.")
    parser.add_argument("name", nargs="*", help="cases whose name begins so, and of memory, size, scale (default: all)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="fewer runs, a smaller scale")
    parser.add_argument("--list", action="store_true", help="the names of the cases")
    args = parser.parse_args()
    wanted = lambda name: not args.name or any(name.startswith(n) for n in args.name)
    bench_images.make(IMAGES)
    if args.list:
        print("\n".join([case.name for case in cases("", "")] + ["memory", "size", "scale"]))
        return
    os.makedirs(f"{BENCH}/disk", exist_ok=True)
    result = {"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
              "date": time.strftime("%Y-%m-%d"), "rows": []}
    with fresh("tmpfs") as work, registry() as address:
        prepare(address, work)
        ENV["D_CACHE"] = f"{work}/cache"
        for case in cases(address, work):
            if wanted(case.name):
                print(f"bench: {case.name}", file=sys.stderr)
                result["rows"].append(measure(case, max(3, case.runs // 10) if args.quick else case.runs))
        if wanted("memory"):
            result["waiting_mb"] = waiting_memory(work)
    if wanted("size"):
        result["size_mb"] = sizes()
    if wanted("scale"):
        result["scale"] = scale(args.quick)
    remove(f"{BENCH}/disk")
    if args.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['date']}, {result['machine']}; medians of interleaved runs (netup: the best), ratio = ours / theirs\n")
    print(table(result["rows"]))
    for key, unit in (("waiting_mb", "peak MB while waiting"), ("size_mb", "MB of the stripped binary")):
        if key in result:
            print(f"\n{unit}: " + ", ".join(f"{name} {value:.1f}" for name, value in result[key].items()))
    for axis, points in result.get("scale", {}).items():
        print(f"\nunpack, {axis}: " + ", ".join(f"{n}: {t:.3f} s" for n, t in points) + f" (drawn in {BENCH}/scale.svg)")


if __name__ == "__main__":
    main()
