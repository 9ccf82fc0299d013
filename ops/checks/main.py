"""Runs all checks; see `run`."""

import argparse
import pathlib
import sys

import alerts
import documents
import manifests
import units
from report import Report
from server import Server

ROOT = pathlib.Path(__file__).resolve().parents[2]


def arguments():
    parser = argparse.ArgumentParser(prog="ops/checks/run")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--binary", type=pathlib.Path, help="the engram binary to compare with")
    source.add_argument("--without-binary", action="store_true", help="what needs no binary")
    parser.add_argument("--write", action="store_true", help="rewrite what is generated")
    return parser.parse_args()


def main():
    wanted = arguments()
    if wanted.binary and not wanted.binary.is_file():
        sys.exit(f"there is no engram binary at {wanted.binary}: build it, or --without-binary")
    report = Report()
    facts = manifests.check(ROOT, report, wanted.write)
    alerts.check(ROOT, report, wanted.write)
    units.check(ROOT, report, wanted.binary)
    documents.check(ROOT, report, facts)
    if wanted.binary:
        with Server(wanted.binary.resolve(), report) as server:
            server.check(ROOT, facts)
    else:
        report.leave_out("everything that compares with the real binary")
    sys.exit(report.finish())


if __name__ == "__main__":
    main()
