"""The systems that compare.py measures: how each is started, loaded, asked and stopped.

Every class answers three questions in as few requests as its system allows. `search`: the 10
nearest of a vector, with content. `recall`: the 5 nearest are seeds, activation runs 3 hops along
weighted links, halved by each hop and summed; the best 10 with content. `store`: one new memory
with content, vector and 8 links, durable before it is answered.

All are set to find 0.99 of the true ten nearest or more, and to the durability that `durability` says.
"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import numpy

SERVER_CPU = 0
SEEDS, HOPS, TOP, DECAY = 5, 3, 10, 0.5


def wait_for(port, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"nothing listens on port {port}")


def numbers(vector):
    return "[" + ",".join(f"{x:.7g}" for x in vector) + "]"


class System:
    """A system under comparison. `prepare` runs in each client; `search` and `recall` return ids."""

    network = True
    stores = True

    def __init__(self, folder, data):
        self.folder, self.data = folder, data
        self.process = None
        self.directory = tempfile.mkdtemp(prefix="engram-peer-")
        self.stored = 0

    def fresh(self, memories):
        """A memory with an id of its own and what another one holds."""
        self.stored += 1
        like = memories[(os.getpid() * 97 + self.stored) % len(memories)]
        return dict(like, id=f"s{os.getpid()}-{self.stored}")

    def spawn(self, command, port, **options):
        def pin():
            os.sched_setaffinity(0, {SERVER_CPU})
            os.setsid()

        log = open(f"{self.directory}/log", "wb")
        self.process = subprocess.Popen(command, preexec_fn=pin, stdout=log, stderr=log, **options)
        wait_for(port)

    def resume(self):
        """Called in a client after a pause, in which others were asked."""

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
    """Redis 8 vector sets; links in hashes; each question is one server-side Lua script."""

    name = "Redis 8.0 vector sets + Lua"
    durability = "an append-only file, synced before each answer"
    port = 7301
    ef = 100
    search_script = """
local ids = redis.call('VSIM', 'v', 'FP32', ARGV[1], 'COUNT', 10, 'EF', ARGV[2])
local out = {}
for i = 1, #ids do
  out[#out + 1] = ids[i]
  out[#out + 1] = redis.call('GET', 'c:' .. ids[i])
end
return out
"""
    recall_script = """
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
                    *self.append_only()], self.port)

    def append_only(self):
        """The file lies inside of the root, on the same disk as the others' data."""
        self.inside = f"/tmp/{type(self).__name__}{os.getpid()}"
        os.makedirs(f"{self.folder}/root{self.inside}")
        return ["--dir", self.inside, "--save", "", "--appendonly", "yes", "--appendfsync", "always"]

    def stop(self):
        super().stop()
        shutil.rmtree(f"{self.folder}/root{self.inside}", ignore_errors=True)

    @staticmethod
    def parts(memory):
        links = [part for link in memory["links"] for part in (link["to"], link["weight"])]
        return (Resp.encode("VADD", "v", "FP32", memory["raw"], memory["id"], "Q8")
                + Resp.encode("HSET", f"l:{memory['id']}", *links)
                + Resp.encode("SET", f"c:{memory['id']}", memory["content"]))

    def load(self, memories):
        connection = Resp(self.port)
        for start in range(0, len(memories), 50):
            part = memories[start:start + 50]
            connection.call(b"".join(map(self.parts, part)), 3 * len(part))

    def store(self, memory):
        self.connection.call(Resp.encode("MULTI") + self.parts(memory) + Resp.encode("EXEC"), 5)

    def prepare(self, queries):
        self.connection = Resp(self.port)
        self.searches = self.calls(self.search_script, queries)
        self.recalls = self.calls(self.recall_script, queries)

    def calls(self, script, queries):
        sha = self.connection.call(Resp.encode("SCRIPT", "LOAD", script))
        return [Resp.encode("EVALSHA", sha, 0, q["raw"], self.ef) for q in queries]

    def search(self, n):
        return [i.decode() for i in self.connection.call(self.searches[n])[::2]]

    def recall(self, n):
        return [i.decode() for i in self.connection.call(self.recalls[n])[::2]]


class FalkorDB(Redis):
    """One Cypher query: vector index, variable-length paths, sum over paths."""

    name = "FalkorDB"
    durability = "an append-only file, synced before each answer"
    port = 7302

    def start(self):
        home = "/opt/falkordb"
        self.spawn(["chroot", f"{self.folder}/root", "/usr/bin/env", f"LD_LIBRARY_PATH={home}",
                    f"{home}/redis-server", "--port", str(self.port), *self.append_only(),
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
                "{id:'%s',c:'%s',v:%s}" % (m["id"], m["content"], numbers(m["vector"]))
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
        vectors = [f"q={numbers(q['vector'])}" for q in queries]
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

    def store(self, m):
        links = ",".join("{b:'%s',w:%s}" % (link["to"], link["weight"]) for link in m["links"])
        self.query(self.connection,
                   "CREATE (m:M {id:$id, c:$c, v:vecf32($v)}) WITH m UNWIND $l AS r "
                   "MATCH (b:M {id:r.b}) CREATE (m)-[:L {w:r.w}]->(b)",
                   f"id='{m['id']}' c='{m['content']}' v={numbers(m['vector'])} l=[{links}]")


class Postgres(System):
    """PostgreSQL 17 with pgvector (HNSW) and a recursive query; prepared statements."""

    name = "PostgreSQL 17 + pgvector"
    durability = "the write-ahead log synced before each answer (its default)"
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
        rows = "".join(f"{m['id']}\t{m['content']}\t{numbers(m['vector'])}\n" for m in memories)
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
        self.cursor.execute("""PREPARE w(text, text, vector, text[], real[]) AS WITH new AS (
            INSERT INTO m VALUES ($1, $2, $3)) INSERT INTO l SELECT $1, * FROM unnest($4, $5)""")
        vectors = [numbers(q["vector"]) for q in queries]
        self.searches = [f"EXECUTE s('{v}')" for v in vectors]
        self.recalls = [f"EXECUTE r('{v}')" for v in vectors]

    def search(self, n):
        self.cursor.execute(self.searches[n])
        return [row[0] for row in self.cursor.fetchall()]

    def recall(self, n):
        self.cursor.execute(self.recalls[n])
        return [row[0] for row in self.cursor.fetchall()]

    def store(self, m):
        self.cursor.execute("EXECUTE w(%s, %s, %s, %s, %s)", (
            m["id"], m["content"], numbers(m["vector"]),
            [link["to"] for link in m["links"]], [link["weight"] for link in m["links"]]))

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
    durability = "a transaction of SQLite (its default)"
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
            self.add(collection, memories[start:start + 1000])

    @staticmethod
    def add(collection, part):
        collection.add(
            ids=[m["id"] for m in part], embeddings=[m["vector"] for m in part],
            documents=[m["content"] for m in part],
            metadatas=[{"l": json.dumps([(l["to"], l["weight"]) for l in m["links"]])}
                       for m in part])

    def store(self, memory):
        self.add(self.found, [memory])

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
    durability = "its write-ahead log, one transaction a memory (its default)"
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
                file.write(f"{m['id']}|{m['content']}|{numbers(m['vector'])}\n")
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
        call = "CALL QUERY_VECTOR_INDEX('M', 'i', $q, {}, efs := 250) WITH node AS s, distance "
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

    def store(self, m):
        self.connection.execute("BEGIN TRANSACTION")
        self.connection.execute("CREATE (:M {id: $id, c: $c, v: $v})", {
            "id": m["id"], "c": m["content"], "v": m["vector"].tolist()})
        self.connection.execute(
            "UNWIND $links AS r MATCH (a:M), (b:M) WHERE a.id = $id AND b.id = r.to "
            "CREATE (a)-[:L {w: r.weight}]->(b)", {"id": m["id"], "links": m["links"]})
        self.connection.execute("COMMIT")


class Hnswlib(ClientSide):
    """Embedded ANN library, links and contents in Python dictionaries: no network, no storage."""

    name = "hnswlib + Python spreading (embedded, no network)"
    durability = "none: memory alone"
    network = False
    stores = False

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
    durability = "the log synced before each answer (its default)"
    port = 7305

    def start(self):
        environment = dict(os.environ, ENGRAM_DATA_DIR=f"{self.directory}/data",
                           ENGRAM_LISTEN=f"127.0.0.1:{self.port}", ENGRAM_CPUS=str(SERVER_CPU))
        self.spawn([self.command, "serve"], self.port, env=environment)

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection

    def resume(self):
        """The server closes connections that are idle for a minute."""
        self.socket.close()
        self.connect()

    @staticmethod
    def encode(path, body, kind="application/json"):
        head = (f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {kind}\r\n"
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
            lines = [self.text(m) for m in memories[start:start + 500]]
            body = ("\n".join(lines) + "\n").encode()
            answer = self.call(self.encode("/api/v1/memories/batch", body, "application/x-ndjson"))
            if b'"code":' in answer:
                raise RuntimeError(answer[:500])
        while True:
            self.socket.sendall(b"GET /api/v1/stats HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
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

    @staticmethod
    def text(memory):
        return json.dumps({k: memory[k] for k in ("id", "content", "embedding", "links")})

    def store(self, memory):
        self.call(self.encode("/api/v1/memories", self.text(memory).encode()))

    def ids(self, body):
        return [memory["id"] for memory in json.loads(body)["memories"]]

    def search(self, n):
        return self.ids(self.call(self.searches[n]))

    def recall(self, n):
        return self.ids(self.call(self.recalls[n]))


SYSTEMS = {c.__name__.lower(): c
           for c in (Engram, Redis, FalkorDB, Postgres, Chroma, Kuzu, Hnswlib)}
