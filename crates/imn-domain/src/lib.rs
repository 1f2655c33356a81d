//! Pure decisions: targets, tiers, assignment, consensus, job states, filters.
