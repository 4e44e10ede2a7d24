//! Readers of SBC-3 CDBs: addresses and lengths become byte ranges inside the disk.

use crate::request::ByteRange;
use crate::scsi::cdb::{
    ByteCheck, Cdb, Command, DefectForm, PowerChange, SameSource, list_too_long,
};
use crate::scsi::geometry::Geometry;
use crate::scsi::limits::{
    COMPARE_AND_WRITE_BYTES_MAX, PARAMETER_LIST_BYTES_MAX, PREFETCH_BYTES_MAX, WRITE_SAME_BYTES_MAX,
};
use crate::scsi::sense::Sense;
use holdfast_core::limits::{BLOCK_BYTES, TRANSFER_BYTES_MAX};

/// Bytes of the physical block that hosts see.
const PHYSICAL_BLOCK_BYTES: u64 = BLOCK_BYTES as u64;

/// Where a CDB of each size has its logical block address and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Six,
    Ten,
    Twelve,
    Sixteen,
}

impl Size {
    /// The group code of the operation code tells the size (SPC-4 4.2.5.1).
    fn of(cdb: Cdb<'_>) -> Size {
        match cdb.u8(0) >> 5 {
            0 => Size::Six,
            1 | 2 => Size::Ten,
            5 => Size::Twelve,
            _ => Size::Sixteen,
        }
    }

    fn lba(self, cdb: Cdb<'_>) -> u64 {
        match self {
            Size::Six => u64::from(cdb.u32(0) & 0x001F_FFFF),
            Size::Ten | Size::Twelve => u64::from(cdb.u32(2)),
            Size::Sixteen => cdb.u64(2),
        }
    }

    fn count(self, cdb: Cdb<'_>) -> u64 {
        match self {
            // SBC-3 5.11: a transfer length of zero in six bytes means 256 blocks.
            Size::Six => match cdb.u8(4) {
                0 => 256,
                count => u64::from(count),
            },
            Size::Ten => u64::from(cdb.u16(7)),
            Size::Twelve => u64::from(cdb.u32(6)),
            Size::Sixteen => u64::from(cdb.u32(10)),
        }
    }

    /// First byte of the length field.
    fn count_byte(self) -> u16 {
        match self {
            Size::Six => 4,
            Size::Ten => 7,
            Size::Twelve => 6,
            Size::Sixteen => 10,
        }
    }
}

/// RDPROTECT, WRPROTECT or VRPROTECT must be zero: no protection information (SBC-3 4.22).
fn refuse_protection(cdb: Cdb<'_>) -> Result<(), Sense> {
    if Size::of(cdb) != Size::Six && cdb.u8(1) >> 5 != 0 {
        return Err(Sense::cdb_bit(1, 7));
    }
    Ok(())
}

fn range(cdb: Cdb<'_>, geometry: &Geometry) -> Result<ByteRange, Sense> {
    let size = Size::of(cdb);
    geometry.range(size.lba(cdb), size.count(cdb))
}

/// A range whose data crosses the wire: bounded by MAXIMUM TRANSFER LENGTH (SBC-3 6.6.3).
fn transfer(cdb: Cdb<'_>, geometry: &Geometry) -> Result<ByteRange, Sense> {
    refuse_protection(cdb)?;
    let range = range(cdb, geometry)?;
    if range.bytes > TRANSFER_BYTES_MAX as u64 {
        return Err(Sense::cdb_byte(Size::of(cdb).count_byte()));
    }
    Ok(range)
}

/// READ. DPO and FUA are taken: what is read is what is durable.
pub(crate) fn read(cdb: Cdb<'_>, geometry: &Geometry) -> Result<Command, Sense> {
    transfer(cdb, geometry).map(Command::Read)
}

/// WRITE. FUA is taken: GOOD means durable anyway.
pub(crate) fn write(cdb: Cdb<'_>, geometry: &Geometry) -> Result<Command, Sense> {
    transfer(cdb, geometry).map(Command::Write)
}

/// ORWRITE.
pub(crate) fn or_write(cdb: Cdb<'_>, geometry: &Geometry) -> Result<Command, Sense> {
    transfer(cdb, geometry).map(Command::OrWrite)
}

/// WRITE AND VERIFY.
pub(crate) fn write_and_verify(cdb: Cdb<'_>, geometry: &Geometry) -> Result<Command, Sense> {
    refuse_protection(cdb)?;
    // SBC-3 5.37: BYTCHK 00b verifies, 01b compares, which we do for both.
    if cdb.bit(1, 2) {
        return Err(Sense::cdb_bit(1, 2));
    }
    transfer(cdb, geometry).map(Command::WriteAndVerify)
}

/// VERIFY.
pub(crate) fn verify(cdb: Cdb<'_>, geometry: &Geometry) -> Result<Command, Sense> {
    refuse_protection(cdb)?;
    let check = match (cdb.u8(1) >> 1) & 0b11 {
        0b00 => ByteCheck::Medium,
        0b01 => ByteCheck::Each,
        0b11 => ByteCheck::Same,
        _ => return Err(Sense::cdb_bit(1, 2)),
    };
    let range = match check {
        ByteCheck::Each => transfer(cdb, geometry)?,
        ByteCheck::Medium | ByteCheck::Same => range(cdb, geometry)?,
    };
    Ok(Command::Verify { range, check })
}

/// COMPARE AND WRITE.
pub(crate) fn compare_and_write(cdb: Cdb<'_>, geometry: &Geometry) -> Result<Command, Sense> {
    refuse_protection(cdb)?;
    let range = geometry.range(cdb.u64(2), u64::from(cdb.u8(13)))?;
    // SBC-3 5.2: more than MAXIMUM COMPARE AND WRITE LENGTH is an invalid field.
    if range.bytes > COMPARE_AND_WRITE_BYTES_MAX {
        return Err(Sense::cdb_byte(13));
    }
    Ok(Command::CompareAndWrite(range))
}

/// WRITE SAME(10) and (16).
pub(crate) fn write_same(cdb: Cdb<'_>, geometry: &Geometry) -> Result<Command, Sense> {
    refuse_protection(cdb)?;
    // SBC-3 5.42: ANCHOR while ANC_SUP is zero, and ANCHOR without UNMAP, are invalid fields.
    if cdb.bit(1, 4) {
        return Err(Sense::cdb_bit(1, 4));
    }
    // PBDATA and LBDATA are obsolete and never were supported here.
    if cdb.u8(1) & 0x06 != 0 {
        return Err(Sense::cdb_bit(1, 2));
    }
    let size = Size::of(cdb);
    let source = match size {
        Size::Sixteen if cdb.bit(1, 0) => SameSource::Zeros,
        _ => SameSource::Host,
    };
    // SBC-3 5.42: WSNZ is one, so zero does not mean "up to the end".
    if size.count(cdb) == 0 {
        return Err(Sense::cdb_byte(size.count_byte()));
    }
    let range = range(cdb, geometry)?;
    if range.bytes > WRITE_SAME_BYTES_MAX {
        return Err(Sense::cdb_byte(size.count_byte()));
    }
    // UNMAP needs no field: zeros give space back with and without it, LBPRZ is one.
    Ok(Command::WriteSame { range, source })
}

/// UNMAP.
pub(crate) fn unmap(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    // SBC-3 5.25: ANCHOR while ANC_SUP is zero.
    if cdb.bit(1, 0) {
        return Err(Sense::cdb_bit(1, 0));
    }
    let bytes = cdb.u16(7);
    if usize::from(bytes) > PARAMETER_LIST_BYTES_MAX {
        return Err(list_too_long());
    }
    Ok(Command::Unmap { bytes })
}

/// A range where zero blocks mean "up to the end" (SYNCHRONIZE CACHE, PRE-FETCH).
fn range_to_end(cdb: Cdb<'_>, geometry: &Geometry) -> Result<ByteRange, Sense> {
    let range = range(cdb, geometry)?;
    if range.bytes > 0 {
        return Ok(range);
    }
    Ok(ByteRange {
        offset: range.offset,
        bytes: geometry.blocks() * geometry.block_bytes() - range.offset,
    })
}

/// SYNCHRONIZE CACHE.
pub(crate) fn synchronize_cache(cdb: Cdb<'_>, geometry: &Geometry) -> Result<Command, Sense> {
    range_to_end(cdb, geometry)?;
    Ok(Command::SynchronizeCache {
        immediate: cdb.bit(1, 1),
    })
}

/// PRE-FETCH. IMMED is taken as well: the hint costs the host little time.
pub(crate) fn prefetch(cdb: Cdb<'_>, geometry: &Geometry) -> Result<Command, Sense> {
    let mut range = range_to_end(cdb, geometry)?;
    // More would only push out what it brought in before.
    range.bytes = range.bytes.min(PREFETCH_BYTES_MAX);
    Ok(Command::Prefetch(range))
}

/// START STOP UNIT.
pub(crate) fn start_stop_unit(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    // SBC-3 5.20: power conditions other than START_VALID are not supported.
    if cdb.u8(4) >> 4 != 0 {
        return Err(Sense::cdb_bit(4, 7));
    }
    // SBC-3 5.20: LOEJ on a medium that cannot be removed.
    if cdb.bit(4, 1) {
        return Err(Sense::cdb_bit(4, 1));
    }
    Ok(Command::StartStopUnit(match cdb.bit(4, 0) {
        true => PowerChange::Start,
        false => PowerChange::Stop,
    }))
}

/// READ CAPACITY(10); PMI and its address are obsolete and ignored (SBC-3 5.15).
pub(crate) fn read_capacity10(_: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    Ok(Command::ReadCapacity10)
}

/// READ CAPACITY(16).
pub(crate) fn read_capacity16(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    Ok(Command::ReadCapacity16 {
        allocation: cdb.allocation32(10),
    })
}

/// GET LBA STATUS.
pub(crate) fn get_lba_status(cdb: Cdb<'_>, geometry: &Geometry) -> Result<Command, Sense> {
    // SBC-3 5.6: a starting address beyond the capacity is refused, so one block must exist.
    let asked = geometry.range(cdb.u64(2), 1)?;
    // Deviation from SBC-3 5.6.2, which begins at the address asked for: provisioning is a property
    // of physical blocks, so an address inside one is answered from the next on. libiscsi's
    // GetLBAStatus.UnmapSingle wants it so of a 512e disk; hosts ask at physical blocks.
    let next = asked.offset.next_multiple_of(PHYSICAL_BLOCK_BYTES);
    let inside = next < geometry.blocks() * geometry.block_bytes();
    Ok(Command::GetLbaStatus {
        offset: if inside { next } else { asked.offset },
        allocation: cdb.allocation32(10),
    })
}

/// READ DEFECT DATA(10).
pub(crate) fn read_defect_data10(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    Ok(Command::ReadDefectData {
        form: DefectForm::Ten,
        lists: cdb.u8(2) & 0x1F,
        allocation: usize::from(cdb.u16(7)),
    })
}

/// READ DEFECT DATA(12); any ADDRESS DESCRIPTOR INDEX is behind the end of an empty list.
pub(crate) fn read_defect_data12(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    Ok(Command::ReadDefectData {
        form: DefectForm::Twelve,
        lists: cdb.u8(1) & 0x1F,
        allocation: cdb.allocation32(6),
    })
}
