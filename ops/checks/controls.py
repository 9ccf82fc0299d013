"""Negative controls: each policy must find the fault that it is there for."""

import copy

import policy


def server_of(docs):
    return next(doc for doc in docs if doc["kind"] == "StatefulSet")


def pod_of(docs):
    return server_of(docs)["spec"]["template"]["spec"]


def container_of(docs):
    return pod_of(docs)["containers"][0]


def job_of(docs):
    return next(doc for doc in docs if doc["kind"] == "CronJob")["spec"]


def job_pod(docs):
    return job_of(docs)["jobTemplate"]["spec"]["template"]["spec"]


def fast_tier(docs):
    return next(volume for volume in pod_of(docs)["volumes"] if volume["name"] == "fast")["emptyDir"]


def set_environment(docs, name, value):
    for entry in container_of(docs)["env"]:
        if entry["name"] == name:
            entry["value"] = value


def service_of(docs, kind):
    return next(d for d in docs if d["kind"] == "Service" and d["spec"].get("type") == kind)["spec"]


PLANTED = [
    (lambda d: job_pod(d)["containers"][0]["resources"]["limits"].pop("cpu"), "no cpu in limits"),
    (lambda d: container_of(d)["resources"]["limits"].update(cpu="3500m"), "fraction of a CPU"),
    (lambda d: container_of(d)["resources"]["requests"].update(cpu="2"), "not Guaranteed"),
    (lambda d: fast_tier(d).update(sizeLimit="9Gi"), "leaves the heap less"),
    (lambda d: fast_tier(d).pop("sizeLimit"), "no size limit"),
    (lambda d: pod_of(d).pop("enableServiceLinks"), "enableServiceLinks"),
    (lambda d: pod_of(d).update(automountServiceAccountToken=True), "service account token"),
    (lambda d: pod_of(d).update(terminationGracePeriodSeconds=30), "stopping takes"),
    (lambda d: pod_of(d).pop("dnsPolicy"), "dnsPolicy"),
    (lambda d: container_of(d).pop("ports"), "is not declared"),
    (lambda d: container_of(d).update(image="engram:latest"), "no fixed tag"),
    (lambda d: container_of(d).pop("readinessProbe"), "readinessProbe is missing"),
    (lambda d: container_of(d)["securityContext"].pop("capabilities"), "capabilities are kept"),
    (lambda d: set_environment(d, "ENGRAM_INSECURE", "true"), "contradict each other"),
    (lambda d: set_environment(d, "ENGRAM_DATA_DIR", "/data"), "claimed volume"),
    (lambda d: server_of(d)["spec"].update(replicas=3), "replicas are not copies"),
    (lambda d: server_of(d)["spec"].update(serviceName="x"), "the service x does not exist"),
    (lambda d: job_of(d).update(concurrencyPolicy="Allow"), "twice at a time"),
    (lambda d: job_of(d)["jobTemplate"]["spec"].pop("activeDeadlineSeconds"), "no deadline"),
    (lambda d: job_pod(d)["containers"][0]["env"][0].update(value="http://x:1"), "no service of ours"),
    (lambda d: job_pod(d).update(volumes=[{"name": "data"}]), "takes no volume"),
    (lambda d: service_of(d, "NodePort")["ports"][0].update(nodePort=31000), "static band"),
    (lambda d: service_of(d, "ClusterIP")["selector"].update(x="y"), "selects nothing"),
    (lambda d: d.append(copy.deepcopy(server_of(d))), "exists twice"),
]


def undetected(docs):
    """The planted faults that no policy found; docs is the fullest bare-metal rendering."""
    for plant, expected in PLANTED:
        broken = copy.deepcopy(docs)
        plant(broken)
        if not found(broken, expected):
            yield expected


def found(docs, expected):
    return any(expected in fault for fault in policy.check(docs, exclusive=True))
