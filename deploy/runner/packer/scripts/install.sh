#!/bin/bash
# The upper layer: puts the agent, its unit and its guard where they belong. FROM is where they were uploaded to; ROOT is
# a root other than /, for tests.
set -euo pipefail
root="${ROOT:-}"
from="${FROM:?}"

install --directory --mode 0755 "$root/opt/runs-fleet"
install --mode 0755 "$from/runs-fleet-agent" "$root/opt/runs-fleet/runs-fleet-agent"
install --directory --mode 0700 "$root/var/lib/runs-fleet"
install --directory --mode 0755 "$root/etc/systemd/system" "$root/var/lib/cloud/scripts/per-boot"
install --mode 0644 "$from/runs-fleet-agent.service" "$root/etc/systemd/system/runs-fleet-agent.service"
install --mode 0755 "$from/runs-fleet-bootstrap.sh" "$root/var/lib/cloud/scripts/per-boot/runs-fleet-bootstrap.sh"
# The unit must not wait for a first boot that a resumed machine does not have.
systemctl ${root:+--root="$root"} enable runs-fleet-agent.service

if [ -z "$root" ]; then
    if [ "${JOB_USES_DOCKER:-true}" = true ]; then
        usermod --append --groups docker runner
    fi
    rm -f "$from/runs-fleet-agent" "$from/runs-fleet-agent.service" "$from/runs-fleet-bootstrap.sh"
    # What identifies the builder must not identify its copies.
    cloud-init clean --logs --machine-id
fi
