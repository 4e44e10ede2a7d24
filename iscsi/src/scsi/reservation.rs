//! Reservations of one unit: SPC-4 5.13 persistent reservations and SPC-2 RESERVE/RELEASE.
//!
//! Registrations belong to I_T nexuses by name, so they outlive sessions. Invariants: at most
//! [`REGISTRANTS_MAX`] registrants, no two of the same nexus, no key of zero; a persistent reservation
//! exists only while its holder is registered; RESERVE and registrations never exist together.

pub(crate) mod attributes;
pub(crate) mod conflict;
pub mod kind;
mod out;
pub(crate) mod parameters;
pub(crate) mod report;
#[cfg(test)]
mod tests;
pub(crate) mod transport_id;

use crate::scsi::attention::Attention;
use crate::scsi::limits::REGISTRANTS_MAX;
use crate::scsi::nexus::{Nexus, NexusId};
use crate::scsi::reservation::kind::ReservationType;
use crate::scsi::sense::Sense;
use alloc::vec::Vec;

/// One registered I_T nexus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registrant {
    pub(crate) nexus: Nexus,
    /// Never zero.
    pub(crate) key: u64,
}

/// A persistent reservation; its scope is always the logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) kind: ReservationType,
    /// Who reserved. For the all registrants types every registrant holds it.
    pub(crate) holder: Nexus,
}

/// All reservation state of the unit.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    /// PRGENERATION (SPC-4 6.15.2): zero after power on.
    generation: u32,
    registrants: Vec<Registrant>,
    reservation: Option<Reservation>,
    /// Persist through power loss is active.
    persistent: bool,
    /// Holder of a RESERVE(6) or (10).
    legacy: Option<NexusId>,
}

/// What a successful PERSISTENT RESERVE OUT asks the unit to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Consequences {
    /// Unit attentions for other nexuses.
    pub(crate) told: Vec<(Nexus, Attention)>,
    /// Nexuses whose tasks are aborted.
    pub(crate) aborted: Vec<Nexus>,
    /// What is on disk must change before GOOD.
    pub(crate) save: bool,
}

/// Why a reservation command did nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION.
    Check(Sense),
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Refusal::Check(sense)
    }
}

impl Reservations {
    /// RESERVE: conflicts were looked for before.
    pub(crate) fn reserve(&mut self, nexus: NexusId) {
        assert!(self.legacy.is_none_or(|holder| holder == nexus));
        self.legacy = Some(nexus);
    }

    /// RELEASE: nothing happens when another nexus holds the reservation (SPC-2 7.16).
    pub(crate) fn release(&mut self, nexus: NexusId) {
        if self.legacy == Some(nexus) {
            self.legacy = None;
        }
    }

    /// A RESERVE ends with its nexus or with a reset; registrations stay (SPC-4 5.13.1).
    pub(crate) fn on_reset(&mut self) {
        self.legacy = None;
    }

    fn registrant(&self, nexus: &Nexus) -> Option<&Registrant> {
        self.registrants.iter().find(|r| r.nexus == *nexus)
    }

    /// Whether the nexus holds the persistent reservation.
    fn holds(&self, nexus: &Nexus) -> bool {
        self.reservation
            .as_ref()
            .is_some_and(|reservation| match reservation.kind.holders() {
                kind::Holders::AllRegistrants => self.registrant(nexus).is_some(),
                kind::Holders::One | kind::Holders::OneAndRegistrants => {
                    reservation.holder == *nexus
                }
            })
    }

    fn check(&self) {
        assert!(self.registrants.len() <= REGISTRANTS_MAX);
        assert!(self.registrants.iter().all(|r| r.key != 0));
        if let Some(reservation) = &self.reservation {
            match reservation.kind.holders() {
                kind::Holders::AllRegistrants => assert!(!self.registrants.is_empty()),
                kind::Holders::One | kind::Holders::OneAndRegistrants => {
                    assert!(self.registrant(&reservation.holder).is_some());
                }
            }
        }
        if self.legacy.is_some() {
            assert!(self.registrants.is_empty());
        }
    }
}
