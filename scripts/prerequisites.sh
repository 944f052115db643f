# Sourced by scripts/demo and scripts/test: what the machine needs, and how a step is told. Bash, Debian or Ubuntu.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

build_packages=(libxdp-dev libbpf-dev libelf-dev zlib1g-dev libssl-dev libnuma-dev linux-libc-dev pkg-config git ca-certificates)
if [ "$(uname -m)" = x86_64 ]; then build_packages+=(libipsec-mb-dev); fi
lab_packages=(iproute2 iputils-ping iperf3 tcpdump ethtool nftables procps python3)
test_packages=(python3-venv charon-systemd strongswan-swanctl libcharon-extra-plugins libstrongswan-standard-plugins
    libcharon-extauth-plugins freeradius libcap2-bin util-linux binutils)
if [ "$(uname -m)" = x86_64 ]; then test_packages+=(qemu-system-x86); fi

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' red='' plain=''
fi

step() { printf '%s==>%s %s\n' "$bold" "$plain" "$*"; }

give_up() {
    printf '%s%s:%s %s\n' "$red" "$(basename "$0")" "$plain" "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        give_up "'$*' needs root and there is no sudo: run this as root"
    fi
}

# Installs the Debian packages named that are not installed; says which.
install_packages() {
    local missing=() package
    command -v dpkg-query >/dev/null || give_up "this is not Debian or Ubuntu; install the counterparts of: $*"
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    step "Installing ${missing[*]}"
    as_root apt-get update -qq || step "apt-get update failed; trying with the lists that are here"
    # charon-systemd and iperf3 bring services that would start and take ports on this machine: policy-rc.d keeps them off.
    as_root env DEBIAN_FRONTEND=noninteractive sh -c '
        if [ ! -e /usr/sbin/policy-rc.d ]; then
            printf "#!/bin/sh\nexit 101\n" >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d
            trap "rm -f /usr/sbin/policy-rc.d" EXIT
        fi
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null' install "${missing[@]}" ||
        give_up "apt-get could not install ${missing[*]}: install them by hand and start again"
}

# Whether `scripts/test WORD…` runs a part: `runs_part interop "$@"`. Without --only all of the usual parts run.
runs_part() {
    local part=$1 only=
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --only) only=${2:-} && shift ;;
            --only=*) only=${1#--only=} ;;
            --) break ;;
        esac
        if [ $# -gt 0 ]; then shift; fi
    done
    case ,${only:-$part}, in *",$part,"*) return 0 ;; *) return 1 ;; esac
}

# Unpacks the named packages of a newer Debian, and all that they need, under .peers: nothing is installed, and of
# this machine's apt only the mirror's address is taken.
# Their strongSwan and OpenSSL know ML-KEM. Without them (no network, another distribution) the tests that need them are skipped.
newer_debian=forky
newer_packages=(charon-systemd strongswan-swanctl libcharon-extra-plugins libcharon-extauth-plugins libstrongswan-standard-plugins
    libstrongswan-extra-plugins)
# And a kernel, for a virtual machine with ESP of its own.
if [ "$(uname -m)" = x86_64 ]; then newer_packages+=(linux-image-cloud-amd64 busybox-static iproute2); fi

# Where this machine's own apt gets Debian from; nothing when that is no Debian.
debian_mirror() {
    apt-get indextargets --format '$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n 's/^Debian Debian main //p' | head -n 1
}

unpack_newer_debian() {
    local place=$repository/.peers/$newer_debian made=$repository/.peers/$newer_debian.part package
    # Unpacked before, and of the same packages.
    [ "$(cat "$place/packages" 2>/dev/null)" = "${newer_packages[*]}" ] && return
    if [ -z "$(debian_mirror)" ]; then
        step "apt of this machine knows no Debian mirror: the tests that need a newer Debian's programs will be skipped"
        return
    fi
    step "Unpacking ${newer_packages[*]} of Debian $newer_debian under .peers"
    rm -rf "$made"
    mkdir -p "$made"/apt/{state/lists,cache/archives,etc/preferences.d} && : >"$made/apt/state/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $newer_debian main" \
        >"$made/apt/etc/sources.list"
    local apt=(apt-get -qq -o "Dir::State=$made/apt/state" -o "Dir::State::status=$made/apt/state/status"
        -o "Dir::Cache=$made/apt/cache" -o "Dir::Etc=$made/apt/etc" -o "Dir::Etc::sourcelist=$made/apt/etc/sources.list"
        -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::parts=/dev/null
        -o Acquire::Languages=none -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Debug::NoLocking=1)
    # apt would fetch as _apt, who may not look into a home directory.
    if [ "$(id -u)" = 0 ]; then apt+=(-o APT::Sandbox::User=root); fi
    if "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends --download-only "${newer_packages[@]}"; then
        for package in "$made"/apt/cache/archives/*.deb; do
            dpkg-deb -x "$package" "$made" || give_up "$package cannot be unpacked; is the disk full?"
        done
        rm -rf "$made/apt" "$place" && echo "${newer_packages[*]}" >"$made/packages" && mv -T "$made" "$place"
    else
        step "Could not get them: the tests that need ML-KEM in the peer will be skipped"
    fi
}

# Finds swift, also where swiftly or a tarball puts it, or says exactly how to get it.
require_swift() {
    local place home=${HOME:-/root}
    if [ -n "${SUDO_USER:-}" ]; then home=$(getent passwd "$SUDO_USER" | cut -d: -f6); fi
    for place in "$home/.local/share/swiftly/bin" /opt/swift/usr/bin /usr/share/swift/usr/bin; do
        if ! command -v swift >/dev/null && [ -x "$place/swift" ]; then PATH=$place:$PATH; fi
    done
    if ! command -v swift >/dev/null; then
        cat >&2 <<TEXT
${red}Swift is missing.${plain} Culvert needs Swift 6.3. On Debian 12 or Ubuntu these lines install it for you alone:

    sudo apt-get install -y curl gnupg2 binutils libc6-dev libcurl4-openssl-dev libedit2 libgcc-12-dev libpython3-dev \\
        libsqlite3-0 libstdc++-12-dev libxml2-dev libncurses-dev libz3-dev pkg-config tzdata zlib1g-dev unzip
    curl -fO https://download.swift.org/swiftly/linux/swiftly-$(uname -m).tar.gz
    tar -xzf swiftly-$(uname -m).tar.gz && ./swiftly init --assume-yes --skip-install
    . ~/.local/share/swiftly/env.sh && swiftly install 6.3 && swiftly use 6.3

Then start this again.
TEXT
        exit 1
    fi
    local version
    version=$(swift --version 2>/dev/null | sed -n 's/.*Swift version \([0-9]*\.[0-9]*\).*/\1/p' | head -n 1)
    case $version in
        [0-5].* | 6.[0-2] | '') give_up "Swift ${version:-of unknown version} at $(command -v swift) is too old: 6.3 is needed" ;;
    esac
}
