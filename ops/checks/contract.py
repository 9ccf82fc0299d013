"""The contract: schemathesis sends what `openapi.json` allows, and what it does not, and compares."""

import os
import pathlib
import re
import subprocess
import sys

PHASES = "examples,coverage,fuzzing"
# More by ENGRAM_CHECKS_CONTRACT_S: fuzzing goes on until it is over.
SECONDS = 90
GRACE_S = 60


def check(root, report, url, key):
    report.section("contract by schemathesis")
    seconds = os.environ.get("ENGRAM_CHECKS_CONTRACT_S", str(SECONDS))
    words = [pathlib.Path(sys.executable).parent / "schemathesis"]
    words += ["--config-file", root / "net/tests/schemathesis.toml", "run", f"{url}/openapi.json"]
    words += ["--header", f"Authorization: Bearer {key}", "--phases", PHASES]
    words += ["--max-time", seconds, "--no-color"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=int(seconds) + GRACE_S)
        status, said = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        status, said = "no end", ""
    report.check(status == 0, f"schemathesis ends with {status}: {said[-8000:]}")
    tested = re.search(r"Selected: (\d+)/\1\n\s+Tested: \1\n", said)
    report.check(tested, "an operation was not tested")
    cases = re.search(r"(\d+) generated, \1 passed", said)
    report.check(cases, "a case did not pass")
    report.note(f"{cases[1] if cases else 'no'} cases in {seconds} s")
