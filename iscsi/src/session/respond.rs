//! How commands end: Data-In, status, residual. Hot path.

use crate::effect::{Effect, SendData, TaskTag};
use crate::pdu::data::DataIn;
use crate::pdu::scsi::{Attribute, Residual, ScsiResponse};
use crate::scsi::reply::{Reply, ReplyData, Status, Transfer};
use crate::session::task::Task;
use crate::session::{Session, index};
use crate::target::Target;
use alloc::vec::Vec;

impl Session {
    /// Answers a command and ends it.
    pub(super) fn respond(
        &mut self,
        target: &mut Target,
        tag: TaskTag,
        reply: Reply,
        effects: &mut Vec<Effect>,
    ) {
        let task = self.tasks.at(tag);
        let produced = u32::try_from(reply.data.bytes()).expect("transfers are bounded");
        let residual = task.residual(produced);
        let data_bytes = if task.read && !task.write {
            produced.min(task.expected_bytes)
        } else {
            0
        };
        let initiator_task_tag = task.initiator_task_tag;
        let asked = task.inbound.asked;
        // The window opens with the answer, so that the answer can say so.
        if core::mem::take(&mut task.numbered) {
            self.window.close();
        }
        //= RFC 7143 §11.4.2
        //# Status can be collapsed into the last Data-In PDU only if the command completed without an exception.
        let collapsed = data_bytes > 0 && reply.status == Status::Good;
        let mut data_in_count = 0;
        if data_bytes > 0 {
            let last = collapsed.then_some((reply.status as u8, residual));
            data_in_count = self.send_data_in(tag, reply.data, data_bytes, last, effects);
        }
        if !collapsed {
            let header = ScsiResponse {
                status: reply.status as u8,
                residual,
                initiator_task_tag,
                exp_data_sn: asked + data_in_count,
                numbers: self.take_status_numbers(),
            }
            .encode();
            self.send(header, sense_data(reply.sense), effects);
        }
        self.end(target, tag, effects);
        self.log_out_if_quiet(effects);
    }

    /// Forgets a task, answered or not, and lets go what waited for it.
    pub(super) fn end(&mut self, target: &mut Target, tag: TaskTag, effects: &mut Vec<Effect>) {
        let task = self.tasks.remove(tag);
        if task.numbered {
            self.window.close();
        }
        self.buffer_bytes -= task.buffer_bytes;
        if task.with_driver {
            effects.push(Effect::EndTask { task: tag });
        }
        if self.ordered > 0 {
            if task.attribute == Attribute::Ordered {
                self.ordered -= 1;
            }
            if !self.closing {
                self.run_queued(target, effects);
            }
        }
    }

    /// Sends data in pieces that the host takes; gives their number.
    fn send_data_in(
        &mut self,
        tag: TaskTag,
        data: ReplyData,
        data_bytes: u32,
        last: Option<(u8, Residual)>,
        effects: &mut Vec<Effect>,
    ) -> u32 {
        let initiator_task_tag = self.tasks.at(tag).initiator_task_tag;
        let (mut offset, mut data_sn, mut burst) = (0, 0, 0);
        while offset < data_bytes {
            //= RFC 7143 §13.13
            //# A sequence of Data-In PDUs has at most MaxBurstLength bytes and ends with the F bit.
            let room = self.parameters.max_burst_bytes - burst;
            let piece = (data_bytes - offset)
                .min(self.parameters.send_segment_bytes)
                .min(room);
            let is_last = offset + piece == data_bytes;
            burst = if piece == room { 0 } else { burst + piece };
            let status = last.filter(|_| is_last);
            let numbers = match status {
                Some(_) => self.take_status_numbers(),
                None => self.numbers(),
            };
            let header = DataIn {
                is_final: is_last || burst == 0,
                status,
                initiator_task_tag,
                numbers,
                data_sn,
                buffer_offset: offset,
            }
            .encode();
            let (start, bytes) = (index(offset), index(piece));
            let data = match &data {
                ReplyData::Parameters(held) => SendData::Bytes(held[start..start + bytes].to_vec()),
                _ => SendData::Task {
                    task: tag,
                    offset: start,
                    bytes,
                },
            };
            self.send(header, data, effects);
            offset += piece;
            data_sn += 1;
        }
        data_sn
    }
}

impl Task {
    /// Difference between what the host expected and what the command moves.
    fn residual(&self, produced: u32) -> Residual {
        match self.transfer {
            Transfer::PayloadFromHost { bytes } | Transfer::ParametersFromHost { bytes } => {
                let offered = if self.write { self.expected_bytes } else { 0 };
                Residual::of(offered, bytes)
            }
            _ if self.read => Residual::of(self.expected_bytes, produced),
            // The host offers data that the command does not take.
            _ if self.write => Residual::of(self.expected_bytes, 0),
            _ => Residual::of(0, produced),
        }
    }
}

/// Data segment of a SCSI Response (RFC 7143 §11.4.7): length, then sense data.
fn sense_data(sense: Vec<u8>) -> SendData {
    if sense.is_empty() {
        return SendData::None;
    }
    let length = u16::try_from(sense.len()).expect("sense data is at most 252 bytes");
    let mut data = Vec::with_capacity(2 + sense.len());
    data.extend_from_slice(&length.to_be_bytes());
    data.extend_from_slice(&sense);
    SendData::Bytes(data)
}
