//! IMAGE: every form of it, the choice among several, and what is none.

use std::fs;

use d_common::container::Stamp;
use d_tests::image::{Compression, Image, descriptor};
use d_tests::tar::{Entry as E, tar, tar_without_end};
use d_tests::{Scratch, have, skip};
use serde_json::json;

use crate::{image, tree};

fn sample() -> Image {
    image([vec![E::dir("d"), E::file("d/f", "1")], vec![E::file("g", "2")]]).config("Cmd", json!(["/bin/x"]))
}

const TREE: &str = "d/ d/f=1 g=2";

#[track_caller]
fn gives(scratch: &Scratch, operand: &str, expected: &str) -> Stamp {
    let done = scratch.run(["d-unpack", operand, "c"]).ok();
    crate::is_silent(&done);
    done.prints(scratch.join("c").to_str().unwrap());
    assert_eq!(tree(scratch, "c"), expected, "{operand}");
    let stamp = Stamp::parse(&fs::read_to_string(scratch.join("c/image.txt")).unwrap());
    scratch.run(["d-unpack", "--remove", "c"]).ok().silent().prints("");
    stamp
}

#[test]
fn a_manifest_and_a_layout() {
    let scratch = Scratch::new();
    let manifest = sample().write(&scratch.join("image"));
    let digest = format!("sha256:{}", manifest.file_name().unwrap().to_str().unwrap());
    for operand in [manifest.to_str().unwrap(), "image", "image:latest", "./image"] {
        let stamp = gives(&scratch, operand, TREE);
        assert_eq!((stamp.digest.as_deref(), stamp.reference.as_deref()), (Some(digest.as_str()), Some("latest")));
        assert_eq!(stamp.platform.as_deref().map(|p| p.starts_with("linux/")), Some(true));
    }
    // An existing path wins over a split at the colon.
    fs::rename(scratch.join("image"), scratch.join("image:latest")).unwrap();
    gives(&scratch, "image:latest", TREE);
}

#[test]
fn layers_in_every_coat() {
    use Compression::{Gzip, Plain, Xz, Zstd, ZstdLong};
    for compression in [Plain, Gzip, Zstd, ZstdLong, Xz] {
        let scratch = Scratch::new();
        Image::new().layer_as(tar([E::file("f", "x".repeat(300_000))]), compression).write(&scratch.join("image"));
        scratch.run(["d-unpack", "image", "c"]).ok();
        assert_eq!(fs::metadata(scratch.join("c/rootfs/f")).unwrap().len(), 300_000, "{compression:?}");
    }
}

#[test]
fn archives_of_images_as_files_and_pipes() {
    let scratch = Scratch::new();
    scratch.write("oci.tar", sample().archive());
    scratch.write("saved.tar", sample().saved("repo/name:tag"));
    scratch.sh("gzip -k oci.tar saved.tar; sh -c 'mkdir x; cd x; tar xf ../oci.tar; tar cf ../late.tar blobs index.json oci-layout'").ok();
    for file in ["oci.tar", "saved.tar", "oci.tar.gz", "saved.tar.gz", "late.tar"] {
        gives(&scratch, file, TREE);
        scratch.sh(&format!("cat {file} | d-unpack - c; d-unpack - e < {file}")).ok();
        assert_eq!(tree(&scratch, "c"), TREE, "{file} through a pipe");
        assert_eq!(fs::read(scratch.join("c/config.json")).unwrap(), fs::read(scratch.join("e/config.json")).unwrap());
        scratch.run(["d-unpack", "--remove", "c", "e"]).ok();
    }
    let stamp = gives(&scratch, "saved.tar:repo/name:tag", TREE);
    assert_eq!(stamp.reference.as_deref(), Some("repo/name:tag"));
    gives(&scratch, "oci.tar:latest", TREE);
    scratch.run(["d-unpack", "saved.tar:other", "c"]).fails(66).err_has("repo/name:tag");
    scratch.run(["d-unpack", "oci.tar:other", "c"]).fails(66).err_has("latest");
}

/// What `docker save` writes is known by its manifest.json, whatever comes first and however the members are called.
#[test]
fn saved_images_in_unusual_order() {
    let scratch = Scratch::new();
    let image = image([vec![E::dir("d"), E::file("d/f", "1"), E::file("big", vec![b'x'; 400_000])]]);
    let (layer, config) = (&image.blobs()[0].1, &image.blobs()[1].1);
    let manifest = json!([{"Config": "c.json", "Layers": ["l1/layer.tar"]}]).to_string();
    let members = [E::file("c.json", config), E::file("l1/layer.tar", layer), E::file("manifest.json", manifest)];
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
        scratch.write("odd.tar", tar(order.map(|n: usize| members[n].clone())));
        for script in [
            "d-unpack -q odd.tar c",
            "d-unpack -q - c <odd.tar",
            "cat odd.tar | d-unpack -q - c",
            "gzip odd.tar; d-unpack -q odd.tar.gz c",
            "cat odd.tar.gz | d-unpack -q - c",
        ] {
            scratch.sh(script).ok().silent();
            assert_eq!(scratch.names("c/rootfs"), ["big", "d"], "{order:?} {script}");
            scratch.run(["d-unpack", "--remove", "c"]).ok();
        }
        scratch.sh("rm odd.tar.gz").ok();
    }
    // A stream whose first name is no image's has begun to be unpacked when the list comes.
    let manifest = json!([{"Config": "c.json", "Layers": ["first"]}]).to_string();
    let members = [E::file("first", layer), E::file("c.json", config), E::file("manifest.json", manifest)];
    scratch.write("odd.tar", tar(members));
    scratch.sh("cat odd.tar | d-unpack -q - c").fails(65).err_has("put it in a file");
    scratch.run(["d-unpack", "-q", "odd.tar", "c"]).ok().silent();
    assert_eq!(scratch.names("c/rootfs"), ["big", "d"]);
}

/// ... and a root filesystem may have files of these names.
#[test]
fn a_root_filesystem_with_the_names_of_an_image() {
    let scratch = Scratch::new();
    let big = "x".repeat(400_000);
    for (name, text) in [("manifest.json", "{}"), ("index.json", "[1]"), ("repositories", ""), ("manifest.json", &big)]
    {
        scratch.write("r.tar", tar([E::file(name, text), E::dir("srv"), E::file("srv/x", "1")]));
        for script in ["d-unpack -q r.tar c", "cat r.tar | d-unpack -q - c"] {
            scratch.sh(script).ok().silent();
            assert_eq!(scratch.names("c/rootfs"), [name, "srv"], "{script}");
            scratch.run(["d-unpack", "--remove", "c"]).ok();
        }
    }
}

#[test]
fn archives_of_root_filesystems() {
    let scratch = Scratch::new();
    scratch.write("r.tar", tar([E::dir("d"), E::file("d/f", "1"), E::file("g", "2")]));
    scratch.sh("gzip -k r.tar; bzip2 -k r.tar; xz -k r.tar; zstd -q r.tar; for i in 1 2; do split -n 2 r.tar p; done; (gzip < paa; gzip < pab) > m.tar.gz; (zstd -q < paa; zstd -q < pab) > m.tar.zst; (xz < paa; xz < pab) > m.tar.xz; (bzip2 < paa; bzip2 < pab) > m.tar.bz2").ok();
    let coats = ["gz", "bz2", "xz", "zst"];
    // As tapes leave them: padded with zeroes.
    scratch.sh("for coat in gz bz2 xz zst; do (cat m.tar.$coat; head -c 10240 /dev/zero) > z.tar.$coat; done").ok();
    let packed = coats.iter().flat_map(|coat| ["r", "m", "z"].map(|name| format!("{name}.tar.{coat}")));
    for file in packed.chain(["r.tar".to_owned()]) {
        let file = file.as_str();
        let stamp = gives(&scratch, file, TREE);
        let sum = scratch.run(["sha256sum", file]).ok().out();
        assert_eq!(stamp.digest.unwrap(), format!("sha256:{}", sum.split(' ').next().unwrap()), "{file}");
        scratch.sh(&format!("cat {file} | d-unpack - c")).ok();
        assert_eq!(tree(&scratch, "c"), TREE, "{file} through a pipe");
        scratch.run(["d-unpack", "--remove", "c"]).ok();
    }
    scratch.run(["d-unpack", "r.tar:name", "c"]).fails(66);
}

#[test]
fn zip_files() {
    if !have("zip") {
        return skip("no zip");
    }
    let scratch = Scratch::new();
    scratch.sh("mkdir -p z/d; echo -n 1 > z/d/f; echo -n 2 > z/g; chmod 750 z/g; ln -s g z/l; touch -d @1700000000 z/g; cd z; zip -q -y -r ../z.zip .").ok();
    gives(&scratch, "z.zip", "d/ d/f=1 g=2 l->g");
    scratch.sh("cat z.zip | d-unpack - c").ok();
    assert_eq!(crate::find(&scratch, scratch.join("c/rootfs"), "%P %m %Ts")[2], "g 750 1700000000");
    for script in ["head -c 200 z.zip > t.zip", "sed s/PK.../PKxxx/ z.zip > t.zip; printf garbage >> t.zip"] {
        scratch.sh(script).ok();
        scratch.run(["d-unpack", "t.zip", "e"]).fails(65);
    }
}

#[test]
fn the_platform_is_chosen_from_an_index() {
    let scratch = Scratch::new();
    let mut manifests = Vec::new();
    for architecture in ["amd64", "arm64", "s390x"] {
        let mut image = image([vec![E::file(architecture, "")]]);
        image.config["architecture"] = json!(architecture);
        let manifest = image.write(&scratch.join("image"));
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &fs::read(manifest).unwrap());
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        manifests.push(entry);
    }
    let index =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests});
    let bytes = index.to_string().into_bytes();
    let entry = descriptor("application/vnd.oci.image.index.v1+json", &bytes);
    scratch.write(format!("image/blobs/sha256/{}", &entry["digest"].as_str().unwrap()[7..]), &bytes);
    scratch.write("image/index.json", json!({"schemaVersion": 2, "manifests": [entry]}).to_string());
    let of = |platform: &str| {
        scratch.run(["d-unpack", "--platform", platform, "image", "c"]).ok();
        let tree = tree(&scratch, "c");
        scratch.run(["d-unpack", "--remove", "c"]).ok();
        tree
    };
    assert_eq!((of("linux/arm64"), of("linux/x86_64")), ("arm64=".into(), "amd64=".into()));
    let done = scratch.run(["d-unpack", "image", "c"]).env("D_PLATFORM", "linux/riscv64").fails(66);
    done.err_has("linux/s390x");
    done.err_has("image: ");
    // Without a choice the host's.
    let host = if cfg!(target_arch = "aarch64") { "arm64=" } else { "amd64=" };
    gives(&scratch, "image", host);
}

/// Also where there is only one image, it is not taken for another platform than this machine's in silence.
#[test]
fn a_foreign_image_must_be_asked_for() {
    let scratch = Scratch::new();
    let mut image = sample();
    image.config["architecture"] = json!("s390x");
    let manifest = image.write(&scratch.join("image"));
    let digest = format!("sha256:{}", manifest.file_name().unwrap().to_str().unwrap());
    // An entry that does not say what it is for is taken as it is.
    gives(&scratch, "image", TREE);
    let mut index: serde_json::Value =
        serde_json::from_slice(&fs::read(scratch.join("image/index.json")).unwrap()).unwrap();
    index["manifests"][0]["platform"] = json!({"os": "linux", "architecture": "s390x"});
    scratch.write("image/index.json", index.to_string());
    for operand in ["image", "image:latest"] {
        scratch.run(["d-unpack", operand, "c"]).fails(66).err_has("linux/s390x").err_has("--platform");
    }
    scratch.sh("tar -C image -c oci-layout index.json blobs | d-unpack - c").fails(66).err_has("linux/s390x");
    scratch.run(["d-unpack", "--platform", "linux/s390x", "image", "p"]).ok();
    gives(&scratch, manifest.to_str().unwrap(), TREE);
    gives(&scratch, &format!("image:{digest}"), TREE);
    // As d-pull names it.
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = json!("h:5/lib/a:1+linux/s390x");
    index["manifests"][0].as_object_mut().unwrap().remove("platform");
    scratch.write("image/index.json", index.to_string());
    // Who has pulled it so has asked for it.
    gives(&scratch, "image", TREE);
    for name in ["a:1", "h:5/lib/a:1"] {
        let operand = format!("image:{name}");
        scratch.run(["d-unpack", &operand, "c"]).fails(66).err_has("linux/s390x");
        scratch.run(["d-unpack", "--platform=linux/s390x", "--replace", &operand, "p"]).ok();
        gives(&scratch, &format!("{operand}+linux/s390x"), TREE);
    }
}

#[test]
fn what_is_no_image() {
    let scratch = Scratch::new();
    scratch.write("text", "hello, world\n".repeat(100));
    scratch.write("empty", "");
    scratch.sh("mkdir dir; printf 'LZIP\\1' > t.lz").ok();
    sample().write(&scratch.join("image"));
    scratch.sh("cp -r image none; echo '{\"schemaVersion\":2,\"manifests\":[]}' >none/index.json").ok();
    for (operand, code, words) in [
        ("text", 65, "neither an image nor"),
        ("empty", 65, "empty"),
        ("dir", 65, "no image"),
        ("t.lz", 65, "lzip"),
        ("missing", 66, "d-unpack \"$(d-pull missing)\" DIR"),
        ("alpine:3.20", 66, "d-unpack \"$(d-pull alpine:3.20)\" DIR"),
        ("./missing", 66, "no such file"),
        ("text:", 66, "no name"),
        ("image:nope", 66, "image: no image is called \"nope\"; there is latest"),
        ("none", 66, "none: it lists no image at all"),
        ("none:x", 66, "none: no image is called \"x\"; there is none with a name"),
        ("", 64, "IMAGE is empty: the command that should print it failed"),
    ] {
        scratch.run(["d-unpack", operand, "c"]).fails(code).err_has(words);
    }
    scratch.run(["d-unpack", "text", ""]).fails(64).err_has("DIR is empty");
    scratch.run(["d-unpack", "text"]).fails(64);
    scratch.run(["d-unpack", "--no-such-option", "text", "c"]).fails(64);
    assert!(!scratch.join("c").exists());
}

#[test]
fn manifests_that_do_not_hold() {
    let scratch = Scratch::new();
    let write = |name: &str, image: Image, change: &dyn Fn(&mut serde_json::Value)| {
        let manifest = image.write(&scratch.join(name));
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
        change(&mut json);
        let bytes = json.to_string().into_bytes();
        let entry = descriptor("application/vnd.oci.image.manifest.v1+json", &bytes);
        let hex = entry["digest"].as_str().unwrap()[7..].to_owned();
        scratch.write(format!("{name}/blobs/sha256/{hex}"), bytes);
        scratch.write(format!("{name}/index.json"), json!({"schemaVersion": 2, "manifests": [entry]}).to_string());
    };
    write("schema1", sample(), &|m| m["schemaVersion"] = json!(1));
    write("artifact", sample(), &|m| m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json"));
    write("fewer", sample(), &|m| drop(m["layers"].as_array_mut().unwrap().pop()));
    write("size", sample(), &|m| m["layers"][0]["size"] = json!(7));
    write("swapped", sample(), &|m| m["layers"].as_array_mut().unwrap().swap(0, 1));
    write("gone", sample(), &|m| m["layers"][0]["digest"] = json!(format!("sha256:{}", "0".repeat(64))));
    for (name, words) in [
        ("schema1", "schema 1"),
        ("artifact", "helm"),
        ("fewer", "diff_ids"),
        ("size", "descriptor says 7"),
        ("swapped", "diff_id"),
        ("gone", "missing"),
    ] {
        scratch.run(["d-unpack", "-q", name, "c"]).fails(65).err_has(words);
        assert!(!scratch.join("c").exists(), "{name}");
    }
    // The sizes of what a descriptor names, wherever it is read from.
    write("manifest-size", sample(), &|_| ());
    let index = fs::read_to_string(scratch.join("manifest-size/index.json")).unwrap();
    let mut index: serde_json::Value = serde_json::from_str(&index).unwrap();
    index["manifests"][0]["size"] = json!(7);
    scratch.write("manifest-size/index.json", index.to_string());
    write("config-size", sample(), &|m| m["config"]["size"] = json!(7));
    for name in ["manifest-size", "config-size"] {
        scratch.sh(&format!("tar -C {name} -cf {name}.tar oci-layout index.json blobs")).ok();
        scratch.run(["d-unpack", "-q", name, "c"]).fails(65).err_has("descriptor says 7");
        scratch.run(["d-unpack", "-q", &format!("{name}.tar"), "c"]).fails(65).err_has("descriptor says 7");
        scratch.sh(&format!("cat {name}.tar | d-unpack -q - c")).fails(65).err_has("descriptor says 7");
    }
    // A blob that is listed and not there.
    let image = sample();
    let blobs = image.blobs();
    for (name, (digest, _)) in ["manifest", "config", "layer"].iter().zip(blobs.iter().rev()) {
        image.write(&scratch.join(name));
        fs::remove_file(scratch.join(name).join("blobs/sha256").join(digest.hex())).unwrap();
        scratch.run(["d-unpack", "-q", name, "c"]).fails(65).err_has("incomplete").err_has(digest.hex());
    }
    // One byte of a blob.
    let image = sample();
    image.write(&scratch.join("flipped"));
    let (digest, bytes) = &image.blobs()[0];
    let mut bytes = bytes.clone();
    bytes[1024] ^= 1;
    scratch.write(format!("flipped/blobs/sha256/{}", digest.hex()), &bytes);
    scratch.run(["d-unpack", "flipped", "c"]).fails(65).err_has("digest");
}

#[test]
fn a_stream_that_ends_early_is_no_image() {
    let scratch = Scratch::new();
    let whole = sample().archive();
    let before = scratch.names("");
    let blocks = whole.len() / 512 - 2;
    for cut in (0..blocks).map(|n| n * 512).chain([1, 700, 1500, whole.len() - 1500]) {
        scratch.run(["d-unpack", "-", "c"]).stdin(&whole[..cut]).fails(65);
        assert_eq!(scratch.names(""), before, "cut at {cut}");
    }
    let rootfs = tar_without_end([E::file("f", "1")]);
    scratch.run(["d-unpack", "-", "c"]).stdin(&rootfs).fails(65).err_has("end marker");
    scratch.run(["d-unpack", "-", "c"]).stdin("").fails(65);
    scratch.run(["d-unpack", "-", "c"]).stdin([&whole[..], b"garbage"].concat()).fails(65);
    scratch.sh("false | d-unpack - c").code(65);
    assert_eq!(scratch.names(""), before);
}
