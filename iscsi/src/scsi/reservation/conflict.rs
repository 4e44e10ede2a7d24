//! Which commands a reservation stops: SPC-4 tables 65 and 66, SBC-3 table 13, SPC-2 table 10.

use crate::scsi::cdb::{Command, PowerChange};
use crate::scsi::nexus::{Nexus, NexusId};
use crate::scsi::reservation::Reservations;
use crate::scsi::reservation::kind::{Holders, Others};

/// What a command needs of the unit, as far as reservations care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Allowed under every reservation.
    Any,
    /// TEST UNIT READY: stopped by RESERVE only.
    Ready,
    /// Reads the medium or settings: stopped by exclusive access.
    Read,
    /// Changes the medium or settings: stopped by write exclusive as well.
    Write,
    /// PERSISTENT RESERVE IN and OUT; OUT checks keys itself.
    Persistent,
    /// RESERVE.
    Reserve,
    /// RELEASE.
    Release,
}

impl Command {
    /// The access that the command needs.
    pub(crate) fn access(&self) -> Access {
        match self {
            Command::RequestSense { .. }
            | Command::Inquiry { .. }
            | Command::ReportLuns { .. }
            | Command::LogSense { .. }
            | Command::ReadCapacity10
            | Command::ReadCapacity16 { .. }
            | Command::StartStopUnit(PowerChange::Start)
            | Command::ReportTargetPortGroups { .. } => Access::Any,
            Command::TestUnitReady => Access::Ready,
            Command::ModeSense(_)
            | Command::GetLbaStatus { .. }
            | Command::ReadDefectData { .. }
            | Command::Read(_)
            | Command::Verify { .. }
            | Command::Prefetch(_)
            | Command::ReportSupportedOpcodes { .. }
            | Command::ReportSupportedTasks { .. } => Access::Read,
            Command::ModeSelect { .. }
            | Command::Write(_)
            | Command::WriteAndVerify(_)
            | Command::CompareAndWrite(_)
            | Command::OrWrite(_)
            | Command::WriteSame { .. }
            | Command::Unmap { .. }
            | Command::SynchronizeCache { .. }
            | Command::StartStopUnit(PowerChange::Stop) => Access::Write,
            Command::PersistentReserveIn { .. } | Command::PersistentReserveOut { .. } => {
                Access::Persistent
            }
            Command::Reserve => Access::Reserve,
            Command::Release => Access::Release,
        }
    }
}

impl Reservations {
    /// Whether the command ends with RESERVATION CONFLICT. Hot path.
    pub(crate) fn conflicts(&self, id: NexusId, nexus: &Nexus, access: Access) -> bool {
        if let Some(holder) = self.legacy {
            return match access {
                Access::Any => false,
                // SPC-2 5.5.1: persistent reservations conflict even for the holder.
                Access::Persistent => true,
                // SPC-2 7.16: RELEASE by another nexus changes nothing and is GOOD.
                Access::Release => false,
                Access::Ready | Access::Read | Access::Write | Access::Reserve => holder != id,
            };
        }
        match access {
            Access::Any | Access::Ready | Access::Persistent => false,
            // SPC-2 5.5.1: RESERVE and RELEASE conflict while any key is registered (CRH is zero).
            Access::Reserve | Access::Release => !self.registrants.is_empty(),
            Access::Read | Access::Write => self.stops(nexus, access),
        }
    }

    fn stops(&self, nexus: &Nexus, access: Access) -> bool {
        let Some(reservation) = &self.reservation else {
            return false;
        };
        if access == Access::Read && reservation.kind.others() == Others::Read {
            return false;
        }
        match reservation.kind.holders() {
            Holders::One => reservation.holder != *nexus,
            Holders::OneAndRegistrants | Holders::AllRegistrants => {
                self.registrant(nexus).is_none()
            }
        }
    }
}
