//! What a shard tells the agent about its stores and volumes.

use super::replicas::bytes_of;
use super::{Shard, StoreEntry, StoreState, VolumeEntry};
use crate::messages::ToCoordinator;
use crate::runtime::task;
use holdfast_core::engine::Role;
use holdfast_core::engine::status::{CopyState, CopyStatus, Status};
use holdfast_core::limits::{BLOCK_BYTES, CHUNK_BYTES};
use holdfast_core::link::{self, CopyReport, Report, StoreReport, VolumeReport};

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
            // A shard speaks when it has tried all its stores.
            stores_opening: 0,
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
            report.resyncing = info.resync.is_some();
        }
        let status = store.engine().status(volume.id(), task::boot_time());
        match (status, &*entry.assignment.borrow()) {
            (Some(status), _) => tell_status(&mut report, status),
            (None, Some(assignment)) => {
                report.epoch = assignment.epoch;
                report.set_version = assignment.set_version;
                report.serving = report.failed.is_empty();
            }
            (None, None) => {}
        }
        volume.tell_left_out();
        let counters = volume.counters();
        report.commands = vec![
            counters.reads.get(),
            counters.writes.get(),
            counters.others.get(),
        ];
        report.blocks_healed = counters.healed.get();
        report.blocks_repaired = counters.repaired.get();
        report
    }
}

/// What a copy of a replicated volume says about itself.
fn tell_status(report: &mut VolumeReport, status: Status) {
    let role = match status.role {
        Role::Alone => link::Role::Alone,
        Role::Primary => link::Role::Primary,
        Role::Secondary | Role::Fenced => link::Role::Secondary,
    };
    report.role = role.into();
    report.epoch = status.epoch.0;
    report.promised_epoch = status.promised.0;
    report.serving = status.serving && report.failed.is_empty();
    report.set_version = status.set_version;
    report.in_sync = bytes_of(&status.in_sync);
    report.durable_lsn = status.durable.0;
    report.committed_lsn = status.committed.0;
    report.primary_silent_ms = status.primary_silent.map_or(u64::MAX, |silent| {
        u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)
    });
    report.copies = status.copies.iter().map(copy_report).collect();
}

fn copy_report(copy: &CopyStatus) -> CopyReport {
    let state = match copy.state {
        CopyState::Down => link::CopyState::Down,
        CopyState::Attaching => link::CopyState::Attaching,
        CopyState::CatchingUp => link::CopyState::CatchingUp,
        CopyState::Resyncing => link::CopyState::Resyncing,
        CopyState::Joining => link::CopyState::Joining,
        CopyState::InSync => link::CopyState::InSync,
    };
    CopyReport {
        store_id: copy.replica.0.to_vec(),
        state: state.into(),
        durable_lsn: copy.durable.0,
        lag_lsn: copy.lag,
        resync_done_bytes: copy.resync_done_bytes,
        resync_total_bytes: copy.resync_total_bytes,
        resync_bytes_per_second: copy.resync_bytes_per_second,
        slow_left_ms: u64::try_from(copy.slow_left.as_millis()).unwrap_or(u64::MAX),
        refusal: copy.refusal.map_or_else(String::new, |why| why.to_string()),
    }
}
