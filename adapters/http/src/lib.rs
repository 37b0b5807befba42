//! Management API and metrics.
