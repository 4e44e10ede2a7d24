//! Reservations as the volume keeps them: a versioned blob, empty when nothing is kept.
//!
//! Layout, big endian: magic `HFPR`, version 1, reservation type (0 none) with the
//! highest bit set when no host wants it to survive power loss (APTPL is zero), index of the holder,
//! count of registrants; then each: key, target port, ISID, length of the name, name.

use crate::scsi::limits::{ISCSI_NAME_BYTES_MAX, REGISTRANTS_MAX};
use crate::scsi::nexus::{InitiatorPort, Nexus, TargetPort};
use crate::scsi::reservation::kind::ReservationType;
use crate::scsi::reservation::{Registrant, Reservation, Reservations};
use crate::scsi::unit::{AttributesError, Keeping};
use alloc::string::String;
use alloc::vec::Vec;

const MAGIC: [u8; 4] = *b"HFPR";
const VERSION: u8 = 1;
/// In the type: kept for the next node only.
const NOT_PERSISTENT: u8 = 0x80;

impl Reservations {
    /// What is kept.
    pub(crate) fn encode(&self, keeping: Keeping) -> Vec<u8> {
        let kept = self.persistent || keeping == Keeping::All;
        if !kept || self.registrants.is_empty() {
            return Vec::new();
        }
        let (kind, holder) = match &self.reservation {
            None => (0, 0),
            Some(reservation) => {
                let holders = self.registrants.iter();
                // Under all registrants the one who reserved may have left: anyone stands for all.
                let index = holders
                    .take_while(|r| r.nexus != reservation.holder)
                    .count();
                let index = if index < self.registrants.len() {
                    index
                } else {
                    0
                };
                (reservation.kind as u8, index)
            }
        };
        let mut data = MAGIC.to_vec();
        let flag = if self.persistent { 0 } else { NOT_PERSISTENT };
        data.extend([VERSION, kind | flag]);
        data.extend(
            u16::try_from(holder)
                .expect("REGISTRANTS_MAX")
                .to_be_bytes(),
        );
        let count = u16::try_from(self.registrants.len()).expect("REGISTRANTS_MAX");
        data.extend(count.to_be_bytes());
        for registrant in &self.registrants {
            let initiator = &registrant.nexus.initiator;
            data.extend(registrant.key.to_be_bytes());
            data.extend(registrant.nexus.target.0.to_be_bytes());
            data.extend(initiator.isid);
            let bytes = u16::try_from(initiator.name.len()).expect("ISCSI_NAME_BYTES_MAX");
            data.extend(bytes.to_be_bytes());
            data.extend(initiator.name.as_bytes());
        }
        data
    }

    /// Reads what [`Reservations::encode`] wrote. Unknown or damaged bytes are refused: to forget a
    /// reservation is to let a fenced host write.
    pub(crate) fn decode(data: &[u8]) -> Result<Reservations, AttributesError> {
        if data.is_empty() {
            return Ok(Reservations::default());
        }
        let mut reader = Reader(data);
        if reader.take::<4>()? != MAGIC {
            return Err(AttributesError("unknown magic"));
        }
        let [version, kind] = reader.take::<2>()?;
        if version != VERSION {
            return Err(AttributesError("unknown version"));
        }
        let holder = usize::from(reader.u16()?);
        let count = usize::from(reader.u16()?);
        if count > REGISTRANTS_MAX {
            return Err(AttributesError("too many registrants"));
        }
        let mut registrants: Vec<Registrant> = Vec::new();
        for _ in 0..count {
            let registrant = reader.registrant()?;
            if registrants.iter().any(|r| r.nexus == registrant.nexus) {
                return Err(AttributesError("a nexus is registered twice"));
            }
            registrants.push(registrant);
        }
        if !reader.0.is_empty() {
            return Err(AttributesError("bytes behind the end"));
        }
        let persistent = kind & NOT_PERSISTENT == 0;
        let reservation = match kind & !NOT_PERSISTENT {
            0 => None,
            kind => Some(Reservation {
                kind: ReservationType::from_code(kind).ok_or(AttributesError("unknown type"))?,
                holder: registrants
                    .get(holder)
                    .ok_or(AttributesError("the holder is not registered"))?
                    .nexus
                    .clone(),
            }),
        };
        let reservations = Reservations {
            generation: 0,
            registrants,
            reservation,
            persistent,
            legacy: None,
        };
        reservations.check();
        Ok(reservations)
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes(&mut self, count: usize) -> Result<&[u8], AttributesError> {
        let (bytes, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(AttributesError("cut short"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], AttributesError> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("the length is N"))
    }

    fn u16(&mut self) -> Result<u16, AttributesError> {
        self.take::<2>().map(u16::from_be_bytes)
    }

    fn registrant(&mut self) -> Result<Registrant, AttributesError> {
        let key = u64::from_be_bytes(self.take::<8>()?);
        if key == 0 {
            return Err(AttributesError("a key of zero"));
        }
        let target = TargetPort(self.u16()?);
        let isid = self.take::<6>()?;
        let bytes = usize::from(self.u16()?);
        if bytes > ISCSI_NAME_BYTES_MAX {
            return Err(AttributesError("a name is too long"));
        }
        let name = core::str::from_utf8(self.bytes(bytes)?)
            .map_err(|_| AttributesError("a name is not text"))?;
        Ok(Registrant {
            nexus: Nexus {
                initiator: InitiatorPort {
                    name: String::from(name),
                    isid,
                },
                target,
            },
            key,
        })
    }
}
