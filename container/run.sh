#!/usr/bin/env bash
# Starts a server in a container on CPUs of its own.
#
#   CPUS=2-7 NODES=0 MEMORY=16g container/run.sh [IMAGE] [arguments of engram, default: serve]
#
# What each flag is for:
#   --cpuset-cpus   CPUs of this server alone: the shards are pinned to them, and may poll
#   --cpuset-mems   memory of the NUMA node of these CPUs and no other
#   --memory        limit of heap, images and page cache; the server stays below it by itself
#   --memory-swap   the same number: no swap
#   --network host  no address translation, and the card's queues steer to the shards
#   --shm-size      tmpfs for the fast tier, images for an instant start; counts against --memory
#   --volume        the warm tier: the log; a local ext4 or XFS file system on an SSD
#   --ulimit        rings of io_uring are locked memory; each client is an open file
#   --security-opt  the engine's profile with io_uring, which engines since 25 forbid
#   --read-only, --cap-drop, no-new-privileges: nothing of them is needed
#   --stop-timeout  longer than ENGRAM_SHUTDOWN_GRACE (25 s)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
image=${1:-engram:latest}
if [ $# -gt 0 ]; then shift; fi
exec docker run --detach --name "${NAME:-engram}" \
    --cpuset-cpus "${CPUS:-0}" \
    --cpuset-mems "${NODES:-0}" \
    --memory "${MEMORY:-2g}" --memory-swap "${MEMORY:-2g}" \
    --network host \
    --shm-size "${FAST:-512m}" \
    --volume "${VOLUME:-engram-warm}:/var/lib/engram" \
    --ulimit "memlock=${MEMLOCK:--1}" --ulimit "nofile=${NOFILE:-65536}" \
    --security-opt "seccomp=$here/seccomp/engram.json" \
    --security-opt no-new-privileges \
    --read-only --cap-drop ALL \
    --stop-timeout 30 \
    --env "ENGRAM_LISTEN=${LISTEN:-127.0.0.1:8080}" \
    --env ENGRAM_INSECURE=false \
    "$image" "$@"
