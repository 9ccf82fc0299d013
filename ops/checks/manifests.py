"""Manifests and chart: rendered by the real tools, held against schemas, policies and each other."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field

import kubernetes_validate
import yaml

import controls
import policy
import seccomp
from render import Helm, kustomize

KUBERNETES = ["1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]
# The kinds of the Prometheus operator; its schemas are in no registry that is used here.
NOT_IN_KUBERNETES = {"ServiceMonitor", "PrometheusRule"}
SECCOMP_COPIES = [seccomp.KUBERNETES, "ops/chart/files/engram-seccomp.json"]

MAINTENANCE = {"maintenance": {"enabled": True}}
CHART_CASES = {
    "single-node": [{}],
    "bare-metal": ["values-bare-metal.yaml"],
    "everything": [
        "values-bare-metal.yaml",
        {"monitoring": {"enabled": True}, "nodePort": {"enabled": True}},
        {"hugepages": {"size2Mi": "2Gi"}},
    ],
    "contract": [
        MAINTENANCE,
        {"monitoring": {"enabled": True}, "nodePort": {"enabled": True}},
        {"tiers": {"cold": {"url": "s3://engram-cold/prefix"}}},
    ],
}
# The chart's cases that hold the same as a kustomization.
SAME = {
    "single-node": "ops/kubernetes/overlays/single-node",
    "bare-metal": "ops/kubernetes/overlays/bare-metal",
    "everything": "ops/checks/fixtures/everything",
    "contract": "ops/checks/fixtures/contract",
}
REFUSED_VALUES = [
    ({"replicas": 3}, "replicas"),
    ({"tiers": {"fast": {"sizeLimit": "a lot"}}}, "sizeLimit"),
    ({"tiers": {"cold": {"url": "ftp://x"}}}, "url"),
    ({"nodePort": {"port": 80}}, "minimum"),
    ({"hugepages": {"size2Mi": "512Mi"}}, "size2Mi"),
    ({"podAntiAffinity": "never"}, "podAntiAffinity"),
    ({"maintenance": {"consolidate": {"threshold": "3"}}}, "threshold"),
    ({"image": {"digest": "latest"}}, "digest"),
    ({"resources": {"limits": {"cpu": None}}}, "cpu"),
    ({"shutdownGraceSeconds": 60}, "must fit into"),
]


@dataclass
class Facts:
    """What the manifests expect of the binary."""

    variables: set = field(default_factory=set)
    commands: set = field(default_factory=set)
    paths: set = field(default_factory=set)
    # What components for a later binary expect: named where it is missing, no fault.
    later_variables: set = field(default_factory=set)
    later_commands: set = field(default_factory=set)


def check(root, report, write):
    facts = Facts()
    report.section("yaml is clean")
    clean(root, report)
    report.section("generated files")
    generated(root, report, write)
    report.section("kustomize")
    rendered = {name: kustomize(root / folder) for name, folder in SAME.items()}
    for name, docs in rendered.items():
        whole(report, f"kustomize {name}", docs, exclusive=name in ("bare-metal", "everything"))
        collect(facts, docs, later=name == "contract")
    facts.later_variables -= facts.variables
    facts.later_commands -= facts.commands
    node(root, report)
    report.section("negative controls")
    fullest = rendered["everything"] + policy.named(rendered["contract"], "CronJob")
    for expected in controls.undetected(fullest):
        report.check(False, f"a planted fault was not found: {expected}")
    report.count += len(controls.PLANTED)
    report.section("chart")
    if "HELM_LIBRARY" in os.environ:
        chart(root, report, write, rendered)
    else:
        report.leave_out("the chart: Helm's library can be had for x86-64 only")
    return facts


def clean(root, report):
    folders = ["kubernetes", "alerts", "checks/fixtures"]
    files = [root / "ops/chart/Chart.yaml", *(root / "ops/chart").glob("values*.yaml")]
    paths = [root / "ops" / folder for folder in folders] + files
    rules = root / "ops/checks/yamllint.yaml"
    words = [sys.executable, "-m", "yamllint", "--strict", "-c", rules, *paths]
    done = subprocess.run(words, capture_output=True, text=True)
    report.check(done.returncode == 0, done.stdout + done.stderr)


def generated(root, report, write):
    """Files that are a copy of others, since neither kustomize nor Helm looks outside its folder."""
    rules = (root / "ops/alerts/engram.rules.yaml").read_text()
    copies = {
        "ops/alerts/prometheus-rule.yaml": operator_rule(rules),
        "ops/chart/files/engram.rules.yaml": rules,
    }
    for board in (root / "ops/dashboards").glob("*.json"):
        copies[f"ops/chart/files/dashboards/{board.name}"] = board.read_text()
    source = root / seccomp.SOURCE
    if report.check(source.exists(), f"{seccomp.SOURCE} is missing"):
        profile = seccomp.for_kubernetes(source.read_text())
        copies |= {path: profile for path in SECCOMP_COPIES}
        for fault in seccomp.faults(profile):
            report.check(False, f"seccomp profile: {fault}")
    for path, text in copies.items():
        same_text(root / path, text, report, write)
    listed = yaml.safe_load((root / "ops/dashboards/kustomization.yaml").read_text())
    boards = {board.name for board in (root / "ops/dashboards").glob("*.json")}
    files = set(listed["configMapGenerator"][0]["files"])
    report.check(files == boards, f"dashboards {boards} are not those of the kustomization {files}")


def operator_rule(rules):
    head = """\
# Generated from engram.rules.yaml by ops/checks/run --write.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: engram
  labels:
    app.kubernetes.io/name: engram
    app.kubernetes.io/instance: engram
    app.kubernetes.io/component: monitoring
spec:
"""
    lines = [line for line in rules.splitlines() if not line.startswith("#")]
    return head + "".join(f"  {line}".rstrip() + "\n" for line in lines)


def same_text(path, text, report, write):
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    holds = path.exists() and path.read_text() == text
    report.check(holds, f"{path.name} is not what its source gives: ops/checks/run --write")


def whole(report, name, docs, exclusive):
    for doc in docs:
        if doc["kind"] in NOT_IN_KUBERNETES:
            report.check(doc["apiVersion"] == "monitoring.coreos.com/v1", f"{name}: {doc['kind']}")
            continue
        for version in KUBERNETES:
            fits_schema(report, name, doc, version)
    for fault in policy.check(docs, exclusive):
        report.check(False, f"{name}: {fault}")
    report.count += len(docs)


def fits_schema(report, name, doc, version):
    try:
        kubernetes_validate.validate(doc, version, strict=True)
        fault = None
    except kubernetes_validate.ValidationError as error:
        fault = error.message
    except kubernetes_validate.SchemaNotFoundError as error:
        fault = str(error)
    who = f"{doc['kind']} {doc['metadata']['name']}"
    report.check(fault is None, f"{name}: {who} in Kubernetes {version}: {fault}")


def node(root, report):
    folder = root / "ops/kubernetes/node"
    config = yaml.safe_load((folder / "kubelet.yaml").read_text())
    for fault in policy.kubelet(config):
        report.check(False, f"kubelet.yaml: {fault}")
    volume = yaml.safe_load((folder / "local-volume.yaml").read_text())
    installer = kustomize(folder / "seccomp") if (folder / "seccomp/engram.json").exists() else []
    for doc in [volume, *installer]:
        for version in KUBERNETES:
            fits_schema(report, "node", doc, version)
    for doc, pod, _ in policy.pods(installer):
        for fault in policy.every_pod(doc, pod):
            report.check(False, f"seccomp: {fault}")
        installs(report, pod["containers"][0]["args"][0])


def installs(report, script):
    """The installer's script writes the profile, on a node without any, and ends when told to."""
    with tempfile.TemporaryDirectory() as folder:
        profile, node = pathlib.Path(folder, "profile"), pathlib.Path(folder, "node")
        profile.mkdir()
        node.mkdir()
        (profile / "engram.json").write_text("{}")
        script = script.replace("/profile/", f"{profile}/").replace("/node/", f"{node}/")
        process = subprocess.Popen(["sh", "-ec", script], stdout=subprocess.PIPE, text=True)
        said = process.stdout.readline()
        report.check(said == "installed profiles/engram.json\n", f"the installer says {said!r}")
        copied = (node / "engram.json").read_text() == "{}"
        report.check(copied and len(list(node.iterdir())) == 1, "the profile is not in its place")
        process.terminate()
        report.check(process.wait(5) == 0, "the installer does not end when told to")


def collect(facts, docs, later):
    variables = facts.later_variables if later else facts.variables
    commands = facts.later_commands if later else facts.commands
    for _, pod, _ in policy.pods(docs):
        for container in policy.containers(pod):
            values = policy.environment(container)
            variables.update(name for name in values if name.startswith("ENGRAM_"))
            if container["image"].startswith("engram:"):
                commands.add(tuple(container["args"]))
            for probe in policy.PROBES:
                path = container.get(probe, {}).get("httpGet", {}).get("path")
                facts.paths |= {path} if path else set()
    for doc in policy.named(docs, "ServiceMonitor"):
        facts.paths |= {endpoint["path"] for endpoint in doc["spec"]["endpoints"]}


def chart(root, report, write, rendered):
    folder, helm = root / "ops/chart", Helm()
    lint = helm.lint(folder)
    report.check(not lint["Errors"], f"helm lint: {lint}")
    for name, layers in CHART_CASES.items():
        text = helm.install("engram", folder, values_of(folder, layers))
        same_text(folder / "golden" / f"{name}.yaml", text, report, write)
        docs = [doc for doc in yaml.safe_load_all(text) if doc]
        whole(report, f"chart {name}", docs, exclusive=name in ("bare-metal", "everything"))
        same_objects(report, name, docs, rendered[name])
    other = helm.install("mind", folder, {"maintenance": {"enabled": True}})
    docs = [doc for doc in yaml.safe_load_all(other) if doc]
    whole(report, "chart under another name", docs, exclusive=False)
    for values, expected in REFUSED_VALUES:
        refuses(report, helm, folder, values, expected)


def values_of(folder, layers):
    values = {}
    for layer in layers:
        if isinstance(layer, str):
            layer = yaml.safe_load((folder / layer).read_text())
        values = merged(values, layer)
    return values


def merged(below, above):
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: merged(below.get(key), value) for key, value in above.items()}


def refuses(report, helm, folder, values, expected):
    try:
        helm.install("engram", folder, values)
        said = "nothing"
    except RuntimeError as error:
        said = str(error)
    report.check(expected in said, f"the chart does not refuse {values}: {said}")


def same_objects(report, name, chart_docs, kustomize_docs):
    """The chart and the kustomization describe the same, apart from who made it."""
    ours, theirs = normal(chart_docs), normal(kustomize_docs)
    report.check(ours.keys() == theirs.keys(), f"{name}: only one has {ours.keys() ^ theirs.keys()}")
    for key in ours.keys() & theirs.keys():
        left, right = (json.dumps(side[key], sort_keys=True) for side in (ours, theirs))
        report.check(left == right, f"{name}: {key} differs:\n  chart     {left}\n  kustomize {right}")


def normal(docs):
    objects = {}
    for doc in docs:
        if doc["kind"] == "Namespace" or doc["metadata"]["name"] == "engram-cold":
            continue
        doc = json.loads(json.dumps(doc))
        doc["metadata"].pop("namespace", None)
        labels = doc["metadata"].get("labels", {})
        for label in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
            labels.pop(label, None)
        if doc["kind"] == "StorageClass":
            doc["metadata"].pop("labels", None)
        objects[doc["kind"], doc["metadata"]["name"]] = in_order(doc)
    return objects


def in_order(value):
    """Environment sorted by name, and free of what the two take from different places."""
    if isinstance(value, dict):
        return {key: environment(one) if key == "env" else in_order(one) for key, one in value.items()}
    if isinstance(value, list):
        items = [in_order(one) for one in value if one != HTTPS]
        return sorted(items, key=name_of) if all(map(name_of, items)) else items
    return value


# Egress to the cold tier: a policy of its own with kustomize, a line of the server's in the chart.
HTTPS = {"port": 443, "protocol": "TCP"}


def name_of(item):
    return item.get("name", "") if isinstance(item, dict) else ""


def environment(entries):
    kept = [entry for entry in entries if not re.match("AWS_|ENGRAM_COLD_URL", entry["name"])]
    return sorted(kept, key=lambda entry: entry["name"])
