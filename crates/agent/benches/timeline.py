"""How long the agent takes on an instance, and what it weighs.

    python3 crates/agent/benches/timeline.py target/release/runs-fleet-agent [ROUNDS]

Everything the agent talks to is a double that answers at once, and the runner is a script, so the figures are the
agent's own. With root the job has an account of its own, a control group, and the firewall where it is installed, as on a
real machine.
"""

import base64
import gzip
import http.server
import json
import os
import pathlib
import pwd
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

KEY = "i-0123456789abcdef0"
QUEUE = "http://127.0.0.1/1/q.fifo"
ACCOUNT = "games"


class World:
    """What is asked for, with the time of each question."""

    def __init__(self):
        self.calls = []
        self.handed_over = True
        world = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                at = time.monotonic()
                left = int(self.headers.get("content-length") or 0)
                body = b""
                while left:
                    piece = self.rfile.read(min(left, 1 << 16))
                    left -= len(piece)
                    # A log on its way is not kept.
                    body = body + piece if len(body) < 1 << 20 else body
                status, text = world.respond(self, body, at)
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST = answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def respond(self, request, body, at):
        path, target = request.path, request.headers.get("x-amz-target", "")
        if path.startswith("/latest/"):
            self.calls.append(("imds", at))
            known = {
                "/latest/api/token": b"token",
                "/latest/meta-data/iam/security-credentials/": b"role",
                "/latest/meta-data/iam/security-credentials/role": json.dumps({
                    "AccessKeyId": "ASIA", "SecretAccessKey": "s" * 40, "Token": "t" * 300,
                    "Expiration": "2099-01-01T00:00:00Z",
                }).encode(),
            }
            return (200, known[path]) if path in known else (404, b"")
        if target.endswith("GetParameters"):
            self.calls.append(("ssm", at))
            return 200, json.dumps({"Parameters": self.parameters() if self.handed_over else []}).encode()
        if target.endswith("SendMessage"):
            message = json.loads(json.loads(body)["MessageBody"])
            self.calls.append((message["status"], at))
            return 200, b'{"MessageId":"m"}'
        if body.startswith(b"Action=TerminateInstances"):
            self.calls.append(("terminate", at))
            return 200, b"<TerminateInstancesResponse/>"
        self.calls.append(("s3", at))
        return 200, b""

    def parameters(self):
        prefix = f"/runs-fleet/runners/{KEY}"
        config = {
            "repo": "o/r", "org": "o", "run_id": "70", "job_id": "7", "instance_id": KEY, "dispatch_id": "d",
            "labels": ["a"], "runner_name": "r", "telemetry_token": "p" * 24, "termination_queue_url": QUEUE,
            "runner_logs_bucket": "logs",
        }
        jit = base64.b64encode(json.dumps({str(i): random.Random(i).randbytes(40).hex() for i in range(30)}).encode())
        packed = base64.b64encode(gzip.compress(base64.b64decode(jit))).decode()
        credential = {"jit_config": packed, "compressed": True, "dispatch_id": "d"}
        values = {"config": config, "credential": credential}
        return [{"Name": f"{prefix}/{name}", "Value": json.dumps(value)} for name, value in values.items()]

    def when(self, what, which=0):
        times = [at for name, at in self.calls if name == what]
        return times[which] if times else None


def machine(world, script):
    root = pathlib.Path(tempfile.mkdtemp(prefix="runs-fleet-timeline-"))
    runner = root / "runner"
    (runner / "bin").mkdir(parents=True)
    for name, text in [("bin/Runner.Listener", ""), ("run.sh", script)]:
        (runner / name).write_text(f"#!/bin/sh\n{text}\n")
        (runner / name).chmod(0o755)
    root.chmod(0o755)
    (root / "seen").mkdir()
    (root / "seen").chmod(0o777)
    if os.geteuid() == 0:
        owner = pwd.getpwnam(ACCOUNT)
        for path in [runner, *runner.rglob("*")]:
            os.chown(path, owner.pw_uid, owner.pw_gid)
    env = {
        "PATH": os.environ["PATH"],
        "RUNS_FLEET_BACKEND": "ec2",
        "RUNS_FLEET_INSTANCE_ID": KEY,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": world.address,
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": world.address,
        "RUNS_FLEET_RUNNER_USER": ACCOUNT,
        "RUNS_FLEET_RUNNER_DIR": str(runner),
        "RUNS_FLEET_STATE_DIR": str(root / "state"),
        "RUNS_FLEET_SHUTDOWN_COMMAND": "",
        "RUNS_FLEET_JOB_IMDS_ACCESS": os.environ.get("RUNS_FLEET_JOB_IMDS_ACCESS", "allow"),
        "FAKE_DIR": str(root / "seen"),
    }
    return root, env


def start(agent, env):
    begun = time.monotonic()
    return begun, subprocess.Popen([agent], env=env, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def resident(process):
    """MiB."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def once(agent):
    world = World()
    serve = "echo 'Listening for Jobs'; echo 'Running job: x'; echo 'Job x completed with result: Succeeded'"
    root, env = machine(world, f": > $FAKE_DIR/execed; {serve}")
    begun, process = start(agent, env)
    execed = None
    while process.poll() is None:
        if execed is None and (root / "seen/execed").exists():
            execed = time.monotonic()
        time.sleep(0.0002)
    ended = time.monotonic()
    shutil.rmtree(root)
    if process.returncode != 0 or execed is None:
        sys.exit(f"the agent failed with {process.returncode}")
    milliseconds = lambda a, b: (b - a) * 1000
    return {
        "start to the first question for a hand-over": milliseconds(begun, world.when("ssm")),
        "start to run.sh": milliseconds(begun, execed),
        "question answered to run.sh": milliseconds(world.when("ssm"), execed),
        "run.sh to its end reported": milliseconds(execed, world.when("success")),
        "reported to EC2 told": milliseconds(world.when("success"), world.when("terminate")),
        "EC2 told to the agent's exit": milliseconds(world.when("terminate"), ended),
    }


def weight(agent):
    world = World()
    script = (
        "echo 'Listening for Jobs'; echo 'Running job: x'; mkdir _diag"
        "; head -c 100000000 /dev/urandom > _diag/Worker_1.log; head -c 100000000 /dev/urandom > _diag/Runner_1.log"
        "; yes 'a line of output that a job prints' | head -n 20000"
        "; echo up > $FAKE_DIR/up; while [ ! -e $FAKE_DIR/go ]; do sleep 0.05; done"
    )
    root, env = machine(world, script)
    _, process = start(agent, env)
    time.sleep(0.3)
    while not (root / "seen/up").exists():
        time.sleep(0.01)
    time.sleep(1)
    running, uploading = resident(process), 0
    (root / "seen/go").touch()
    while process.poll() is None:
        try:
            uploading = max(uploading, resident(process))
        except (StopIteration, OSError):
            break
        time.sleep(0.005)
    process.wait()
    shutil.rmtree(root)
    idle_world = World()
    idle_world.handed_over = False
    root, env = machine(idle_world, "")
    _, process = start(agent, env)
    time.sleep(3)
    waiting = resident(process)
    process.send_signal(signal.SIGTERM)
    process.wait()
    shutil.rmtree(root)
    return {"waiting": waiting, "running, a long log printed": running, "keeping 200 MB of logs, peak": uploading}


def main():
    agent, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20
    figures = [once(agent) for _ in range(rounds)]
    for name in figures[0]:
        values = sorted(figure[name] for figure in figures)
        print(f"{name}: {statistics.median(values):.0f} ms (p50), {values[int(len(values) * 0.95)]:.0f} ms (p95)")
    for name, mebibytes in weight(agent).items():
        print(f"{name}: {mebibytes:.1f} MiB resident")
    print(f"the program: {os.path.getsize(agent) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
