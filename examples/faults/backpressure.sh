#!/bin/sh
# Backpressure: a module that has more to do than it can takes no more than it has slots for; what waits is seen, and a
# job that would come too late is refused at once, with the time after which to try again.
# usage: backpressure.sh [STATE_DIR]
set -eu
. "$(dirname "$0")/steps.sh"

TYPE=faulty
WORK='{"mode":"delay","delay_ms":400}'
wait_for 30 "$TYPE to run" runs "$TYPE"
had=$(instances "$TYPE" | wc -l)
slots=$(instances "$TYPE" | awk 'NR == 1 { print $3 }')
restore() {
    "$IMN" module set "$TYPE" --slots "$slots" --agent "$AGENT" >/dev/null
    "$IMN" module scale "$TYPE" "$had" --agent "$AGENT" >/dev/null
}
trap restore EXIT
# The smoothed time that a job takes, by which the server judges what waits.
knows_its_pace() {
    ms=$(api GET "modules?type=$TYPE" | field ewma_ms)
    awk -v ms="$ms" 'BEGIN { exit !(ms >= 300) }'
}
does_a_job() { [ "$(ended "$(submit "$TYPE" pace "$WORK" 20s)")" = succeeded ] && knows_its_pace; }

say "one instance of $TYPE, doing one job of 400 ms at a time"
"$IMN" module scale "$TYPE" 1 --agent "$AGENT" >/dev/null
"$IMN" module set "$TYPE" --slots 1 --agent "$AGENT"
wait_for 30 "one instance with one slot" ready "$TYPE" 1 1
wait_for 60 "$TYPE to tell how long a job takes" does_a_job

say "give it eight at once, which have a minute"
ids=
for number in $(seq 8); do
    ids="$ids $(submit "$TYPE" "job-$number" "$WORK" 60s)"
done
"$IMN" module list --type "$TYPE"
"$IMN" job list --limit 8

say "ask for one that must be done within a second"
answer=$(curl -sS -i -m 20 -H "Authorization: Bearer $KEY" "$URL/api/v1/jobs" \
    --data "{\"type\":\"$TYPE\",\"target\":\"late\",\"params\":$WORK,\"deadline\":\"1s\",\"from\":{\"agents\":[\"$AGENT\"]}}")
echo "$answer" | sed -n '1p; /^[Rr]etry-[Aa]fter/p; $p'
echo "$answer" | head -n 1 | grep -q ' 429' || fail "it was to be refused with 429"
echo "$answer" | grep -qi '^retry-after: [0-9]' || fail "it was to be told when to try again"

say "wait for the eight"
for id in $ids; do
    state=$(ended "$id")
    [ "$state" = succeeded ] || fail "job $id, which was accepted, is $state"
done
note "all that were accepted are done"
[ "$(ended "$(submit "$TYPE" in-time "$WORK" 10s)")" = succeeded ] || fail "there is room again, and a job was not done"
say "done: nothing was lost, and there is room again"
