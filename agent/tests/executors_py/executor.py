"""An executor as existing ones are: Mesos' executor API over HTTP, nothing but the standard library.

What a task does stands in its `data`: "run" until it is killed, "finish", "twice" (finish and say so
twice), "flood" (a thousand updates), "die" (exit without a word), "work" (burn memory of that many
MiB). The first argument makes the executor misbehave: "never", "deaf", "garbage", "rude", "double".
"""
import base64, http.client, json, os, signal, socket, sys, threading, time, uuid

MODE = sys.argv[1] if len(sys.argv) > 1 else ""
ENDPOINT = os.environ["MESOS_AGENT_ENDPOINT"]
FRAMEWORK = {"value": os.environ["MESOS_FRAMEWORK_ID"]}
EXECUTOR = {"value": os.environ["MESOS_EXECUTOR_ID"]}
TOKEN = os.environ.get("MESOS_EXECUTOR_AUTHENTICATION_TOKEN", "")
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
if TOKEN and MODE != "tokenless":
    HEADERS["Authorization"] = "Bearer " + TOKEN
tasks, updates, running = {}, {}, {}


def log(*words):
    print(*words, flush=True)


def post(body, headers=None, raw=False):
    """One call on a connection of its own; the status and what the agent says."""
    connection = http.client.HTTPConnection(ENDPOINT, timeout=30)
    data = body if raw else json.dumps(body).encode()
    try:
        connection.request("POST", "/api/v1/executor", data, headers or HEADERS)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (BrokenPipeError, ConnectionResetError):
        return 0, "the agent closed the connection"
    finally:
        connection.close()


def call(kind, **parts):
    return dict(type=kind, framework_id=FRAMEWORK, executor_id=EXECUTOR, **parts)


def update(task, state, **more):
    status = dict(task_id={"value": task}, state=state, source="SOURCE_EXECUTOR",
                  executor_id=EXECUTOR, timestamp=time.time(),
                  uuid=base64.b64encode(uuid.uuid4().bytes).decode(), **more)
    updates[status["uuid"]] = {"status": status}
    return post(call("UPDATE", update={"status": status}))


def subscribe():
    """The stream of events, record by record."""
    body = json.dumps(call("SUBSCRIBE", subscribe={
        "unacknowledged_tasks": list(tasks.values()),
        "unacknowledged_updates": list(updates.values())})).encode()
    host, port = ENDPOINT.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port))
    connection.request("POST", "/api/v1/executor", body, dict(HEADERS, Connection="close"))
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError("%d %s" % (answer.status, answer.read().decode()))
    while True:
        length = b""
        while not length.endswith(b"\n"):
            byte = answer.read(1)
            if not byte:
                return
            length += byte
        record = b""
        while len(record) < int(length):
            record += answer.read(int(length) - len(record))
        yield json.loads(record)


def launch(task):
    name = task["task_id"]["value"]
    tasks[name] = task
    what = base64.b64decode(task.get("data", "")).decode().split()
    log("launch", name, *what)
    if what[0] == "die":
        os._exit(9)
    update(name, "TASK_RUNNING", labels={"labels": [{"key": "k", "value": "v"}]},
           data=base64.b64encode(b"\0\xff").decode())
    if what[0] == "work":
        running[name] = bytearray(int(what[1]) << 20)
    elif what[0] == "flood":
        answers = [update(name, "TASK_RUNNING")[0] for _ in range(300)]
        log("taken", answers.count(202), "refused", answers.count(429))
        update(name, "TASK_FINISHED")
    elif what[0] in ("finish", "twice"):
        log("status", *update(name, "TASK_FINISHED", message="all done"))
        if what[0] == "twice":
            log("again", *update(name, "TASK_FAILED"))


def rude():
    """Everything that an executor must not do; each answer goes to stdout."""
    other = json.loads(os.environ["OTHER"])
    wrong = dict(call("SUBSCRIBE", subscribe={}), executor_id={"value": other["id"]})
    log("other's id", post(wrong)[0])
    no_token = {k: v for k, v in HEADERS.items() if k != "Authorization"}
    log("no token", post(call("SUBSCRIBE", subscribe={}), no_token)[0])
    log("no executor", post(dict(call("SUBSCRIBE", subscribe={}),
                                 executor_id={"value": "nobody"}))[0])
    for name, body in [("garbage", b"\xff\x00{"), ("empty", b""), ("a list", b"[]"),
                       ("deep", b"[" * 100000), ("no type", b'{"executor_id":{"value":"x"}}')]:
        log(name, post(body, raw=True)[0])
    log("no such task", update("nothing", "TASK_RUNNING")[0])
    log("wrong state", update("t", "TASK_UNREACHABLE")[0])
    log("text as protobuf", post(b"{}", dict(HEADERS, **{"Content-Type": "application/x-protobuf"}),
                                 raw=True)[0])
    log("strange type", post(b"{}", dict(HEADERS, **{"Content-Type": "text/plain"}), raw=True)[0])
    log("GET", get())
    log("64 MiB", post(call("MESSAGE", message={"data": "A" * (64 << 20)}))[0])
    log("5 MiB", post(call("MESSAGE", message={"data": "A" * (7 << 20)}))[0])
    half = socket.create_connection(tuple(ENDPOINT.rsplit(":", 1)))
    half.sendall(b"POST /api/v1/executor HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
    half.close()
    log("rude enough")


def get():
    connection = http.client.HTTPConnection(ENDPOINT, timeout=30)
    connection.request("GET", "/api/v1/executor")
    return connection.getresponse().status


def serve(name="first"):
    for event in subscribe():
        kind = event["type"]
        if kind == "SUBSCRIBED":
            body = event["subscribed"]
            assert body["executor_info"]["executor_id"] == EXECUTOR, body
            assert body["framework_info"]["id"] == FRAMEWORK, body
            log("subscribed")
            if MODE == "rude":
                rude()
        elif kind == "LAUNCH":
            launch(event["launch"]["task"])
            # Not earlier: a task that nobody has heard of yet counts as lost on the way.
            if MODE == "double" and name == "first":
                threading.Thread(target=serve, args=["second"]).start()
        elif kind == "LAUNCH_GROUP":
            for task in event["launch_group"]["task_group"]["tasks"]:
                launch(task)
        elif kind == "ACKNOWLEDGED":
            tasks.pop(event["acknowledged"]["task_id"]["value"], None)
            updates.pop(event["acknowledged"]["uuid"], None)
        elif kind == "KILL":
            name = event["kill"]["task_id"]["value"]
            log("kill", name)
            if MODE == "dies-when-killed":
                os._exit(3)
            update(name, "TASK_KILLED")
        elif kind == "MESSAGE":
            post(call("MESSAGE", message={"data": event["message"]["data"]}))
        elif kind == "SHUTDOWN":
            log("shutdown")
            if MODE != "deaf":
                sys.exit(0)


if MODE == "never":
    time.sleep(1000)
if MODE == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    try:
        serve()
        if MODE == "double":
            log("the first stream ended")
            time.sleep(1000)
    except (ConnectionError, http.client.HTTPException) as error:
        log("disconnected", error)
    time.sleep(0.05)
