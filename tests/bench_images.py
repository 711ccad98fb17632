"""The images of tests/bench, as OCI layouts, made once: bench_images.py FOLDER. Runs as an ordinary user.

python  nine layers that buildah made from Debian packages, with whiteouts, an opaque directory, replaced files, hard links,
        a file capability; python-zstd is the same with each layer recompressed
huge    busybox, and 1 GiB of incompressible bytes in one layer
small   busybox
many    200 layers of a few small files
"""
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import zlib

CONTAINERFILE = r"""
FROM scratch
ADD base.tar /
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip python3-setuptools libcap2-bin attr && apt-get clean
RUN apt-get install -y --no-install-recommends gcc libc6-dev make && apt-get clean
RUN apt-get install -y --no-install-recommends python3-numpy python3-sympy python3-django && apt-get clean
RUN mkdir -p /opt/app && cp -a /usr/lib/python3/dist-packages/django /opt/app/v1 && ln -s v1 /opt/app/current
RUN rm -rf /usr/share/doc /usr/share/man /usr/share/locale /var/lib/apt/lists/*
RUN rm -rf /opt/app && mkdir -p /opt/app/v2 && for i in $(seq 1 200); do echo "file $i" >/opt/app/v2/f$i; done && ln -s v2 /opt/app/current
RUN find /usr/lib/python3/dist-packages -name '*.py' -type f | head -4000 | while read f; do echo '# patched' >>"$f"; done
RUN mkdir -p /srv/links && cd /srv/links && for i in $(seq 1 500); do echo $i >a$i; ln a$i h$i; ln -s a$i s$i; done; cp /bin/true netcap && setcap cap_net_raw+ep netcap; cp /bin/true suid && chmod 4755 suid; mkfifo fifo; chown 1000:1000 a2; chown 33:33 a3
CMD ["python3"]
"""


class Layout:
    """Writes an image into an OCI image layout, layer by layer."""

    def __init__(self, path):
        self.path, self.layers, self.diff_ids = path, [], []
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(f"{path}/blobs/sha256")

    def blob(self, data):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{self.path}/blobs/sha256/{digest}", "wb") as file:
            file.write(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def layer(self, tar):
        """Adds a plain tar archive (bytes) as a gzip layer."""
        deflate = zlib.compressobj(1, zlib.DEFLATED, 31)
        data = deflate.compress(tar) + deflate.flush()
        self.layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **self.blob(data)})
        self.diff_ids.append("sha256:" + hashlib.sha256(tar).hexdigest())

    def finish(self):
        machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
        config = {"architecture": machine, "os": "linux", "config": {"Cmd": ["/bin/sh"]},
                  "rootfs": {"type": "layers", "diff_ids": self.diff_ids}}
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", **self.blob(json.dumps(config).encode())}
        self.index({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
                    "layers": self.layers})

    def index(self, manifest):
        """Names the manifest in the index, which makes the layout complete."""
        entry = {"mediaType": manifest.get("mediaType", "application/vnd.oci.image.manifest.v1+json"),
                 **self.blob(json.dumps(manifest).encode()),
                 "annotations": {"org.opencontainers.image.ref.name": "latest"}}
        with open(f"{self.path}/oci-layout", "w") as file:
            file.write('{"imageLayoutVersion":"1.0.0"}')
        with open(f"{self.path}/index.json", "w") as file:
            json.dump({"schemaVersion": 2, "manifests": [entry]}, file)


def manifest(layout):
    """The manifest of a layout's one image, and the path of its blob."""
    with open(f"{layout}/index.json") as file:
        digest = json.load(file)["manifests"][0]["digest"]
    path = blob_path(layout, digest)
    with open(path) as file:
        return json.load(file), path


def blob_path(layout, digest):
    return f"{layout}/blobs/" + digest.replace(":", "/")


def tar(entries):
    """A plain tar archive of (name, bytes or None for a folder)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.mtime = 1700000000
            if data is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            else:
                info.mode, info.size = 0o644, len(data)
            archive.addfile(info, io.BytesIO(data or b""))
    return out.getvalue()


def busybox():
    """A root filesystem of busybox-static with a link for each applet."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for folder in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"]:
            info = tarfile.TarInfo(folder)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1700000000
            archive.addfile(info)
        with open("/bin/busybox", "rb") as file:
            program = file.read()
        info = tarfile.TarInfo("bin/busybox")
        info.mode, info.size, info.mtime = 0o755, len(program), 1700000000
        archive.addfile(info, io.BytesIO(program))
        for applet in subprocess.check_output(["busybox", "--list"], text=True).split():
            if applet != "busybox":
                info = tarfile.TarInfo(f"bin/{applet}")
                info.type, info.linkname, info.mtime = tarfile.SYMTYPE, "busybox", 1700000000
                archive.addfile(info)
    return out.getvalue()


def make_small(path):
    layout = Layout(path)
    layout.layer(busybox())
    layout.finish()


def make_many(path):
    layout = Layout(path)
    layout.layer(busybox())
    for n in range(199):
        layout.layer(tar([("srv", None), (f"srv/{n}", None)] + [(f"srv/{n}/{i}", b"%d\n" % n) for i in range(5)]))
    layout.finish()


def make_huge(path):
    make_sized(path, megabytes=1024)


def make_sized(path, megabytes=0, files=0, layers=1):
    """An image of busybox and `layers` layers that together hold so many incompressible megabytes and small files."""
    layout = Layout(path)
    layout.layer(busybox())
    source = random.Random(1)
    for n in range(layers):
        entries = [("data", None), (f"data/{n}", None)]
        for i in range(files // layers):
            if i % 1000 == 0:
                entries.append((f"data/{n}/{i // 1000}", None))
            entries.append((f"data/{n}/{i // 1000}/{i}", b"%d\n" % i))
        if megabytes:
            size = (megabytes << 20) // layers
            entries.append((f"data/{n}/bytes", b"".join(source.randbytes(1 << 16) for _ in range(size >> 16))))
        layout.layer(tar(entries))
    layout.finish()


def make_python(path):
    context = path + ".context"
    os.makedirs(context, exist_ok=True)
    if not os.path.exists(f"{context}/base.tar"):
        # As in published images /dev is empty.
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "--skip=output/dev", "bookworm",
                        f"{context}/base.tar.part"], check=True, stdout=sys.stderr)
        os.rename(f"{context}/base.tar.part", f"{context}/base.tar")
    with open(f"{context}/Containerfile", "w") as file:
        file.write(CONTAINERFILE)
    buildah = ["buildah", "--root", f"{path}.storage", "--runroot", f"{path}.run"]
    subprocess.run([*buildah, "bud", "--layers", "--isolation", "chroot", "--format", "oci", "-t", "python", context],
                   check=True, stdout=sys.stderr)
    subprocess.run([*buildah, "push", "--quiet", "localhost/python", f"oci:{path}.new:latest"], check=True, stdout=sys.stderr)
    # Storage of an ordinary user holds files of subordinate ids.
    subprocess.run(["buildah", "unshare", "rm", "-rf", f"{path}.storage", f"{path}.run", context], check=True)
    os.rename(path + ".new", path)


def make_python_zstd(path):
    source = path.removesuffix("-zstd")
    old, _ = manifest(source)
    layout = Layout(path)
    with open(blob_path(source, old["config"]["digest"]), "rb") as file:
        layout.blob(file.read())
    for layer in old["layers"]:
        with open(blob_path(source, layer["digest"]), "rb") as file:
            plain = zlib.decompress(file.read(), 31)
        data = subprocess.run(["zstd", "-q", "-3"], input=plain, stdout=subprocess.PIPE, check=True).stdout
        layer.update(mediaType="application/vnd.oci.image.layer.v1.tar+zstd", **layout.blob(data))
    layout.index(old)


MAKERS = {"small": make_small, "many": make_many, "huge": make_huge, "python": make_python, "python-zstd": make_python_zstd}


def make(folder, names=MAKERS):
    """Makes those images that are not there."""
    os.makedirs(folder, exist_ok=True)
    for name in names:
        if not os.path.exists(f"{folder}/{name}/index.json"):
            print(f"bench: makes the image {name}", file=sys.stderr)
            MAKERS[name](f"{folder}/{name}")


if __name__ == "__main__":
    make(sys.argv[1])
