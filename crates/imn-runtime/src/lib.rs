//! What every process of the network needs: NATS, tasks, drain, spool, configuration, telemetry.
