"""Renders manifests with the real kubectl kustomize and charts with the real Helm library.

Helm's library installs only into a cluster, so a cluster of this process's own takes what it posts:
an API server on loopback that knows every kind, has nothing and accepts everything.
"""

import ctypes
import http.server
import json
import os
import subprocess
import tempfile
import threading

import yaml

KINDS = {
    "v1": ["ConfigMap", "Secret", "Service", "ServiceAccount"],
    "apps/v1": ["StatefulSet", "DaemonSet"],
    "batch/v1": ["CronJob"],
    "policy/v1": ["PodDisruptionBudget"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "storage.k8s.io/v1": ["StorageClass"],
    "monitoring.coreos.com/v1": ["ServiceMonitor", "PrometheusRule"],
}
PLURAL = {"NetworkPolicy": "networkpolicies", "StorageClass": "storageclasses"}
NOT_NAMESPACED = {"StorageClass"}


def kustomize(folder):
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"kubectl kustomize {folder}: {done.stderr.strip()}")
    if done.stderr.strip():
        raise RuntimeError(f"kubectl kustomize {folder} warns: {done.stderr.strip()}")
    return [doc for doc in yaml.safe_load_all(done.stdout) if doc]


def resources(group_version):
    def one(kind):
        return {
            "name": PLURAL.get(kind, kind.lower() + "s"),
            "singularName": kind.lower(),
            "kind": kind,
            "namespaced": kind not in NOT_NAMESPACED,
            "verbs": ["get", "list", "create", "patch", "delete"],
        }

    listed = [one(kind) for kind in KINDS[group_version]]
    return {"kind": "APIResourceList", "groupVersion": group_version, "resources": listed}


def groups():
    def one(group_version):
        version = {"groupVersion": group_version, "version": group_version.split("/")[1]}
        return {
            "name": group_version.split("/")[0],
            "versions": [version],
            "preferredVersion": version,
        }

    named = [one(group_version) for group_version in KINDS if "/" in group_version]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}


class EmptyCluster(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kubernetes = "v1.33.0"

    def log_message(self, *_):
        pass

    def answer(self, status, body, media="application/json"):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        group_version = path.removeprefix("/apis/").removeprefix("/api/")
        if path == "/version":
            return self.answer(200, {"major": "1", "minor": "33", "gitVersion": self.kubernetes})
        if path == "/api":
            return self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            return self.answer(200, groups())
        if group_version in KINDS:
            return self.answer(200, resources(group_version))
        if path.endswith("/secrets"):
            return self.answer(200, {"kind": "SecretList", "apiVersion": "v1", "items": []})
        absent = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound"}
        return self.answer(404, absent | {"code": 404})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(201, body, self.headers["Content-Type"])

    do_PUT = do_PATCH = do_POST


def kubeconfig(port):
    cluster = {"server": f"http://127.0.0.1:{port}"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "empty", "cluster": cluster}],
        "users": [{"name": "empty", "user": {}}],
        "contexts": [{"name": "empty", "context": {"cluster": "empty", "user": "empty"}}],
        "current-context": "empty",
    }


class Helm:
    """The calls of Helm's library that are used here."""

    def __init__(self, namespace="engram"):
        self.library = ctypes.CDLL(os.environ["HELM_LIBRARY"])
        self.library.helm_sdkpy_last_error.restype = ctypes.c_char_p
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), EmptyCluster)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        # Read by the library whenever it talks to the cluster, so it lives as long as this object.
        self.kubeconfig = tempfile.NamedTemporaryFile("w", suffix=".json")
        json.dump(kubeconfig(self.server.server_port), self.kubeconfig)
        self.kubeconfig.flush()
        self.config = ctypes.c_ulonglong()
        arguments = [namespace.encode(), self.kubeconfig.name.encode(), b"empty", b"{}"]
        if self.library.helm_sdkpy_config_create(*arguments, ctypes.byref(self.config)) != 0:
            raise RuntimeError(self.error())

    def error(self):
        return self.library.helm_sdkpy_last_error().decode()

    def lint(self, chart):
        out = ctypes.c_char_p()
        arguments = [self.config, str(chart).encode()]
        if self.library.helm_sdkpy_lint(*arguments, ctypes.byref(out)) != 0:
            raise RuntimeError(self.error())
        return json.loads(out.value)

    def install(self, release, chart, values=None):
        """The text of all objects, or the error as RuntimeError."""
        out = ctypes.c_char_p()
        options = {"wait": False, "timeout_seconds": 20, "server_side_apply": "false"}
        options["disable_openapi_validation"] = True
        arguments = [self.config, release.encode(), str(chart).encode()]
        arguments += [json.dumps(values or {}).encode(), b"", json.dumps(options).encode()]
        if self.library.helm_sdkpy_install(*arguments, ctypes.byref(out)) != 0:
            raise RuntimeError(self.error())
        return json.loads(out.value)["manifest"]
