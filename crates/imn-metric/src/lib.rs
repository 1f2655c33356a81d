//! Formulas over round-trip times: statistics, delay variation, percentiles with loss.
