"""The wire as scripts of these tests see it: a client that submits jobs, and one with the server's rights that looks at
streams and at what passes. Nothing here is ours but the subjects."""

import asyncio
import json
import urllib.error
import urllib.request

import nats


class Wire:
    """Both clients, and every result that is published from the start on."""

    async def open(self, state):
        self.connect = json.load(open(f"{state}/connect.json"))
        url = self.connect["nats_url"]
        self.client = await nats.connect(
            url, user_credentials=self.connect["nats_creds"], inbox_prefix=self.connect["nats_inbox_prefix"])
        self.server = await nats.connect(
            url, user_credentials=f"{state}/keys/server.creds", inbox_prefix="_INBOX_server")
        self.results, self.news = {}, asyncio.Condition()
        await self.client.subscribe("mmn.jobs.result.*", cb=self.on_result)
        await self.client.flush()
        return self

    async def on_result(self, message):
        result = json.loads(message.data)
        async with self.news:
            self.results.setdefault(result["job_id"], []).append(result)
            self.news.notify_all()

    async def ended(self, job, within=60):
        async with self.news:
            await asyncio.wait_for(self.news.wait_for(lambda: job in self.results), within)
        return self.results[job][0]

    async def submit(self, body):
        reply = await self.client.request("mmn.jobs.submit", json.dumps(body).encode(), timeout=10)
        return json.loads(reply.data)

    async def ask(self, subject, body, headers=None):
        reply = await self.server.request(subject, json.dumps(body).encode(), timeout=10, headers=headers)
        return json.loads(reply.data)

    async def stream(self, name):
        """Messages in a stream, and what its consumer of this agent has pending."""
        info = await self.ask(f"$JS.API.STREAM.INFO.{name}", {})
        consumer = await self.ask(f"$JS.API.CONSUMER.INFO.{name}.local", {})
        return info["state"]["messages"], consumer["num_pending"], consumer["num_ack_pending"]

    async def last(self, stream, subject):
        """The last message of a subject in a stream, or what JetStream says instead."""
        answer = await self.ask(f"$JS.API.STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        return answer.get("message") or answer["error"]

    async def api(self, path):
        """A GET of the HTTP API."""
        request = urllib.request.Request(
            self.connect["http_url"] + path, headers={"Authorization": f"Bearer {self.connect['api_key']}"})

        def get():
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                return json.load(error)

        return await asyncio.to_thread(get)


async def until(condition, within=30, every=0.05):
    """What the condition gives as soon as it gives something."""
    end = asyncio.get_running_loop().time() + within
    while asyncio.get_running_loop().time() < end:
        if (found := await condition()) is not None:
            return found
        await asyncio.sleep(every)
    raise AssertionError(f"not within {within} s: {condition.__name__}")
