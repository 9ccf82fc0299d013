"""Compares with the real binary: arguments, variables, paths, metrics, alerts and dashboards."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

import contract
import seccomp
from alerts import promtool, rules

# From others than the server: Prometheus, the kubelet, kube-state-metrics.
FOREIGN = {"up", "kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes"}
FOREIGN |= {"kube_job_status_failed"}
READY_WITHIN_S = 60
KEY = "a-key-for-these-checks"


def free_port():
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def confined(profile, *words):
    return [sys.executable, pathlib.Path(__file__).parent / "confine.py", profile, *words]


def expressions(root):
    """(where, expression) of every panel and variable of the dashboards."""
    for path in sorted((root / "ops/dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                metric = re.fullmatch(r"label_values\((.*), \w+\)", variable["definition"])[1]
                yield f"{path.name}: variable {variable['name']}", metric
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                text = target["expr"].replace("$__rate_interval", "10s").replace("$instance", ".*")
                yield f"{path.name}: {panel['title']}", text


def metrics_of(expression):
    """Names of metrics: what carries a selector, a range, or our prefix."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"\b([a-z_]\w*)\s*[{\[]", bare)) | set(
        re.findall(r"\b(engram_\w+|up)\b", bare)
    )


class Server:
    """A real server on an empty directory, and a real Prometheus that scrapes it."""

    def __init__(self, binary, report):
        self.binary, self.report, self.processes = binary, report, []

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
        self.folder.cleanup()

    def check(self, root, facts):
        self.report.section("arguments and variables")
        self.arguments(facts)
        self.variables(facts)
        self.report.section("a real server")
        self.stock_profile(root)
        if not self.start(root):
            return
        self.paths(facts)
        self.traffic()
        self.report.section("metrics of alerts and dashboards")
        self.metrics(root)
        self.section_prometheus(root)
        contract.check(root, self.report, f"http://127.0.0.1:{self.port}", KEY)
        status, said = self.get("/health/ready")
        self.report.check(status == 200, f"after all of it the server is not ready: {said}")

    def run(self, *words, **environment):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
        done = subprocess.run(
            [self.binary, *words], env=kept | environment, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stdout, done.stderr

    def arguments(self, facts):
        """--help comes last: the arguments before it must parse, and nothing is run."""
        for words in sorted(facts.commands):
            status, _, said = self.run(*words, "--help")
            self.report.check(status == 0, f"engram {' '.join(words)}: {said.strip()}")
        for words in sorted(facts.later_commands):
            status, _, _ = self.run(*words, "--help")
            if status != 0:
                self.report.leave_out(f"this binary has no `engram {' '.join(words)}`")
        status, _, _ = self.run("serve", "--no-such-flag", "--help")
        self.report.check(status == 2, "a wrong flag before --help is not noticed")

    def variables(self, facts):
        status, listed, said = self.run("config", "--json")
        self.report.check(status == 0, f"engram config: {said.strip()}")
        helped = "".join(self.run(word, "--help")[1] for word in ("serve", "recall"))
        known = set(re.findall(r"\bENGRAM_[A-Z_]+\b", listed + helped))
        for name in sorted(facts.variables):
            self.report.check(name in known, f"engram knows no variable {name}")
        for name in sorted(facts.later_variables - known):
            self.report.leave_out(f"this binary has no variable {name}")

    def start(self, root):
        folder = pathlib.Path(self.folder.name)
        self.port = free_port()
        (folder / "data").mkdir()
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        (folder / "keys").write_text(f"operator admin sha256:{digest}\n")
        environment = {
            "ENGRAM_LISTEN": f"127.0.0.1:{self.port}",
            "ENGRAM_DATA_DIR": str(folder / "data"),
            # Two, so that there are messages between shards to show.
            "ENGRAM_SHARDS": "2",
            "ENGRAM_LOG_LEVEL": "warn",
            "ENGRAM_INSECURE": "false",
            "ENGRAM_AUTH_KEYS_FILE": str(folder / "keys"),
            "ENGRAM_API_KEY": KEY,
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
        log = open(folder / "server.log", "w+")
        # Under the profile that its pod has, so that a call which it lacks is found here.
        words = confined(root / seccomp.KUBERNETES, self.binary, "serve")
        self.processes.append(subprocess.Popen(words, env=kept | environment, stderr=log, stdout=log))
        ready = self.wait(lambda: self.get("/health/ready")[0] == 200)
        tail = pathlib.Path(log.name).read_text()[-2000:]
        return self.report.check(ready, f"the server did not get ready: {tail}")

    def stock_profile(self, root):
        """What an engine applies by itself forbids io_uring: the server must say so, with 78."""
        stock = seccomp.for_kubernetes((root / "container/seccomp/docker-current.json").read_text())
        path = pathlib.Path(self.folder.name) / "stock.json"
        path.write_text(stock)
        data = {"ENGRAM_DATA_DIR": self.folder.name, "ENGRAM_LISTEN": f"127.0.0.1:{free_port()}"}
        words = confined(path, self.binary, "serve")
        done = subprocess.run(words, env=os.environ | data, capture_output=True, text=True, timeout=60)
        clear = done.returncode == 78 and "seccomp" in done.stderr
        self.report.check(clear, f"stock profile: {done.returncode}, {done.stderr[-500:]}")

    def wait(self, condition):
        end = time.time() + READY_WITHIN_S
        while time.time() < end:
            with contextlib.suppress(OSError):
                if condition():
                    return True
            if self.processes[-1].poll() is not None:
                return False
            time.sleep(0.1)
        return False

    def get(self, path, port=None):
        return self.ask("GET", path, None, port)

    def ask(self, method, path, body, port=None, key=KEY):
        url = f"http://127.0.0.1:{port or self.port}{path}"
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {key}"}
        if data:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def paths(self, facts):
        for path in sorted(facts.paths):
            # Neither the kubelet nor Prometheus has a key.
            status, _ = self.ask("GET", path, None, key="none")
            self.report.check(status == 200, f"GET {path} answers {status}")
        status, _ = self.get("/health/no-such-path")
        self.report.check(status == 404, "a path that does not exist answers 200")

    def traffic(self):
        """One of each kind, so that series that start with the first event exist."""
        memory = {"content": "test memory", "embedding": [0.1, 0.2]}
        status, said = self.ask("POST", "/api/v1/memories", memory)
        self.report.check(status == 201, f"storing answers {status}: {said}")
        status, said = self.ask("POST", "/api/v1/memories/batch", [memory, memory])
        self.report.check(status == 200, f"a batch answers {status}: {said}")
        status, said = self.ask("POST", "/api/v1/recall", {"cues": [{"text": "test"}]})
        self.report.check(status == 200, f"a recall answers {status}: {said}")
        self.ask("POST", "/api/v1/recall", {"cues": []})
        status, _ = self.ask("POST", "/api/v1/recall", {"cues": [{"text": "test"}]}, key="wrong")
        self.report.check(status == 401, f"a wrong key is answered {status}")

    def metrics(self, root):
        _, text = self.get("/metrics")
        done = promtool("check", "metrics", stdin=text)
        self.report.check(done.returncode == 0, f"promtool check metrics: {done.stderr}")
        exposed = set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE)) | FOREIGN
        for where, expression in [*expressions(root), *alert_expressions(root)]:
            for name in metrics_of(expression):
                self.report.check(name in exposed, f"{where}: {name} is not exposed")
        self.labels(root, text)
        self.values(root, text)

    def labels(self, root, text):
        """A matcher on a label that the metric lacks would silently match nothing."""
        exposed = {}
        for name, inner in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
            exposed.setdefault(name, set()).update(re.findall(r'(\w+)="', inner))
        for where, expression in [*expressions(root), *alert_expressions(root)]:
            for name, matchers in re.findall(r"(engram_\w+)\{([^}]*)\}", expression):
                used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) - {"instance", "job"}
                missing = used - exposed.get(name, set())
                self.report.check(not missing, f"{where}: {name} has no label {missing}")

    def values(self, root, text):
        """A matcher on a value that the server never gives would silently match nothing, either.

        Series of refusals start with the first one, so their codes are looked up in the contract.
        """
        _, contract = self.get("/openapi.json")
        for where, expression in [*expressions(root), *alert_expressions(root)]:
            pairs = re.findall(r'(outcome|route|reason|status)\s*(?:=~|!=|=)\s*"([^"]*)"', expression)
            for label, pattern in pairs:
                for value in pattern.split("|"):
                    given = f'{label}="{value}"' in text or f'"{value}"' in contract
                    given = given or (label, value) == ("status", "5xx")
                    self.report.check(given, f"{where}: {label} is never {value}")

    def section_prometheus(self, root):
        """Every expression of a dashboard gives something from a Prometheus that scrapes the server."""
        self.report.section("dashboards in a real Prometheus")
        if not self.start_prometheus():
            return
        self.wait(lambda: (self.query("count_over_time(up[60s])") or 0) >= 6)
        for _ in range(5):
            self.traffic_quietly()
            time.sleep(1)
        empty = {where for where, text in expressions(root) if self.query(text) is None}
        for where, _ in expressions(root):
            self.report.check(where not in empty, f"{where} shows nothing")
        for where, text in alert_expressions(root):
            self.report.check(self.understood(text), f"{where} is not understood")

    def traffic_quietly(self):
        self.ask("POST", "/api/v1/memories", {"content": "more", "embedding": [0.3, 0.2]})
        self.ask("POST", "/api/v1/memories/batch", [{"content": "more", "embedding": [0.3, 0.1]}])
        self.ask("POST", "/api/v1/recall", {"cues": [{"text": "more"}]})
        self.ask("POST", "/api/v1/recall", {"cues": []})

    def start_prometheus(self):
        folder = pathlib.Path(self.folder.name)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "scrape_configs": [
                {
                    "job_name": "engram",
                    "static_configs": [{"targets": [f"127.0.0.1:{self.port}"]}],
                }
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.prometheus = free_port()
        log = open(folder / "prometheus.log", "w+")
        words = ["prometheus", f"--config.file={folder}/prometheus.yml"]
        words += [f"--storage.tsdb.path={folder}/tsdb"]
        words += [f"--web.listen-address=127.0.0.1:{self.prometheus}", "--log.level=warn"]
        self.processes.append(subprocess.Popen(words, stderr=log, stdout=log))
        ready = self.wait(lambda: self.get("/-/ready", self.prometheus)[0] == 200)
        tail = pathlib.Path(log.name).read_text()[-2000:]
        return self.report.check(ready, f"Prometheus did not start: {tail}")

    def answer(self, expression):
        query = urllib.parse.urlencode({"query": expression})
        return self.get(f"/api/v1/query?{query}", self.prometheus)

    def query(self, expression):
        """The first value, or None where there is no series or only values that are no numbers."""
        status, text = self.answer(expression)
        result = json.loads(text)["data"]["result"] if status == 200 else []
        values = [float(one["value"][1]) for one in result]
        return next((value for value in values if value == value), None)

    def understood(self, expression):
        return self.answer(expression)[0] == 200


def alert_expressions(root):
    return [(rule["alert"], rule["expr"]) for rule in rules(root)]
