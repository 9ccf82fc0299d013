"""Alerts: syntax and behaviour by promtool, one runbook each."""

import re
import subprocess

import yaml


def promtool(*words, cwd=None, stdin=None):
    return subprocess.run(["promtool", *words], cwd=cwd, input=stdin, capture_output=True, text=True)


def rules(root):
    text = (root / "ops/alerts/engram.rules.yaml").read_text()
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def slug(alert):
    return re.sub(r"(?<!^)(?=[A-Z])", "-", alert).lower()


def check(root, report, _write):
    report.section("alerts")
    folder = root / "ops/alerts"
    for words in (["check", "rules", "engram.rules.yaml"], ["test", "rules", "engram.tests.yaml"]):
        done = promtool(*words, cwd=folder)
        report.check(done.returncode == 0, f"promtool {' '.join(words)}: {done.stdout}{done.stderr}")
    tests = yaml.safe_load((folder / "engram.tests.yaml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tests
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    for rule in rules(root):
        name = rule["alert"]
        report.check(name in fired, f"no test makes {name} fire")
        runbook = f"docs/runbooks/{slug(name)}.md"
        report.check(rule["annotations"]["runbook"] == runbook, f"{name}: the runbook is {runbook}")
        report.check((root / runbook).exists(), f"{runbook} is missing")
    known = {slug(rule["alert"]) for rule in rules(root)} | {"README"}
    for page in (root / "docs/runbooks").glob("*.md"):
        report.check(page.stem in known, f"{page.name} is the runbook of no alert")
