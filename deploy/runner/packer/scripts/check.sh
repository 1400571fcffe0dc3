#!/bin/bash
# shellcheck disable=SC2317 # check calls the functions by their names.
# Refuses an image that could not run a job. ROOT is a root other than /, for tests.
set -euo pipefail
root="${ROOT:-}"
agent="$root/opt/runs-fleet/runs-fleet-agent"
unit="$root/etc/systemd/system/runs-fleet-agent.service"
guard="$root/var/lib/cloud/scripts/per-boot/runs-fleet-bootstrap.sh"
runner="$root/opt/actions-runner"
failed=0

check() {
    local what="$1"
    shift
    if ! "$@"; then
        echo "the image is unfit: $what" >&2
        failed=1
    fi
}

# The byte behind the magic says the architecture: 0x3e is amd64, 0xb7 is arm64.
native() {
    local machine expected
    machine="$(od --address-radix=n --format=x1 --skip-bytes=18 --read-bytes=1 "$1" | tr -d ' ')"
    case "$(uname -m)" in
        x86_64) expected=3e ;;
        aarch64) expected=b7 ;;
        *) return 1 ;;
    esac
    [ "$(head --bytes=4 "$1" | tail --bytes=3)" = ELF ] && [ "$machine" = "$expected" ]
}

mode() {
    [ "$(stat --format %a "$2")" = "$1" ]
}

has() {
    grep --quiet --line-regexp --fixed-strings "$1" "$unit"
}

check "the agent is for another architecture" native "$agent"
check "the agent does not run" "$agent" --version
check "the guard does not parse" sh -n "$guard"
check "the guard cannot be executed" mode 755 "$guard"
check "the crash state is readable by others" mode 700 "$root/var/lib/runs-fleet"
check "the unit is not enabled" test -L "$root/etc/systemd/system/multi-user.target.wants/runs-fleet-agent.service"
for line in \
    Environment=AGENT_TOOLSDIRECTORY=/opt/hostedtoolcache \
    Environment=PIPX_HOME=/opt/pipx \
    Environment=PIPX_BIN_DIR=/opt/pipx/bin \
    Environment=PATH=/opt/pipx/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin \
    Environment=RUNS_FLEET_RUNNER_USER=runner \
    Environment=RUNS_FLEET_WAIT_FOR_DOCKER_SECONDS=20 \
    StartLimitAction=poweroff Restart=on-failure KillMode=mixed Delegate=yes; do
    check "the unit lacks $line" has "$line"
done
for file in run.sh config.sh bin/Runner.Listener; do
    check "the runner lacks $file" test -x "$runner/$file"
done
if [ -z "$root" ]; then
    check "the unit is not understood" systemd-analyze verify "$unit"
    check "the runner is not its account's" test "$(stat --format %U "$runner")" = runner
    check "jobs could not be kept from the metadata" command -v iptables-restore
    while IFS= read -r tool; do
        check "$tool is incomplete" test -d "${tool%.complete}"
    done < <(find /opt/hostedtoolcache -mindepth 3 -maxdepth 3 -name '*.complete')
fi
exit "$failed"
