"""systemd: the unit is understood, and shuts the server in."""

import pathlib
import re
import subprocess
import tempfile

EXPOSURE = 20  # of 100, in tenths of what `systemd-analyze security` shows


def check(root, report, binary):
    report.section("systemd unit")
    unit = (root / "ops/systemd/engram.service").read_text()
    program = str(binary.resolve()) if binary else "/bin/true"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "engram.service"
        path.write_text(unit.replace("/usr/bin/engram", program))
        done = analyze("verify", "--man=no", path)
        report.check(done.returncode == 0 and not done.stderr, f"verify: {done.stderr}")
        done = analyze("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE}", path)
        report.check(done.returncode == 0, f"exposed: {done.stdout.splitlines()[-1:]}")
    grace = int(re.search(r"ENGRAM_SHUTDOWN_GRACE=(\d+)s", unit)[1])
    stop = int(re.search(r"TimeoutStopSec=(\d+)", unit)[1])
    report.check(stop > grace, f"TimeoutStopSec={stop} cuts ENGRAM_SHUTDOWN_GRACE={grace}s off")
    calls = ["io_uring_setup", "io_uring_enter", "io_uring_register", "mbind"]
    for call in calls:
        report.check(re.search(rf"SystemCallFilter=.*\b{call}\b", unit), f"{call} is not allowed")
    report.check("\nRemoveIPC=no" in unit, "RemoveIPC would delete the fast tier at every stop")


def analyze(*words):
    return subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True)
