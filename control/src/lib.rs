//! The control plane: registry, placement, reconcile, node agent, gRPC and the command line.
//!
//! Decisions (`registry`, `placement`, `reconcile`, `health`) are plain functions over plain data; the
//! `master` task acts on them, one request after the other. No host payload passes here.
//! Only `convert` translates between protobuf messages and the domain.

pub mod access;
pub mod agent;
pub mod cli;
pub mod convert;
pub mod health;
pub mod limits;
pub mod master;
pub mod name;
pub mod placement;
pub mod raft;
pub mod reconcile;
pub mod registry;
pub mod service;
pub mod size;
pub mod view;

/// Messages and services generated from `proto/holdfast.proto`.
#[allow(missing_docs, unreachable_pub, missing_debug_implementations)]
#[allow(clippy::all, clippy::unwrap_used)]
pub mod proto {
    tonic::include_proto!("holdfast.v1");
}

/// Messages and the service between masters, generated from `proto/masters.proto`.
#[allow(missing_docs, unreachable_pub, missing_debug_implementations)]
#[allow(clippy::all, clippy::unwrap_used)]
pub mod masters {
    tonic::include_proto!("holdfast.masters.v1");
}
