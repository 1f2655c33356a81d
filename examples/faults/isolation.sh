#!/bin/sh
# Fault isolation: a module is killed in the middle of a job; the job is done all the same, and nobody else notices.
# usage: isolation.sh [STATE_DIR]
set -eu
. "$(dirname "$0")/steps.sh"

TYPE=faulty
INSTANCE=$AGENT-$TYPE-0
is_running() { [ "$(api GET "jobs/$job" | job_state)" = running ]; }
is_back() { pid=$(pid_of "$INSTANCE"); [ -n "$pid" ] && [ "$pid" != "$killed" ]; }
wait_for 30 "$INSTANCE to run" runs "$TYPE"

before=$(others "$TYPE")
say "give $TYPE a job of three seconds"
job=$(submit "$TYPE" demonstration '{"mode":"delay","delay_ms":3000}' 60s)
wait_for 20 "job $job to run" is_running
killed=$(pid_of "$INSTANCE")

say "kill -9 its process, $killed, in the middle"
kill -9 "$killed"
[ "$(ended "$(submit echo meanwhile '{}' 20s)")" = succeeded ] || fail "another module does no jobs meanwhile"
note "a job of another module was done meanwhile"

state=$(ended "$job")
attempts=$(api GET "jobs/$job" | sed -n 's/.*"attempts":\([0-9]*\).*/\1/p')
note "the job is $state, at attempt $attempts"
[ "$state" = succeeded ] && [ "$attempts" = 2 ] || fail "the job was to be done at the second attempt"
wait_for 30 "$INSTANCE to be back" is_back
"$IMN" module list --type "$TYPE"

[ "$(others "$TYPE")" = "$before" ] || fail "another module was started again"
say "done: one terminal state, and no other module was started again"
