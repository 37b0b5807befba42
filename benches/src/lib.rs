//! Core throughput, simulation rate, dispatch latency.
