-- Keys of the network's participants, and the tokens by which new ones come in.

-- A secret is stored as its SHA-256 only.
CREATE TABLE enrollment_token (
  id ID PRIMARY KEY,
  secret_hash TEXT NOT NULL,
  agent TEXT,
  created_us BIGINT NOT NULL,
  created_by TEXT NOT NULL,
  expires_us BIGINT NOT NULL,
  used_us BIGINT,
  used_by TEXT
);

-- Every key that was vouched for. An empty instance: the agent's own. Outlives its agent, so that a key that was
-- revoked stays so.
CREATE TABLE credential (
  public_key ID PRIMARY KEY,
  agent ID NOT NULL,
  instance TEXT NOT NULL,
  issued_us BIGINT NOT NULL,
  expires_us BIGINT,
  revoked_us BIGINT
);
CREATE INDEX credential_agent ON credential (agent);
