#!/bin/sh
# Scale-out: three instances of a module with one slot do more than one, without a restart of anything.
# usage: scale-out.sh [STATE_DIR]
set -eu
. "$(dirname "$0")/steps.sh"

TYPE=faulty
JOBS=12
wait_for 30 "$TYPE to run" runs "$TYPE"
had=$(instances "$TYPE" | wc -l)
slots=$(instances "$TYPE" | awk 'NR == 1 { print $3 }')
restore() {
    "$IMN" module set "$TYPE" --slots "$slots" --agent "$AGENT" >/dev/null
    "$IMN" module scale "$TYPE" "$had" --agent "$AGENT" >/dev/null
}
trap restore EXIT

# Jobs of 400 ms, all at once; prints how long the last took to end.
run() {
    began=$(now_ms)
    ids=
    for number in $(seq "$JOBS"); do
        ids="$ids $(submit "$TYPE" "job-$number" '{"mode":"delay","delay_ms":400}' 60s)"
    done
    for id in $ids; do
        [ "$(ended "$id")" = succeeded ] || fail "job $id did not succeed"
    done
    echo $(($(now_ms) - began))
}

before=$(others "$TYPE")
say "one instance of $TYPE, doing one job at a time"
"$IMN" module scale "$TYPE" 1 --agent "$AGENT"
"$IMN" module set "$TYPE" --slots 1 --agent "$AGENT"
wait_for 30 "one instance with one slot" ready "$TYPE" 1 1
one=$(run)
note "$JOBS jobs of 400 ms took $one ms"

say "scale out to three"
"$IMN" module scale "$TYPE" 3 --agent "$AGENT"
wait_for 30 "three instances with one slot" ready "$TYPE" 3 1
"$IMN" module list --type "$TYPE"
three=$(run)
note "$JOBS jobs of 400 ms took $three ms: $((one * 100 / three)) % of what one instance did"
[ $((one * 10)) -ge $((three * 14)) ] || fail "three instances did less than 1.4 times as much as one"

[ "$(others "$TYPE")" = "$before" ] || fail "another module was started again"
say "done: $TYPE gets back its $had instance(s) of $slots slots"
