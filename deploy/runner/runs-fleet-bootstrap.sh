#!/bin/sh
# A guard that cloud-init runs at every boot, from /var/lib/cloud/scripts/per-boot: pool members resume without a first
# boot. The agent's unit needs no help to start. When it did not, this machine will never be a runner, so it says so and
# ends. The optional arguments are a root other than / and how many
# seconds to wait.
set -u
root="${1:-}"
unit=runs-fleet-agent.service
agent="$root/opt/runs-fleet/runs-fleet-agent"
tries="${2:-60}"

# A word; the exit status is about other things.
stopping() {
    [ "$(systemctl is-system-running 2>/dev/null)" = stopping ]
}

property() {
    systemctl show --property="$1" --value "$unit" 2>/dev/null
}

state=unknown
while [ "$tries" -gt 0 ]; do
    stopping && exit 0
    state="$(property ActiveState)"
    case "$state" in
        active) exit 0 ;;
        inactive)
            # It has already ended, and well: the machine follows.
            if [ "$(property Result)" = success ] && [ "$(property ExecMainExitTimestampMonotonic)" -gt 0 ] 2>/dev/null; then
                exit 0
            fi
            ;;
    esac
    tries=$((tries - 1))
    sleep 1
done

reason="$unit is $state: $(journalctl --unit "$unit" --boot --lines 5 --output cat --quiet 2>/dev/null)"
stopping && exit 0
echo "runs-fleet: $reason" >&2
exec "$agent" give-up "$reason"
