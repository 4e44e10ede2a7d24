//! The codes of persistent reservations: types and service actions.

/// Reservation type (SPC-4 table 64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReservationType {
    /// Only the holder writes.
    WriteExclusive = 0x1,
    /// Only the holder reads and writes.
    ExclusiveAccess = 0x3,
    /// Only registrants write.
    WriteExclusiveRegistrantsOnly = 0x5,
    /// Only registrants read and write.
    ExclusiveAccessRegistrantsOnly = 0x6,
    /// Only registrants write, all of them hold it.
    WriteExclusiveAllRegistrants = 0x7,
    /// Only registrants read and write, all of them hold it.
    ExclusiveAccessAllRegistrants = 0x8,
}

/// Who has the rights of the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holders {
    /// The holder alone.
    One,
    /// One nexus holds it, registrants have access too.
    OneAndRegistrants,
    /// Every registrant holds it.
    AllRegistrants,
}

/// What the others may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    /// Read.
    Read,
    /// Nothing.
    Nothing,
}

impl ReservationType {
    /// Every type.
    pub const ALL: [ReservationType; 6] = [
        ReservationType::WriteExclusive,
        ReservationType::ExclusiveAccess,
        ReservationType::WriteExclusiveRegistrantsOnly,
        ReservationType::ExclusiveAccessRegistrantsOnly,
        ReservationType::WriteExclusiveAllRegistrants,
        ReservationType::ExclusiveAccessAllRegistrants,
    ];

    /// The type with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    pub(crate) fn holders(self) -> Holders {
        use ReservationType as T;
        match self {
            T::WriteExclusive | T::ExclusiveAccess => Holders::One,
            T::WriteExclusiveRegistrantsOnly | T::ExclusiveAccessRegistrantsOnly => {
                Holders::OneAndRegistrants
            }
            T::WriteExclusiveAllRegistrants | T::ExclusiveAccessAllRegistrants => {
                Holders::AllRegistrants
            }
        }
    }

    pub(crate) fn others(self) -> Others {
        use ReservationType as T;
        match self {
            T::WriteExclusive
            | T::WriteExclusiveRegistrantsOnly
            | T::WriteExclusiveAllRegistrants => Others::Read,
            T::ExclusiveAccess
            | T::ExclusiveAccessRegistrantsOnly
            | T::ExclusiveAccessAllRegistrants => Others::Nothing,
        }
    }
}

/// Service action of PERSISTENT RESERVE OUT (SPC-4 table 214).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OutAction {
    /// REGISTER.
    Register = 0,
    /// RESERVE.
    Reserve = 1,
    /// RELEASE.
    Release = 2,
    /// CLEAR.
    Clear = 3,
    /// PREEMPT.
    Preempt = 4,
    /// PREEMPT AND ABORT.
    PreemptAndAbort = 5,
    /// REGISTER AND IGNORE EXISTING KEY.
    RegisterAndIgnore = 6,
    /// REGISTER AND MOVE.
    RegisterAndMove = 7,
}

impl OutAction {
    /// Every action.
    pub const ALL: [OutAction; 8] = [
        OutAction::Register,
        OutAction::Reserve,
        OutAction::Release,
        OutAction::Clear,
        OutAction::Preempt,
        OutAction::PreemptAndAbort,
        OutAction::RegisterAndIgnore,
        OutAction::RegisterAndMove,
    ];

    /// The action with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|action| *action as u8 == code)
    }

    /// Whether SCOPE and TYPE of the CDB mean something (SPC-4 table 215).
    pub fn uses_type(self) -> bool {
        match self {
            OutAction::Reserve
            | OutAction::Release
            | OutAction::Preempt
            | OutAction::PreemptAndAbort => true,
            OutAction::Register
            | OutAction::Clear
            | OutAction::RegisterAndIgnore
            | OutAction::RegisterAndMove => false,
        }
    }
}
