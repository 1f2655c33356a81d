"""Asks somebody on NATS, or with no body listens for what comes next there.

Arguments: the state directory, the subject, and the body as JSON. Prints the message, or what is wrong instead.
"""

import asyncio
import json
import sys

import nats


async def main(state, subject, body=None):
    connect = json.load(open(f"{state}/connect.json"))
    client = await nats.connect(
        connect["nats_url"], user_credentials=connect["nats_creds"], inbox_prefix=connect["nats_inbox_prefix"])
    try:
        if body is None:
            message = await (await client.subscribe(subject)).next_msg(timeout=10)
        else:
            message = await client.request(subject, body.encode(), timeout=10)
        print(json.dumps(json.loads(message.data)))
    except nats.errors.Error as error:
        print(json.dumps({"failed": type(error).__name__}))
    await client.close()


asyncio.run(main(*sys.argv[1:]))
