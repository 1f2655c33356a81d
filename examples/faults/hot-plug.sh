#!/bin/sh
# Hot-plug: a module is put into a running network, replaced, and taken out; nothing else is started again.
# usage: hot-plug.sh [STATE_DIR]
set -eu
. "$(dirname "$0")/steps.sh"

TYPE=greeter
DIRECTORY=$STATE/agents/$AGENT/modules.d

# Any executable that speaks the contract is a module; this one is the program's own `echo` under another name.
put() { # VERSION
    mkdir -p "$DIRECTORY"
    printf 'version = "%s"\n' "$1" >"$DIRECTORY/$TYPE.toml"
    printf '#!/bin/sh\n# version %s\nexec "%s" module echo\n' "$1" "$IMN" >"$DIRECTORY/.$TYPE"
    chmod 755 "$DIRECTORY/.$TYPE"
    mv "$DIRECTORY/.$TYPE" "$DIRECTORY/$TYPE"
}
take_out() { rm -f "$DIRECTORY/$TYPE" "$DIRECTORY/$TYPE.toml" "$DIRECTORY/.$TYPE"; }
greets() { "$IMN" job submit "$TYPE" world --from "$AGENT" --deadline 5s -o json 2>/dev/null | grep -q '"succeeded"'; }
is_replaced() { pid=$(pid_of "$AGENT-$TYPE-0"); [ -n "$pid" ] && [ "$pid" != "$first" ] && ready "$TYPE" 1 any; }
is_gone() { [ -z "$(instances "$TYPE")" ]; }
trap take_out EXIT

before=$(others "$TYPE")
say "put an executable into $DIRECTORY"
began=$(now_ms)
put 1.0.0
wait_for 30 "the first job of the new module" greets
note "its first job was done $(($(now_ms) - began)) ms later"
"$IMN" module list --type "$TYPE"
first=$(pid_of "$AGENT-$TYPE-0")

say "put another version in its place"
put 2.0.0
wait_for 30 "the new version to run" is_replaced
wait_for 30 "a job of the new version" greets
note "process $first drained, $(pid_of "$AGENT-$TYPE-0") is in its place"

say "take it out"
take_out
wait_for 30 "the module to be gone" is_gone
if greets; then fail "a job was done by a module that is not there"; fi
note "it has drained, and jobs for it are refused"

[ "$(others "$TYPE")" = "$before" ] || fail "another module was started again"
say "done: no other module was started again"
