//! What is known of nodes and copies, and when a reign is lost.
//!
//! Observations decide only *whether* to ask the copies; whoever is asked and what may follow rests on
//! the answers. A wrong or late observation costs an election, never a write.

use crate::cluster::limits::{PRIMARY_SILENT, REIGN_GRACE};
use crate::cluster::message::{Cause, CopyReport, CopyState};
use crate::cluster::set::{Replica, VolumeSet};
use crate::id::{NodeId, StoreId};
use crate::lsn::Epoch;
use alloc::collections::BTreeMap;
use core::time::Duration;

/// What was heard.
#[derive(Debug)]
pub(super) struct Observed {
    nodes: BTreeMap<NodeId, Node>,
    copies: BTreeMap<StoreId, Copy>,
    /// When the present reign was registered, or this coordinator began.
    reign_since: Duration,
    /// The primary was seen reigning since then.
    reign_seen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Heard,
    Silent,
    ServerDown,
}

#[derive(Debug)]
struct Copy {
    report: CopyReport,
    /// Since when it does not hear its primary, as told or as long as it says "never".
    silent_since: Option<Duration>,
}

impl Observed {
    pub(super) fn new(now: Duration) -> Self {
        Observed {
            nodes: BTreeMap::new(),
            copies: BTreeMap::new(),
            reign_since: now,
            reign_seen: false,
        }
    }

    pub(super) fn on_heard(&mut self, node: NodeId) {
        self.nodes.insert(node, Node::Heard);
    }

    pub(super) fn on_silent(&mut self, node: NodeId) {
        self.nodes.insert(node, Node::Silent);
    }

    pub(super) fn on_server_down(&mut self, node: NodeId) {
        self.nodes.insert(node, Node::ServerDown);
    }

    /// A new reign is registered.
    pub(super) fn on_reign(&mut self, now: Duration) {
        self.reign_since = now;
        self.reign_seen = false;
    }

    /// Forgets copies that `set` does not name.
    pub(super) fn keep_only(&mut self, set: &VolumeSet) {
        self.copies.retain(|store, _| set.replica(*store).is_some());
    }

    pub(super) fn on_report(&mut self, now: Duration, set: &VolumeSet, report: CopyReport) {
        let Some(replica) = set.replica(report.store) else {
            return; // Of a copy that left.
        };
        self.nodes.insert(replica.node, Node::Heard);
        let reigns = matches!(report.state, CopyState::Primary { .. });
        if report.store == set.primary && reigns && report.epoch == set.epoch {
            self.reign_seen = true;
        }
        let before = self.copies.get(&report.store);
        let silent_since = match primary_silent(&report.state) {
            // It never heard one: it may have started just now.
            Some(None) => before.and_then(|copy| copy.silent_since).or(Some(now)),
            Some(Some(silent)) => Some(now.saturating_sub(silent)),
            None => None,
        };
        let copy = Copy {
            report,
            silent_since,
        };
        self.copies.insert(copy.report.store, copy);
    }

    /// What was last heard of a copy.
    pub(super) fn report(&self, store: StoreId) -> Option<&CopyReport> {
        self.copies.get(&store).map(|copy| &copy.report)
    }

    /// True when the node is heard and its volume server is there.
    pub(super) fn is_up(&self, node: NodeId) -> bool {
        self.nodes.get(&node) == Some(&Node::Heard)
    }

    /// True when it makes no sense to wait for the node's answer.
    pub(super) fn is_away(&self, node: NodeId) -> bool {
        matches!(self.nodes.get(&node), Some(Node::Silent | Node::ServerDown))
    }

    /// The highest promise heard of.
    pub(super) fn promised(&self) -> Epoch {
        let promises = self.copies.values().map(|copy| copy.report.promised);
        promises.max().unwrap_or_default()
    }

    /// Why the present reign is over, if it is.
    pub(super) fn lost(&self, now: Duration, set: &VolumeSet) -> Option<Cause> {
        let primary = set.replica(set.primary)?;
        let late = now >= self.reign_since + REIGN_GRACE;
        match self.nodes.get(&primary.node) {
            Some(Node::ServerDown) => return Some(Cause::ServerDown),
            Some(Node::Silent) if self.copies_miss_it(now, set) => return Some(Cause::Silent),
            Some(Node::Heard) => match self.report(primary.store).map(|r| (r.state, r.epoch)) {
                Some((CopyState::Failed, _)) => return Some(Cause::CopyFailed),
                // A new volume's copy is still to be created.
                Some((CopyState::Missing, _)) if primary.created => {
                    return Some(Cause::CopyFailed);
                }
                Some((CopyState::Primary { .. }, epoch)) if epoch == set.epoch => {}
                _ if !primary.created => {}
                Some(_) if self.reign_seen || late => return Some(Cause::NotReigning),
                None if late => return Some(Cause::NotReigning),
                _ => {}
            },
            _ => {}
        }
        (self.promised() > set.epoch).then_some(Cause::PromisedAhead)
    }

    /// True when a reachable in-sync secondary does not hear the primary.
    ///
    /// One is enough: the primary serves only with the lease of every member, and without masters it
    /// cannot get a smaller set.
    fn copies_miss_it(&self, now: Duration, set: &VolumeSet) -> bool {
        let misses = |replica: &Replica| {
            let copy = self.copies.get(&replica.store);
            let since = copy.and_then(|copy| copy.silent_since);
            replica.store != set.primary
                && self.is_up(replica.node)
                && since.is_some_and(|since| now >= since + PRIMARY_SILENT)
        };
        set.in_sync().any(misses)
    }
}

/// For how long a secondary has not heard its primary.
fn primary_silent(state: &CopyState) -> Option<Option<Duration>> {
    match state {
        CopyState::Secondary { primary_silent } | CopyState::Resyncing { primary_silent, .. } => {
            Some(*primary_silent)
        }
        CopyState::Primary { .. } | CopyState::Failed | CopyState::Missing => None,
    }
}
