//! From commands to storage and back: block requests, the UNMAP list, and what storage's answers mean.

#[cfg(test)]
mod tests;

use crate::request::{BlockRequest, BlockResponse, ByteRange};
use crate::scsi::capacity;
use crate::scsi::cdb::{ByteCheck, Command, PowerChange, SameSource};
use crate::scsi::geometry::Geometry;
use crate::scsi::limits::{UNMAP_BYTES_MAX, UNMAP_DESCRIPTORS_MAX};
use crate::scsi::reply::{Reply, ReplyData, Status};
use crate::scsi::sense::{AdditionalSense, Sense, SenseKey};
use alloc::vec::Vec;

/// The request that serves a command of the medium; `None` when there is nothing to do, or when the
/// command is not one of the medium's.
///
/// `parameters` is the list of UNMAP.
pub(crate) fn request(
    command: &Command,
    parameters: &[u8],
    geometry: &Geometry,
) -> Result<Option<BlockRequest>, Sense> {
    // Zero blocks are no error and no work (SBC-3 5.11 and others).
    let on = |range: ByteRange, request: fn(ByteRange) -> BlockRequest| match range.bytes {
        0 => None,
        _ => Some(request(range)),
    };
    Ok(match *command {
        Command::Read(range) => on(range, BlockRequest::Read),
        Command::Write(range) => on(range, BlockRequest::Write),
        Command::WriteAndVerify(range) => on(range, BlockRequest::WriteAndVerify),
        Command::OrWrite(range) => on(range, BlockRequest::OrWrite),
        Command::CompareAndWrite(range) => on(range, BlockRequest::CompareAndWrite),
        Command::Prefetch(range) => on(range, BlockRequest::Prefetch),
        Command::Verify { range, check } => match check {
            ByteCheck::Medium => on(range, BlockRequest::Verify),
            ByteCheck::Each => on(range, BlockRequest::Compare),
            ByteCheck::Same => on(range, BlockRequest::CompareSame),
        },
        Command::WriteSame { range, source } => match source {
            SameSource::Host => on(range, BlockRequest::WriteSame),
            SameSource::Zeros => on(range, BlockRequest::WriteZeros),
        },
        Command::Unmap { .. } => match unmap_ranges(parameters, geometry)? {
            ranges if ranges.is_empty() => None,
            ranges => Some(BlockRequest::Unmap(ranges)),
        },
        // What was acknowledged is durable, so IMMED has nothing to wait for (SBC-3 5.22).
        Command::SynchronizeCache { immediate: true } => None,
        Command::SynchronizeCache { immediate: false } => Some(BlockRequest::Flush),
        // SBC-3 5.20 wants the medium closed by STOP. We flush and stay open: other hosts share the
        // disk, and one that shuts down must not take it from them.
        Command::StartStopUnit(PowerChange::Stop) => Some(BlockRequest::Flush),
        Command::GetLbaStatus { offset, allocation } => Some(BlockRequest::Provisioning {
            offset,
            descriptors_max: capacity::descriptors_max(allocation),
        }),
        _ => None,
    })
}

/// Reads the UNMAP parameter list (SBC-3 5.25.2).
fn unmap_ranges(list: &[u8], geometry: &Geometry) -> Result<Vec<ByteRange>, Sense> {
    const HEADER_BYTES: usize = 8;
    const DESCRIPTOR_BYTES: usize = 16;
    if list.is_empty() {
        return Ok(Vec::new());
    }
    // SBC-3 5.25.2: a list shorter than its header.
    let (header, rest) = list
        .split_at_checked(HEADER_BYTES)
        .ok_or(Sense::illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR))?;
    // UNMAP DATA LENGTH may say more than was sent; UNMAP BLOCK DESCRIPTOR DATA LENGTH counts
    // whole descriptors, what is left of the last one is ignored.
    let announced = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let bytes = announced.min(rest.len());
    let descriptors = rest[..bytes].chunks_exact(DESCRIPTOR_BYTES);
    if descriptors.len() > UNMAP_DESCRIPTORS_MAX {
        return Err(Sense::parameter_byte(2));
    }
    let mut ranges: Vec<ByteRange> = Vec::new();
    let mut bytes_total = 0_u64;
    for (index, descriptor) in descriptors.enumerate() {
        let range = unmap_range(descriptor, geometry)?;
        bytes_total += range.bytes;
        if bytes_total > UNMAP_BYTES_MAX {
            let at = HEADER_BYTES + index * DESCRIPTOR_BYTES + 8;
            return Err(Sense::parameter_byte(u16::try_from(at).unwrap_or(u16::MAX)));
        }
        append(&mut ranges, range);
    }
    Ok(ranges)
}

/// Appends a range, or lengthens the last one: each range is a commit of its own, and hosts list neighbours.
fn append(ranges: &mut Vec<ByteRange>, range: ByteRange) {
    match ranges.last_mut() {
        _ if range.bytes == 0 => {}
        Some(last) if last.offset + last.bytes == range.offset => last.bytes += range.bytes,
        _ => ranges.push(range),
    }
}

fn unmap_range(descriptor: &[u8], geometry: &Geometry) -> Result<ByteRange, Sense> {
    let mut fields = [0; 16];
    fields.copy_from_slice(descriptor);
    let fields = crate::scsi::cdb::Cdb(&fields);
    geometry.range(fields.u64(0), u64::from(fields.u32(8)))
}

/// What storage's answer means for a command.
pub(crate) fn answer(
    command: &Command,
    response: &BlockResponse,
    geometry: &Geometry,
) -> Result<Reply, Answer> {
    let fail = |key, code| Err(Answer::Check(Sense::new(key, code)));
    match response {
        BlockResponse::Done => Ok(Reply {
            data: match command {
                Command::Read(range) => ReplyData::Payload {
                    bytes: u32::try_from(range.bytes).expect("decoding bounds transfers"),
                },
                _ => ReplyData::None,
            },
            ..Reply::status(Status::Good)
        }),
        BlockResponse::Provisioning(runs) => Ok(match command {
            Command::GetLbaStatus { offset, allocation } => {
                Reply::parameters(capacity::lba_status(*offset, runs, geometry), *allocation)
            }
            _ => Reply::status(Status::Good),
        }),
        BlockResponse::Miscompare { offset } => Err(miscompare(command, *offset)),
        // SBC-3 4.20.1: INFORMATION is the first LBA in error.
        BlockResponse::MediumError { offset } => Err(Answer::Check(
            Sense::new(
                SenseKey::MediumError,
                AdditionalSense::UNRECOVERED_READ_ERROR,
            )
            .with_information(geometry.lba_of(*offset)),
        )),
        // SBC-3 4.7.3.6: no space for a thin volume is DATA PROTECT; reads go on.
        BlockResponse::NoSpace => match command {
            Command::PersistentReserveOut { .. } => fail(
                SenseKey::IllegalRequest,
                AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES,
            ),
            _ => fail(
                SenseKey::DataProtect,
                AdditionalSense::SPACE_ALLOCATION_FAILED,
            ),
        },
        BlockResponse::Failed => match command.writes_medium() {
            true => fail(SenseKey::HardwareError, AdditionalSense::WRITE_ERROR),
            false => fail(
                SenseKey::HardwareError,
                AdditionalSense::INTERNAL_TARGET_FAILURE,
            ),
        },
        BlockResponse::NotReady => fail(
            SenseKey::NotReady,
            AdditionalSense::NOT_READY_CAUSE_NOT_REPORTABLE,
        ),
        BlockResponse::Busy => match command {
            // The keys changed already; to try again would not be the same command.
            Command::PersistentReserveOut { .. } => fail(
                SenseKey::HardwareError,
                AdditionalSense::INTERNAL_TARGET_FAILURE,
            ),
            _ => Err(Answer::Busy),
        },
    }
}

fn miscompare(command: &Command, offset: u64) -> Answer {
    let code = AdditionalSense::MISCOMPARE_DURING_VERIFY;
    let sense = Sense::new(SenseKey::Miscompare, code);
    Answer::Check(match command {
        // SBC-3 5.2: INFORMATION says where in the data.
        Command::CompareAndWrite(_) => sense.with_information(offset),
        _ => sense,
    })
}

/// How storage's answer ends a command that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// CHECK CONDITION.
    Check(Sense),
    /// BUSY.
    Busy,
}

impl Command {
    /// Whether the command changes blocks of the disk.
    pub(crate) fn writes_medium(&self) -> bool {
        matches!(
            self,
            Command::Write(_)
                | Command::WriteAndVerify(_)
                | Command::CompareAndWrite(_)
                | Command::OrWrite(_)
                | Command::WriteSame { .. }
                | Command::Unmap { .. }
        )
    }
}
