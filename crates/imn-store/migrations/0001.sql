-- One text for SQLite and PostgreSQL. ID is replaced by a text type ordered by bytes. Times are microseconds since the
-- Unix epoch, flags 0 or 1, structures JSON text.

CREATE TABLE tier (
  name ID PRIMARY KEY,
  body TEXT NOT NULL,
  revision BIGINT NOT NULL
);

CREATE TABLE target (
  id ID PRIMARY KEY,
  kind TEXT NOT NULL,
  address ID NOT NULL UNIQUE,
  display_name TEXT,
  tier ID NOT NULL REFERENCES tier (name),
  tags TEXT NOT NULL,
  params TEXT NOT NULL,
  expected_outcome TEXT,
  state TEXT NOT NULL,
  state_reason TEXT,
  state_since_us BIGINT NOT NULL,
  created_us BIGINT NOT NULL,
  updated_us BIGINT NOT NULL,
  revision BIGINT NOT NULL
);
CREATE INDEX target_tier ON target (tier);

CREATE TABLE state_change (
  target ID NOT NULL REFERENCES target (id) ON DELETE CASCADE,
  time_us BIGINT NOT NULL,
  from_state TEXT NOT NULL,
  to_state ID NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (target, time_us, to_state)
);

CREATE TABLE agent (
  id ID PRIMARY KEY,
  name TEXT,
  region TEXT,
  location TEXT,
  provider TEXT,
  tags TEXT NOT NULL,
  public_ip TEXT,
  max_targets BIGINT,
  first_seen_us BIGINT NOT NULL,
  last_heartbeat_us BIGINT NOT NULL,
  heartbeat TEXT
);

CREATE TABLE assignment (
  agent ID NOT NULL,
  target ID NOT NULL REFERENCES target (id) ON DELETE CASCADE,
  type ID NOT NULL,
  since_us BIGINT NOT NULL,
  PRIMARY KEY (agent, target, type)
);
CREATE INDEX assignment_target ON assignment (target);

-- Outlives its agent: an agent that comes back under its name must not see generations that it has had.
CREATE TABLE generation (
  agent ID PRIMARY KEY,
  generation BIGINT NOT NULL
);

CREATE TABLE job (
  id ID PRIMARY KEY,
  type TEXT NOT NULL,
  target TEXT NOT NULL,
  params TEXT NOT NULL,
  body_hash TEXT NOT NULL,
  created_us BIGINT NOT NULL,
  deadline_us BIGINT NOT NULL,
  max_attempts BIGINT NOT NULL
);
CREATE INDEX job_created ON job (created_us);

CREATE TABLE task (
  job ID NOT NULL REFERENCES job (id) ON DELETE CASCADE,
  agent ID NOT NULL,
  state TEXT NOT NULL,
  terminal BIGINT NOT NULL,
  attempts BIGINT NOT NULL,
  instance TEXT,
  token TEXT NOT NULL,
  queued BIGINT NOT NULL,
  result TEXT,
  published BIGINT NOT NULL,
  updated_us BIGINT NOT NULL,
  PRIMARY KEY (job, agent)
);
CREATE INDEX task_live ON task (job) WHERE terminal = 0;
CREATE INDEX task_unqueued ON task (job) WHERE terminal = 0 AND queued = 0;
CREATE INDEX task_unpublished ON task (job) WHERE terminal = 1 AND published = 0;

CREATE TABLE api_key (
  id ID PRIMARY KEY,
  secret_hash TEXT NOT NULL,
  name TEXT NOT NULL,
  role TEXT NOT NULL,
  created_us BIGINT NOT NULL,
  expires_us BIGINT
);

CREATE TABLE idempotency (
  key ID PRIMARY KEY,
  request_hash TEXT NOT NULL,
  answer TEXT NOT NULL,
  time_us BIGINT NOT NULL
);
CREATE INDEX idempotency_time ON idempotency (time_us);

CREATE TABLE audit (
  id ID PRIMARY KEY,
  time_us BIGINT NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  detail TEXT NOT NULL
);
CREATE INDEX audit_time ON audit (time_us, id);

CREATE TABLE setting (
  name ID PRIMARY KEY,
  value TEXT NOT NULL
);

-- Manifest of the embedded results. A file with dead = 1 is no longer read and waits for its removal.
CREATE TABLE segment (
  id BIGINT PRIMARY KEY,
  type TEXT NOT NULL,
  gap BIGINT NOT NULL,
  level BIGINT NOT NULL,
  path TEXT NOT NULL,
  first_position BIGINT NOT NULL,
  min_due_us BIGINT NOT NULL,
  max_due_us BIGINT NOT NULL,
  min_target TEXT NOT NULL,
  max_target TEXT NOT NULL,
  rows BIGINT NOT NULL,
  bytes BIGINT NOT NULL,
  dead BIGINT NOT NULL
);
