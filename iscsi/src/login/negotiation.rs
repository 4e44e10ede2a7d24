//! Operational parameters: the host offers, the table of keys answers.

use crate::framing::Digests;
use crate::limits::RECEIVE_SEGMENT_BYTES_MAX;
use crate::text::key::{self, Key, LENGTH_MAX, Rule, Use};
use crate::text::{self, Writer};
use alloc::format;

/// What both sides agreed on. Starts with the defaults of RFC 7143 §13.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Digests from the first PDU after login.
    pub digests: Digests,
    /// Unsolicited Data-Out is not allowed.
    pub initial_r2t: bool,
    /// Data may travel with the command.
    pub immediate_data: bool,
    /// Largest data segment that the host takes.
    pub send_segment_bytes: u32,
    /// Largest burst.
    pub max_burst_bytes: u32,
    /// Unsolicited bytes of a command.
    pub first_burst_bytes: u32,
    /// R2Ts of a task at a time.
    pub outstanding_r2t: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            digests: Digests::default(),
            initial_r2t: true,
            immediate_data: true,
            send_segment_bytes: 8192,
            max_burst_bytes: 262_144,
            first_burst_bytes: 65_536,
            outstanding_r2t: 1,
        }
    }
}

/// Where an offer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Login of a normal session.
    NormalLogin,
    /// Login of a discovery session.
    DiscoveryLogin,
    /// A text request in full feature phase.
    FullFeature,
}

impl Parameters {
    /// Takes one offer and writes its answer.
    pub fn negotiate(&mut self, place: Place, name: &str, value: &str, reply: &mut Writer) {
        let Some(key) = key::find(name) else {
            //= RFC 7143 §6.2
            //# The constant "NotUnderstood" is the answer to any key that is not known.
            reply.put(name, "NotUnderstood");
            return;
        };
        if place == Place::FullFeature && key.usage != Use::Any {
            reply.put(name, "Reject");
            return;
        }
        //= RFC 7143 §13
        //# Irrelevant when SessionType=Discovery.
        if place == Place::DiscoveryLogin && key.normal_only {
            reply.put(name, "Irrelevant");
            return;
        }
        self.answer(key, value, reply);
    }

    /// Ends login: relations between parameters that hosts sometimes leave out.
    pub fn settle(&mut self) {
        //= RFC 7143 §13.14
        //# FirstBurstLength MUST NOT exceed MaxBurstLength.
        self.first_burst_bytes = self.first_burst_bytes.min(self.max_burst_bytes);
    }

    fn answer(&mut self, key: &Key, value: &str, reply: &mut Writer) {
        match key.rule {
            Rule::And(ours) => match yes(value) {
                Some(theirs) => self.note_flag(key.name, theirs && ours, reply),
                None => reply.put(key.name, "Reject"),
            },
            Rule::Or(ours) => match yes(value) {
                Some(theirs) => self.note_flag(key.name, theirs || ours, reply),
                None => reply.put(key.name, "Reject"),
            },
            Rule::Minimum { range, ours } => match within(value, range) {
                Some(theirs) => self.note_number(key.name, theirs.min(ours), reply),
                None => reply.put(key.name, "Reject"),
            },
            Rule::Maximum { range, ours } => match within(value, range) {
                Some(theirs) => self.note_number(key.name, theirs.max(ours), reply),
                None => reply.put(key.name, "Reject"),
            },
            Rule::Choice(known) => self.choose(key.name, known, value, reply),
            Rule::DeclaredNumber(range) => match within(value, range) {
                Some(theirs) => {
                    // Ours is declared in the same exchange, once, by `declare`.
                    self.send_segment_bytes = theirs;
                }
                None => reply.put(key.name, "Reject"),
            },
            Rule::DeclaredText => {}
            Rule::Obsolete(answer) => reply.put(key.name, answer),
        }
    }

    fn choose(&mut self, name: &str, known: &[&str], offer: &str, reply: &mut Writer) {
        //= RFC 7143 §6.2.1
        //# The responding party selects the first value that it supports from the originator's list.
        let chosen = offer.split(',').find(|offered| known.contains(offered));
        let Some(chosen) = chosen else {
            reply.put(name, "Reject");
            return;
        };
        match name {
            "HeaderDigest" => self.digests.header = chosen == "CRC32C",
            "DataDigest" => self.digests.data = chosen == "CRC32C",
            _ => {}
        }
        reply.put(name, chosen);
    }

    fn note_flag(&mut self, name: &str, result: bool, reply: &mut Writer) {
        match name {
            "InitialR2T" => self.initial_r2t = result,
            "ImmediateData" => self.immediate_data = result,
            _ => {}
        }
        reply.put(name, if result { "Yes" } else { "No" });
    }

    fn note_number(&mut self, name: &str, result: u32, reply: &mut Writer) {
        match name {
            "MaxBurstLength" => self.max_burst_bytes = result,
            "FirstBurstLength" => self.first_burst_bytes = result,
            "MaxOutstandingR2T" => self.outstanding_r2t = result,
            _ => {}
        }
        reply.put(name, &format!("{result}"));
    }
}

/// What this side declares in the operational stage.
pub fn declare(reply: &mut Writer) {
    reply.put(
        "MaxRecvDataSegmentLength",
        &format!("{RECEIVE_SEGMENT_BYTES_MAX}"),
    );
}

fn yes(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

fn within(value: &str, (low, high): (u32, u32)) -> Option<u32> {
    text::number(value).filter(|number| (low..=high).contains(number))
}

const _: () = assert!(RECEIVE_SEGMENT_BYTES_MAX <= LENGTH_MAX as usize);
