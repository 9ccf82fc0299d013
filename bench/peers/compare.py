#!/usr/bin/env python3
"""Measures Engram and other systems side by side on the same data, with the same client.

    usage: compare.py FOLDER DATA [--systems redis,falkordb,...] [--rounds 6] [--seconds 1]
                      [--output results] [--hold COMMAND]

FOLDER is what install.sh made, DATA what `engram-bench dataset` wrote. All systems are started and
loaded first; the server of each runs on CPU 0, its clients on CPU 1, and only one is asked at a
time. A round asks every system every question once, with one client and with eight; the order turns
round by round. So what the machine does meanwhile meets all of them, and the ratio of two systems is
taken within a round. Rounds of reading come first, rounds of storing after them: those change the data.

systems.py says what is asked of each system, in how many requests, and with which durability.

Latency is that of a closed loop. Clients are Python with requests encoded ahead where the protocol
allows it, so that figures hold 20 to 60 microseconds of client: the same for all, so ratios are
understated for the fast. --hold names a command that is run for the time of each round, where
others use the machine: it says a line when the machine is still, and ends with its standard input.
"""

import argparse
import base64
import json
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
import time

import numpy

from systems import SERVER_CPU, SYSTEMS, TOP

CLIENT_CPU = 1
MANY = 8


def read_data(folder):
    with open(f"{folder}/memories.ndjson") as file:
        memories = [json.loads(line) for line in file]
    with open(f"{folder}/queries.ndjson") as file:
        queries = [json.loads(line) for line in file]
    for row in memories + queries:
        row["raw"] = base64.b64decode(row["embedding"])
        row["vector"] = numpy.frombuffer(row["raw"], dtype="<f4")
    return memories, queries


def ask(system, question, data, seconds):
    """One client: latencies in microseconds of a closed loop, the first fifth left out."""
    memories, queries = data
    start = time.perf_counter()
    warm, end = start + seconds / 5, start + seconds * 1.2
    took, n, sent = [], os.getpid(), 0
    while True:
        n = (n + 1) % len(queries)
        about = system.fresh(memories) if question == "store" else n
        before = time.perf_counter()
        getattr(system, question)(about)
        after = time.perf_counter()
        sent += 1
        if before > warm:
            took.append((after - before) * 1e6)
        if after > end and took:
            return took, sent


def client(system, data, cpu, pipe):
    """A process with a connection of its own that asks when it is told to."""
    os.sched_setaffinity(0, {cpu})
    system.prepare(data[1])
    pipe.send("ready")
    while True:
        question, seconds = pipe.recv()
        if question == "quality":
            system.resume()
            right = [len(set(system.search(n)) & set(q["nearest"]))
                     for n, q in enumerate(data[1])]
            pipe.send(float(numpy.mean(right)) / TOP)
            continue
        system.resume()
        used = time.process_time()
        took, sent = ask(system, question, data, seconds)
        pipe.send((took, sent, (time.process_time() - used) * 1e6))


class Stage:
    """A loaded system with its clients, and what each question took, round by round."""

    def __init__(self, name, system, data):
        self.name, self.system, self.data = name, system, data
        self.clients, self.rounds = [], {}

    def start(self):
        system, data = self.system, self.data
        system.start()
        system.load(data[0])
        context = multiprocessing.get_context("fork")
        cpu = CLIENT_CPU if system.network else SERVER_CPU
        for _ in range(MANY if system.network else 1):
            mine, theirs = context.Pipe()
            process = context.Process(target=client, args=(system, data, cpu, theirs), daemon=True)
            process.start()
            self.clients.append((process, mine))
            self.answer(-1)

    def answer(self, number, seconds_max=120):
        pipe = self.clients[number][1]
        if not pipe.poll(seconds_max):
            raise RuntimeError(f"a client of {self.system.name} does not answer")
        return pipe.recv()

    def quality(self):
        """Share of the true ten nearest that vector search finds."""
        self.clients[0][1].send(("quality", 0))
        return self.answer(0)

    def measure(self, question, clients, seconds):
        asking = self.clients[:clients]
        before = self.system.cpu_us()
        began = time.perf_counter()
        for _, pipe in asking:
            pipe.send((question, seconds))
        answers = [self.answer(number) for number in range(clients)]
        used = self.system.cpu_us() - before if self.system.network else answers[0][2]
        took = [one for part, _, _ in answers for one in part]
        sent = sum(part for _, part, _ in answers)
        elapsed = max(time.perf_counter() - began - seconds / 5, seconds)
        self.rounds.setdefault((question, clients), []).append(
            {"took": took, "per_s": len(took) / elapsed, "cpu_us": used / max(sent, 1)})

    def stop(self):
        for process, _ in self.clients:
            process.terminate()
            process.join(10)
        self.system.stop()


def at(took, share):
    return round(float(numpy.percentile(took, share)), 1)


def summed_up(clients, rounds):
    took = [one for part in rounds for one in part["took"]]
    middle = lambda name: round(float(numpy.median([part[name] for part in rounds])), 1)
    return {
        "name": f"{clients} client{'s' if clients > 1 else ''}",
        "load": f"closed loop, {clients} clients, Python, {len(rounds)} rounds",
        "ok": len(took), "not_ok": 0, "ok_per_s": middle("per_s"), "items_per_s": middle("per_s"),
        "latency_us": {"p50": at(took, 50), "p90": at(took, 90), "p99": at(took, 99),
                       "p999": at(took, 99.9), "max": at(took, 100),
                       "mean": round(float(numpy.mean(took)), 1)},
        "rounds": [{"p50": at(part["took"], 50), "p99": at(part["took"], 99),
                    "ok_per_s": round(part["per_s"], 1)} for part in rounds],
        "server_cpu_us": middle("cpu_us"), "client_busy": 0.0, "client_late_us_p99": 0.0,
    }


def machine():
    def first(path):
        try:
            with open(path) as file:
                return file.readline().strip()
        except OSError:
            return "unknown"

    with open("/proc/cpuinfo") as file:
        text = file.read()
    model = next((l.split(":")[1].strip() for l in text.splitlines() if "model name" in l), "?")
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) // 1024
    commit = subprocess.run(["git", "describe", "--always"], capture_output=True,
                            text=True, check=False).stdout.strip() or "unknown"
    return {"cpu": model, "cpus_allowed": "server 0, clients 1", "cpus": os.cpu_count(),
            "numa_nodes": 1, "memory_mib": memory, "kernel": platform.release(),
            "governor": first("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            "cgroup": "none", "huge_pages": first("/sys/kernel/mm/transparent_hugepage/enabled"),
            "load_average": first("/proc/loadavg"), "virtual_machine": "hypervisor" in text, "commit": commit,
            "command": "bench/peers/compare.py", "at_unix_s": int(time.time())}


ABOUT = {
    "search": "Vector search of all systems with the same Python client: the 10 nearest of a "
              "vector of 384 numbers, with content.",
    "recall": "Combined recall of all systems with the same Python client: 5 vector seeds, 3 hops "
              "along 8 weighted links a memory, the best 10 with content.",
    "store": "One durable write of all systems with the same Python client: a new memory with "
             "content, a vector of 384 numbers and 8 links.",
}


class Hold:
    """Keeps others off the machine for the time of a round, where a command for it is given."""

    def __init__(self, command):
        self.command = command

    def __enter__(self):
        if self.command:
            self.process = subprocess.Popen(shlex.split(self.command), stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE)
            self.process.stdout.readline()

    def __exit__(self, *_):
        if self.command:
            self.process.stdin.close()
            self.process.wait()


def write_results(stage, quality, memories, output):
    questions = {question for question, _ in stage.rounds}
    for question in sorted(questions):
        steps = [summed_up(clients, rounds) for (asked, clients), rounds in stage.rounds.items()
                 if asked == question]
        for step in steps:
            print(f"{stage.system.name}: {question} {step['name']}: {step['ok_per_s']:.0f}/s "
                  f"P50 {step['latency_us']['p50']} P99 {step['latency_us']['p99']} µs, "
                  f"server CPU {step['server_cpu_us']:.0f} µs", flush=True)
        result = {"name": f"peers-{question}", "about": ABOUT[question],
                  "server": stage.system.name, "machine": machine(), "memories": memories,
                  "durability": stage.system.durability, "recall_at_10": round(quality, 4),
                  "steps": steps}
        if output:
            path = f"{output}/{stage.name}-peers-{question}-{memories // 1000}k.json"
            with open(path, "w") as file:
                file.write(json.dumps(result, indent=2) + "\n")


def rounds(stages, questions, arguments):
    for number in range(arguments.rounds):
        with Hold(arguments.hold):
            for stage in stages[::1 if number % 2 == 0 else -1]:
                for question in questions:
                    if question == "store" and not stage.system.stores:
                        continue
                    for clients in (1, MANY) if stage.system.network else (1,):
                        stage.measure(question, clients, arguments.seconds)
        print(f"round {number + 1} of {arguments.rounds} of {questions}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("data")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--engram", default="engram", help="path of the engram command")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--output")
    parser.add_argument("--hold")
    arguments = parser.parse_args()
    data = read_data(arguments.data)
    stages, quality = [], {}
    try:
        for name in arguments.systems.split(","):
            system = SYSTEMS[name](os.path.abspath(arguments.folder), arguments.data)
            system.command = os.path.abspath(arguments.engram)
            stages.append(Stage(name, system, data))
            stages[-1].start()
            quality[name] = stages[-1].quality()
            print(f"{system.name}: recall@10 {quality[name]:.4f}", flush=True)
        rounds(stages, ("search", "recall"), arguments)
        rounds(stages, ("store",), arguments)
        for stage in stages:
            write_results(stage, quality[stage.name], len(data[0]), arguments.output)
    finally:
        for stage in stages:
            stage.stop()


if __name__ == "__main__":
    sys.exit(main())
