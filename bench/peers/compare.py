#!/usr/bin/env python3
"""Measures Engram and other systems side by side on the same data, with the same client.

    usage: compare.py FOLDER DATA [--systems redis,falkordb,...] [--seconds 3] [--output results]

FOLDER is what install.sh made, DATA what `engram-bench dataset` wrote. Each system's server runs
alone on CPU 0, its clients on CPU 1. Two questions are asked of each, with one client and with
eight: vector search (the 10 nearest, with content), and combined recall (the 5 nearest are seeds,
activation runs 3 hops along weighted links, halved by each hop and summed; the best 10 with content).
How each system answers the second is written in its class: in one request where it can.

Latency is that of a closed loop. Clients are Python with requests encoded ahead where the protocol
allows it, so that figures hold 20 to 60 microseconds of client: the same for all, so ratios are
understated for the fast. Durability is not part of these figures: nothing is written meanwhile.
"""

import argparse
import base64
import json
import multiprocessing
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy

SERVER_CPU, CLIENT_CPU = 0, 1
SEEDS, HOPS, TOP, DECAY = 5, 3, 10, 0.5


def read_data(folder):
    with open(f"{folder}/memories.ndjson") as file:
        memories = [json.loads(line) for line in file]
    with open(f"{folder}/queries.ndjson") as file:
        queries = [json.loads(line) for line in file]
    for row in memories + queries:
        row["raw"] = base64.b64decode(row["embedding"])
        row["vector"] = numpy.frombuffer(row["raw"], dtype="<f4")
    return memories, queries


def wait_for(port, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"nothing listens on port {port}")


class System:
    """A system under comparison. `prepare` runs in each client; `search` and `recall` return ids."""

    network = True

    def __init__(self, folder, data):
        self.folder, self.data = folder, data
        self.process = None
        self.directory = tempfile.mkdtemp(prefix="engram-peer-")

    def spawn(self, command, port, **options):
        def pin():
            os.sched_setaffinity(0, {SERVER_CPU})
            os.setsid()

        log = open(f"{self.directory}/log", "wb")
        self.process = subprocess.Popen(command, preexec_fn=pin, stdout=log, stderr=log, **options)
        wait_for(port)

    def cpu_us(self):
        """CPU time of the server with all its processes, those that have ended included."""
        if not self.process:
            return time.process_time() * 1e6
        wanted, ticks, found = {self.process.pid}, 0, True
        rows = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rsplit(")", 1)[1].split()
                rows[int(name)] = (int(fields[1]), sum(map(int, fields[11:15])))
            except OSError:
                continue
        while found:
            found = {pid for pid, (parent, _) in rows.items() if parent in wanted} - wanted
            wanted |= found
        ticks = sum(rows[pid][1] for pid in wanted if pid in rows)
        return ticks * 1e6 / os.sysconf("SC_CLK_TCK")

    def stop(self):
        if self.process:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Resp:
    """A blocking connection for the Redis protocol."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb", 65536)

    @staticmethod
    def encode(*parts):
        out = [b"*%d\r\n" % len(parts)]
        for part in parts:
            part = part if isinstance(part, bytes) else str(part).encode()
            out.append(b"$%d\r\n%s\r\n" % (len(part), part))
        return b"".join(out)

    def call(self, encoded, answers=1):
        self.socket.sendall(encoded)
        got = [self.read() for _ in range(answers)]
        return got[0] if answers == 1 else got

    def read(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind in b"+,#":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            length = int(rest)
            return None if length < 0 else self.file.read(length + 2)[:-2]
        if kind == b"*":
            return [self.read() for _ in range(int(rest))]
        raise RuntimeError(line.decode())


class Redis(System):
    """Redis 8 vector sets; links and contents in hashes; spreading in one server-side Lua script."""

    name = "Redis 8.0 vector sets + Lua"
    port = 7301
    ef = 100
    script = """
local found = redis.call('VSIM', 'v', 'FP32', ARGV[1], 'WITHSCORES', 'COUNT', 5, 'EF', ARGV[2])
local sum, frontier = {}, {}
for i = 1, #found, 2 do
  local score = tonumber(found[i + 1])
  sum[found[i]] = score
  frontier[found[i]] = score
end
for hop = 1, 3 do
  local next = {}
  for id, activation in pairs(frontier) do
    local links = redis.call('HGETALL', 'l:' .. id)
    for i = 1, #links, 2 do
      local pulse = activation * tonumber(links[i + 1]) * 0.5
      next[links[i]] = (next[links[i]] or 0) + pulse
    end
  end
  for id, activation in pairs(next) do sum[id] = (sum[id] or 0) + activation end
  frontier = next
end
local ids = {}
for id in pairs(sum) do ids[#ids + 1] = id end
table.sort(ids, function(a, b) return sum[a] > sum[b] end)
local out = {}
for i = 1, math.min(10, #ids) do
  out[#out + 1] = ids[i]
  out[#out + 1] = redis.call('GET', 'c:' .. ids[i])
end
return out
"""

    def start(self):
        self.spawn(["chroot", f"{self.folder}/root", "redis-server", "--port", str(self.port),
                    "--save", "", "--appendonly", "no"], self.port)

    def load(self, memories):
        connection = Resp(self.port)
        for memory in memories:
            links = [part for link in memory["links"] for part in (link["to"], link["weight"])]
            connection.call(
                Resp.encode("VADD", "v", "FP32", memory["raw"], memory["id"], "Q8")
                + Resp.encode("HSET", f"l:{memory['id']}", *links)
                + Resp.encode("SET", f"c:{memory['id']}", memory["content"]), 3)

    def prepare(self, queries):
        self.connection = Resp(self.port)
        sha = self.connection.call(Resp.encode("SCRIPT", "LOAD", self.script))
        self.searches = [
            Resp.encode("VSIM", "v", "FP32", q["raw"], "COUNT", TOP, "EF", self.ef) for q in queries]
        self.recalls = [Resp.encode("EVALSHA", sha, 0, q["raw"], self.ef) for q in queries]

    def search(self, n):
        ids = self.connection.call(self.searches[n])
        self.connection.call(Resp.encode("MGET", *[b"c:" + i for i in ids]))
        return [i.decode() for i in ids]

    def recall(self, n):
        return [i.decode() for i in self.connection.call(self.recalls[n])[::2]]


class FalkorDB(System):
    """One Cypher query: vector index, variable-length paths, sum over paths."""

    name = "FalkorDB"
    port = 7302

    def start(self):
        home = "/opt/falkordb"
        self.spawn(["chroot", f"{self.folder}/root", "/usr/bin/env", f"LD_LIBRARY_PATH={home}",
                    f"{home}/redis-server", "--port", str(self.port), "--save", "",
                    "--loadmodule", f"{home}/falkordb.so", "THREAD_COUNT", "1"], self.port)

    def query(self, connection, text, parameters=""):
        prefix = f"CYPHER {parameters} " if parameters else ""
        return connection.call(Resp.encode("GRAPH.QUERY", "g", prefix + text))

    def load(self, memories):
        c = Resp(self.port)
        self.query(c, "CREATE INDEX FOR (m:M) ON (m.id)")
        self.query(c, "CREATE VECTOR INDEX FOR (m:M) ON (m.v) OPTIONS {dimension:384, "
                      "similarityFunction:'cosine', M:16, efConstruction:200, efRuntime:100}")
        for start in range(0, len(memories), 200):
            rows = ",".join(
                "{id:'%s',c:'%s',v:[%s]}" % (m["id"], m["content"],
                                             ",".join(f"{x:.7g}" for x in m["vector"]))
                for m in memories[start:start + 200])
            self.query(c, "UNWIND $rows AS r CREATE (:M {id:r.id, c:r.c, v:vecf32(r.v)})",
                       f"rows=[{rows}]")
        for start in range(0, len(memories), 500):
            rows = ",".join("{a:'%s',b:'%s',w:%s}" % (m["id"], link["to"], link["weight"])
                            for m in memories[start:start + 500] for link in m["links"])
            self.query(c, "UNWIND $rows AS r MATCH (a:M {id:r.a}), (b:M {id:r.b}) "
                          "CREATE (a)-[:L {w:r.w}]->(b)", f"rows=[{rows}]")

    def prepare(self, queries):
        self.connection = Resp(self.port)
        vectors = ["q=[%s]" % ",".join(f"{x:.7g}" for x in q["vector"]) for q in queries]
        search = ("CALL db.idx.vector.queryNodes('M','v',10,vecf32($q)) YIELD node, score "
                  "RETURN node.id, node.c")
        recall = (
            "CALL db.idx.vector.queryNodes('M','v',5,vecf32($q)) YIELD node, score "
            "MATCH p=(node)-[:L*0..3]->(t:M) "
            "WITH t, sum((1-score) * reduce(a=1.0, l IN relationships(p) | a*l.w*0.5)) AS activation "
            "ORDER BY activation DESC LIMIT 10 RETURN t.id, t.c")
        self.searches = [
            Resp.encode("GRAPH.RO_QUERY", "g", f"CYPHER {v} {search}") for v in vectors]
        self.recalls = [
            Resp.encode("GRAPH.RO_QUERY", "g", f"CYPHER {v} {recall}") for v in vectors]

    def search(self, n):
        return [row[0].decode() for row in self.connection.call(self.searches[n])[1]]

    def recall(self, n):
        return [row[0].decode() for row in self.connection.call(self.recalls[n])[1]]


class Postgres(System):
    """PostgreSQL 17 with pgvector (HNSW) and a recursive query; prepared statements."""

    name = "PostgreSQL 17 + pgvector"
    port = 7303
    ef = 100

    def start(self):
        root, home = f"{self.folder}/root", "/usr/lib/postgresql/17/bin"
        self.inside = f"/tmp/pg{os.getpid()}"
        os.makedirs(root + self.inside)
        os.chown(root + self.inside, 70, 70)
        switch = ["chroot", "--userspec=70:70", root]
        subprocess.run(switch + [f"{home}/initdb", "-D", f"{self.inside}/data", "-A", "trust", "-U",
                                 "postgres", "--no-locale", "-E", "UTF8"],
                       check=True, stdout=subprocess.DEVNULL)
        self.spawn(switch + [f"{home}/postgres", "-D", f"{self.inside}/data", "-p", str(self.port),
                             "-k", "/tmp", "-h", "127.0.0.1",
                             "-c", "shared_buffers=2GB", "-c", "jit=off",
                             "-c", "maintenance_work_mem=1GB"], self.port)
        time.sleep(1)

    def connect(self):
        import psycopg2
        connection = psycopg2.connect(host="127.0.0.1", port=self.port, user="postgres")
        connection.autocommit = True
        return connection.cursor()

    def load(self, memories):
        import io
        c = self.connect()
        c.execute("CREATE EXTENSION vector; CREATE TABLE m (id text PRIMARY KEY, c text, "
                  "v vector(384)); CREATE TABLE l (a text, b text, w real)")
        rows = "".join(f"{m['id']}\t{m['content']}\t[{','.join(f'{x:.7g}' for x in m['vector'])}]\n"
                       for m in memories)
        c.copy_from(io.StringIO(rows), "m")
        links = "".join(f"{m['id']}\t{l['to']}\t{l['weight']}\n" for m in memories
                        for l in m["links"])
        c.copy_from(io.StringIO(links), "l")
        c.execute("CREATE INDEX ON m USING hnsw (v vector_cosine_ops); CREATE INDEX ON l (a) "
                  "INCLUDE (b, w)")
        c.execute("VACUUM ANALYZE")

    def prepare(self, queries):
        self.cursor = self.connect()
        self.cursor.execute(f"SET hnsw.ef_search={self.ef}; PREPARE s(vector) AS "
                            "SELECT id, c FROM m ORDER BY v <=> $1 LIMIT 10")
        self.cursor.execute("""PREPARE r(vector) AS WITH RECURSIVE seeds AS MATERIALIZED (
            SELECT id, 1 - (v <=> $1) AS a FROM m ORDER BY v <=> $1 LIMIT 5), walk AS (
            SELECT id, a, 0 AS hop FROM seeds UNION ALL
            SELECT l.b, walk.a * l.w * 0.5, hop + 1 FROM walk JOIN l ON l.a = walk.id WHERE hop < 3),
            best AS (SELECT id, sum(a) AS a FROM walk GROUP BY id ORDER BY 2 DESC LIMIT 10)
            SELECT m.id, m.c FROM best JOIN m USING (id) ORDER BY best.a DESC""")
        vectors = ["[" + ",".join(f"{x:.7g}" for x in q["vector"]) + "]" for q in queries]
        self.searches = [f"EXECUTE s('{v}')" for v in vectors]
        self.recalls = [f"EXECUTE r('{v}')" for v in vectors]

    def search(self, n):
        self.cursor.execute(self.searches[n])
        return [row[0] for row in self.cursor.fetchall()]

    def recall(self, n):
        self.cursor.execute(self.recalls[n])
        return [row[0] for row in self.cursor.fetchall()]

    def stop(self):
        super().stop()
        shutil.rmtree(f"{self.folder}/root{self.inside}", ignore_errors=True)


class ClientSide(System):
    """Spreading on the client, for systems that only search."""

    def spread(self, seeds):
        total = dict(seeds)
        frontier = dict(seeds)
        for _ in range(HOPS):
            following = {}
            for memory, links in self.links_of(list(frontier)):
                activation = frontier[memory] * DECAY
                for to, weight in links:
                    following[to] = following.get(to, 0.0) + activation * weight
            for memory, activation in following.items():
                total[memory] = total.get(memory, 0.0) + activation
            frontier = following
        return sorted(total, key=total.get, reverse=True)[:TOP]


class Chroma(ClientSide):
    """Chroma's HTTP server and client; links in metadata, a request for each hop."""

    name = "Chroma (HTTP) + client-side spreading"
    port = 7304

    def start(self):
        self.spawn([f"{self.folder}/v/bin/chroma", "run", "--path", f"{self.directory}/db",
                    "--port", str(self.port)], self.port)

    def collection(self):
        import chromadb
        client = chromadb.HttpClient("127.0.0.1", self.port)
        return client.get_or_create_collection(
            "memories", embedding_function=None, metadata={"hnsw:space": "cosine", "hnsw:search_ef": 100})

    def load(self, memories):
        collection = self.collection()
        for start in range(0, len(memories), 1000):
            part = memories[start:start + 1000]
            collection.add(
                ids=[m["id"] for m in part], embeddings=[m["vector"] for m in part],
                documents=[m["content"] for m in part],
                metadatas=[{"l": json.dumps([(l["to"], l["weight"]) for l in m["links"]])}
                           for m in part])

    def prepare(self, queries):
        self.found = self.collection()
        self.vectors = [q["vector"] for q in queries]

    def links_of(self, ids):
        got = self.found.get(ids=ids, include=["metadatas"])
        return [(i, json.loads(m["l"])) for i, m in zip(got["ids"], got["metadatas"])]

    def search(self, n):
        return self.found.query(query_embeddings=[self.vectors[n]], n_results=TOP,
                                include=["documents"])["ids"][0]

    def recall(self, n):
        got = self.found.query(query_embeddings=[self.vectors[n]], n_results=SEEDS,
                               include=["distances"])
        best = self.spread({i: 1 - d for i, d in zip(got["ids"][0], got["distances"][0])})
        self.found.get(ids=best, include=["documents"])
        return best


class Kuzu(ClientSide):
    """Embedded: no network interface; its vector extension, one Cypher query for each hop."""

    name = "Kuzu (embedded, no network)"
    network = False

    def start(self):
        pass

    def open(self):
        import kuzu
        self.database = kuzu.Database(f"{self.directory}/db", max_num_threads=1)
        connection = kuzu.Connection(self.database, num_threads=1)
        connection.execute("LOAD VECTOR")
        return connection

    def load(self, memories):
        c = self.open()
        with open(f"{self.directory}/m.csv", "w") as file:
            for m in memories:
                vector = ",".join(f"{x:.7g}" for x in m["vector"])
                file.write(f"{m['id']}|{m['content']}|[{vector}]\n")
        with open(f"{self.directory}/l.csv", "w") as file:
            for m in memories:
                for link in m["links"]:
                    file.write(f"{m['id']}|{link['to']}|{link['weight']}\n")
        c.execute("CREATE NODE TABLE M(id STRING PRIMARY KEY, c STRING, v FLOAT[384])")
        c.execute("CREATE REL TABLE L(FROM M TO M, w DOUBLE)")
        c.execute(f"COPY M FROM '{self.directory}/m.csv' (HEADER=false, DELIM='|')")
        c.execute(f"COPY L FROM '{self.directory}/l.csv' (HEADER=false, DELIM='|')")
        c.execute("CALL CREATE_VECTOR_INDEX('M', 'i', 'v', metric := 'cosine')")
        c.close()
        self.database.close()

    def prepare(self, queries):
        self.connection = self.open()
        call = "CALL QUERY_VECTOR_INDEX('M', 'i', $q, {}, efs := 100) WITH node AS s, distance "
        self.search_query = call.format(TOP) + "RETURN s.id, distance, s.c ORDER BY distance"
        self.seed_query = call.format(SEEDS) + "RETURN s.id, distance"
        self.vectors = [q["vector"].tolist() for q in queries]

    def rows(self, text, **parameters):
        return self.connection.execute(text, parameters).get_all()

    def links_of(self, ids):
        found = {}
        text = "MATCH (s:M)-[l:L]->(t:M) WHERE s.id IN $ids RETURN s.id, t.id, l.w"
        for memory, to, weight in self.rows(text, ids=ids):
            found.setdefault(memory, []).append((to, weight))
        return found.items()

    def search(self, n):
        return [row[0] for row in self.rows(self.search_query, q=self.vectors[n])]

    def recall(self, n):
        seeds = self.rows(self.seed_query, q=self.vectors[n])
        best = self.spread({row[0]: 1 - row[1] for row in seeds})
        self.rows("MATCH (s:M) WHERE s.id IN $ids RETURN s.id, s.c", ids=best)
        return best


class Hnswlib(ClientSide):
    """Embedded ANN library, links and contents in Python dictionaries: no network, no storage."""

    name = "hnswlib + Python spreading (embedded, no network)"
    network = False

    def start(self):
        pass

    def load(self, memories):
        import hnswlib
        self.index = hnswlib.Index(space="cosine", dim=384)
        self.index.init_index(max_elements=len(memories), M=16, ef_construction=200)
        self.index.add_items(numpy.stack([m["vector"] for m in memories]), num_threads=1)
        self.index.set_ef(60)
        self.index.set_num_threads(1)
        self.ids = [m["id"] for m in memories]
        self.contents = {m["id"]: m["content"] for m in memories}
        self.links = {m["id"]: [(l["to"], l["weight"]) for l in m["links"]] for m in memories}

    def prepare(self, queries):
        self.vectors = [q["vector"] for q in queries]

    def links_of(self, ids):
        return [(i, self.links[i]) for i in ids]

    def search(self, n):
        labels, _ = self.index.knn_query(self.vectors[n], k=TOP)
        ids = [self.ids[i] for i in labels[0]]
        _ = [self.contents[i] for i in ids]
        return ids

    def recall(self, n):
        labels, distances = self.index.knn_query(self.vectors[n], k=SEEDS)
        best = self.spread({self.ids[i]: 1 - d for i, d in zip(labels[0], distances[0])})
        _ = [self.contents[i] for i in best]
        return best


class Engram(System):
    """Engram over HTTP, one request a question."""

    name = "Engram"
    port = 7305

    def start(self):
        environment = dict(os.environ, ENGRAM_DATA_DIR=f"{self.directory}/data",
                           ENGRAM_LISTEN=f"127.0.0.1:{self.port}", ENGRAM_CPUS=str(SERVER_CPU))
        self.spawn([self.command, "serve"], self.port, env=environment)

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection

    @staticmethod
    def encode(path, body, kind="application/json"):
        head = (f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\n"
                f"content-length: {len(body)}\r\n\r\n")
        return head.encode() + body

    def call(self, request):
        self.socket.sendall(request)
        got = self.socket.recv(65536)
        while b"\r\n\r\n" not in got:
            got += self.socket.recv(65536)
        head, body = got.split(b"\r\n\r\n", 1)
        if not head.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(head.decode() + body.decode())
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
                while len(body) < length:
                    body += self.socket.recv(65536)
                return body
        while not body.endswith(b"0\r\n\r\n"):
            body += self.socket.recv(65536)
        return body

    def load(self, memories):
        self.connect()
        for start in range(0, len(memories), 500):
            lines = [json.dumps({k: m[k] for k in ("id", "content", "embedding", "links")})
                     for m in memories[start:start + 500]]
            body = ("\n".join(lines) + "\n").encode()
            answer = self.call(self.encode("/api/v1/memories/batch", body, "application/x-ndjson"))
            if b'"code":' in answer:
                raise RuntimeError(answer[:500])
        while True:
            self.socket.sendall(b"GET /api/v1/stats HTTP/1.1\r\nhost: x\r\n\r\n")
            stats = json.loads(self.socket.recv(65536).split(b"\r\n\r\n", 1)[1])
            if not stats.get("index_backlog") and not stats.get("association_backlog"):
                return
            time.sleep(0.1)

    def prepare(self, queries):
        self.connect()

        def encoded(**fields):
            return [self.encode("/api/v1/recall", json.dumps(
                {"cues": [{"embedding": q["embedding"]}], "top_k": TOP, "with": ["content"],
                 **fields}).encode()) for q in queries]

        self.searches = encoded(max_hops=0)
        self.recalls = encoded(max_hops=HOPS, max_seeds=SEEDS)

    def ids(self, body):
        return [memory["id"] for memory in json.loads(body)["memories"]]

    def search(self, n):
        return self.ids(self.call(self.searches[n]))

    def recall(self, n):
        return self.ids(self.call(self.recalls[n]))


SYSTEMS = {c.__name__.lower(): c
           for c in (Engram, Redis, FalkorDB, Postgres, Chroma, Kuzu, Hnswlib)}


def ask(system, question, queries, seconds, prepared):
    """One client: latencies in microseconds of a closed loop, the first fifth left out."""
    if not prepared:
        system.prepare(queries)
    one = getattr(system, question)
    start = time.perf_counter()
    warm, end = start + seconds / 5, start + seconds * 1.2
    took, n = [], os.getpid()
    while True:
        n = (n + 1) % len(queries)
        before = time.perf_counter()
        one(n)
        after = time.perf_counter()
        if after > end:
            return took
        if before > warm:
            took.append((after - before) * 1e6)


def client(system, question, queries, seconds, results):
    os.sched_setaffinity(0, {CLIENT_CPU})
    results.put(ask(system, question, queries, seconds, False))


def measure(system, question, queries, seconds, clients):
    if not system.network:
        return ask(system, question, queries, seconds, True)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=client, args=(system, question, queries, seconds, results))
               for _ in range(clients)]
    [worker.start() for worker in workers]
    took = [results.get(timeout=seconds * 5 + 60) for _ in workers]
    [worker.join() for worker in workers]
    return [one for part in took for one in part]


def summed_up(took, seconds, clients):
    at = lambda q: round(float(numpy.percentile(took, q)), 1)
    return {
        "name": f"{clients} client{'s' if clients > 1 else ''}",
        "load": f"closed loop, {clients} clients, Python",
        "ok": len(took), "not_ok": 0, "ok_per_s": round(len(took) / seconds, 1),
        "items_per_s": round(len(took) / seconds, 1),
        "latency_us": {"p50": at(50), "p90": at(90), "p99": at(99), "p999": at(99.9),
                       "max": at(100), "mean": round(float(numpy.mean(took)), 1)},
        "client_busy": 0.0, "client_late_us_p99": 0.0,
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
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True,
                            text=True, check=False).stdout.strip() or "unknown"
    return {"cpu": model, "cpus_allowed": "server 0, clients 1", "cpus": os.cpu_count(),
            "numa_nodes": 1, "memory_mib": memory, "kernel": platform.release(),
            "governor": first("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            "cgroup": "none", "huge_pages": first("/sys/kernel/mm/transparent_hugepage/enabled"),
            "load_average": first("/proc/loadavg"), "virtual_machine": "hypervisor" in text, "commit": commit,
            "command": "bench/peers/compare.py", "at_unix_s": int(time.time())}


ABOUT = {
    "search": "Vector search of all systems with the same Python client: the 10 nearest of a "
              "vector of 384 numbers, with content. Server on one CPU, clients on another.",
    "recall": "Combined recall of all systems with the same Python client: 5 vector seeds, 3 hops "
              "along 8 weighted links a memory, the best 10 with content. Server on one CPU, "
              "clients on another.",
}


def run(system, memories, queries, arguments):
    system.start()
    os.sched_setaffinity(0, {CLIENT_CPU if system.network else SERVER_CPU})
    began = time.time()
    system.load(memories)
    load_s = time.time() - began
    system.prepare(queries)
    right = [len(set(system.search(n)) & set(q["nearest"])) / TOP for n, q in enumerate(queries)]
    quality = float(numpy.mean(right))
    print(f"{system.name}: loaded in {load_s:.1f} s, recall@10 {quality:.4f}", flush=True)
    results = []
    for question in ("search", "recall"):
        steps = []
        for clients in (1, 8) if system.network else (1,):
            before = system.cpu_us()
            took = measure(system, question, queries, arguments.seconds, clients)
            step = summed_up(took, arguments.seconds, clients)
            # The warm-up is a fifth of the measured time and not in `took`.
            step["server_cpu_us"] = round((system.cpu_us() - before) / (len(took) * 1.2), 1)
            steps.append(step)
            print(f"  {question} {step['name']}: {step['ok_per_s']:.0f}/s "
                  f"P50 {step['latency_us']['p50']} P99 {step['latency_us']['p99']} µs, "
                  f"server CPU {step['server_cpu_us']:.0f} µs", flush=True)
        results.append({"name": f"peers-{question}", "about": ABOUT[question],
                        "server": system.name, "machine": machine(), "memories": len(memories),
                        "recall_at_10": round(quality, 4), "steps": steps,
                        "loaded": {"stored": len(memories), "refused": 0, "bytes": 0,
                                   "seconds": round(load_s, 2), "settled_s": 0.0, "refusals": []}})
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("data")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--engram", default="engram", help="path of the engram command")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    memories, queries = read_data(arguments.data)
    failed = []
    for name in arguments.systems.split(","):
        system = SYSTEMS[name](os.path.abspath(arguments.folder), arguments.data)
        system.command = os.path.abspath(arguments.engram)
        try:
            for result in run(system, memories, queries, arguments):
                if arguments.output:
                    size = f"{len(memories) // 1000}k"
                    path = f"{arguments.output}/{name}-{result['name']}-{size}.json"
                    with open(path, "w") as file:
                        file.write(json.dumps(result, indent=2) + "\n")
        except Exception as error:
            failed.append(name)
            print(f"{system.name}: failed: {error!r}", file=sys.stderr)
        finally:
            os.sched_setaffinity(0, {SERVER_CPU, CLIENT_CPU})
            system.stop()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
