"""Memory, CPU and start of a release server: idle on the emulated AWS, and under webhooks on the embedded stores.

    cargo build --release -p runs-fleet-server
    python3 crates/server/benches/footprint.py target/release/runs-fleet-server [SECONDS]

Needs nothing but Python. GitHub is not there: whatever the server wants of it fails, which starts need not wait for.
"""

import hashlib
import hmac
import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
SECRET = "footprint-secret-0123456789"
RATE = 200
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(more):
    nowhere = f"http://127.0.0.1:{free_port()}"
    return {
        "PATH": os.environ["PATH"],
        "RUNS_FLEET_GITHUB_APP_ID": "1",
        "RUNS_FLEET_GITHUB_APP_PRIVATE_KEY": (ROOT / "crates/config/testdata/rsa-2048-pkcs8.pem").read_text(),
        "RUNS_FLEET_GITHUB_WEBHOOK_SECRET": SECRET,
        "RUNS_FLEET_GITHUB_API_URL": nowhere,
        "RUNS_FLEET_GITHUB_SERVER_URL": nowhere,
        "RUNS_FLEET_SHUTDOWN_DRAIN_DELAY_SECONDS": "0",
        **more,
    }


class Server:
    def __init__(self, program, arguments, more, log):
        self.port = free_port()
        env = environment({"RUNS_FLEET_LISTEN_ADDR": f"127.0.0.1:{self.port}", **more})
        began = time.monotonic()
        self.process = subprocess.Popen([program, "serve", *arguments], env=env, stdout=log, stderr=log)
        while not self.ready():
            if self.process.poll() is not None:
                sys.exit(f"the server ended: {log.name}")
            time.sleep(0.002)
        self.start_ms = (time.monotonic() - began) * 1000

    def ready(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def memory_mib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        field = lambda name: int(status.split(f"{name}:")[1].split()[0]) / 1024
        return field("VmRSS"), field("VmHWM")

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def observed(self, seconds, name):
        cpu = self.cpu_seconds()
        time.sleep(seconds)
        cpu = (self.cpu_seconds() - cpu) / seconds * 100
        now, peak = self.memory_mib()
        print(f"{name}: resident {now:.1f} MiB, peak {peak:.1f} MiB, CPU {cpu:.1f} % of one core")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def idle_on_aws(program, seconds, directory):
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "runs-fleet"
    emulator = subprocess.Popen(
        [sys.executable, ROOT / "crates/emulator/serve.py", cache], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    found = json.loads(emulator.stdout.readline())
    account = {
        "AWS_ENDPOINT_URL": found["aws"],
        "AWS_ENDPOINT_URL_DYNAMODB": found["dynamodb"],
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }
    made = subprocess.run(
        [program, "setup", "--create", "--format", "json"], env=account, check=True, stdout=subprocess.PIPE
    )
    fleet = {
        "RUNS_FLEET_VPC_ID": "vpc-0123456789abcdef0",
        "RUNS_FLEET_PUBLIC_SUBNET_IDS": "subnet-0123456789abcdef0",
        "RUNS_FLEET_SECURITY_GROUP_ID": "sg-0123456789abcdef0",
        "RUNS_FLEET_INSTANCE_PROFILE_ARN": "arn:aws:iam::123456789012:instance-profile/runner",
        "RUNS_FLEET_RUNNER_IMAGE": "123456789012.dkr.ecr.us-east-1.amazonaws.com/runner:latest",
    }
    with open(directory / "aws.log", "w") as log:
        more = {**account, **fleet, **json.loads(made.stdout)["variables"]}
        starts = []
        for _ in range(5):
            server = Server(program, [], more, log)
            starts.append(server.start_ms)
            server.stop()
        server = Server(program, [], more, log)
        print(f"start to ready on the emulated AWS: {', '.join(f'{ms:.0f}' for ms in sorted(starts))} ms")
        server.observed(seconds, "idle on the emulated AWS")
        server.stop()
    emulator.stdin.close()
    emulator.wait()


def webhook(number):
    body = {
        "action": "queued",
        "workflow_job": {
            "id": 1_000_000 + number,
            "run_id": 1_000 + number // 4,
            "run_attempt": 1,
            "name": f"job {number}",
            "labels": ["runs-fleet/cpu=4/arch=arm64"],
            "status": "queued",
            "created_at": "2026-01-01T00:00:00Z",
        },
        "repository": {"full_name": "acme/widgets", "private": True},
        "installation": {"id": 1},
    }
    body = json.dumps(body).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return body, {
        "Content-Type": "application/json",
        "X-GitHub-Event": "workflow_job",
        "X-GitHub-Delivery": f"00000000-0000-0000-0000-{number:012d}",
        "X-Hub-Signature-256": f"sha256={signature}",
    }


def deliver(port, numbers, began, answers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for number in numbers:
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        body, headers = webhook(number)
        sent = time.monotonic()
        connection.request("POST", "/webhook", body, headers)
        answer = connection.getresponse()
        answer.read()
        answers.append((answer.status, (time.monotonic() - sent) * 1000))


def under_webhooks(program, seconds, directory):
    data = directory / "data"
    data.mkdir()
    with open(directory / "local.log", "w") as log:
        # One job a minute is dispatched; the others are stored and wait their turn: no machine disturbs the figures.
        more = {"RUNS_FLEET_INGEST_RATE_PER_REPO": "1"}
        server = Server(program, ["--simulated-github", "--local", str(data)], more, log)
        print(f"start to ready on the embedded stores: {server.start_ms:.0f} ms")
        answers, threads, count = [], [], RATE * seconds
        began = time.monotonic() + 0.5
        for lane in range(16):
            numbers = range(lane, count, 16)
            threads.append(threading.Thread(target=deliver, args=(server.port, numbers, began, answers)))
        for thread in threads:
            thread.start()
        server.observed(seconds, f"{RATE} webhooks a second on the embedded stores")
        for thread in threads:
            thread.join()
        took = time.monotonic() - began
        good = sum(status == 200 for status, _ in answers)
        times = sorted(ms for _, ms in answers)
        middle, late = times[len(times) // 2], times[len(times) * 99 // 100]
        print(f"  {good} of {count} accepted, {count / took:.0f} a second; answered in {middle:.1f} ms (p50), {late:.1f} ms (p99)")
        server.stop()


def main():
    program = str(pathlib.Path(sys.argv[1]).resolve())
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    print(f"program: {os.path.getsize(program) / 2**20:.1f} MiB")
    with tempfile.TemporaryDirectory() as directory:
        idle_on_aws(program, seconds, pathlib.Path(directory))
        under_webhooks(program, seconds, pathlib.Path(directory))


if __name__ == "__main__":
    main()
