# Sourced by the demonstrations beside it: how they find the network, say what they do, wait, and judge.
#
# They run on the host of `imn up`: $1 or IMN_STATE_DIR is its state directory, IMN the program, IMN_AGENT_ID its agent.
# Needs curl and awk.

STATE=${1:-${IMN_STATE_DIR:-}}
IMN=$(command -v "${IMN:-imn}") || { echo "imn is not on the PATH; set IMN to the program" >&2; exit 1; }
AGENT=${IMN_AGENT_ID:-local}
[ -n "$STATE" ] && [ -f "$STATE/connect.json" ] || {
    echo "usage: $0 STATE_DIR, that of a running imn up (or set IMN_STATE_DIR)" >&2
    exit 1
}
export IMN_STATE_DIR="$STATE"
URL=$(sed -n 's/.*"http_url": "\(.*\)".*/\1/p' "$STATE/connect.json")
KEY=$(sed -n 's/.*"api_key": "\(.*\)".*/\1/p' "$STATE/connect.json")

say() { printf '\n== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
fail() { printf '\nFAILED: %s\n' "$*" >&2; exit 1; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }

# Tries a command until it succeeds, so many seconds long.
wait_for() { # SECONDS WHAT COMMAND…
    end=$(($(now_ms) + $1 * 1000)); what=$2; shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$(now_ms)" -lt "$end" ] || fail "waited in vain for $what"
        sleep 0.1
    done
}

# A request to the HTTP API.
api() { # METHOD PATH [BODY]
    curl -sS -m 40 -X "$1" -H "Authorization: Bearer $KEY" ${3:+--data-binary "$3"} "$URL/api/v1/$2"
}

# The first field of this name in a JSON text.
field() { # NAME
    sed -n "s/^[^{]*{/{/; s/.*[{,]\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p" | head -n 1
}

# The instances of a type, one a line: name, state, slots, pid.
instances() { # TYPE
    "$IMN" module list --type "$1" -o csv | awk -F, 'NR > 1 { print $1, $4, $6, $7 }'
}
runs() { [ -n "$(instances "$1")" ]; } # TYPE
# Whether so many instances of a type are all that there are, and ready, with so many slots (or `any`).
ready() { # TYPE INSTANCES SLOTS
    instances "$1" | awk -v n="$2" -v slots="$3" '
        $2 == "ready" && (slots == "any" || $3 == slots) { found++ }
        END { exit found != n || NR != n }'
}
pid_of() { # INSTANCE
    "$IMN" module list -o csv | awk -F, -v name="$1" '$1 == name { print $7 }'
}
# Who runs beside a type, to show at the end that nobody else was started again.
others() { # TYPE
    "$IMN" module list -o csv | awk -F, -v type="$1" 'NR > 1 && $2 != type { print $1, $7 }' | sort
}

# Submits a job and prints its id.
submit() { # TYPE TARGET PARAMS DEADLINE
    answer=$(api POST jobs "{\"type\":\"$1\",\"target\":\"$2\",\"params\":$3,\"deadline\":\"$4\",\"from\":{\"agents\":[\"$AGENT\"]}}")
    case $answer in
    '{"job_id":'*) echo "$answer" | field job_id ;;
    *) fail "a job was not accepted: $answer" ;;
    esac
}
# Waits for a job to end, and prints its state.
ended() { # ID
    for _ in 1 2 3; do
        job=$(api GET "jobs/$1?wait=20s")
        case $job in *'"terminal":true'*) echo "$job" | job_state; return ;; esac
    done
    echo "open"
}
# The state of the job itself, which stands before those of its tasks.
job_state() { sed -n 's/^[^[]*"state":"\([a-z_]*\)".*/\1/p' | head -n 1; }
