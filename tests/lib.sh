# shellcheck shell=sh
# Sourced by tests/run, tests/demo and tests/bench: packages, the ordinary user, the build. Says what it does to the machine.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# As root itself, or through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else die "needs root for: $*"; fi
}

# Installs those of the given Debian packages that are not installed.
packages() {
    missing=
    for package; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
            *' installed') ;;
            *) missing="$missing $package" ;;
        esac
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || die "install what Debian calls:$missing"
    say "apt-get install$missing (services that come with them are not started)"
    # shellcheck disable=SC2086 # a list
    as_root env DEBIAN_FRONTEND=noninteractive sh -euc '
        # docker-registry would listen on port 5000 of all addresses from now on.
        if [ ! -e /usr/sbin/policy-rc.d ]; then
            trap "rm -f /usr/sbin/policy-rc.d" EXIT
            printf "#!/bin/sh\nexit 101\n" >/usr/sbin/policy-rc.d
            chmod 755 /usr/sbin/policy-rc.d
        fi
        apt-get -qq update
        apt-get -qq -y --no-install-recommends install "$@"' sh $missing </dev/null >&2
}

# slirp4netns and pasta open it; udev makes it 0666, a bare machine may not.
tun_device() {
    if [ ! -e /dev/net/tun ]; then
        say "mknod /dev/net/tun c 10 200"
        as_root mkdir -p /dev/net
        as_root mknod -m 666 /dev/net/tun c 10 200 || say "no /dev/net/tun: tests of the network will fail"
    elif [ "$(id -u)" = 0 ] && [ "$(stat -c %a /dev/net/tun)" != 666 ]; then
        say "chmod 666 /dev/net/tun"
        chmod 666 /dev/net/tun
    fi
}

# As root: makes the ordinary user $1, with subordinate ids, unless it exists with them.
ordinary_user() {
    if ! id "$1" >/dev/null 2>&1; then
        say "useradd --create-home $1"
        useradd --create-home --shell /bin/sh "$1"
    fi
    for ids in subuid subgid; do
        [ -e /etc/$ids ] || : >/etc/$ids
        grep -q "^$1:" /etc/$ids && continue
        # Past all ranges that are there.
        start=$(awk -F: -v s=100000 '$2 + $3 > s { s = $2 + $3 } END { print s }' /etc/$ids)
        say "adds $1:$start:65536 to /etc/$ids"
        printf '%s:%s:65536\n' "$1" "$start" >>/etc/$ids
    done
}

# Where cargo is, with a compiler that is new enough; a C compiler and linker come with the packages.
need_cargo() {
    command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || die "cargo is missing: see https://rustup.rs (Debian 12's own is too old)"
}

# cargo's target folder.
target_dir() { cargo metadata --format-version 1 --no-deps | jq -r .target_directory; }
