#!/usr/bin/env python3
"""Moves one large entry in and out of the cache's directory store, and the same bytes in and out of nginx.

Needs curl, nginx (with its dav module) and the release build of the example `serve`:

    cargo build --release -p cache --no-default-features --example serve
    crates/cache/benches/compare.py target/release/examples/serve

Both serve the loopback interface from the same file system. Runs alternate; the median of each is compared. Then blocks
are sent as clients send them, and the server's memory is watched during parallel uploads. Fails when the cache moves
less than 60 % of what nginx moves, or when its memory grows by more than 64 MB.
"""

import argparse
import base64
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

MIB = 1 << 20
SHARE = 0.6
GROWTH = 64_000_000
VERSION = "v" * 64
TWIRP = "twirp/github.actions.results.api.v1.CacheService/"

NGINX = """
worker_processes 1;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/nginx.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_max_body_size 0;
    client_body_temp_path {dir}/tmp;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ root {dir}/root; dav_methods PUT DELETE; }}
    }}
}}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 0.1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit("a server did not start")


def curl(*args):
    """Bytes per second, or the end of everything."""
    what = "%{speed_upload} %{speed_download} %{http_code}"
    command = ["curl", "-sS", "-o", "/dev/null", "-w", what, *args]
    up, down, status = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    if not status.startswith("2"):
        sys.exit(f"{' '.join(command)}: {status}")
    return max(float(up), float(down))


class Cache:
    def __init__(self, program, directory):
        self.process = subprocess.Popen([program, directory], stdout=subprocess.PIPE, text=True)
        self.base = self.process.stdout.readline().strip()

    def call(self, method, **body):
        data = json.dumps({"version": VERSION, **body}).encode()
        request = urllib.request.Request(self.base + TWIRP + method, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def create(self, key):
        return self.call("CreateCacheEntry", key=key)["signed_upload_url"]

    def finalize(self, key, size):
        answer = self.call("FinalizeCacheEntryUpload", key=key, size_bytes=str(size))
        assert answer["ok"], answer

    def download(self, key):
        return self.call("GetCacheEntryDownloadURL", key=key)["signed_download_url"]

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def put(url, path, *more):
    return curl("-T", path, "-H", "x-ms-blob-type: BlockBlob", *more, url)


def blocks(cache, path, size, block, parallel):
    """Seconds of the blocks, and of the list that puts them together."""
    url = cache.create("blocks")
    ids = [base64.b64encode(f"{n:048d}".encode()).decode() for n in range(-(-size // block))]
    parts = []
    for n, _ in enumerate(ids):
        part = f"{path}.{n}"
        with open(path, "rb") as whole, open(part, "wb") as out:
            whole.seek(n * block)
            out.write(whole.read(block))
        parts.append(part)
    started = time.monotonic()
    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(lambda one: put(f"{url}&comp=block&blockid={one[0]}", one[1]), zip(ids, parts)))
    staged = time.monotonic()
    xml = f"{path}.xml"
    with open(xml, "w") as out:
        out.write("<BlockList>" + "".join(f"<Latest>{i}</Latest>" for i in ids) + "</BlockList>")
    put(f"{url}&comp=blocklist", xml)
    cache.finalize("blocks", size)
    for part in parts:
        os.remove(part)
    return staged - started, time.monotonic() - staged


def growth(cache, path):
    """How much the server's memory grows during parallel uploads of 256 MiB each."""
    part = f"{path}.part"
    with open(path, "rb") as whole, open(part, "wb") as out:
        shutil.copyfileobj(whole, out, MIB)
        out.truncate(256 * MIB)
    urls = [cache.create(f"parallel-{n}") for n in range(8)]
    before, peak, done = cache.memory(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, cache.memory())

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda url: put(url, part), urls))
    done.set()
    watching.join()
    return peak - before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("serve", help="the example `serve`, built with --release")
    parser.add_argument("--dir", help="where to work; a temporary directory otherwise")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the entry")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin") or sys.exit("nginx is not installed")
    size = options.size * MIB
    directory = tempfile.mkdtemp(dir=options.dir)
    # Killed, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    servers = []
    try:
        os.chmod(directory, 0o755)
        os.makedirs(f"{directory}/nginx/root", 0o777)
        # Workers of a root's nginx are nobody.
        for made in ("nginx", "nginx/root"):
            os.chmod(f"{directory}/{made}", 0o777)
        port = free_port()
        with open(f"{directory}/nginx.conf", "w") as conf:
            conf.write(NGINX.format(dir=f"{directory}/nginx", port=port))
        servers.append(subprocess.Popen([nginx, "-p", directory, "-c", f"{directory}/nginx.conf"]))
        wait_for(port)
        cache = Cache(options.serve, f"{directory}/cache")
        servers.append(cache.process)
        source = f"{directory}/source"
        with open(source, "wb") as out:
            for _ in range(options.size):
                out.write(os.urandom(MIB))
        there = f"http://127.0.0.1:{port}/entry"
        rates = {"up": ([], []), "down": ([], [])}
        url = cache.create("entry")
        for _ in range(options.runs):
            os.sync()
            rates["up"][0].append(put(there, source))
            os.sync()
            rates["up"][1].append(put(url, source))
        cache.finalize("entry", size)
        here = cache.download("entry")
        for _ in range(options.runs):
            rates["down"][0].append(curl(there))
            rates["down"][1].append(curl(here))
        slow = False
        for what, (reference, ours) in rates.items():
            reference, ours = statistics.median(reference), statistics.median(ours)
            slow |= ours < SHARE * reference
            print(f"{what:5} nginx {reference / MIB:6.0f} MiB/s   cache {ours / MIB:6.0f} MiB/s   {ours / reference:4.0%}")
        staged, listed = blocks(cache, source, size, 64 * MIB, 8)
        total = staged + listed
        print(f"in 64 MiB blocks, 8 at once: {staged:.2f} s, list and commit {listed:.2f} s: {size / MIB / total:.0f} MiB/s")
        grown = growth(cache, source)
        print(f"memory during 8 uploads of 256 MiB: +{grown / 1e6:.0f} MB")
        sys.exit(1 if slow or grown > GROWTH else 0)
    finally:
        for server in servers:
            server.terminate()
            server.wait()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
