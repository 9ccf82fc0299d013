"""Documents: links lead somewhere, named files and variables exist, fenced YAML is YAML."""

import re

import yaml

FOLDERS = ["docs/deploy", "docs/runbooks"]


def check(root, report, facts):
    report.section("documents")
    pages = [page for folder in FOLDERS for page in sorted((root / folder).glob("*.md"))]
    report.check(len(pages) > 0, "there are no documents")
    for page in pages:
        text = page.read_text()
        links(root, report, page, text)
        files(root, report, page, text)
        fences(report, page, text)
        facts.variables |= set(re.findall(r"\bENGRAM_[A-Z_]+\b", without_examples(text)))
    unit = (root / "ops/systemd/engram.service").read_text()
    facts.variables |= set(re.findall(r"\bENGRAM_[A-Z_]+\b", unit))
    facts.variables -= facts.later_variables
    facts.commands |= {("serve",)}


def without_examples(text):
    """Text without the variables that Kubernetes sets for services."""
    return text.replace("ENGRAM_PORT", "")


def links(root, report, page, text):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            found = (page.parent / target).exists()
            report.check(found, f"{page.name}: the link {target} leads nowhere")


def files(root, report, page, text):
    for path in re.findall(r"\b((?:ops|container)/[\w./-]*\w)", text):
        report.check((root / path).exists(), f"{page.name}: there is no {path}")


def fences(report, page, text):
    for fence in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        try:
            list(yaml.safe_load_all(fence))
            fault = None
        except yaml.YAMLError as error:
            fault = error
        report.check(fault is None, f"{page.name}: {fault}")
