//! Data-Out and R2T: data from the host beyond what came with the command. Hot path.
//!
//! Everything is in order: bursts are answered in the order in which they were asked for, PDUs of a
//! burst by offset. Whatever is not makes the command end with CHECK CONDITION once the host stops.

use crate::connection::Arrival;
use crate::effect::{Effect, Segment, SendData, TaskTag};
use crate::framing;
use crate::pdu::data::{DataOut, ReadyToTransfer};
use crate::pdu::reject::Reason;
use crate::pdu::{Header, RESERVED_TAG};
use crate::session::command::{crc_error, unexpected_data, wrong_amount};
use crate::session::task::{State, Task};
use crate::session::{Current, Session, discard};
use crate::target::Target;
use alloc::vec::Vec;
use core::time::Duration;

/// Data on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataPiece {
    task: TaskTag,
    bytes: u32,
    is_final: bool,
    header: Header,
}

impl Session {
    pub(super) fn begin_data(&mut self, target: &mut Target, header: &Header) -> Segment {
        let data = DataOut::decode(header);
        let bytes = framing::data_bytes(header);
        let Some(tag) = self.addressee(&data) else {
            // Data of a command that was aborted or has been answered already.
            return discard(bytes);
        };
        let length = u32::try_from(bytes).expect("segments have 24 bits");
        let burst = self.parameters.max_burst_bytes;
        let first_burst = self.parameters.first_burst_bytes;
        let task = self.tasks.at(tag);
        let room = task.room(&data, burst, first_burst);
        if task.verdict.is_none() {
            task.verdict = match room {
                None => Some(unexpected_data(target)),
                Some(_) if data.data_sn != task.inbound.data_sn => Some(wrong_amount(target)),
                Some(_) if data.buffer_offset != task.inbound.received => {
                    Some(wrong_amount(target))
                }
                Some(room) if length > room => Some(wrong_amount(target)),
                // RFC 7143 §11.7.1: a solicited burst ends with the F bit, and only it does.
                Some(room)
                    if data.target_transfer_tag != RESERVED_TAG
                        && (length == room) != data.is_final =>
                {
                    Some(wrong_amount(target))
                }
                Some(_) => None,
            };
        }
        self.current = Current::Data(DataPiece {
            task: tag,
            bytes: length,
            is_final: data.is_final,
            header: *header,
        });
        self.place(tag, data.buffer_offset, bytes)
    }

    pub(super) fn finish_data(
        &mut self,
        target: &mut Target,
        now: Duration,
        piece: DataPiece,
        (data, arrival): (&[u8], Arrival),
        effects: &mut Vec<Effect>,
    ) {
        if arrival == Arrival::DigestError {
            //= RFC 7143 §7.8
            //# If the discarded PDU is a data PDU, the target terminates the task with a delivery subsystem failure.
            self.send_reject(&piece.header, Reason::DataDigestError, effects);
        }
        let Some(task) = self.tasks.get_mut(piece.task) else {
            return;
        };
        if arrival == Arrival::DigestError {
            task.verdict = Some(target.unit.refuse(&crc_error()));
        }
        task.take_parameters(data);
        task.inbound.received = task.inbound.received.saturating_add(piece.bytes);
        task.inbound.data_sn = task.inbound.data_sn.wrapping_add(1);
        if piece.is_final {
            task.inbound.data_sn = 0;
            if task.inbound.unsolicited {
                task.inbound.unsolicited = false;
            } else {
                task.inbound.answered = (task.inbound.answered + 1).min(task.inbound.asked);
            }
        }
        self.advance(target, now, piece.task, effects);
    }

    /// Sends as many R2Ts as were negotiated.
    pub(super) fn ask(&mut self, tag: TaskTag, effects: &mut Vec<Effect>) {
        loop {
            let numbers = self.numbers();
            let parameters = &self.parameters;
            let task = self.tasks.at(tag);
            let inbound = &mut task.inbound;
            if inbound.asked == 0 {
                inbound.asked_from = inbound.received;
                inbound.asked_to = inbound.received;
            }
            let waiting = inbound.asked - inbound.answered;
            if waiting >= parameters.outstanding_r2t || inbound.asked_to >= inbound.need {
                return;
            }
            let desired_bytes = (inbound.need - inbound.asked_to).min(parameters.max_burst_bytes);
            let (r2t_sn, buffer_offset) = (inbound.asked, inbound.asked_to);
            inbound.asked += 1;
            inbound.asked_to += desired_bytes;
            let header = ReadyToTransfer {
                lun: task.lun,
                initiator_task_tag: task.initiator_task_tag,
                target_transfer_tag: task.transfer_tag(r2t_sn),
                numbers,
                r2t_sn,
                buffer_offset,
                desired_bytes,
            }
            .encode();
            self.send(header, SendData::None, effects);
        }
    }

    /// The task that waits for this data.
    fn addressee(&self, data: &DataOut) -> Option<TaskTag> {
        let task = if data.target_transfer_tag == RESERVED_TAG {
            self.tasks.find(data.initiator_task_tag)
        } else {
            self.tasks.by_transfer_tag(data.target_transfer_tag)
        }?;
        let waits = task.initiator_task_tag == data.initiator_task_tag
            && task.state == State::Collecting
            && !task.aborted;
        waits.then_some(task.tag)
    }
}

impl Task {
    /// Bytes that the current sequence may still bring; `None` when this data is not part of it.
    fn room(&self, data: &DataOut, burst_bytes: u32, first_burst_bytes: u32) -> Option<u32> {
        let inbound = &self.inbound;
        if data.target_transfer_tag == RESERVED_TAG {
            let end = first_burst_bytes.min(self.expected_bytes);
            return inbound
                .unsolicited
                .then(|| end.saturating_sub(inbound.received));
        }
        let current = inbound.answered < inbound.asked
            && data.target_transfer_tag == self.transfer_tag(inbound.answered);
        current.then(|| {
            let bursts = (inbound.answered + 1).saturating_mul(burst_bytes);
            let end = inbound
                .asked_from
                .saturating_add(bursts)
                .min(inbound.asked_to);
            end.saturating_sub(inbound.received)
        })
    }
}
