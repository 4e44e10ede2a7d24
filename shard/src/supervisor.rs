//! What the service manager is told: ready, alive, stopping (`sd_notify`). Without one, nothing.
//!
//! Alive means that every shard has spoken lately; a shard that hangs ends the heartbeat, and the service
//! manager restarts the process.

use std::time::{Duration, Instant};
use tracing::{error, warn};

/// The service manager, as this process sees it.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// Its patience; `None`: it does not watch.
    patience: Option<Duration>,
    /// It was told that all is ready.
    ready: bool,
    /// It is told nothing any more, and people were told why.
    hung: bool,
}

impl Supervisor {
    /// As the environment says.
    pub(crate) fn from_environment() -> Self {
        Self::with_patience(sd_notify::watchdog_enabled())
    }

    fn with_patience(patience: Option<Duration>) -> Self {
        Supervisor {
            patience,
            ready: false,
            hung: false,
        }
    }

    /// All stores are open or known to be unusable: hosts are served. Called as often as one likes.
    pub(crate) fn ready(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            tell(sd_notify::NotifyState::Ready);
        }
    }

    /// Each shard was heard at these moments; call it at least every second.
    pub(crate) fn heard(&mut self, heard: &[Instant]) {
        if let Some(silent) = self.silent_shard(heard) {
            if !std::mem::replace(&mut self.hung, true) {
                error!(
                    shard = silent,
                    "the shard hangs: the watchdog will end this process"
                );
            }
            return;
        }
        self.hung = false;
        if self.patience.is_some() {
            tell(sd_notify::NotifyState::Watchdog);
        }
    }

    /// The process ends in order.
    pub(crate) fn stopping(&self) {
        tell(sd_notify::NotifyState::Stopping);
    }

    fn silent_shard(&self, heard: &[Instant]) -> Option<usize> {
        let patience = self.patience?;
        heard.iter().position(|at| at.elapsed() > patience / 2)
    }
}

fn tell(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!("the service manager could not be told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::Supervisor;
    use std::time::{Duration, Instant};

    #[test]
    fn one_silent_shard_ends_the_heartbeat() {
        let now = Instant::now();
        let long_ago = now
            .checked_sub(Duration::from_secs(60))
            .expect("up for a minute");
        let watched = Supervisor::with_patience(Some(Duration::from_secs(20)));
        let unwatched = Supervisor::with_patience(None);
        for (heard, silent) in [
            (vec![now, now], None),
            (vec![now, long_ago], Some(1)),
            (vec![long_ago, now], Some(0)),
        ] {
            assert_eq!(watched.silent_shard(&heard), silent);
            assert_eq!(unwatched.silent_shard(&heard), None);
        }
    }
}
