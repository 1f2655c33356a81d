//! Measurement engines: ICMP echo and TCP connect in batches.
