#!/usr/bin/env python3
"""`hello` without the SDK: the whole contract of a module on one page, for whoever speaks it in another language.

In Python start from hello_module.py. Needs Python 3.11, nats-py 2.11 and nkeys.
"""
import asyncio, base64, functools, json, logging, os, random, re, signal, sys, time
from collections import deque
from datetime import datetime, timezone
import nats, nats.micro, nkeys
from nats.aio.client import RawCredentials

PARAMS = {"type": "object", "properties": {"delay_ms": {"type": "integer", "minimum": 0}}}
TASK = {"job_id": str, "target": str, "attempt": int, "attempt_token": str, "ttl_ms": int}
DRAIN, IN_ALL = 4.5, 6.5  # seconds for the jobs in work and for the whole end; after 7 the agent kills


def check(params):
    delay = params.get("delay_ms", 0) if isinstance(params, dict) else None
    if type(delay) is not int or delay < 0:
        raise Fault(400, "invalid", "use whole milliseconds, 0 or more", field="params.delay_ms")


async def greet(target, params, config, progress):
    """Returns the outcome or raises a Fault; is cancelled at the deadline and on request."""
    began = time.monotonic()
    await progress(1, f"about to greet {target}")
    await asyncio.sleep(params.get("delay_ms", 0) / 1e3)
    greeting, waited = f"{config.get('greeting', 'hello')} {target}", time.monotonic() - began
    return {"target": target, "greeting": greeting, "waited_ms": round(waited * 1e3, 3)}


class Fault(Exception):
    """An error as it travels."""
    def __init__(self, code, name, message, **more):
        self.code, self.message, retryable = code, message, code in (429, 503, 504, 520)
        self.body = {"code": code, "name": name, "message": message, "retryable": retryable} | more


def decode(data):
    try:
        body = json.loads(data)
        if body.get("v", 1) == 1:
            return body
    except (ValueError, AttributeError, RecursionError):
        raise Fault(400, "invalid", "send a JSON object") from None
    raise Fault(422, "schema", "this schema major is not accepted; send v = 1", field="v")


def now():
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Module:
    def __init__(self, told):
        self.told, self.config, self.slots, self.revision = told, told.get("config", {}), told.get("slots") or 2, 0
        self.who = {field: told[field] for field in ("agent", "type", "instance")}
        self.agent, self.kind, self.instance = self.who.values()
        self.own, self.draining, self.tasks = f"{self.agent}.{self.instance}", asyncio.Event(), set()
        self.work = {}  # by (job_id, attempt): the measurements that have a slot, and since when
        self.reporting, self.seen = set(), deque(maxlen=1024)  # attempts: report on its way; taken lately
        self.done = self.errors = self.ewma_ms = 0
        self.creds = told.get("creds") and RawCredentials(told["creds"])  # none on a NATS without authentication
        self.key = self.creds and nkeys.from_seed(re.search(r"NKEY SEED-+\s+(\w+)", told["creds"])[1].encode())

    async def run(self):
        self.nats = await nats.connect(
            self.told["nats_url"].split(","), name=self.instance, user_credentials=self.creds,
            inbox_prefix=self.told["inbox_prefix"], max_reconnect_attempts=-1, reconnected_cb=self.ready)
        on_task = functools.partial(self.answer, "ack", {"accepted": False}, self.take)
        on_control = functools.partial(self.answer, "control-reply", {"ok": False}, self.operate)
        inlets = [await self.nats.subscribe(f"mmn.jobs.do.{self.agent}.{self.kind}", f"m-{self.kind}", on_task),
                  await self.nats.subscribe(f"mmn.jobs.at.{self.own}", cb=on_task)]
        await self.nats.subscribe(f"mmn.modules.ctl.{self.own}", cb=on_control)
        # The inlets are no endpoints of the service: its stop() would drop the tasks that are on their way.
        await nats.micro.add_service(self.nats, name=f"imn-{self.kind}", version="1.0.0", metadata=self.who)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.draining.set)
        await self.announce("hello")
        await self.ready()
        pulse = asyncio.create_task(self.pulse())
        await self.draining.wait()
        try:
            async with asyncio.timeout(IN_ALL):
                await self.announce("draining")
                for inlet in inlets:
                    await inlet.drain()  # unsubscribes, and answers what was on its way
                await asyncio.wait([pulse, *self.tasks], timeout=DRAIN)
                await self.announce("bye")  # what is still in work goes unreported: its agent hands it to another
                await self.nats.flush()
        except TimeoutError:
            logging.warning("ended without last words: nats is away")

    async def ready(self):
        """At the start and after every reconnection."""
        await self.nats.flush()  # the round trip proves that the server has the subscriptions
        if not self.draining.is_set():
            await self.announce("ready")

    async def announce(self, event):
        body = {"event": event, "version": "1.0.0", "accepts": ["job/1"], "slots": self.slots, "pid": os.getpid()}
        await self.send("mmn.modules.announce", "announce", self.who | body | {"params_schema": PARAMS})

    async def send(self, subject, schema, body, headers={}, publish=None):
        payload = json.dumps({"v": 1} | body).encode()
        headers = {"Content-Type": "application/json", "MMN-Schema": f"{schema}/1"} | headers
        if schema == "announce" and self.key:
            signature = base64.urlsafe_b64encode(self.key.sign(payload)).decode().rstrip("=")
            headers |= {"MMN-Nkey": self.key.public_key.decode(), "MMN-Signature": signature}
        await (publish or self.nats.publish)(subject, payload, headers=headers)

    async def answer(self, schema, refusal, decide, message):
        """Answers what `decide` says; that awaits nothing, so that requests cannot mix."""
        try:
            body, headers = decide(decode(message.data)), {}
        except Fault as fault:
            body = refusal | {"error": fault.body}
            headers = {"Nats-Service-Error-Code": str(fault.code), "Nats-Service-Error": fault.message}
        if message.reply:
            await self.send(message.reply, schema, body, headers)

    def take(self, task):
        """Decides on a task: it has a slot now or is refused, and never parked."""
        for field, kind in TASK.items():
            if type(task.get(field)) is not kind:
                raise Fault(400, "invalid", f"{field} must be {kind.__name__}", field=field)
        if not re.fullmatch("[A-Za-z0-9_-]{1,64}", task["job_id"]):
            raise Fault(400, "invalid", "use 1 to 64 of A-Z a-z 0-9 _ -", field="job_id")
        if (task.get("agent"), task.get("type")) != (self.agent, self.kind):
            raise Fault(404, "no_module", f"this is {self.kind} of {self.agent}", field="type")
        key, params = (task["job_id"], task["attempt"]), task.get("params", {})
        if key not in self.seen:
            check(params)
            if self.draining.is_set():
                raise Fault(503, "unavailable", "this instance is draining; hand the task to another")
            if len(self.work) >= self.slots:
                raise Fault(429, "saturated", "all slots are taken", retry_after_ms=50 + int(self.ewma_ms))
            measurement = greet(task["target"], params, self.config, functools.partial(self.progress, key[0]))
            self.work[key] = asyncio.create_task(measurement), time.monotonic()
            self.seen.append(key)
            self.tasks.add(performing := asyncio.create_task(self.perform(task, key, *self.work[key])))
            performing.add_done_callback(self.tasks.discard)
        return {"accepted": True, "instance": self.instance, "attempt": key[1]}

    async def progress(self, job, seq, text):
        body = {"job_id": job, "agent": self.agent, "seq": seq, "kind": "text", "text": text}
        await self.send(f"mmn.jobs.progress.{self.own}.{job}", "progress", body)

    async def perform(self, task, key, work, since):
        """Sees an attempt to its end, and reports it until the report is acknowledged."""
        started = now()
        await asyncio.wait([work], timeout=task["ttl_ms"] / 1e3)
        fault = (Fault(504, "deadline", f"not done within {task['ttl_ms']} ms") if work.cancel() else
                 Fault(499, "cancelled", "stopped on request") if work.cancelled() else work.exception())
        if fault and not isinstance(fault, Fault):
            fault = Fault(520, "module_crashed", f"the measurement broke: {fault!r}")
        status = "succeeded" if not fault else "cancelled" if fault.code == 499 else "failed"
        report = self.who | {field: task[field] for field in ("job_id", "target", "attempt", "attempt_token")}
        report |= {"status": status, "started": started, "finished": now()}
        report |= {"error": fault.body} if fault else {"outcome": work.result()}
        self.reporting.add(key)
        del self.work[key]
        self.done, self.errors = self.done + 1, self.errors + bool(fault)
        self.ewma_ms += (0.2 if self.done > 1 else 1) * ((time.monotonic() - since) * 1e3 - self.ewma_ms)
        headers = {"MMN-Job": key[0], "MMN-Attempt": str(key[1]), "MMN-Attempt-Token": task["attempt_token"],
                   "Nats-Msg-Id": f"{key[0]}.{self.agent}.{key[1]}"}
        # What the agent itself has admitted, by its simple interface, goes to the agent alone.
        way, publish = ("direct", None) if task.get("direct") else ("attempt", self.nats.jetstream().publish)
        while key in self.reporting:
            try:
                await self.send(f"mmn.jobs.{way}.{self.own}.{key[0]}", "attempt", report, headers, publish)
                self.reporting.remove(key)
            except nats.errors.Error as error:
                logging.warning("attempt not reported, trying again job=%s error=%s", key[0], error)
                await asyncio.sleep(1)

    def operate(self, control):
        match control:
            case {"op": "drain"}: self.draining.set()
            case {"op": "slots", "slots": int(slots)} if slots > 0: self.slots = slots
            case {"op": "slots"}: raise Fault(400, "invalid", "use 1 or more", field="slots")
            case {"op": "log_level", "level": "error" | "warn" | "info" | "debug" as level}:
                logging.getLogger().setLevel(level.upper())
            case {"op": "log_level"}: raise Fault(400, "invalid", "use error, warn, info or debug", field="level")
            case {"op": "config", "revision": int(revision), "config": dict(config)} if revision > self.revision:
                self.revision, self.config = revision, config
            case {"op": "config"}: raise Fault(409, "conflict", f"{self.revision} is in force", field="revision")
            case {"op": "cancel", "job_id": job}:
                return {"ok": any([work.cancel() for (id, _), (work, _) in self.work.items() if id == job])}
            case {"op": "has", "job_id": job}:
                return {"ok": any(id == job for id, _ in [*self.work, *self.reporting])}
            case _: raise Fault(400, "invalid", "this op is unknown or incomplete", field="op")
        return {"ok": True}

    async def pulse(self):
        """Health: every 5 s and when the state changes; the last word is that of draining."""
        told, at, seq, epoch = None, 0, 0, random.getrandbits(63)
        while told != "draining":
            state = "draining" if self.draining.is_set() else "ready" if len(self.work) < self.slots else "saturated"
            clock = time.monotonic()
            if self.nats.is_connected and (state != told or clock - at >= 5):
                told, at, seq = state, clock, seq + 1
                oldest = min((since for _, since in self.work.values()), default=clock)
                health = dict.fromkeys(("queued", "circuits_open", "rounds_due", "rounds_done", "late_p99_us"), 0) | {
                    "version": "1.0.0", "state": state, "inflight": len(self.work), "slots": self.slots,
                    "oldest_ms": int((clock - oldest) * 1e3), "ewma_ms": self.ewma_ms, "done": self.done,
                    "errors": self.errors, "seq": seq, "epoch": epoch, "time": now()}
                await self.send(f"mmn.modules.health.{self.instance}", "health", self.who | health)
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(Module(json.load(sys.stdin)).run())
