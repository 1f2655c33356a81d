"""A job that ends every process that takes it, among others of the same and of another type; prints what became of all.

Argument: the state directory.
"""

import asyncio
import base64
import json
import sys
import time
from collections import Counter

from wire import Wire, until


async def main(state):
    wire = await Wire().open(state)
    run = f"poison-{time.time_ns()}"

    def job(name, kind, params, **more):
        return {"v": 1, "job_id": f"{run}-{name}", "type": kind, "target": name, "params": params, "deadline_ms": 60_000, **more}

    poison = job("exit", "faulty", {"mode": "exit"}, max_attempts=3)
    others = [job(f"echo-{number}", "echo", {"n": number}) for number in range(40)]
    began = time.monotonic()
    assert (await wire.submit(poison))["status"] == 202
    for other in others:
        assert (await wire.submit(other))["status"] == 202
    dead = await wire.ended(poison["job_id"])
    took = time.monotonic() - began
    for other in others:
        await wire.ended(other["job_id"])

    async def ready():
        one = (await wire.api("/api/v1/modules/faulty"))["instances"][0]
        return one if one["state"] == "ready" and one["restarts"] >= 3 else None

    instance = await until(ready)
    # The next ones are done as if nothing had been; a panic ends one job and no process.
    after = job("after", "faulty", {"mode": "delay", "delay_ms": 1})
    panic = job("panic", "faulty", {"mode": "panic", "message": "on purpose"}, max_attempts=3)
    for one in (panic, after):
        assert (await wire.submit(one))["status"] == 202
        await wire.ended(one["job_id"])
    letter = await wire.last("MMN_DLQ", f"mmn.dlq.faulty.local.{poison['job_id']}")
    missing = await wire.last("MMN_DLQ", f"mmn.dlq.faulty.local.{panic['job_id']}")

    async def empty():
        return True if (await wire.stream("MMN_JOBS_faulty"))[0] == 0 else None

    await until(empty)
    print(json.dumps({
        "poison": dead,
        "seconds": took,
        "letter": json.loads(base64.b64decode(letter["data"])) if "data" in letter else letter,
        "no_letter": missing,
        "others": Counter(wire.results[other["job_id"]][0]["status"] for other in others),
        "results": Counter(len(results) for results in wire.results.values()),
        "instance": instance,
        "panic": wire.results[panic["job_id"]][0],
        "after": wire.results[after["job_id"]][0],
        "instance_after": await ready(),
    }))


asyncio.run(main(*sys.argv[1:]))
