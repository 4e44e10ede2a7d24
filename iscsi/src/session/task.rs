//! Tasks of a session: one per SCSI command, in a slab whose slots are reused. Hot path.

use crate::effect::{TASKS_MAX, TaskTag};
use crate::pdu::RESERVED_TAG;
use crate::pdu::scsi::Attribute;
use crate::scsi::cdb::Command;
use crate::scsi::reply::{Reply, Transfer};
use alloc::vec::Vec;
use core::time::Duration;

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Waits for data from the host.
    Collecting,
    /// Has all, waits for its turn among the tasks.
    Queued,
    /// The driver works on it.
    Executing,
}

/// Data from the host, on its way. All sequences are in order (DataPDUInOrder, DataSequenceInOrder).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Inbound {
    /// Bytes that the command takes; more is thrown away.
    pub(super) need: u32,
    /// Bytes that came, in order from 0, including what is thrown away.
    pub(super) received: u32,
    /// Unsolicited Data-Out still comes.
    pub(super) unsolicited: bool,
    /// DataSN expected in the current sequence.
    pub(super) data_sn: u32,
    /// R2Ts sent.
    pub(super) asked: u32,
    /// R2Ts answered with their F bit.
    pub(super) answered: u32,
    /// Bytes that all R2Ts sent together reach to.
    pub(super) asked_to: u32,
    /// First byte that was asked for.
    pub(super) asked_from: u32,
}

impl Inbound {
    /// Whether the host may still be sending.
    pub(super) fn is_open(&self) -> bool {
        self.unsolicited || self.asked != self.answered
    }
}

/// A command.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) tag: TaskTag,
    pub(super) initiator_task_tag: u32,
    pub(super) lun: [u8; 8],
    pub(super) attribute: Attribute,
    /// Counts in the CmdSN window.
    pub(super) numbered: bool,
    /// Order of arrival in the session.
    pub(super) arrival: u64,
    pub(super) state: State,
    pub(super) command: Option<Command>,
    /// What the command moves by its CDB; the residual counts against it.
    pub(super) transfer: Transfer,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) expected_bytes: u32,
    pub(super) inbound: Inbound,
    /// Parameter list from the host.
    pub(super) parameters: Vec<u8>,
    /// The answer is known and waits for the host to stop sending.
    pub(super) verdict: Option<Reply>,
    /// No answer is wanted.
    pub(super) aborted: bool,
    /// Bytes of its task buffer.
    pub(super) buffer_bytes: usize,
    /// The driver knows of it.
    pub(super) with_driver: bool,
    /// Data from the host must make progress before this.
    pub(super) deadline: Duration,
}

/// The slab.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    slots: Vec<Option<Task>>,
    /// Initiator task tag of each slot, reserved when free: every command looks for its own tag, and
    /// four bytes a slot are looked through faster than tasks.
    tags: Vec<u32>,
    free: Vec<u16>,
    generation: u32,
    live: usize,
}

impl Tasks {
    /// Tasks that live.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// A tag for a new task; `None` when all slots are taken.
    pub(super) fn reserve(&mut self) -> Option<TaskTag> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < TASKS_MAX => {
                self.slots.push(None);
                self.tags.push(RESERVED_TAG);
                u16::try_from(self.slots.len() - 1).ok()?
            }
            None => return None,
        };
        self.generation = self.generation.wrapping_add(1);
        Some(TaskTag {
            slot,
            generation: self.generation,
        })
    }

    pub(super) fn insert(&mut self, task: Task) {
        assert!(task.initiator_task_tag != RESERVED_TAG);
        self.tags[task.tag.slot()] = task.initiator_task_tag;
        let slot = &mut self.slots[task.tag.slot()];
        assert!(slot.is_none());
        *slot = Some(task);
        self.live += 1;
    }

    pub(super) fn get(&self, tag: TaskTag) -> Option<&Task> {
        self.slots
            .get(tag.slot())?
            .as_ref()
            .filter(|task| task.tag == tag)
    }

    pub(super) fn get_mut(&mut self, tag: TaskTag) -> Option<&mut Task> {
        self.slots
            .get_mut(tag.slot())?
            .as_mut()
            .filter(|task| task.tag == tag)
    }

    /// Of a tag that lives by construction.
    pub(super) fn at(&mut self, tag: TaskTag) -> &mut Task {
        self.get_mut(tag).expect("the task lives")
    }

    pub(super) fn remove(&mut self, tag: TaskTag) -> Task {
        let task = self.slots[tag.slot()].take().expect("the task lives");
        assert!(task.tag == tag);
        self.tags[tag.slot()] = RESERVED_TAG;
        self.free.push(tag.slot);
        self.live -= 1;
        task
    }

    /// The live task with this initiator task tag that was not aborted.
    pub(super) fn find(&self, initiator_task_tag: u32) -> Option<&Task> {
        self.tags
            .iter()
            .zip(&self.slots)
            .filter(|&(&tag, _)| tag == initiator_task_tag)
            .find_map(|(_, slot)| slot.as_ref().filter(|task| !task.aborted))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Task> {
        self.slots.iter().flatten()
    }

    /// The task that an R2T's target transfer tag names.
    pub(super) fn by_transfer_tag(&self, target_transfer_tag: u32) -> Option<&Task> {
        let [high, low, ..] = target_transfer_tag.to_be_bytes();
        let slot = usize::from(u16::from_be_bytes([high, low]));
        self.slots.get(slot)?.as_ref()
    }
}

impl Task {
    /// Names the task and one of its R2Ts: 16 bits of slot, 16 bits of R2TSN.
    pub(super) fn transfer_tag(&self, r2t_sn: u32) -> u32 {
        // A slot is far below FFFFh, so this is never the reserved tag.
        u32::from(self.tag.slot) << 16 | (r2t_sn & 0xFFFF)
    }
}
