"""Offers a job to one instance directly, as its agent would, and prints its answer and how long that took.

Arguments: the state directory, the type, the instance.
"""

import asyncio
import json
import sys
import time

from wire import Wire


async def main(state, kind, instance):
    wire = await Wire().open(state)
    task = {
        "v": 1, "job_id": f"offer-{time.time_ns()}", "type": kind, "target": "x",
        "params": {"mode": "delay", "delay_ms": 1}, "agent": "local", "attempt": 1, "attempt_token": "t",
        "ttl_ms": 10_000, "max_attempts": 1, "direct": True,
    }
    began = time.monotonic()
    reply = await wire.server.request(f"mmn.jobs.at.local.{instance}", json.dumps(task).encode(), timeout=10)
    took = time.monotonic() - began
    print(json.dumps({"reply": json.loads(reply.data), "headers": dict(reply.headers or {}), "seconds": took}))


asyncio.run(main(*sys.argv[1:]))
