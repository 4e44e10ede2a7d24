//! Linearizability of one block: could these reads and writes, as clients saw them begin and end, have happened one at a time?
//!
//! Every value written is written once, so the register can be judged in polynomial time (Gibbons and Korach, "Testing
//! shared memories", 1997, unique writes): a write and the reads of its value are a *cluster*. Its *zone* lies between the
//! earliest end and the latest begin of its operations. It is a forward zone when the earliest end comes first: for that
//! whole time the value must have been the newest. A history is linearizable exactly when no read begins and ends before
//! its write begins, no two forward zones overlap, and no backward zone lies inside a forward one.
//!
//! A write without an answer may have happened at any time after it began, or never: when nobody read its value it is left
//! out, else its end is the end of time. Cost: O(n log n).

#[cfg(test)]
mod tests;

use std::collections::HashMap;

/// A moment of the recorder's one clock; unique or not, only the order counts.
pub(crate) type Moment = u64;

/// The value that every block has at first: zeros.
pub(crate) const INITIAL: u64 = 0;

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Stored this value, which nobody else ever stores.
    Write(u64),
    /// Found this value.
    Read(u64),
}

/// One operation on one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    /// What it did.
    pub(crate) action: Action,
    /// When it was sent.
    pub(crate) begin: Moment,
    /// When its answer came; `None` for a write that was never answered.
    pub(crate) end: Option<Moment>,
}

/// Why a history is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// A value was read that nobody wrote.
    Unwritten {
        /// It.
        value: u64,
    },
    /// A value was read before its write began.
    FromTheFuture {
        /// It.
        value: u64,
    },
    /// Two values were each the newest at the same time: one was lost and came back, or was read after it was replaced.
    Contradiction {
        /// One.
        one: u64,
        /// The other.
        other: u64,
    },
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unwritten { value } => write!(f, "value {value} was read and never written"),
            Self::FromTheFuture { value } => {
                write!(f, "value {value} was read before its write began")
            }
            Self::Contradiction { one, other } => write!(
                f,
                "values {one} and {other} contradict each other: a lost write or a stale read"
            ),
        }
    }
}

/// The operations on one value.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    value: u64,
    write_begin: Moment,
    write_end: Moment,
    earliest_end: Moment,
    latest_begin: Moment,
    reads: usize,
}

impl Cluster {
    fn is_forward(&self) -> bool {
        self.earliest_end < self.latest_begin
    }

    fn low(&self) -> Moment {
        self.earliest_end.min(self.latest_begin)
    }

    fn high(&self) -> Moment {
        self.earliest_end.max(self.latest_begin)
    }
}

/// Judges the history of one block that held [`INITIAL`] at first.
pub(crate) fn check(operations: &[Operation]) -> Result<(), Violation> {
    let clusters = clusters(operations)?;
    let (mut forward, backward): (Vec<Cluster>, Vec<Cluster>) =
        clusters.into_iter().partition(Cluster::is_forward);
    forward.sort_unstable_by_key(Cluster::low);
    let contradiction = |one: &Cluster, other: &Cluster| Violation::Contradiction {
        one: one.value,
        other: other.value,
    };
    for pair in forward.windows(2) {
        if pair[1].low() < pair[0].high() {
            return Err(contradiction(&pair[0], &pair[1]));
        }
    }
    for zone in &backward {
        // Forward zones do not overlap by now: only the last that begins before this one can hold it.
        let before = forward.partition_point(|other| other.low() < zone.low());
        if let Some(holder) = before.checked_sub(1).map(|at| &forward[at])
            && zone.high() < holder.high()
        {
            return Err(contradiction(holder, zone));
        }
    }
    Ok(())
}

fn clusters(operations: &[Operation]) -> Result<Vec<Cluster>, Violation> {
    let mut clusters: HashMap<u64, Cluster> = HashMap::new();
    clusters.insert(INITIAL, cluster(INITIAL, 0, 0));
    for operation in operations {
        if let Action::Write(value) = operation.action {
            let end = operation.end.unwrap_or(Moment::MAX);
            let before = clusters.insert(value, cluster(value, operation.begin, end));
            assert!(before.is_none(), "value {value} is written twice");
        }
    }
    for operation in operations {
        let (Action::Read(value), Some(end)) = (operation.action, operation.end) else {
            continue;
        };
        let cluster = clusters
            .get_mut(&value)
            .ok_or(Violation::Unwritten { value })?;
        if end < cluster.write_begin {
            return Err(Violation::FromTheFuture { value });
        }
        cluster.reads += 1;
        cluster.earliest_end = cluster.earliest_end.min(end);
        cluster.latest_begin = cluster.latest_begin.max(operation.begin);
    }
    // What was neither answered nor read need not have happened.
    clusters.retain(|_, cluster| cluster.write_end != Moment::MAX || cluster.reads > 0);
    Ok(clusters.into_values().collect())
}

fn cluster(value: u64, begin: Moment, end: Moment) -> Cluster {
    Cluster {
        value,
        write_begin: begin,
        write_end: end,
        earliest_end: end,
        latest_begin: begin,
        reads: 0,
    }
}
