//! The control plane: registry, assignment, ingest, jobs, live views and the HTTP API.
