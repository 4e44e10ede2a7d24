//! What a shard tells the agent about its stores and volumes.

use super::{Shard, StoreEntry, StoreState, VolumeEntry};
use crate::messages::ToCoordinator;
use holdfast_core::limits::{BLOCK_BYTES, CHUNK_BYTES};
use holdfast_core::link::{Report, StoreReport, VolumeReport};

impl Shard {
    /// Sends the present state.
    pub(super) fn send_report(&self) {
        let report = Report {
            stores: self
                .stores
                .iter()
                .map(|entry| self.store_report(entry))
                .collect(),
            volumes: self
                .volumes
                .borrow()
                .values()
                .map(|entry| self.volume_report(entry))
                .collect(),
        };
        self.coordinator
            .send(ToCoordinator::Report(self.index, report));
    }

    fn store_report(&self, entry: &StoreEntry) -> StoreReport {
        let mut report = StoreReport {
            path: entry.path.display().to_string(),
            shard: u32::try_from(self.index).unwrap_or(u32::MAX),
            ..StoreReport::default()
        };
        match &entry.state {
            StoreState::Refused(reason) => report.failed.clone_from(reason),
            StoreState::Open(driver) => {
                let usage = driver.machine().usage();
                report.store_id = driver.id().0.to_vec();
                report.failed = driver.failure().unwrap_or_default();
                report.capacity_bytes = usage.chunks * CHUNK_BYTES as u64;
                report.free_bytes = (usage.chunks_free + usage.chunks_pending) * CHUNK_BYTES as u64;
                report.wal_used_bytes = usage.log_bytes_used;
                report.wal_capacity_bytes = usage.log_bytes;
            }
        }
        report
    }

    fn volume_report(&self, entry: &VolumeEntry) -> VolumeReport {
        let volume = &entry.volume;
        let store = volume.store();
        let mut report = VolumeReport {
            volume_id: volume.id().0.to_vec(),
            store_id: store.id().0.to_vec(),
            failed: store
                .failure()
                .or_else(|| entry.refusal().map(str::to_owned))
                .unwrap_or_default(),
            sessions: self.service.sessions(volume.id()),
            ..VolumeReport::default()
        };
        if let Some(info) = store.machine().volume(volume.id()) {
            report.size_bytes = info.size_blocks * BLOCK_BYTES as u64;
            report.used_bytes = info.chunks * CHUNK_BYTES as u64;
            report.durable_lsn = info.committed.0;
            report.committed_lsn = info.committed.0;
        }
        if let Some(assignment) = &*entry.assignment.borrow() {
            report.epoch = assignment.epoch;
            report.set_version = assignment.set_version;
            report.serving = report.failed.is_empty();
        }
        let counters = volume.counters();
        report.commands = vec![
            counters.reads.get(),
            counters.writes.get(),
            counters.others.get(),
        ];
        report
    }
}
