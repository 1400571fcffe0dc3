"""Runs moto, an emulator of AWS, until standard input ends.

    python3 serve.py CACHE_DIR

Makes a virtual environment of the pinned requirements below CACHE_DIR when there is none, starts two servers on free
loopback ports and prints their addresses as one JSON object: `aws`, and `dynamodb`, which answers one request at a
time because moto's tables lose writes under threads.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import venv

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"


def prepared(cache):
    """The Python of the virtual environment; made once, whoever comes first."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    home = cache / f"moto-{wanted}"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "moto.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            venv.create(home, with_pip=True)
            pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "--require-hashes", "-r", REQUIREMENTS], check=True, stdout=sys.stderr)
            (home / "complete").touch()
    return home / "bin" / "python"


SERVER = """
import sys
from werkzeug.serving import make_server, WSGIRequestHandler
import logging
logging.getLogger("werkzeug").setLevel(logging.ERROR)
from moto.server import DomainDispatcherApplication, create_backend_app
app = DomainDispatcherApplication(create_backend_app)
threaded = sys.argv[1] == "threaded"
if threaded:
    # Connections stay. With one thread a connection that stays would shut out all others.
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    WSGIRequestHandler.disable_nagle_algorithm = True
server = make_server("127.0.0.1", 0, app, threaded=threaded)
print(server.port, flush=True)
server.serve_forever()
"""


def started(python, mode, home):
    """A server and its port."""
    env = {
        **os.environ,
        "HOME": home,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "MOTO_ACCOUNT_ID": "123456789012",
    }
    server = subprocess.Popen(
        [python, "-c", SERVER, mode], env=env, cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    return server, server.stdout.readline().strip()


def main():
    python = prepared(pathlib.Path(sys.argv[1]))
    home = tempfile.mkdtemp(prefix="runs-fleet-moto-")
    servers = []
    try:
        servers = [started(python, mode, home) for mode in ("threaded", "single")]
        ports = [port for _, port in servers]
        if not all(ports):
            sys.exit("moto did not start; its errors stand above")
        print(json.dumps({"aws": f"http://127.0.0.1:{ports[0]}", "dynamodb": f"http://127.0.0.1:{ports[1]}"}), flush=True)
        # Whoever started us holds the other end; it closes with them, however they end.
        sys.stdin.read()
    finally:
        for server, _ in servers:
            server.kill()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
