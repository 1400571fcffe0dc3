#!/bin/bash
# The lower layer. Runs as root on Amazon Linux 2023.
set -euo pipefail
: "${RUNNER_VERSION:?}" "${RUNNER_SHA256:?}"

dnf upgrade --assumeyes --releasever=latest
dnf install --assumeyes docker git git-lfs iptables-nft jq tar gzip unzip zstd libicu lttng-ust openssl-libs krb5-libs zlib
# Volumes made from a snapshot load what is read; old kernels never are, but they are copied.
dnf remove --assumeyes --oldinstallonly --setopt installonly_limit=1 kernel || true
systemctl enable docker.socket

# The account of jobs: no password, no sudo.
id runner >/dev/null 2>&1 || useradd --create-home --uid 1001 --shell /bin/bash runner
install --directory --owner runner --group runner /opt/hostedtoolcache /opt/pipx /opt/pipx/bin

case "$(uname -m)" in
    x86_64) arch=x64 ;;
    aarch64) arch=arm64 ;;
    *) echo "unsupported architecture: $(uname -m)" >&2; exit 1 ;;
esac
tarball="actions-runner-linux-$arch-$RUNNER_VERSION.tar.gz"
curl --fail --silent --show-error --location --retry 5 --output "/tmp/$tarball" \
    "https://github.com/actions/runner/releases/download/v$RUNNER_VERSION/$tarball"
echo "$RUNNER_SHA256  /tmp/$tarball" | sha256sum --check --strict
install --directory --owner runner --group runner /opt/actions-runner
tar --extract --gzip --file "/tmp/$tarball" --directory /opt/actions-runner --no-same-owner
chown --recursive runner:runner /opt/actions-runner
rm -f "/tmp/$tarball"

baked="$(jq --raw-output '.libraries | keys[] | select(startswith("Runner.Listener/")) | split("/")[1]' \
    /opt/actions-runner/bin/Runner.Listener.deps.json)"
if [ "$baked" != "$RUNNER_VERSION" ]; then
    echo "the tarball holds runner $baked instead of $RUNNER_VERSION" >&2
    exit 1
fi
