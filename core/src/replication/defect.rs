//! Planted defects: wrong behaviour that tests switch on to see that their oracles find it. Outside tests
//! there is none, and asking is a constant.
//!
//! Each is found by a test that always runs. C: simulated clusters (`core/tests/cluster.rs`). R: random schedules,
//! H: a history by hand (`engine::machine::tests`, `random` and `planted`). Three break a rule behind which there
//! is another, so that alone they cost nothing and only H sees them.
//!
//! | defect | found by | what else keeps the promise |
//! |---|---|---|
//! | CommitAlone, CountSentAsDurable | C R | |
//! | AckBeforeDurable, KeepDivergedTail | R | |
//! | RemoveBeforeRegistered, AddWithoutRequiring | C | |
//! | ServeWithoutLease | C | |
//! | ServeBeforeReignCommitted | C R | |
//! | LeaseFromArrival, HideLease | H | elections mostly take longer than what is left of a lease |
//! | IgnoreEpoch | H | the store takes no record of a reign that it did not adopt |
//! | FollowAfterFence | C H | |
//! | PromoteResyncing | H | the coordinator elects no copy that says that it lacks changes |
//! | BeginTwice | H | the store begins no reign that its log knows |
//! | CutByLength, TrustStaleCursor, EndResyncEarly | C R | |
//! | SkipUnmapInResync | C | |
//! | ProposeResyncing | H | such a copy is not elected, and has every record since |
//! | CommitInheritedByCount | H | a reign's set mostly has no copy that differs from its primary |

/// One wrong behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Defect {
    /// The primary commits what only its own copy has durable.
    CommitAlone,
    /// A record that was shipped counts as durable there.
    CountSentAsDurable,
    /// A secondary acknowledges a record when it came, not when it is durable.
    AckBeforeDurable,
    /// A lost member is not required from the moment its removal is proposed.
    RemoveBeforeRegistered,
    /// A member is not required between the proposal to add it and the answer.
    AddWithoutRequiring,
    /// Hosts are served without leases.
    ServeWithoutLease,
    /// A lease counts from the arrival of its grant, not from the sending of the request.
    LeaseFromArrival,
    /// A new reign serves before what it inherited is committed.
    ServeBeforeReignCommitted,
    /// A secondary follows a reign below its promise.
    IgnoreEpoch,
    /// A fenced copy goes on following.
    FollowAfterFence,
    /// A copy that lacks changes is taken as primary.
    PromoteResyncing,
    /// A reign is begun again after a restart.
    BeginTwice,
    /// The common prefix is judged by lengths, not by histories.
    CutByLength,
    /// A resync sends no zeros.
    SkipUnmapInResync,
    /// A resync from its saved cursor assumes that nothing below it changed since.
    TrustStaleCursor,
    /// A resync ends before its last fill was sent.
    EndResyncEarly,
    /// A resyncing copy is proposed for the set.
    ProposeResyncing,
    /// Under a quorum, what was inherited is committed by counting.
    CommitInheritedByCount,
    /// A fenced copy says that no lease is left.
    HideLease,
    /// What a cut would drop is kept.
    KeepDivergedTail,
}

impl Defect {
    /// All of them.
    pub const ALL: [Defect; 20] = [
        Defect::CommitAlone,
        Defect::CountSentAsDurable,
        Defect::AckBeforeDurable,
        Defect::RemoveBeforeRegistered,
        Defect::AddWithoutRequiring,
        Defect::ServeWithoutLease,
        Defect::LeaseFromArrival,
        Defect::ServeBeforeReignCommitted,
        Defect::IgnoreEpoch,
        Defect::FollowAfterFence,
        Defect::PromoteResyncing,
        Defect::BeginTwice,
        Defect::CutByLength,
        Defect::SkipUnmapInResync,
        Defect::TrustStaleCursor,
        Defect::EndResyncEarly,
        Defect::ProposeResyncing,
        Defect::CommitInheritedByCount,
        Defect::HideLease,
        Defect::KeepDivergedTail,
    ];
}

/// Which defect is planted, if any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    #[cfg(any(test, feature = "testing"))]
    defect: Option<Defect>,
}

impl Planted {
    /// Plants one.
    #[cfg(any(test, feature = "testing"))]
    pub fn one(defect: Defect) -> Self {
        Planted {
            defect: Some(defect),
        }
    }

    /// Whether it is this one.
    #[cfg(any(test, feature = "testing"))]
    pub fn is(self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    /// Whether it is this one: never.
    #[cfg(not(any(test, feature = "testing")))]
    pub fn is(self, _defect: Defect) -> bool {
        false
    }
}
