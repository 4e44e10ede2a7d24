//! How well a volume and its copies are: the five states, and the score with the parts it is made of.
//!
//! Pure functions over plain facts; `view` gathers those from registry and reports. States and scores are
//! for people: nothing is decided by them.
//!
//! | state | hosts are served | copies |
//! |---|---|---|
//! | healthy | yes | as many in sync as wanted |
//! | degraded | yes, as far as is known | fewer in sync than wanted and none being filled, or a node is not heard |
//! | rebuilding | yes | one is being filled |
//! | at-risk | yes | one in sync, more are wanted; also while another is being filled |
//! | unavailable | no, or not known for [`UNHEARD_MAX`] | |

use crate::limits::{LAG_MAX, UNHEARD_MAX};
use crate::size::Size;
use std::time::Duration;

/// State of a volume; see the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// All is as wanted.
    Healthy,
    /// Less redundancy than wanted, and nothing is being done about it yet.
    Degraded,
    /// A copy is being filled.
    Rebuilding,
    /// The next loss costs data, or the service.
    AtRisk,
    /// Hosts are not served.
    Unavailable,
}

/// Whether hosts are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// The primary's volume server said so just now.
    Served,
    /// Nothing was heard of the primary's node lately.
    Unheard(Silence),
    /// No, and why.
    NotServed(String),
}

/// Of a primary whose node is not heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Its node.
    pub node: String,
    /// Since its last report, or since this master leads.
    pub age: Duration,
    /// There was a report, and it said that hosts are served.
    pub reported: bool,
    /// A node with another copy, which hears the primary.
    pub witness: Option<String>,
}

/// What is known of a volume.
#[derive(Clone, Debug)]
pub struct VolumeFacts<'a> {
    /// Whether hosts are served.
    pub service: Service,
    /// Copies wanted.
    pub wanted: usize,
    /// Those it has.
    pub copies: Vec<&'a CopyFacts>,
    /// Why one that is missing is not made; empty: none is, or it is on its way.
    pub obstacle: &'a str,
}

/// What is known of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyFacts {
    /// Its node.
    pub node: String,
    /// It belongs to the registered in-sync set.
    pub in_sync: bool,
    /// Why it cannot be used; empty: nothing like that is known.
    pub fault: String,
    /// For how long nothing was heard of its node; `None`: it is heard.
    pub unheard: Option<Duration>,
    /// Another node with a copy hears it, whatever its agent does.
    pub vouched: bool,
    /// The primary has no stream to it.
    pub cut_off: bool,
    /// Why it does not follow the primary; empty: it does, or nothing is known.
    pub refusal: String,
    /// What it is sent.
    pub filling: Filling,
    /// It was slow, and is kept out of the set for so long.
    pub slow_left: Duration,
    /// Records that it lacks.
    pub lag: u64,
    /// Damaged blocks that were read from another copy, since its volume server started.
    pub blocks_healed: u64,
    /// Damaged blocks that were written again.
    pub blocks_repaired: u64,
}

/// What a copy is sent to lack nothing any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filling {
    /// Nothing.
    #[default]
    None,
    /// The records that it lacks.
    Records,
    /// The blocks that it lacks.
    Blocks {
        /// Done.
        done_bytes: u64,
        /// In all.
        total_bytes: u64,
    },
    /// It has everything, and is not registered yet.
    Whole,
}

/// One of the things that a copy's score is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which.
    pub name: &'static str,
    /// Points of 100 that it costs.
    pub lost: u32,
    /// How it is.
    pub text: String,
}

/// How a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// In a word.
    pub health: Health,
    /// Why; empty when it is healthy.
    pub reason: String,
    /// 100: all is well; 0: unavailable.
    pub score: u32,
}

impl Health {
    /// The word for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::Rebuilding => "rebuilding",
            Health::AtRisk => "at-risk",
            Health::Unavailable => "unavailable",
        }
    }
}

/// How a volume is.
pub fn judge(facts: &VolumeFacts<'_>) -> Verdict {
    let silence = match &facts.service {
        Service::Served => None,
        Service::Unheard(silence) => Some(silence),
        Service::NotServed(reason) => return Verdict::unavailable(reason.clone()),
    };
    if let Some(silence) = silence.filter(|silence| silence.is_unknown()) {
        let reason = format!("not known whether hosts are served: {}", silence.sentence());
        return Verdict::unavailable(reason);
    }
    let good = facts.copies.iter().filter(|copy| copy.is_good()).count();
    let unheard = |copy: &&&CopyFacts| copy.in_sync && copy.unheard.is_some();
    let unheard: Vec<_> = facts.copies.iter().filter(unheard).collect();
    let whole = silence.is_none() && unheard.is_empty();
    let health = match good {
        0 | 1 if facts.wanted > 1 => Health::AtRisk,
        _ if facts.copies.iter().any(|copy| copy.is_filled()) => Health::Rebuilding,
        good if good < facts.wanted || !whole => Health::Degraded,
        _ => Health::Healthy,
    };
    let mut reasons: Vec<String> = silence.map(Silence::sentence).into_iter().collect();
    reasons.extend(facts.missing(good, health));
    if reasons.is_empty() {
        let vouched = unheard.iter().map(|copy| copy.why());
        reasons.extend(vouched);
    }
    Verdict {
        health,
        reason: reasons.join("; "),
        score: facts.score(),
    }
}

impl Verdict {
    fn unavailable(reason: String) -> Verdict {
        Verdict {
            health: Health::Unavailable,
            reason,
            score: 0,
        }
    }
}

impl VolumeFacts<'_> {
    /// Which copies are missing, and why, or which one is filled beside them.
    fn missing(&self, good: usize, health: Health) -> Option<String> {
        let enough = good >= self.wanted;
        if enough && health != Health::Rebuilding {
            return None;
        }
        let poor = self.copies.iter().filter(|copy| !copy.is_good());
        let mut reasons: Vec<String> = poor.map(|copy| copy.why()).collect();
        reasons.extend(Some(self.obstacle.to_owned()).filter(|text| !text.is_empty()));
        if reasons.is_empty() {
            reasons.push("another one is about to be made".into());
        }
        let (wanted, reasons) = (self.wanted, reasons.join("; "));
        Some(match enough {
            true => format!("another copy is being filled: {reasons}"),
            false => format!("{good} of {wanted} copies are in sync: {reasons}"),
        })
    }

    /// The mean of the best copies, as many as are wanted; one that is missing has no points.
    fn score(&self) -> u32 {
        let mut scores: Vec<u32> = self.copies.iter().map(|copy| copy.score()).collect();
        scores.sort_unstable_by(|a, b| b.cmp(a));
        let sum: u32 = scores.iter().take(self.wanted).sum();
        let wanted = u32::try_from(self.wanted.max(1)).unwrap_or(u32::MAX);
        sum / wanted
    }
}

impl Silence {
    /// Whether nothing tells that hosts are served.
    fn is_unknown(&self) -> bool {
        self.witness.is_none() && (self.age > UNHEARD_MAX || !self.reported)
    }

    fn sentence(&self) -> String {
        let (node, age) = (&self.node, self.age.as_secs());
        let mut text = match self.reported {
            true => {
                format!("the last report of {node} is {age} s old and says that hosts are served")
            }
            false => format!("{node} was not heard yet, for {age} s"),
        };
        if let Some(witness) = &self.witness {
            text.push_str(&format!("; {witness} hears it"));
        }
        text
    }
}

impl CopyFacts {
    /// It has everything, and nothing is known against it.
    pub fn is_good(&self) -> bool {
        let reached = self.unheard.is_none() || self.vouched;
        self.in_sync && self.fault.is_empty() && reached && !self.cut_off
    }

    fn is_filled(&self) -> bool {
        let waits = self.filling == Filling::Whole && !self.slow_left.is_zero();
        !self.in_sync && self.filling != Filling::None && !waits
    }

    /// Why it is not good, or not known to be.
    fn why(&self) -> String {
        format!("{}: {}", self.node, self.complaint())
    }

    /// What costs it points; empty: nothing.
    pub fn complaint(&self) -> String {
        let bad = self.parts().into_iter().filter(|part| part.lost > 0);
        let texts: Vec<String> = bad.map(|part| part.text).collect();
        texts.join(", ")
    }

    /// 100: all is well.
    pub fn score(&self) -> u32 {
        let lost: u32 = self.parts().iter().map(|part| part.lost).sum();
        100_u32.saturating_sub(lost)
    }

    /// What the score is made of, always all of it, in the same order.
    pub fn parts(&self) -> Vec<Part> {
        vec![
            self.store_part(),
            self.silence_part(),
            self.sync_part(),
            self.resync_part(),
            self.slow_part(),
            self.lag_part(),
            self.healed_part(),
        ]
    }

    fn store_part(&self) -> Part {
        match self.fault.as_str() {
            "" => part("store", 0, "serves"),
            fault => part("store", 100, fault),
        }
    }

    fn silence_part(&self) -> Part {
        let text = |age: Duration| format!("not heard for {} s", age.as_secs());
        match self.unheard {
            None => part("silence", 0, "heard"),
            Some(age) if self.vouched => part("silence", 10, text(age) + ", another copy hears it"),
            Some(age) => part("silence", 30, text(age)),
        }
    }

    fn sync_part(&self) -> Part {
        match (self.in_sync, self.cut_off, self.refusal.as_str()) {
            (true, false, _) => part("sync", 0, "in sync"),
            (true, true, "") => part("sync", 40, "in sync, and its primary does not reach it"),
            (false, true, "") => part("sync", 40, "not in sync, its primary does not reach it"),
            (_, _, "") => part("sync", 40, "not in sync"),
            (_, _, refusal) => part("sync", 40, format!("not in sync ({refusal})")),
        }
    }

    fn resync_part(&self) -> Part {
        match self.filling {
            Filling::None => part("resync", 0, "none"),
            Filling::Records => part("resync", 10, "gets the records that it lacks"),
            Filling::Blocks {
                done_bytes,
                total_bytes,
            } => {
                let (done, total) = (Size(done_bytes).rounded(), Size(total_bytes).rounded());
                part("resync", 10, format!("is being filled, {done} of {total}"))
            }
            Filling::Whole if !self.slow_left.is_zero() => part("resync", 0, "has everything"),
            Filling::Whole => part("resync", 5, "has everything and is about to be registered"),
        }
    }

    fn slow_part(&self) -> Part {
        match self.slow_left.as_millis().div_ceil(1000) {
            0 => part("slow", 0, "no"),
            left => {
                let text = format!("was slow, is kept out of the set for {left} s more");
                part("slow", 20, text)
            }
        }
    }

    fn lag_part(&self) -> Part {
        let lost = if self.lag > LAG_MAX { 10 } else { 0 };
        part("lag", lost, format!("{} records behind", self.lag))
    }

    fn healed_part(&self) -> Part {
        let (healed, repaired) = (self.blocks_healed, self.blocks_repaired);
        let lost = if healed > 0 { 10 } else { 0 };
        let text =
            format!("{healed} damaged blocks read from another copy, {repaired} written again");
        part("healed", lost, text)
    }
}

fn part(name: &'static str, lost: u32, text: impl Into<String>) -> Part {
    Part {
        name,
        lost,
        text: text.into(),
    }
}

#[cfg(test)]
mod tests;
