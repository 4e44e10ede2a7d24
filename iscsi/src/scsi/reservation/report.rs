//! Answers of PERSISTENT RESERVE IN (SPC-4 6.15).

use crate::scsi::cdb::ReservationReport;
use crate::scsi::reservation::kind::Holders;
use crate::scsi::reservation::{Reservations, transport_id};
use alloc::vec;
use alloc::vec::Vec;

impl Reservations {
    /// The parameter data, whole; the caller cuts it to the allocation length.
    pub(crate) fn report(&self, report: ReservationReport) -> Vec<u8> {
        match report {
            ReservationReport::Keys => self.with_header(self.keys()),
            ReservationReport::Reservation => self.with_header(self.reservation_descriptor()),
            ReservationReport::Capabilities => self.capabilities(),
            ReservationReport::FullStatus => self.with_header(self.full_status()),
        }
    }

    /// PRGENERATION and ADDITIONAL LENGTH, which counts what there is, not what fits.
    fn with_header(&self, body: Vec<u8>) -> Vec<u8> {
        let bytes = u32::try_from(body.len()).expect("bounded by REGISTRANTS_MAX");
        let mut data = self.generation.to_be_bytes().to_vec();
        data.extend(bytes.to_be_bytes());
        data.extend(body);
        data
    }

    fn keys(&self) -> Vec<u8> {
        let keys = self.registrants.iter().map(|r| r.key.to_be_bytes());
        keys.flatten().collect()
    }

    /// SPC-4 6.15.3.
    fn reservation_descriptor(&self) -> Vec<u8> {
        let Some(reservation) = &self.reservation else {
            return Vec::new();
        };
        let key = match reservation.kind.holders() {
            // SPC-4 6.15.3.2: zero for the all registrants types.
            Holders::AllRegistrants => 0,
            Holders::One | Holders::OneAndRegistrants => {
                let holder = self.registrant(&reservation.holder);
                holder.expect("the holder is registered").key
            }
        };
        let mut data = vec![0; 16];
        data[..8].copy_from_slice(&key.to_be_bytes());
        data[13] = reservation.kind as u8;
        data
    }

    /// SPC-4 6.15.4.
    fn capabilities(&self) -> Vec<u8> {
        const SIP_C: u8 = 0x08;
        const ATP_C: u8 = 0x04;
        const PTPL_C: u8 = 0x01;
        const TMV: u8 = 0x80;
        // WR_EX_AR, EX_AC_RO, WR_EX_RO, EX_AC, WR_EX; then EX_AC_AR.
        const TYPES: [u8; 2] = [0xEA, 0x01];
        let persistent = u8::from(self.persistent);
        let flags = [SIP_C | ATP_C | PTPL_C, TMV | persistent];
        vec![0, 8, flags[0], flags[1], TYPES[0], TYPES[1], 0, 0]
    }

    /// SPC-4 6.15.5.
    fn full_status(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for registrant in &self.registrants {
            let mut head = [0; 24];
            head[..8].copy_from_slice(&registrant.key.to_be_bytes());
            if let Some(reservation) = &self.reservation
                && self.holds(&registrant.nexus)
            {
                head[12] = 0x01;
                head[13] = reservation.kind as u8;
            }
            head[18..20].copy_from_slice(&registrant.nexus.target.0.to_be_bytes());
            let id = transport_id::encode(&registrant.nexus.initiator);
            let bytes = u32::try_from(id.len()).expect("an iSCSI name has 223 bytes at most");
            head[20..24].copy_from_slice(&bytes.to_be_bytes());
            data.extend(head);
            data.extend(id);
        }
        data
    }
}
