#!/usr/bin/env bash
# Asks for a vehicle that is free, unlocks it, and follows the command until the car has said what became of it.
#
# usage: CARDEA_URL=https://… CARDEA_API_KEY=ck_… [CARDEA_CA=ca.pem] ./unlock.sh [VEHICLE]
set -euo pipefail
: "${CARDEA_URL:?like https://127.0.0.1:8443}" "${CARDEA_API_KEY:?an API key}"

# call METHOD PATH [CURL ARGUMENT...] : the answer's body, or the problem on stderr and exit code 1.
call() {
    local method=$1 path=$2 answer status
    shift 2
    # The key comes from a file descriptor: command lines are for everybody on the machine to see.
    answer=$(curl --silent --show-error --max-time 40 ${CARDEA_CA:+--cacert "$CARDEA_CA"} --request "$method" \
        --header @<(printf 'Authorization: Bearer %s\n' "$CARDEA_API_KEY") \
        --write-out '\n%{http_code}' "$@" "$CARDEA_URL$path")
    status=${answer##*$'\n'}
    answer=${answer%$'\n'*}
    if [ "$status" -ge 400 ]; then
        jq -r '"\(.title) (\(.status)): \(.detail)"' <<<"$answer" >&2
        return 1
    fi
    printf '%s\n' "$answer"
}

vehicle=${1:-$(call GET '/v1/vehicles/available?limit=1' | jq -r '.items[0].vehicle_id // empty')}
[ -n "$vehicle" ] || { echo "no vehicle is free" >&2; exit 1; }

# Sent again with the same key, the request is answered from the record and nothing happens twice.
command=$(call POST "/v1/vehicles/$vehicle/commands?wait_ms=10000" --header "Idempotency-Key: $(openssl rand -hex 16)" \
    --json '{"type":"unlock","ttl_s":60}')
id=$(jq -r .command_id <<<"$command")

while :; do
    state=$(jq -r .state <<<"$command")
    echo "$vehicle: $state"
    case $state in
        succeeded) exit 0 ;;
        # The car said no, it came too late, or no word came in time.
        failed | rejected | expired | cancelled | superseded | unknown)
            jq -r '.reason // empty' <<<"$command" >&2
            exit 1
            ;;
    esac
    command=$(call GET "/v1/commands/$id?wait_ms=10000")
done
