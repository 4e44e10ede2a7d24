//! What PERSISTENT RESERVE OUT does: each service action is one transition (SPC-4 5.13.5 to 5.13.11).
//!
//! Everything is checked before anything changes: a refused command leaves no trace.

use crate::scsi::attention::Attention;
use crate::scsi::limits::REGISTRANTS_MAX;
use crate::scsi::nexus::{Nexus, TARGET_PORT};
use crate::scsi::reservation::kind::{Holders, OutAction, ReservationType};
use crate::scsi::reservation::parameters::Parameters;
use crate::scsi::reservation::{Consequences, Refusal, Registrant, Reservation, Reservations};
use crate::scsi::sense::{AdditionalSense, Sense};
use alloc::vec::Vec;

impl Reservations {
    /// Runs a service action for `nexus`. `kind` is there for the actions that use it.
    pub(crate) fn out(
        &mut self,
        nexus: &Nexus,
        action: OutAction,
        kind: Option<ReservationType>,
        parameters: &Parameters,
    ) -> Result<Consequences, Refusal> {
        let was_persistent = self.persistent;
        let needs_kind = || kind.ok_or(Refusal::Check(Sense::cdb_bit(2, 3)));
        let mut consequences = match action {
            OutAction::Register => {
                // SPC-4 table 67: the key given must be the one registered, zero if none is.
                self.require_key(nexus, parameters.key)?;
                self.register(nexus, parameters)?
            }
            OutAction::RegisterAndIgnore => self.register(nexus, parameters)?,
            OutAction::RegisterAndMove => self.register_and_move(nexus, parameters)?,
            OutAction::Reserve => {
                self.require_registered(nexus, parameters.key)?;
                self.reserve_persistent(nexus, needs_kind()?)?
            }
            OutAction::Release => {
                self.require_registered(nexus, parameters.key)?;
                self.release_persistent(nexus, needs_kind()?)?
            }
            OutAction::Clear => {
                self.require_registered(nexus, parameters.key)?;
                self.clear(nexus)
            }
            OutAction::Preempt => {
                self.require_registered(nexus, parameters.key)?;
                Consequences {
                    aborted: Vec::new(),
                    ..self.preempt(nexus, needs_kind()?, parameters.action_key)?
                }
            }
            OutAction::PreemptAndAbort => {
                self.require_registered(nexus, parameters.key)?;
                self.preempt(nexus, needs_kind()?, parameters.action_key)?
            }
        };
        // SPC-4 6.15.2: neither RESERVE nor RELEASE counts.
        if !matches!(action, OutAction::Reserve | OutAction::Release) {
            self.generation = self.generation.wrapping_add(1);
        }
        consequences.save = self.persistent || was_persistent;
        self.check();
        Ok(consequences)
    }

    fn require_key(&self, nexus: &Nexus, key: u64) -> Result<(), Refusal> {
        let registered = self.registrant(nexus).map_or(0, |r| r.key);
        match registered == key {
            true => Ok(()),
            false => Err(Refusal::Conflict),
        }
    }

    fn require_registered(&self, nexus: &Nexus, key: u64) -> Result<(), Refusal> {
        match self.registrant(nexus) {
            Some(registrant) if registrant.key == key => Ok(()),
            _ => Err(Refusal::Conflict),
        }
    }

    /// SPC-4 5.13.7 and, for a key of zero, 5.13.11.2.
    fn register(&mut self, nexus: &Nexus, given: &Parameters) -> Result<Consequences, Refusal> {
        let registered = self.registrant(nexus).is_some();
        // SPC-4 6.16.3: SPEC_I_PT from a nexus that is registered already.
        if registered && !given.ports.is_empty() {
            return Err(Sense::parameter_byte(20).into());
        }
        if given.action_key == 0 {
            let consequences = self.unregister(nexus);
            self.persistent = given.persistent;
            return Ok(consequences);
        }
        let mut further: Vec<Nexus> = Vec::new();
        for port in &given.ports {
            let other = Nexus {
                initiator: port.clone(),
                target: nexus.target,
            };
            if other == *nexus || further.contains(&other) {
                continue;
            }
            // SPC-4 5.13.7: a port that is registered already fails the whole command.
            if self.registrant(&other).is_some() {
                return Err(Sense::parameter_byte(28).into());
            }
            further.push(other);
        }
        let wanted = further.len() + usize::from(!registered);
        if self.registrants.len() + wanted > REGISTRANTS_MAX {
            let code = AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES;
            return Err(Sense::illegal(code).into());
        }
        self.set_key(nexus, given.action_key);
        for other in &further {
            self.set_key(other, given.action_key);
        }
        self.persistent = given.persistent;
        Ok(Consequences::default())
    }

    fn set_key(&mut self, nexus: &Nexus, key: u64) {
        assert!(key != 0);
        match self.registrants.iter_mut().find(|r| r.nexus == *nexus) {
            Some(registrant) => registrant.key = key,
            None => self.registrants.push(Registrant {
                nexus: nexus.clone(),
                key,
            }),
        }
    }

    /// Removes a registration; a reservation that loses its last holder goes too (5.13.11.2.2).
    fn unregister(&mut self, nexus: &Nexus) -> Consequences {
        let holds = self.holds(nexus);
        self.registrants.retain(|r| r.nexus != *nexus);
        let mut consequences = Consequences::default();
        let Some(reservation) = &self.reservation else {
            return consequences;
        };
        match reservation.kind.holders() {
            Holders::One if holds => self.reservation = None,
            Holders::OneAndRegistrants if holds => {
                self.reservation = None;
                consequences.told = self.told_to_others(nexus, Attention::ReservationsReleased);
            }
            Holders::AllRegistrants if self.registrants.is_empty() => self.reservation = None,
            Holders::One | Holders::OneAndRegistrants | Holders::AllRegistrants => {}
        }
        consequences
    }

    fn told_to_others(&self, sender: &Nexus, attention: Attention) -> Vec<(Nexus, Attention)> {
        self.registrants
            .iter()
            .filter(|r| r.nexus != *sender)
            .map(|r| (r.nexus.clone(), attention))
            .collect()
    }

    /// SPC-4 5.13.9.
    fn reserve_persistent(
        &mut self,
        nexus: &Nexus,
        kind: ReservationType,
    ) -> Result<Consequences, Refusal> {
        match &self.reservation {
            None => {
                self.reservation = Some(Reservation {
                    kind,
                    holder: nexus.clone(),
                });
                Ok(Consequences::default())
            }
            Some(reservation) if self.holds(nexus) && reservation.kind == kind => {
                Ok(Consequences::default())
            }
            Some(_) => Err(Refusal::Conflict),
        }
    }

    /// SPC-4 5.13.11.2.1.
    fn release_persistent(
        &mut self,
        nexus: &Nexus,
        kind: ReservationType,
    ) -> Result<Consequences, Refusal> {
        let Some(reservation) = &self.reservation else {
            return Ok(Consequences::default());
        };
        if !self.holds(nexus) {
            return Ok(Consequences::default());
        }
        if reservation.kind != kind {
            return Err(Sense::illegal(AdditionalSense::INVALID_RELEASE).into());
        }
        self.reservation = None;
        let mut consequences = Consequences::default();
        if kind.holders() != Holders::One {
            consequences.told = self.told_to_others(nexus, Attention::ReservationsReleased);
        }
        Ok(consequences)
    }

    /// SPC-4 5.13.11.2.7.
    fn clear(&mut self, nexus: &Nexus) -> Consequences {
        let told = self.told_to_others(nexus, Attention::ReservationsPreempted);
        self.registrants.clear();
        self.reservation = None;
        Consequences {
            told,
            ..Consequences::default()
        }
    }

    /// SPC-4 5.13.11.2.3 to 5.13.11.2.5. `aborted` names whose tasks PREEMPT AND ABORT ends.
    fn preempt(
        &mut self,
        nexus: &Nexus,
        kind: ReservationType,
        victim_key: u64,
    ) -> Result<Consequences, Refusal> {
        let takes_over = match &self.reservation {
            None => false,
            Some(reservation) => match reservation.kind.holders() {
                Holders::AllRegistrants => victim_key == 0,
                Holders::One | Holders::OneAndRegistrants => self
                    .registrant(&reservation.holder)
                    .is_some_and(|holder| holder.key == victim_key),
            },
        };
        if takes_over {
            return Ok(self.preempt_reservation(nexus, kind, victim_key));
        }
        // SPC-4 5.13.11.2.3: zero names nobody, except under all registrants.
        if victim_key == 0 {
            return Err(Sense::parameter_byte(8).into());
        }
        self.preempt_registrations(nexus, victim_key)
    }

    fn preempt_reservation(
        &mut self,
        nexus: &Nexus,
        kind: ReservationType,
        victim_key: u64,
    ) -> Consequences {
        // Zero comes here under all registrants only and means every other nexus.
        let victims = self
            .remove_registrants(|r| r.nexus != *nexus && (victim_key == 0 || r.key == victim_key));
        let previous = self.reservation.replace(Reservation {
            kind,
            holder: nexus.clone(),
        });
        let mut consequences = preempted(nexus, &victims);
        // SPC-4 5.13.11.2.4: those who stay learn that the type changed.
        if previous.is_some_and(|reservation| reservation.kind != kind) {
            let told = self.told_to_others(nexus, Attention::ReservationsReleased);
            consequences.told.extend(told);
        }
        consequences
    }

    fn preempt_registrations(
        &mut self,
        nexus: &Nexus,
        victim_key: u64,
    ) -> Result<Consequences, Refusal> {
        let victims = self.remove_registrants(|r| r.key == victim_key);
        if victims.is_empty() {
            return Err(Refusal::Conflict);
        }
        let mut consequences = preempted(nexus, &victims);
        // The sender may have removed itself, and with it a reservation of all registrants.
        let orphaned = match &self.reservation {
            None => false,
            Some(reservation) => match reservation.kind.holders() {
                Holders::AllRegistrants => self.registrants.is_empty(),
                Holders::One | Holders::OneAndRegistrants => {
                    self.registrant(&reservation.holder).is_none()
                }
            },
        };
        if orphaned {
            self.reservation = None;
            let told = self.told_to_others(nexus, Attention::ReservationsReleased);
            consequences.told.extend(told);
        }
        Ok(consequences)
    }

    fn remove_registrants(&mut self, removed: impl Fn(&Registrant) -> bool) -> Vec<Nexus> {
        let victims = self.registrants.iter().filter(|r| removed(r));
        let victims = victims.map(|r| r.nexus.clone()).collect();
        self.registrants.retain(|r| !removed(r));
        victims
    }

    /// SPC-4 5.13.8.
    fn register_and_move(
        &mut self,
        nexus: &Nexus,
        given: &Parameters,
    ) -> Result<Consequences, Refusal> {
        let destination = given.destination.as_ref();
        let destination = destination.expect("decoding made it for this action");
        let Some(reservation) = &self.reservation else {
            return Err(Sense::cdb_bit(1, 4).into());
        };
        let all = reservation.kind.holders() == Holders::AllRegistrants;
        if all || !self.holds(nexus) {
            return Err(Refusal::Conflict);
        }
        self.require_registered(nexus, given.key)?;
        if given.action_key == 0 {
            return Err(Sense::parameter_byte(8).into());
        }
        if destination.target != TARGET_PORT {
            return Err(Sense::parameter_byte(18).into());
        }
        let heir = Nexus {
            initiator: destination.initiator.clone(),
            target: destination.target,
        };
        if heir == *nexus {
            return Err(Sense::parameter_byte(24).into());
        }
        let room = self.registrants.len() < REGISTRANTS_MAX;
        if self.registrant(&heir).is_none() && !room {
            let code = AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES;
            return Err(Sense::illegal(code).into());
        }
        let kind = reservation.kind;
        self.set_key(&heir, given.action_key);
        self.reservation = Some(Reservation { kind, holder: heir });
        if destination.unregister {
            self.registrants.retain(|r| r.nexus != *nexus);
        }
        self.persistent = given.persistent;
        Ok(Consequences::default())
    }
}

fn preempted(sender: &Nexus, victims: &[Nexus]) -> Consequences {
    let others = || victims.iter().filter(|victim| *victim != sender);
    Consequences {
        told: others()
            .map(|victim| (victim.clone(), Attention::RegistrationsPreempted))
            .collect(),
        aborted: others().cloned().collect(),
        save: false,
    }
}
