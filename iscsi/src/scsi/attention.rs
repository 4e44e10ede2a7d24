//! Unit attention conditions of one nexus: a bounded set, told one at a time (SAM-5 5.14).

use crate::scsi::sense::{AdditionalSense, Sense, SenseKey};

/// What happened; the order is the order of telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Attention {
    /// The nexus is new to this unit.
    PowerOn = 0,
    /// Target reset.
    TargetReset,
    /// Logical unit reset.
    UnitReset,
    /// Another nexus cleared this nexus's tasks.
    CommandsCleared,
    /// This nexus's reservation was preempted.
    ReservationsPreempted,
    /// A reservation under which this nexus was allowed has gone.
    ReservationsReleased,
    /// This nexus's registration was removed.
    RegistrationsPreempted,
    /// Another nexus changed mode parameters.
    ModeParametersChanged,
    /// The volume was resized.
    CapacityChanged,
    /// Another path is the active one now.
    AccessStateChanged,
}

impl Attention {
    const ALL: [Attention; 10] = [
        Attention::PowerOn,
        Attention::TargetReset,
        Attention::UnitReset,
        Attention::CommandsCleared,
        Attention::ReservationsPreempted,
        Attention::ReservationsReleased,
        Attention::RegistrationsPreempted,
        Attention::ModeParametersChanged,
        Attention::CapacityChanged,
        Attention::AccessStateChanged,
    ];

    /// The sense data that tells it.
    pub fn sense(self) -> Sense {
        let code = match self {
            Attention::PowerOn => AdditionalSense::POWER_ON_OR_RESET,
            Attention::TargetReset => AdditionalSense::TARGET_RESET,
            Attention::UnitReset => AdditionalSense::UNIT_RESET,
            Attention::CommandsCleared => AdditionalSense::COMMANDS_CLEARED,
            Attention::ReservationsPreempted => AdditionalSense::RESERVATIONS_PREEMPTED,
            Attention::ReservationsReleased => AdditionalSense::RESERVATIONS_RELEASED,
            Attention::RegistrationsPreempted => AdditionalSense::REGISTRATIONS_PREEMPTED,
            Attention::ModeParametersChanged => AdditionalSense::MODE_PARAMETERS_CHANGED,
            Attention::CapacityChanged => AdditionalSense::CAPACITY_CHANGED,
            Attention::AccessStateChanged => AdditionalSense::ACCESS_STATE_CHANGED,
        };
        Sense::new(SenseKey::UnitAttention, code)
    }
}

/// The conditions that wait for one nexus. Each kind waits at most once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attentions(u16);

impl Attentions {
    /// Adds a condition.
    pub fn establish(&mut self, attention: Attention) {
        // SAM-5 5.14.2: power on and resets supersede what waited before.
        if matches!(attention, Attention::PowerOn) {
            self.0 = 0;
        }
        self.0 |= 1 << attention as u8;
    }

    /// Takes the first condition.
    pub fn take(&mut self) -> Option<Attention> {
        let first = self.first()?;
        self.0 &= !(1 << first as u8);
        Some(first)
    }

    /// The condition that `take` would give.
    pub fn first(&self) -> Option<Attention> {
        Attention::ALL
            .into_iter()
            .find(|&attention| self.0 & (1 << attention as u8) != 0)
    }
}
