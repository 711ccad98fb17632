//! The same on a real distribution: Debian, under both maps.

use std::time::Duration;

use d_tests::{Cmd, Scratch, fixtures, have, skip};

use crate::place::MAPS;

/// Debian in `box`, unpacked without any of our tools.
fn debian(map: &str) -> Scratch {
    let scratch = Scratch::new();
    let root = if map == "subid" { "unshare --map-root-user --map-auto" } else { "" };
    let script = format!(
        "mkdir -p box/rootfs && {root} tar -C box/rootfs -xf \"$0\" --exclude='./dev/*' && echo '{{}}' >box/config.json"
    );
    let no_owner = if map == "subid" { "" } else { " --no-same-owner" };
    scratch
        .run(["sh", "-ec", &script.replace(" -xf", &format!("{no_owner} -xf"))])
        .arg(fixtures().join("debian.tar"))
        .timeout(Duration::from_secs(300))
        .ok();
    scratch
}

fn enter(scratch: &Scratch, map: &str, options: &str, script: &str) -> Cmd {
    scratch.run(["d-enter", "--map", map]).args(options.split_whitespace()).args(["box", "bash", "-ec", script])
}

#[test]
fn debian_works_for_root_and_for_users() {
    for map in MAPS {
        let scratch = debian(map);
        let sh = |options: &str, script: &str| enter(&scratch, map, options, script);
        sh("", "id -un; cat /etc/debian_version | cut -d . -f 1; dpkg --version >/dev/null; ls /dev/pts >/dev/null")
            .ok()
            .prints("root\n12");
        sh("-u www-data", "id -un; echo $HOME").ok().prints("www-data\n/var/www");
        // A package is installed without a network, with its owners and modes.
        let package = "mkdir -p /tmp/p/DEBIAN /tmp/p/opt && printf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: x\\nDescription: x\\n' >/tmp/p/DEBIAN/control && \
                       printf '#!/bin/sh\\nset -e\\nchown www-data:games /opt/f\\nchmod 2755 /opt/f\\n' >/tmp/p/DEBIAN/postinst && chmod 755 /tmp/p/DEBIAN/postinst && \
                       echo x >/tmp/p/opt/f && dpkg-deb -b /tmp/p /tmp/p.deb >/dev/null && dpkg -i /tmp/p.deb >/dev/null && dpkg -s p | grep Status";
        sh("", package).ok().prints("Status: install ok installed");
        sh("", "groupadd -r some && useradd -r -g some some && install -o some -g some -m 2750 -d /srv/some").ok();
        if map == "subid" {
            sh("", "stat -c %U:%G /opt/f /srv/some").ok().prints("www-data:games\nsome:some");
            // sudo and su must work by default, and not under --no-new-privs or from a volume.
            sh("", "cp /usr/bin/id /usr/bin/suid-id && chown www-data /usr/bin/suid-id && chmod 4755 /usr/bin/suid-id")
                .ok();
            sh("-u games", "/usr/bin/suid-id -u").ok().prints("33");
            sh("-u games --no-new-privs", "/usr/bin/suid-id -u").ok().prints("5");
            sh("-v v:/v", "cp -a /usr/bin/suid-id /v/").ok();
            sh("-u games -v v:/v", "/v/suid-id -u").ok().prints("5");
            sh("", "su www-data -s /bin/sh -c 'id -u'").ok().prints("33");
        } else {
            // apt does not try to become its sandbox user.
            sh("", "apt-config dump APT::Sandbox::User").ok().prints("APT::Sandbox::User \"root\";");
        }
    }
}

const SPEC: &str = "\
Name: p
Version: 1
Release: 1
Summary: x
License: x
BuildArch: noarch
%description
x
%install
mkdir -p %{buildroot}/opt/p && echo x >%{buildroot}/opt/p/f
%post
chown www-data:games /opt/p && echo done >/opt/p/post
%files
%attr(2755,www-data,games) /opt/p/f
";

/// rpm chowns what it unpacks, and runs scripts that do. The programs are the host's, on a root filesystem of their own.
#[test]
fn rpm_installs_what_has_other_owners() {
    if !have("rpmbuild") {
        return skip("no rpmbuild");
    }
    for map in MAPS {
        let scratch = Scratch::new();
        let make = "mkdir -p box/rootfs && cd box/rootfs && mkdir -p etc opt root usr var/lib/rpm var/tmp && \
                    for d in bin sbin lib lib64; do ln -s usr/$d $d; done && cp /etc/passwd /etc/group etc && echo '{}' >../config.json";
        scratch.sh(make).ok();
        scratch.write("p.spec", SPEC);
        let script = "rpmbuild -bb --define '_topdir /root/b' /p.spec >/root/log 2>&1 || cat /root/log
                      rpm -i --nodeps /root/b/RPMS/noarch/p-1-1.noarch.rpm 2>/dev/null && rpm -q p 2>/dev/null
                      cat /opt/p/post; stat -c '%U:%G %a' /opt/p/f; rpm -e p 2>/dev/null; ls /opt/p";
        let done = enter(&scratch, map, "--ro-bind /usr /usr -v ./p.spec:/p.spec:ro", script).ok();
        let owner = if map == "subid" { "www-data:games" } else { "root:root" };
        done.prints(&format!("p-1-1.noarch\ndone\n{owner} 2755\npost"));
    }
}
