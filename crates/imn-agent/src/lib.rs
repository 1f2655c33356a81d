//! The process at a vantage point: supervises modules, routes jobs, syncs assignments.
