//! The commands of a connection that hold memory: buffers for data from the host, data for the host.

use super::budget::Share;
use crate::runtime::buffer::Buffer;
use crate::volume::rope::Rope;
use holdfast_iscsi::effect::TaskTag;
use std::rc::Rc;

/// One command.
struct Task {
    tag: TaskTag,
    buffer: Option<Buffer>,
    data: Rope,
    shares: Vec<Share>,
}

/// All of a connection, by slot.
#[derive(Default)]
pub(super) struct Tasks {
    slots: Vec<Option<Task>>,
}

impl Tasks {
    /// Makes a buffer for data from the host.
    pub(super) fn start(&mut self, tag: TaskTag, buffer: Buffer, share: Share) {
        let task = self.task(tag);
        task.buffer = Some(buffer);
        task.shares.push(share);
    }

    /// Where data from the host goes.
    pub(super) fn buffer(&mut self, tag: TaskTag) -> Option<&mut [u8]> {
        let task = self.slots.get_mut(tag.slot())?.as_mut()?;
        let buffer = task.buffer.as_mut().filter(|_| task.tag == tag)?;
        Some(buffer.bytes_mut())
    }

    /// The filled buffer, to be executed.
    pub(super) fn take_buffer(&mut self, tag: TaskTag) -> Option<Rc<Buffer>> {
        self.task(tag).buffer.take().map(Rc::new)
    }

    /// Keeps data for the host, unless the task has ended meanwhile.
    pub(super) fn keep(&mut self, tag: TaskTag, data: Rope, shares: Vec<Share>) {
        let task = self.slots.get_mut(tag.slot()).and_then(Option::as_mut);
        if let Some(task) = task.filter(|task| task.tag == tag) {
            task.data = data;
            task.shares.extend(shares);
        }
    }

    /// Makes sure that the task is known.
    pub(super) fn expect(&mut self, tag: TaskTag) {
        self.task(tag);
    }

    /// Data for the host.
    pub(super) fn data(&self, tag: TaskTag) -> Option<&Rope> {
        let task = self.slots.get(tag.slot())?.as_ref()?;
        (task.tag == tag).then_some(&task.data)
    }

    /// Forgets a task; gives back what it held of the budget.
    pub(super) fn end(&mut self, tag: TaskTag) -> Vec<Share> {
        let Some(slot) = self.slots.get_mut(tag.slot()) else {
            return Vec::new();
        };
        slot.take_if(|task| task.tag == tag)
            .map_or(Vec::new(), |task| task.shares)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Tasks::default();
    }

    fn task(&mut self, tag: TaskTag) -> &mut Task {
        let slot = tag.slot();
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let entry = &mut self.slots[slot];
        if entry.as_ref().is_some_and(|task| task.tag != tag) {
            *entry = None;
        }
        entry.get_or_insert_with(|| Task {
            tag,
            buffer: None,
            data: Rope::default(),
            shares: Vec::new(),
        })
    }
}
