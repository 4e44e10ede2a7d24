//! When other masters were last heard, in both directions.

use super::MasterId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// When other masters were last heard.
pub(super) struct Contacts {
    heard: Mutex<Instant>,
    followed: Mutex<HashMap<MasterId, Instant>>,
    /// When this master last said that it would vote for another.
    promised: Mutex<Option<Instant>>,
    /// How often this master asked whether it would be voted for.
    asked: watch::Sender<u64>,
    #[cfg(test)]
    cut: std::sync::atomic::AtomicBool,
}

impl Contacts {
    pub(super) fn begin() -> Contacts {
        Contacts {
            heard: Mutex::new(Instant::now()),
            followed: Mutex::default(),
            promised: Mutex::default(),
            asked: watch::Sender::default(),
            #[cfg(test)]
            cut: false.into(),
        }
    }

    /// The leader gave a sign of life.
    pub(super) fn heard(&self) {
        *lock(&self.heard) = Instant::now();
    }

    pub(super) fn last_heard(&self) -> Instant {
        *lock(&self.heard)
    }

    /// `master` obeyed a message sent at `sent`.
    pub(super) fn followed(&self, master: MasterId, sent: Instant) {
        lock(&self.followed).insert(master, sent);
    }

    pub(super) fn followed_since(&self, master: MasterId, since: Option<Instant>) -> bool {
        let last = lock(&self.followed).get(&master).copied();
        last.is_some_and(|last| since.is_none_or(|since| last >= since))
    }

    /// This master says that it would vote for another.
    pub(super) fn promise(&self) {
        *lock(&self.promised) = Some(Instant::now());
    }

    pub(super) fn promised_within(&self, time: Duration) -> bool {
        lock(&self.promised).is_some_and(|at| at.elapsed() < time)
    }

    /// This master asks whether it would be voted for.
    pub(super) fn asks(&self) {
        self.asked.send_modify(|count| *count += 1);
    }

    #[cfg(test)]
    pub(super) fn asked(&self) -> watch::Receiver<u64> {
        self.asked.subscribe()
    }

    pub(super) fn silence_of(&self, master: MasterId) -> Option<Duration> {
        lock(&self.followed).get(&master).map(Instant::elapsed)
    }

    #[cfg(test)]
    pub(super) fn cut(&self, cut: bool) {
        self.cut.store(cut, std::sync::atomic::Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The guarded values are plain; a panic elsewhere leaves none of them half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
