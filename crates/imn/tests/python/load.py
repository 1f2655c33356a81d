"""Submits jobs by NATS alone and follows each to its end, whatever becomes of NATS and the server meanwhile.

Arguments: the state directory, the type, the parameters as JSON, the number, how many at a time, and how their targets
begin. Prints how they ended, and how often something was in the way.
"""

import asyncio
import json
import sys
import time
from collections import Counter

import nats


async def quiet(_):
    """What goes wrong with the connection is seen by whoever asks."""


async def main(state, kind, params, count, width, prefix):
    connect = json.load(open(f"{state}/connect.json"))
    client = await nats.connect(
        connect["nats_url"], user_credentials=connect["nats_creds"], inbox_prefix=connect["nats_inbox_prefix"],
        max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=quiet)
    told, turns = {}, asyncio.Semaphore(width)
    status, attempts, waits, interruptions = Counter(), Counter(), [], Counter()

    async def on_result(message):
        if (event := told.get(json.loads(message.data)["job_id"])) is not None:
            event.set()

    await client.subscribe("mmn.jobs.result.*", cb=on_result)
    await client.flush()

    async def ask(subject, body):
        """The answer, or none: then it is asked again."""
        try:
            return json.loads((await client.request(subject, body, timeout=2)).data)
        except (nats.errors.Error, asyncio.TimeoutError, OSError) as error:
            interruptions[type(error).__name__] += 1
            await asyncio.sleep(0.1)

    async def one(number):
        async with turns:
            job = f"{prefix}-{time.time_ns()}-{number}"
            told[job] = asyncio.Event()
            body = {"v": 1, "job_id": job, "type": kind, "target": f"{prefix}{number}", "params": params,
                    "wait_for_module": True, "deadline_ms": 300_000}
            # The same id with the same body is the same job, however often it is submitted.
            while (reply := await ask("mmn.jobs.submit", json.dumps(body).encode())) is None or reply["status"] != 202:
                if reply is not None:
                    assert reply["error"]["retryable"], reply
                    await asyncio.sleep(reply["error"].get("retry_after_ms", 100) / 1e3)
            accepted = time.monotonic()
            while True:
                try:
                    await asyncio.wait_for(told[job].wait(), 1)
                except asyncio.TimeoutError:
                    pass
                view = await ask(f"mmn.jobs.get.{job}", b"")
                if view is not None and view["tasks"] and view["tasks"][0].get("result"):
                    break
            waits.append(time.monotonic() - accepted)
            status[view["state"]] += 1
            attempts[view["tasks"][0]["attempts"]] += 1

    began = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(count)))
    waits.sort()
    print(json.dumps({
        "jobs": len(waits),
        "status": status,
        "attempts": attempts,
        "interruptions": interruptions,
        "seconds": round(time.monotonic() - began, 2),
        "p50_ms": round(waits[len(waits) // 2] * 1e3, 1),
        "p99_ms": round(waits[int(len(waits) * 0.99)] * 1e3, 1),
        "slowest_ms": round(waits[-1] * 1e3, 1),
    }))
    await client.close()


state, kind, params, count, width, prefix = sys.argv[1:]
asyncio.run(main(state, kind, json.loads(params), int(count), int(width), prefix))
