//! The latency harness has its place here; nothing is measured yet.
