//! Output formats of measurements.
