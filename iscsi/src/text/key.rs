//! Every key of RFC 7143 §13 that is negotiated: type, range, default, rule, and when it may be sent.

use crate::limits::{FIRST_BURST_BYTES_MAX, MAX_BURST_BYTES, OUTSTANDING_R2T_MAX};

/// Characters of a list of names at most.
pub const LIST_BYTES_MAX: usize = 1024;

/// Largest value of the 24-bit length keys.
pub const LENGTH_MAX: u32 = (1 << 24) - 1;

/// How two offers become one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Yes only when both say Yes.
    And(bool),
    /// Yes when one says Yes.
    Or(bool),
    /// The smaller number of the range.
    Minimum {
        /// Legal values.
        range: (u32, u32),
        /// Ours.
        ours: u32,
    },
    /// The larger number of the range.
    Maximum {
        /// Legal values.
        range: (u32, u32),
        /// Ours.
        ours: u32,
    },
    /// The first of the host's list that we know.
    Choice(&'static [&'static str]),
    /// The host says, we note; a number of this range.
    DeclaredNumber((u32, u32)),
    /// The host says, we note.
    DeclaredText,
    /// Not used any more: this is the answer.
    Obsolete(&'static str),
}

/// When a key may be sent (RFC 7143 §13, "Use").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Only in the operational stage of the leading login.
    Login,
    /// Only in the first request of a login.
    First,
    /// Login and full feature phase.
    Any,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Name.
    pub name: &'static str,
    /// When.
    pub usage: Use,
    /// How.
    pub rule: Rule,
    /// Without meaning in a discovery session.
    pub normal_only: bool,
}

const fn row(name: &'static str, usage: Use, rule: Rule, normal_only: bool) -> Key {
    Key {
        name,
        usage,
        rule,
        normal_only,
    }
}

const fn minimum(low: u32, high: u32, ours: u32) -> Rule {
    Rule::Minimum {
        range: (low, high),
        ours,
    }
}

const DIGESTS: Rule = Rule::Choice(&["CRC32C", "None"]);

/// The table.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    row("HeaderDigest", Use::Login, DIGESTS, false),
    row("DataDigest", Use::Login, DIGESTS, false),
    row("MaxConnections", Use::Login, minimum(1, 65535, 1), true),
    row("InitialR2T", Use::Login, Rule::Or(false), true),
    row("ImmediateData", Use::Login, Rule::And(true), true),
    row("MaxRecvDataSegmentLength", Use::Any, Rule::DeclaredNumber((512, LENGTH_MAX)), false),
    row("MaxBurstLength", Use::Login, minimum(512, LENGTH_MAX, MAX_BURST_BYTES), true),
    row("FirstBurstLength", Use::Login, minimum(512, LENGTH_MAX, FIRST_BURST_BYTES_MAX), true),
    row("DefaultTime2Wait", Use::Login, Rule::Maximum { range: (0, 3600), ours: 2 }, false),
    row("DefaultTime2Retain", Use::Login, minimum(0, 3600, 0), false),
    row("MaxOutstandingR2T", Use::Login, minimum(1, 65535, OUTSTANDING_R2T_MAX), true),
    row("DataPDUInOrder", Use::Login, Rule::Or(true), true),
    row("DataSequenceInOrder", Use::Login, Rule::Or(true), true),
    row("ErrorRecoveryLevel", Use::Login, minimum(0, 2, 0), false),
    row("TaskReporting", Use::Login, Rule::Choice(&["ResponseFence", "RFC3720"]), true),
    row("iSCSIProtocolLevel", Use::Login, minimum(0, 31, 1), true),
    row("InitiatorName", Use::First, Rule::DeclaredText, false),
    row("TargetName", Use::First, Rule::DeclaredText, false),
    row("SessionType", Use::First, Rule::DeclaredText, false),
    row("InitiatorAlias", Use::Any, Rule::DeclaredText, false),
    // RFC 7143 §13.25: markers are obsolete, an offer of them is still answered.
    row("OFMarker", Use::Login, Rule::Obsolete("No"), false),
    row("IFMarker", Use::Login, Rule::Obsolete("No"), false),
    row("OFMarkInt", Use::Login, Rule::Obsolete("Irrelevant"), false),
    row("IFMarkInt", Use::Login, Rule::Obsolete("Irrelevant"), false),
];

/// Finds the row of a key. Names are case sensitive.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Keys whose values are binary and may be longer than other values.
pub fn is_binary(name: &str) -> bool {
    matches!(name, "CHAP_C" | "CHAP_R")
}

/// Keys whose values are lists and may be longer than other values.
pub fn is_list(name: &str) -> bool {
    matches!(
        name,
        "AuthMethod" | "CHAP_A" | "HeaderDigest" | "DataDigest" | "TaskReporting"
    )
}
