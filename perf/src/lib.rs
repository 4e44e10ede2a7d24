//! The load generator and latency harness of Holdfast. Nothing is measured here yet.
