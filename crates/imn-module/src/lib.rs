//! Module SDK and the built-in measurement modules.
