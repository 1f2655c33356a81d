"""An attacker with every credential of the network: sends what is no message, or the wrong one, to every subject.

Prints one JSON object: per subject, how much was sent, how much of it was answered with a coded and worded error, and
what was answered otherwise. Arguments: the state directory, and the seed of the mutations.
"""

import asyncio
import copy
import json
import random
import struct
import sys

import nats
from nats.errors import NoRespondersError, TimeoutError as NatsTimeout

CBOR = {"Content-Type": "application/cbor"}
LIMIT = 1024 * 1024
JOB = "01JCZ0000000000000000000AA"

# What is no message of any type, in either encoding.
GARBAGE = [
    b"\xff\x00 not a message",
    b"{garbage",
    b"null",
    b"[]",
    b'"text"',
    b"123",
    b"1e999",
    b"{" * 1000,
    b"[" * 100_000,
    b'{"v":1,"x":' + b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"v":1}trailing',
    b'{"v":1,"v":1}',
    b'{"v":"one"}',
    b'{"v":-1}',
    b'{"v":1e400}',
    b'{"v":99999999999999999999999}',
    b'{"v":9}',
    b'{"v":1,"\xff\xfe":1}',
    b'{"v":1,"type":"\\ud800"}',
    b"x" * LIMIT,
    b"\x00" * LIMIT,
]
GARBAGE_CBOR = [
    b"\xff",
    b"\xa1",
    b"\xa1\x61v",
    b"\x81" * 100_000,
    b"\x9f" * 100_000,
    b"\xa1\x61v\x1b" + b"\xff" * 8,
    b"\xa1\x61v\x20",
    b"\xa1\x61v\x09",
    b"\x9b" + b"\xff" * 8,
    b"\xbb" + b"\xff" * 8,
    b"\x5b" + b"\xff" * 8,
    b"\x7b\x00\x00\x00\x7f\xff\xff\xff\xff",
    b"\x7f\x61\xff\xff",
    b"\xfb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b'{"v":1}',
]
WRONG = [None, True, -1, 0.5, 1e300, 2**64, 2**200, "", "x" * 100_000, "a.b", "*", ">", "\x00", "\u202e", "../../etc", [], {}, [[[]]]]


def cbor(value):
    """Just enough of an encoder."""

    def head(major, n):
        for extra, size, form in ((24, 1, ">B"), (25, 2, ">H"), (26, 4, ">I"), (27, 8, ">Q")):
            if n < 24 and extra == 24:
                return bytes([major << 5 | n])
            if n < 1 << 8 * size:
                return bytes([major << 5 | extra]) + struct.pack(form, n)
        raw = n.to_bytes((n.bit_length() + 7) // 8, "big")
        return b"\xc2" + head(2, len(raw)) + raw

    match value:
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case float():
            return b"\xfb" + struct.pack(">d", value)
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list():
            return head(4, len(value)) + b"".join(map(cbor, value))
        case dict():
            return head(5, len(value)) + b"".join(cbor(k) + cbor(v) for k, v in value.items())


def deformed(template):
    """Every field in turn missing, of every wrong kind, too long, too large."""
    for field in template:
        without = copy.copy(template)
        del without[field]
        yield without
        for wrong in WRONG:
            yield {**template, field: wrong}


def batches(sample, rng):
    """A real sealed batch, damaged; and frames that promise more than they hold."""
    for _ in range(40):
        damaged = bytearray(sample)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        yield bytes(damaged)
        yield sample[: rng.randrange(len(sample))]
    for block in (b"\x03\x00\x10A", b"\x02\x00\x10A"):
        # A zstd frame of blocks that each become 128 KiB: 4 GiB from 128 KB.
        yield b"\x28\xb5\x2f\xfd\x00\x58" + block * 32_000
    yield b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\x01\x00\x00"


TEMPLATES = {
    "submit": {
        "v": 1, "type": "echo", "target": "x", "params": {"count": 3}, "from": {"agents": ["local"]},
        "deadline_ms": 1000, "wait_for_module": False, "max_attempts": 3,
    },
    "icmp": {"v": 1, "type": "icmp", "target": "127.0.0.1", "params": {"count": 1, "interval": "1ms", "timeout": "10ms", "size": 56}},
    "job-request": {"v": 1},
    "announce": {
        "v": 1, "event": "ready", "instance": "local-icmp-0", "agent": "local", "type": "icmp", "version": "9",
        "accepts": ["job/1"], "slots": 4, "params_schema": {},
    },
    "health": {
        "v": 1, "instance": "local-icmp-0", "agent": "local", "type": "icmp", "version": "9", "state": "draining",
        "inflight": 1, "queued": 0, "slots": 4, "oldest_ms": 1, "ewma_ms": 1.0, "done": 1, "errors": 1,
        "circuits_open": 0, "rounds_due": 1, "rounds_done": 1, "late_p99_us": 1, "seq": 1, "epoch": 1, "time": "x",
    },
    "heartbeat": {
        "v": 1, "agent": "nobody", "time": "2026-11-20T08:00:00.000000Z", "status": "active", "version": "9",
        "uptime_s": 1, "modules": [], "targets": 0, "rounds_per_s": 0.0,
        "spool": {"bytes": 0, "rows": 0, "oldest_s": 0}, "assignment": {"generation": 1, "hash": ""},
        "clock": {"offset_us": 0.0, "synced": True}, "cpu_pct": 0.0, "rss_mb": 0.0,
    },
    "agent-control": {"v": 1, "op": "task_done", "job_id": JOB},
    "module-control": {"v": 1, "op": "cancel", "job_id": JOB},
    "job": {
        "v": 1, "job_id": JOB, "type": "echo", "target": "x", "params": {}, "agent": "local", "attempt": 1,
        "attempt_token": "t", "ttl_ms": 1000, "max_attempts": 3,
    },
    "attempt": {
        "v": 1, "job_id": JOB, "agent": "local", "instance": "local-echo-0", "type": "echo", "target": "x",
        "attempt": 1, "attempt_token": "t", "status": "succeeded", "started": "x", "finished": "x", "outcome": {},
    },
    "watermark-request": {"v": 1, "epoch": 1},
    "simple": {"v": 1, "target": "127.0.0.1", "count": 1, "port": 80, "request_id": "r", "module": "echo", "params": {}},
}  # fmt: skip

# Who answers a request there: the subject, its message, and whether the empty message is a request.
ANSWERED = [
    ("mmn.jobs.submit", "submit", False),
    ("mmn.jobs.submit", "icmp", False),
    (f"mmn.jobs.get.{JOB}", "job-request", True),
    (f"mmn.jobs.cancel.{JOB}", "job-request", True),
    ("mmn.jobs.get.\u00e9\u00e9", "job-request", True),
    ("mmn.jobs.get." + "x" * 1000, "job-request", True),
    ("mmn.agents.ctl.local", "agent-control", False),
    ("mmn.modules.ctl.local.local-icmp-0", "module-control", False),
    ("mmn.modules.ctl.local.local-heartbeat-0", "module-control", False),
    ("mmn.jobs.do.local.echo", "job", False),
    ("mmn.jobs.at.local.local-echo-0", "job", False),
    ("mmn.jobs.at.local.local-icmp-0", "job", False),
    ("mmn.ingest.commit.local", "watermark-request", False),
]
# What is only listened to.
HEARD = [
    ("mmn.modules.announce", "announce"),
    ("mmn.modules.health.local-icmp-0", "health"),
    ("mmn.modules.health.nobody", "health"),
    ("mmn.agents.hb.local", "heartbeat"),
    ("heartbeat.local", "heartbeat"),
    ("mmn.jobs.attempt.local.local-echo-0." + JOB, "attempt"),
    ("mmn.jobs.attempt.local.agent." + JOB, "attempt"),
    ("mmn.jobs.attempt.a", "attempt"),
    ("mmn.jobs.direct.local.local-echo-0." + JOB, "attempt"),
    ("mmn.jobs.progress.local.local-echo-0." + JOB, "attempt"),
    ("mmn.jobs.log.local.local-echo-0.-", "attempt"),
    ("mmn.ingest.commit.local", "watermark-request"),
    ("mmn.jobs.q.echo.local." + JOB, "job"),
]


def messages(kind, empty):
    """Bodies with headers; the flag says that an error is owed for it."""
    for body in GARBAGE:
        # No message has to tell `{"v":1}` twice, or unknown keys, apart from once.
        yield body, None, not (kind == "job-request" and body.startswith(b'{"v":1,'))
    for body in GARBAGE_CBOR:
        yield body, CBOR, True
    yield b"", None, not empty
    for body in deformed(TEMPLATES[kind]):
        try:
            yield json.dumps(body).encode(), None, False
            yield cbor(body), CBOR, False
        except UnicodeEncodeError:
            continue


def verdict(reply):
    """`coded`, `taken`, or what it is instead."""
    try:
        body = json.loads(reply.data)
    except ValueError:
        try:
            # An error travels in the headers too, whatever the encoding.
            return "coded" if int(reply.headers["Nats-Service-Error-Code"]) >= 400 else "odd"
        except (TypeError, KeyError, ValueError):
            return "taken" if reply.data else "odd"
    error = body.get("error")
    if error is None:
        return "taken"
    fine = isinstance(error["code"], int) and 400 <= error["code"] < 600 and error["name"] and error["message"]
    return "coded" if fine and len(error["message"]) < 4096 else f"odd {str(body)[:300]}"


def refusal(data):
    """Whether it is a coded and worded error of the simple interface, in JSON or CBOR."""
    try:
        error = json.loads(data)
        return error["code"] in (400, 422) and bool(error["name"] and error["message"])
    except ValueError:
        return all(cbor(word) in data for word in ("code", "name", "message"))


async def connect(url, creds, prefix):
    failures = []

    async def on_error(error):
        failures.append(str(error))

    # Of a connection that the server closes, the client says no more when it comes before the reason.
    async def on_close():
        failures.append("disconnected")

    client = await nats.connect(
        url,
        user_credentials=creds,
        inbox_prefix=prefix,
        error_cb=on_error,
        disconnected_cb=on_close,
        pending_size=64 * LIMIT,
    )
    return client, failures


async def main(state, seed):
    rng = random.Random(seed)
    url = json.load(open(f"{state}/connect.json"))["nats_url"]
    client, failures = await connect(url, f"{state}/keys/server.creds", "_INBOX_server")
    seen = {"answered": {}, "heard": {}}
    gate = asyncio.Semaphore(16)

    async def ask(subject, body, headers, owed, tally):
        async with gate:
            tally["sent"] += 1
            try:
                kind = verdict(await client.request(subject, body, timeout=5, headers=headers))
            except NoRespondersError:
                kind = "nobody"
            except NatsTimeout:
                kind = "silence"
            tally[kind] = tally.get(kind, 0) + 1
            if kind not in ("coded", "taken") or (owed and kind == "taken"):
                tally["wrong"].append(f"{kind}: {headers and 'cbor '}{body[:160]!r} ({len(body)} bytes)")

    for subject, kind, empty in ANSWERED:
        tally = seen["answered"].setdefault(f"{subject[:60]} {kind}", {"sent": 0, "wrong": []})
        await asyncio.gather(*(ask(subject, *message, tally) for message in messages(kind, empty)))
        tally["wrong"] = tally["wrong"][:8]

    # The simple interface answers on subjects of its own.
    errors = await client.subscribe("agent.local.error")
    sent = [message for message in messages("simple", False) if message[2]]
    for body, headers, _ in sent:
        await client.publish("agent.local.in", body, headers=headers)
    got = []
    try:
        while len(got) < len(sent):
            got.append(refusal((await errors.next_msg(timeout=5)).data))
    except NatsTimeout:
        pass
    seen["simple"] = {"sent": len(sent), "answered": len(got), "coded": got.count(True)}
    for body, headers, _ in messages("simple", False):
        await client.publish("agent.local.in", body, headers=headers)
    await client.flush()

    for subject, kind in HEARD:
        n = 0
        for body, headers, _ in messages(kind, False):
            await client.publish(subject, body, headers=headers)
            n += 1
            if n % 16 == 0:
                await client.flush()
        await client.flush()
        seen["heard"][subject] = n

    # Batches: damaged ones on the way of a real one, and ones that lie about whose they are.
    tap = await client.subscribe("mmn.ingest.rows.>")
    real = await tap.next_msg(timeout=20)
    await tap.unsubscribe()
    n = 0
    for body in [*GARBAGE, b"", *batches(real.data, rng)]:
        for subject in (real.subject, "mmn.ingest.rows.0.nobody.icmp", "mmn.ingest.rows.7.local.icmp", "mmn.ingest.rows.x"):
            await client.publish(subject, body)
            n += 1
        await client.flush()
    seen["batches"] = n

    # Longer than the server takes: it says so and closes the connection; ours comes back.
    seen["failures"] = list(failures)
    client._max_payload = 2 * LIMIT
    await client.publish("mmn.jobs.submit", b"x" * (LIMIT + 1))
    for _ in range(50):
        if len(failures) > len(seen["failures"]):
            break
        await asyncio.sleep(0.1)
    seen["over_long"] = "; ".join(failures[len(seen["failures"]) :])
    print(json.dumps(seen))


asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1))
