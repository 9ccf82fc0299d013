"""What must hold of our manifests beyond their schemas, whoever rendered them."""

from quantity import quantity, seconds

STATIC_NODE_PORTS = range(30000, 30086)
PROBES = ["startupProbe", "livenessProbe", "readinessProbe"]
SECRETS = {"engram-keys": {"keys", "operator"}, "engram-cold": {"access-key-id", "secret-access-key"}}


def pods(docs):
    """(object, pod spec, labels) of everything that makes pods."""
    for doc in docs:
        spec = doc.get("spec", {})
        if doc["kind"] == "CronJob":
            template = spec["jobTemplate"]["spec"]["template"]
        elif doc["kind"] in ("StatefulSet", "DaemonSet"):
            template = spec["template"]
        else:
            continue
        yield doc, template["spec"], template["metadata"]["labels"]


def containers(pod):
    return pod.get("initContainers", []) + pod["containers"]


def environment(container):
    return {entry["name"]: entry.get("value") for entry in container.get("env", [])}


def named(docs, kind):
    return [doc for doc in docs if doc["kind"] == kind]


def check(docs, exclusive):
    """A list of sentences, one for each thing that is wrong."""
    wrong = []
    for doc, pod, labels in pods(docs):
        wrong += every_pod(doc, pod)
        if doc["kind"] == "StatefulSet":
            wrong += server(docs, doc, pod)
            if exclusive:
                wrong += owns_its_cores(docs, pod)
        if doc["kind"] == "CronJob":
            wrong += job(docs, doc, pod, labels)
    wrong += selectors(docs)
    wrong += unique(docs)
    if not named(docs, "PodDisruptionBudget"):
        wrong.append("no PodDisruptionBudget")
    for service in named(docs, "Service"):
        for port in service["spec"]["ports"]:
            number = port.get("nodePort")
            if number is not None and number not in STATIC_NODE_PORTS:
                wrong.append(f"nodePort {number} is not in the static band")
    return wrong


def every_pod(doc, pod):
    who, wrong = f"{doc['kind']} {doc['metadata']['name']}", []
    if pod.get("enableServiceLinks") is not False:
        wrong.append(f"{who}: enableServiceLinks is not false")
    if pod.get("automountServiceAccountToken") is not False:
        wrong.append(f"{who}: mounts a service account token")
    for container in containers(pod):
        wrong += [f"{who}: {fault}" for fault in every_container(pod, container)]
    for source in secret_references(pod):
        name, key = source
        if key not in SECRETS.get(name, ()):
            wrong.append(f"{who}: secret {name} with key {key} is not documented")
    return wrong


def every_container(pod, container):
    resources = container.get("resources", {})
    for side in ("requests", "limits"):
        for kind in ("cpu", "memory"):
            if kind not in resources.get(side, {}):
                yield f"container {container['name']} has no {kind} in {side}"
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "the root file system is writable"
    if security.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "capabilities are kept"
    image = container["image"]
    if image.startswith("engram") and not pod.get("securityContext", {}).get("runAsNonRoot"):
        yield "runs as root"
    if "@" not in image and (":" not in image or image.endswith(":latest")):
        yield f"image {image} has no fixed tag"
    volumes = {volume["name"] for volume in pod.get("volumes", [])} | {"data"}
    for mount in container.get("volumeMounts", []):
        if mount["name"] not in volumes:
            yield f"volume {mount['name']} does not exist"


def secret_references(pod):
    for container in containers(pod):
        for entry in container.get("env", []):
            reference = entry.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                yield reference["name"], reference["key"]
    for volume in pod.get("volumes", []):
        for item in volume.get("secret", {}).get("items", []):
            yield volume["secret"]["secretName"], item["key"]


def server(docs, doc, pod):
    spec, container = doc["spec"], pod["containers"][0]
    values, wrong = environment(container), []
    if spec["replicas"] != 1:
        wrong.append("replicas are not copies: there must be one")
    if spec["podManagementPolicy"] != "Parallel":
        wrong.append("podManagementPolicy is not Parallel")
    if spec["serviceName"] not in [one["metadata"]["name"] for one in named(docs, "Service")]:
        wrong.append(f"the service {spec['serviceName']} does not exist")
    if (values.get("ENGRAM_INSECURE") == "false") != ("ENGRAM_AUTH_KEYS_FILE" in values):
        wrong.append("keys and ENGRAM_INSECURE contradict each other")
    for probe in PROBES:
        if "httpGet" not in container.get(probe, {}):
            wrong.append(f"{probe} is missing")
    wrong += stopping(pod, container, values)
    wrong += memory(pod, container, values)
    wrong += places(doc, pod, container, values)
    return wrong


def stopping(pod, container, values):
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needs = waits + seconds(values["ENGRAM_SHUTDOWN_GRACE"])
    if needs > pod["terminationGracePeriodSeconds"]:
        yield f"stopping takes {needs} s, the pod has {pod['terminationGracePeriodSeconds']} s"


def memory(pod, container, values):
    limit = quantity(container["resources"]["limits"]["memory"])
    budget = quantity(values.get("ENGRAM_MEMORY_LIMIT") or 0.8 * limit)
    if budget > 0.9 * limit:
        yield "the budget leaves less than a tenth of the memory limit to the kernel and the stacks"
    tmpfs = 0
    for volume in pod["volumes"]:
        folder = volume.get("emptyDir", {})
        if folder.get("medium") == "Memory":
            if "sizeLimit" not in folder:
                yield f"tmpfs {volume['name']} has no size limit"
            tmpfs += quantity(folder.get("sizeLimit", limit))
    if tmpfs == 0:
        yield "there is no fast tier"
    if tmpfs > budget / 2:
        yield f"tmpfs of {tmpfs / 2**20:.0f} MiB leaves the heap less than half of the budget"


def places(doc, pod, container, values):
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    claims = [claim["metadata"]["name"] for claim in doc["spec"]["volumeClaimTemplates"]]
    if mounts.get(values["ENGRAM_DATA_DIR"]) not in claims:
        yield "ENGRAM_DATA_DIR is not on the claimed volume"
    if mounts.get("/dev/shm") != "fast":
        yield "the default place of the fast tier is not the tmpfs"
    keys = values.get("ENGRAM_AUTH_KEYS_FILE")
    if keys and mounts.get(keys.rsplit("/", 1)[0]) != "auth":
        yield "ENGRAM_AUTH_KEYS_FILE is not in the mounted secret"
    port = int(values["ENGRAM_LISTEN"].rsplit(":", 1)[1])
    if port not in [declared["containerPort"] for declared in container.get("ports", [])]:
        yield f"port {port} is not declared"
    if pod.get("hostNetwork") and pod.get("dnsPolicy") != "ClusterFirstWithHostNet":
        yield "hostNetwork without dnsPolicy ClusterFirstWithHostNet"


def owns_its_cores(docs, pod):
    if not pod.get("hostNetwork"):
        yield "bare metal without the host's network"
    profile = pod.get("securityContext", {}).get("seccompProfile", {})
    if profile.get("type") != "Localhost":
        yield "bare metal without a Localhost seccomp profile"
    for container in containers(pod):
        resources = container["resources"]
        if resources["requests"] != resources["limits"]:
            yield f"container {container['name']}: requests differ from limits, so not Guaranteed"
        if quantity(resources["limits"]["cpu"]) % 1:
            yield f"container {container['name']}: a fraction of a CPU is never exclusive"
    for namespace in named(docs, "Namespace"):
        if namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] != "privileged":
            yield "hostNetwork in a namespace that forbids it"


def job(docs, doc, pod, labels):
    who, spec = f"CronJob {doc['metadata']['name']}", doc["spec"]
    if spec.get("concurrencyPolicy") != "Forbid":
        yield f"{who}: may run twice at a time"
    if "activeDeadlineSeconds" not in spec["jobTemplate"]["spec"]:
        yield f"{who}: has no deadline"
    if "startingDeadlineSeconds" not in spec:
        yield f"{who}: counts missed starts without end"
    if pod.get("volumes"):
        yield f"{who}: is a network client and takes no volume"
    if labels.get("engram-client") != "true":
        yield f"{who}: the network policy keeps it out"
    for container in pod["containers"]:
        address = environment(container).get("ENGRAM_URL", "").removeprefix("http://")
        host, _, port = address.partition(":")
        if (host, port) not in list(addresses(docs)):
            yield f"{who}: ENGRAM_URL names no service of ours"
        if quantity(container["resources"]["requests"]["cpu"]) > 0.1:
            yield f"{who}: does not fit beside exclusive CPUs"


def addresses(docs):
    for service in named(docs, "Service"):
        for port in service["spec"]["ports"]:
            yield service["metadata"]["name"], str(port["port"])


def selectors(docs):
    templates = [(labels, pod) for _, pod, labels in pods(docs)]
    for doc in docs:
        spec = doc.get("spec", {})
        if doc["kind"] == "Service":
            wanted = spec["selector"]
        elif doc["kind"] == "NetworkPolicy":
            wanted = spec["podSelector"]["matchLabels"]
        elif doc["kind"] in ("PodDisruptionBudget", "StatefulSet", "DaemonSet"):
            wanted = spec["selector"]["matchLabels"]
        else:
            continue
        chosen = [pod for labels, pod in templates if wanted.items() <= labels.items()]
        if len(chosen) == 0:
            yield f"{doc['kind']} {doc['metadata']['name']} selects nothing"
        if doc["kind"] == "Service":
            for port in spec["ports"]:
                if not any(declares(pod, port["targetPort"]) for pod in chosen):
                    yield f"Service {doc['metadata']['name']}: no port {port['targetPort']}"


def declares(pod, name):
    ports = [port for container in pod["containers"] for port in container.get("ports", [])]
    return name in [port.get("name") for port in ports]


def unique(docs):
    seen = set()
    for doc in docs:
        key = doc["kind"], doc["metadata"].get("namespace"), doc["metadata"]["name"]
        if key in seen:
            yield f"{key} exists twice"
        seen.add(key)


def kubelet(config):
    """What the kubelet itself refuses, or what would take the cores away."""
    reserved = sum(quantity(node["limits"]["memory"]) for node in config["reservedMemory"])
    parts = [config["kubeReserved"]["memory"], config["systemReserved"]["memory"]]
    parts.append(config["evictionHard"]["memory.available"])
    if reserved != sum(quantity(part) for part in parts):
        yield "reservedMemory is not kubeReserved + systemReserved + evictionHard"
    wanted = {
        "cpuManagerPolicy": "static",
        "topologyManagerPolicy": "single-numa-node",
        "memoryManagerPolicy": "Static",
    }
    for key, value in wanted.items():
        if config.get(key) != value:
            yield f"{key} is not {value}"
    if not config.get("reservedSystemCPUs"):
        yield "the static policy needs reserved CPUs"
