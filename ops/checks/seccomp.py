"""The seccomp profile as Kubernetes needs it.

Docker reads conditions (`includes`, `excludes`: capabilities, architectures, kernels) and `archMap`.
The kubelet hands a Localhost profile to the runtime as it is, and containerd and CRI-O read the plain
form of the OCI runtime specification: conditions would be ignored, so that rules meant for root
apply to all. Here they are decided: a container without capabilities, on amd64 or arm64.
"""

import json

SOURCE = "container/seccomp/engram.json"
KUBERNETES = "ops/kubernetes/node/seccomp/engram.json"
ARCHITECTURES = {"amd64", "arm64"}
NAMES = {"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"}


def for_kubernetes(text):
    docker = json.loads(text)
    rules = [plain(rule) for rule in docker["syscalls"] if applies(rule)]
    profile = {"defaultAction": docker["defaultAction"]}
    if "defaultErrnoRet" in docker:
        profile["defaultErrnoRet"] = docker["defaultErrnoRet"]
    profile["architectures"] = architectures(docker)
    profile["syscalls"] = rules
    return json.dumps(profile, indent=1) + "\n"


def applies(rule):
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("caps"):
        return False
    if includes.get("arches") and not ARCHITECTURES & set(includes["arches"]):
        return False
    return not ARCHITECTURES <= set(excludes.get("arches", []))


def plain(rule):
    kept = {"names": sorted(rule["names"]), "action": rule["action"]}
    if rule.get("errnoRet") is not None:
        kept["errnoRet"] = rule["errnoRet"]
    if rule.get("args"):
        wanted = ("index", "value", "valueTwo", "op")
        kept["args"] = [{key: one[key] for key in wanted if key in one} for one in rule["args"]]
    return kept


def architectures(docker):
    found = []
    for entry in docker["archMap"]:
        if entry["architecture"] in NAMES:
            found += [entry["architecture"], *(entry.get("subArchitectures") or [])]
    return found


def faults(text):
    profile, actions = json.loads(text), {}
    for rule in profile["syscalls"]:
        if not rule.keys() <= {"names", "action", "args", "errnoRet"}:
            yield f"a runtime ignores {sorted(rule)}"
        for name in rule["names"]:
            if "args" not in rule and actions.setdefault(name, rule["action"]) != rule["action"]:
                yield f"{name} is both allowed and refused"
    needed = ["io_uring_setup", "io_uring_enter", "io_uring_register", "mbind", "set_mempolicy"]
    for name in needed:
        if actions.get(name) != "SCMP_ACT_ALLOW":
            yield f"{name} is not allowed"
    if "SCMP_ARCH_X86_64" not in profile["architectures"]:
        yield "no architecture"
