"""A small SDK for measurement modules of IMN, over nats-py and nkeys alone.

Derive from `Module`, write `run`, and call `main`:

    class Hello(Module):
        version = "1.0.0"

        async def run(self, job):
            return {"greeting": f"hello {job.target}"}

    Hello().main()

The SDK reads the configuration on standard input, connects, announces the module, keeps its slots, refuses what it
cannot do, ends jobs at their deadlines, reports each until the report is acknowledged, tells health, and drains. What
it speaks is the contract: the subjects and messages of `schemas/asyncapi.yaml`.

Needs Python 3.11, nats-py 2.11 and nkeys.
"""
import asyncio
import base64
import functools
import json
import logging
import os
import random
import re
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timezone

import nats
import nats.micro
import nkeys
from nats.aio.client import RawCredentials

log = logging.getLogger("imn_module")

# Seconds for the jobs in work, and for the whole end: after seven the agent kills.
DRAIN, END = 4.5, 6.5
HEALTH_EVERY = 5
# What a task must have, and of which type.
TASK = {"job_id": str, "target": str, "attempt": int, "attempt_token": str, "ttl_ms": int}
IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
RETRYABLE = (429, 503, 504, 520)
LEVELS = {
    "off": logging.CRITICAL + 1, "error": logging.ERROR, "warn": logging.WARNING,
    "info": logging.INFO, "debug": logging.DEBUG, "trace": logging.DEBUG,
}


class Fault(Exception):
    """An error as it travels: raise it to refuse a job or to make it fail."""

    def __init__(self, code, name, message, **more):
        super().__init__(message)
        self.code, self.message = code, message
        self.body = {"code": code, "name": name, "message": message, "retryable": code in RETRYABLE} | more


def invalid(name, message):
    """A parameter is wrong."""
    return Fault(400, "invalid", message, field=name)


@dataclass
class Job:
    """One attempt at one job."""

    id: str
    target: str
    params: dict
    attempt: int
    token: str
    ttl: float  # seconds that it may take
    direct: bool  # admitted by the agent itself, which alone is told of it
    _told: object = field(repr=False)
    _seq: int = 0

    async def progress(self, kind, **detail):
        """Tells whoever watches the job; nothing is kept of it."""
        self._seq += 1
        await self._told("progress", self, {"seq": self._seq, "kind": kind} | detail)

    async def text(self, text):
        """Progress in words."""
        await self.progress("text", text=text)

    async def log(self, level, message):
        """A line of the job's log: error, warn, info, debug or trace."""
        await self._told("log", self, {"level": level, "message": message, "time": now()})


class Module:
    """One kind of measurement. Override what differs."""

    version = "0.1.0"
    slots = 2  # jobs at once, unless the agent says otherwise
    params_schema = {}  # JSON Schema of the parameters: what it does not allow, the server refuses

    def check(self, job):
        """Raises a Fault for a job that cannot be done; called before it is accepted, must not wait."""

    def configure(self, config):
        """Takes a configuration, at the start and whenever it changes; raises a Fault to keep the one before."""

    async def run(self, job):
        """Measures; returns the outcome or raises a Fault. Is cancelled at the deadline and on request."""
        raise NotImplementedError

    def main(self):
        """Runs as this process, until it has drained."""
        level = level_of(os.environ.get("IMN_LOG", "info"))
        logging.basicConfig(level=level if level is not None else logging.INFO, stream=sys.stderr,
                            format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("nats").setLevel(logging.WARNING)
        asyncio.run(Process(self, json.load(sys.stdin)).run())


class Process:
    """A module at work: one instance, as its agent has named it."""

    def __init__(self, module, told):
        self.module, self.told = module, told
        self.agent, self.kind, self.instance = told["agent"], told["type"], told["instance"]
        self.who = {"agent": self.agent, "type": self.kind, "instance": self.instance}
        self.own = f"{self.agent}.{self.instance}"
        self.slots, self.revision = told.get("slots") or module.slots, 0
        self.work = {}  # by (job, attempt): the measurement, and since when it has a slot
        self.reporting = set()  # attempts whose report is on its way
        self.seen = deque(maxlen=1024)  # attempts taken lately, whatever became of them
        self.tasks, self.draining = set(), asyncio.Event()
        self.done = self.errors = 0
        self.ewma_ms = 0.0
        creds = told.get("creds")  # none on a NATS without authentication
        self.creds = creds and RawCredentials(creds)
        self.key = creds and nkeys.from_seed(re.search(r"NKEY SEED-+\s+(\w+)", creds)[1].encode())
        module.configure(told.get("config", {}))

    # --- from the start to the end

    async def run(self):
        self.nats = await nats.connect(
            self.told["nats_url"].split(","), name=self.instance, user_credentials=self.creds,
            inbox_prefix=self.told["inbox_prefix"], max_reconnect_attempts=-1, reconnected_cb=self.ready)
        on_task = functools.partial(self.answer, "ack", {"accepted": False}, self.take)
        on_control = functools.partial(self.answer, "control-reply", {"ok": False}, self.operate)
        inlets = [
            await self.nats.subscribe(f"mmn.jobs.do.{self.agent}.{self.kind}", f"m-{self.kind}", on_task),
            await self.nats.subscribe(f"mmn.jobs.at.{self.own}", cb=on_task),
        ]
        await self.nats.subscribe(f"mmn.modules.ctl.{self.own}", cb=on_control)
        # The inlets are no endpoints of the service: its stop() would drop the tasks that are on their way.
        await nats.micro.add_service(
            self.nats, name=f"imn-{self.kind}", version=self.module.version, metadata=self.who)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.draining.set)
        await self.announce("hello")
        await self.ready()
        log.info("ready instance=%s slots=%d", self.instance, self.slots)
        pulse = asyncio.create_task(self.pulse())
        await self.draining.wait()
        try:
            async with asyncio.timeout(END):
                await self.announce("draining")
                for inlet in inlets:
                    await inlet.drain()  # unsubscribes, and answers what was on its way
                await asyncio.wait([pulse, *self.tasks], timeout=DRAIN)
                await self.announce("bye")  # what is still in work goes unreported: its agent hands it to another
                await self.nats.flush()
        except TimeoutError:
            log.warning("ended without last words: nats is away")

    async def ready(self):
        """At the start, and after every reconnection."""
        await self.nats.flush()  # the round trip proves that the server has the subscriptions
        if not self.draining.is_set():
            await self.announce("ready")

    async def announce(self, event):
        await self.send("mmn.modules.announce", "announce", self.who | {
            "event": event, "version": self.module.version, "accepts": ["job/1"], "slots": self.slots,
            "pid": os.getpid(), "params_schema": self.module.params_schema})

    async def send(self, subject, schema, body, headers={}, publish=None):
        payload = json.dumps({"v": 1} | body).encode()
        headers = {"Content-Type": "application/json", "MMN-Schema": f"{schema}/1"} | headers
        if schema == "announce" and self.key:
            signature = base64.urlsafe_b64encode(self.key.sign(payload)).decode().rstrip("=")
            headers |= {"MMN-Nkey": self.key.public_key.decode(), "MMN-Signature": signature}
        await (publish or self.nats.publish)(subject, payload, headers=headers)

    async def answer(self, schema, refusal, decide, message):
        """Answers what `decide` says. That waits for nothing, so that requests cannot mix."""
        headers = {}
        try:
            body = decide(decode(message.data))
        except Fault as fault:
            body = refusal | {"error": fault.body}
            headers = {"Nats-Service-Error-Code": str(fault.code), "Nats-Service-Error": fault.message}
        if message.reply:
            await self.send(message.reply, schema, body, headers)

    # --- jobs

    def take(self, task):
        """Decides on a task: it has a slot now or is refused, and never waits in between."""
        job = self.job(task)
        key = (job.id, job.attempt)
        if key not in self.seen:
            self.module.check(job)
            if self.draining.is_set():
                raise Fault(503, "unavailable", "this instance is draining; hand the task to another")
            if len(self.work) >= self.slots:
                raise Fault(429, "saturated", "all slots are taken", retry_after_ms=50 + int(self.ewma_ms))
            self.work[key] = asyncio.create_task(self.module.run(job)), time.monotonic()
            self.seen.append(key)
            self.tasks.add(performing := asyncio.create_task(self.perform(job, key)))
            performing.add_done_callback(self.tasks.discard)
        return {"accepted": True, "instance": self.instance, "attempt": job.attempt}

    def job(self, task):
        for name, kind in TASK.items():
            if type(task.get(name)) is not kind:
                raise invalid(name, f"{name} must be {kind.__name__}")
        if not IDENTIFIER.fullmatch(task["job_id"]):
            raise invalid("job_id", "use 1 to 64 of A-Z a-z 0-9 _ -")
        if (task.get("agent"), task.get("type")) != (self.agent, self.kind):
            raise Fault(404, "no_module", f"this is {self.kind} of {self.agent}", field="type")
        params = task.get("params", {})
        if not isinstance(params, dict):
            raise invalid("params", "params must be an object")
        return Job(task["job_id"], task["target"], params, task["attempt"], task["attempt_token"],
                   task["ttl_ms"] / 1e3, bool(task.get("direct")), self.tell)

    async def tell(self, what, job, body):
        body = {"job_id": job.id} | body | ({"instance": self.instance} if what == "log" else {"agent": self.agent})
        await self.send(f"mmn.jobs.{what}.{self.own}.{job.id}", what, body)

    async def perform(self, job, key):
        """Sees an attempt to its end, and reports it."""
        measurement, since = self.work[key]
        started = now()
        await asyncio.wait([measurement], timeout=job.ttl)
        if measurement.cancel():  # it had not ended
            fault = Fault(504, "deadline", f"not done within {job.ttl:g} s")
        elif measurement.cancelled():
            fault = Fault(499, "cancelled", "stopped on request")
        else:
            fault = measurement.exception()
        if fault and not isinstance(fault, Fault):
            log.error("measurement broke job=%s", job.id, exc_info=fault)
            fault = Fault(520, "module_crashed", f"the measurement broke: {fault!r}")
        status = "succeeded" if not fault else "cancelled" if fault.code == 499 else "failed"
        report = self.who | {
            "job_id": job.id, "target": job.target, "attempt": job.attempt, "attempt_token": job.token,
            "status": status, "started": started, "finished": now()}
        report |= {"error": fault.body} if fault else {"outcome": measurement.result()}
        self.reporting.add(key)
        del self.work[key]
        took_ms = (time.monotonic() - since) * 1e3
        self.done, self.errors = self.done + 1, self.errors + bool(fault)
        self.ewma_ms += (0.2 if self.done > 1 else 1) * (took_ms - self.ewma_ms)
        log.debug("job ended job=%s status=%s took_ms=%.1f", job.id, status, took_ms)
        await self.report(job, key, report)

    async def report(self, job, key, report):
        """Until the report is acknowledged. One of a direct job goes to the agent alone, which asked for it."""
        headers = {"MMN-Job": job.id, "MMN-Attempt": str(job.attempt), "MMN-Attempt-Token": job.token,
                   "Nats-Msg-Id": f"{job.id}.{self.agent}.{job.attempt}"}
        way, publish = ("direct", None) if job.direct else ("attempt", self.nats.jetstream().publish)
        while key in self.reporting:
            try:
                await self.send(f"mmn.jobs.{way}.{self.own}.{job.id}", "attempt", report, headers, publish)
                self.reporting.remove(key)
            except nats.errors.Error as error:
                log.warning("attempt not reported, trying again job=%s error=%s", job.id, error)
                await asyncio.sleep(1)

    # --- control and health

    def operate(self, control):
        match control:
            case {"op": "drain"}:
                self.draining.set()
            case {"op": "slots", "slots": int(slots)} if slots > 0:
                self.slots = slots
            case {"op": "slots"}:
                raise invalid("slots", "use 1 or more")
            case {"op": "log_level", "level": str(text)} if (level := level_of(text)) is not None:
                logging.getLogger().setLevel(level)
            case {"op": "log_level"}:
                raise invalid("level", f"use one of {', '.join(LEVELS)}")
            case {"op": "config", "revision": int(revision), "config": dict(config)}:
                if revision <= self.revision:
                    raise Fault(409, "conflict", f"{self.revision} is in force", field="revision")
                self.module.configure(config)
                self.revision = revision
            case {"op": "cancel", "job_id": job}:
                mine = [measurement for (id, _), (measurement, _) in self.work.items() if id == job]
                return {"ok": any([measurement.cancel() for measurement in mine])}
            case {"op": "has", "job_id": job}:
                return {"ok": any(id == job for id, _ in [*self.work, *self.reporting])}
            case _:
                raise invalid("op", "this op is unknown or incomplete")
        return {"ok": True}

    async def pulse(self):
        """Health: every five seconds and when the state changes; the last word is that of draining."""
        told, at, seq, epoch = None, 0, 0, random.getrandbits(63)
        while told != "draining":
            full = len(self.work) >= self.slots
            state = "draining" if self.draining.is_set() else "saturated" if full else "ready"
            clock = time.monotonic()
            if self.nats.is_connected and (state != told or clock - at >= HEALTH_EVERY):
                told, at, seq = state, clock, seq + 1
                oldest = min((since for _, since in self.work.values()), default=clock)
                await self.send(f"mmn.modules.health.{self.instance}", "health", self.who | {
                    "version": self.module.version, "state": state, "inflight": len(self.work), "queued": 0,
                    "slots": self.slots, "oldest_ms": int((clock - oldest) * 1e3), "ewma_ms": self.ewma_ms,
                    "done": self.done, "errors": self.errors, "circuits_open": 0, "rounds_due": 0,
                    "rounds_done": 0, "late_p99_us": 0, "seq": seq, "epoch": epoch, "time": now()})
            await asyncio.sleep(0.1)


def decode(data):
    try:
        body = json.loads(data)
        major = body.get("v", 1)
    except (ValueError, AttributeError, RecursionError):
        raise Fault(400, "invalid", "send a JSON object") from None
    if major != 1:
        raise Fault(422, "schema", "this schema major is not accepted; send v = 1", field="v")
    return body


def level_of(text):
    """The level that a filter such as `info` or `nats=warn,debug` sets for this module; None for what is none."""
    level = logging.INFO
    for directive in filter(None, map(str.strip, text.split(","))):
        target, _, name = directive.rpartition("=")
        if name not in LEVELS:
            return None
        if target in ("", "imn_module"):
            level = LEVELS[name]
    return level


def now():
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
