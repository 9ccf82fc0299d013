# Functions that the scripts of this folder share: packages, builds, waiting, servers.
#
# Invariants: nothing asks a question; what is there already is left alone; names of package
# mirrors stay out of the output.
#
# Not here: what a script does with them (start, test, .ci/run).
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

say() { printf '==> %s\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Runs a command as root: directly, or with sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root: run it as root, or install sudo, or run: $*"
    fi
}

# Installs those of the named Debian packages that are missing.
install_packages() {
    local missing=() name
    command -v dpkg-query >/dev/null ||
        fail "this is neither Debian nor Ubuntu: install what is called here $*, then build with cargo"
    for name in "$@"; do
        dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y update
    quietly as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}"
}

# Shows the output of a command only if it fails, without addresses of mirrors.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    [ $status = 0 ] || sed -E 's#[a-z]+://[^ ]+#<address>#g' "$log" | tail -n 40 >&2
    rm -f "$log"
    return $status
}

# Finds cargo, also where rustup has put it without a new login.
need_cargo() {
    PATH="$PATH:$HOME/.cargo/bin"
    command -v cargo >/dev/null || fail \
        "cargo is missing: install rustup (package rustup, or https://rustup.rs), then run this again"
    # The first call installs the toolchain that rust-toolchain.toml names.
    (cd "$top" && quietly cargo --version) ||
        fail "the toolchain of rust-toolchain.toml can't be installed: see above"
}

# Runs cargo; where nobody watches, lines about downloads are left out.
run_cargo() {
    if [ -t 2 ]; then
        (cd "$top" && cargo "$@")
    else
        (cd "$top" && cargo "$@" 2> >(grep --line-buffered -vE \
            '^ *(Updating|Downloading|Downloaded|Locking|Adding|Compiling|Checking|Blocking) ' >&2))
    fi
}

# Prints the path of the release executable.
release_binary() { binary release engram; }

# binary PROFILE_FOLDER NAME: where cargo puts an executable.
binary() {
    local target host
    host=$(cd "$top" && rustc -vV | sed -n 's/^host: //p')
    target=$(cd "$top" && cargo metadata --no-deps --format-version 1 --offline |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    printf '%s/%s/%s/%s\n' "$target" "$host" "$1" "$2"
}

# wait_until SECONDS COMMAND...: repeats the command until it succeeds.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.02
    done
}

# Prints a port of 127.0.0.1 that nobody listens on, nor on the next one.
free_port() {
    local port=$((20000 + $$ % 10000))
    while (: </dev/tcp/127.0.0.1/$port) 2>/dev/null || (: </dev/tcp/127.0.0.1/$((port + 1))) 2>/dev/null; do
        port=$((port + 2))
    done
    echo $port
}

server=''

# start_server LOG COMMAND...: starts a server that writes to LOG, which begins empty, and waits until it says where it
# listens. Sets $server, its process, and $address.
start_server() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 &
    server=$!
    wait_until 60 listens_or_ended "$log" || true
    [ -n "$address" ] || fail "the server does not listen: $(tail -n 1 "$log")"
}

listens_or_ended() {
    address=$(sed -n 's,.*listens on http://\([0-9.:]*\).*,\1,p' "$1")
    [ -n "$address" ] || ! kill -0 "$server"
}

# Waits until the server that was started is ready.
wait_until_ready() {
    until curl -fs -o /dev/null "http://$address/health/ready"; do
        kill -0 "$server" 2>/dev/null || fail "the server has ended before it was ready"
        sleep 0.005
    done
}

# stop_server SIGNAL: ends the server that was started, if there is one, and waits until it is gone.
stop_server() {
    if [ -n "$server" ]; then
        kill "-$1" "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    server=''
}

# What a build needs: a C linker and hwloc with its headers.
# shellcheck disable=SC2034  # for the scripts that include this file
build_packages=(gcc libc6-dev pkg-config libhwloc-dev)

# Finds a Docker Engine, or installs and starts one.
need_docker() {
    docker info >/dev/null 2>&1 && return 0
    command -v dockerd >/dev/null || install_packages docker.io iptables
    say "starting Docker Engine"
    start_docker "" || start_docker vfs || fail "Docker Engine does not start: see $docker_log"
}

docker_log=/var/tmp/engram-dockerd.log

# start_docker [STORAGE_DRIVER]: by the service manager if there is one, else by hand.
start_docker() {
    if [ -d /run/systemd/system ] && [ -z "$1" ]; then
        as_root systemctl start docker || true
    else
        as_root sh -c "setsid nohup dockerd ${1:+--storage-driver $1} >$docker_log 2>&1 </dev/null &"
    fi
    wait_until 30 docker info
}
