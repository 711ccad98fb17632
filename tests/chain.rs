//! The whole chain on real input: registry -> cache -> container directory -> process -> network.

use d_tests::{Registry, run};

#[test]
fn the_registry_serves_the_fixtures() {
    let registry = Registry::images();
    for name in ["busybox:latest", "busybox:zstd", "debian:12", "debian:zstd"] {
        let image = format!("docker://{}", registry.image(name));
        run(["skopeo", "inspect", "--tls-verify=false", &image]).ok().out_has("Layers");
    }
}
