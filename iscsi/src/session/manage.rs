//! Task management (RFC 7143 §4.2.3.3, §11.5): functions are answered when their last task is over.
//!
//! A task that the driver works on cannot be called back; it is marked, and its answer is dropped.
//! A *sweep* waits for such tasks of this session, an *affair* of the target for the sweeps of all.

use crate::effect::{CloseReason, Effect, SendData, TaskTag};
use crate::limits::FUNCTIONS_MAX;
use crate::pdu::nop::NopOut;
use crate::pdu::task_management::{
    Function, Response, TaskManagementRequest, TaskManagementResponse,
};
use crate::pdu::{self, Header, RESERVED_TAG};
use crate::scsi::nexus::Lun;
use crate::scsi::unit::Reset;
use crate::session::Session;
use crate::session::task::State;
use crate::target::{AffairId, AffairKind, Notice, Target};
use alloc::vec::Vec;

/// A function that waits for an affair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    affair: AffairId,
    initiator_task_tag: u32,
    function: Function,
}

/// Who is told when a sweep is over.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// The host, by the response to this function.
    Answer(u32),
    /// The target.
    Affair(AffairId),
    /// Nobody.
    Silence,
}

/// Aborted tasks that are still with the driver.
#[derive(Debug)]
pub(super) struct Sweep {
    purpose: Purpose,
    tasks: Vec<TaskTag>,
}

impl Session {
    pub(super) fn on_task_management(
        &mut self,
        target: &mut Target,
        header: &Header,
        effects: &mut Vec<Effect>,
    ) {
        let request = TaskManagementRequest::decode(header);
        let tag = request.initiator_task_tag;
        let refusal = match Function::from_code(request.function) {
            None | Some(Function::ClearAca) => Some(Response::NotSupported),
            Some(Function::TaskReassign) => Some(Response::ReassignNotSupported),
            _ if self.functions.len() + self.sweeps.len() >= FUNCTIONS_MAX => {
                Some(Response::Rejected)
            }
            Some(Function::TargetWarmReset | Function::TargetColdReset) => None,
            _ if !Lun(request.lun).is_zero() => Some(Response::LunDoesNotExist),
            _ => None,
        };
        match (refusal, Function::from_code(request.function)) {
            (Some(response), _) => self.answer(tag, response, effects),
            (None, Some(Function::AbortTask)) => self.abort_task(target, &request, effects),
            (None, Some(Function::AbortTaskSet)) => {
                let tasks = self.abort_all(target, effects);
                self.sweep(target, Purpose::Answer(tag), tasks, effects);
            }
            (None, Some(function)) => self.begin_affair(target, (function, tag), effects),
            (None, None) => {}
        }
    }

    /// Acts on what other sessions posted.
    pub(crate) fn attend(&mut self, target: &mut Target, effects: &mut Vec<Effect>) {
        let Some(admitted) = self.admitted else {
            return;
        };
        for notice in target.take_notices(admitted.key) {
            match notice {
                Notice::Abort(affair) => {
                    let tasks = self.abort_all(target, effects);
                    let purpose = affair.map_or(Purpose::Silence, Purpose::Affair);
                    self.sweep(target, purpose, tasks, effects);
                }
                Notice::Clear(affair) => {
                    if self.tasks.iter().any(|task| !task.aborted) {
                        target.unit.commands_cleared(admitted.nexus);
                    }
                    let tasks = self.abort_all(target, effects);
                    self.sweep(target, Purpose::Affair(affair), tasks, effects);
                }
                Notice::AffairOver(affair) => self.affair_over(target, affair, effects),
                Notice::Reinstated => {
                    self.abort_all(target, effects);
                    self.close(CloseReason::Reinstated, effects);
                }
                Notice::ColdReset => self.close(CloseReason::Reset, effects),
            }
        }
        self.log_out_if_quiet(effects);
        self.leave_if_over(target, effects);
    }

    /// Aborts every task; gives those that are still with the driver.
    pub(super) fn abort_all(
        &mut self,
        target: &mut Target,
        effects: &mut Vec<Effect>,
    ) -> Vec<TaskTag> {
        let tags: Vec<TaskTag> = self.tasks.iter().map(|task| task.tag).collect();
        let fresh: Vec<bool> = tags
            .iter()
            .map(|&tag| !core::mem::replace(&mut self.tasks.at(tag).aborted, true))
            .collect();
        let mut executing = Vec::new();
        for (tag, fresh) in tags.into_iter().zip(fresh) {
            if self.tasks.at(tag).state != State::Executing {
                self.end(target, tag, effects);
                continue;
            }
            if fresh {
                effects.push(Effect::Abort { task: tag });
            }
            executing.push(tag);
        }
        executing
    }

    /// An aborted task is over: ends the sweeps that waited for it.
    pub(super) fn swept(&mut self, target: &mut Target, tag: TaskTag, effects: &mut Vec<Effect>) {
        for sweep in &mut self.sweeps {
            sweep.tasks.retain(|&waiting| waiting != tag);
        }
        let mut at = 0;
        while at < self.sweeps.len() {
            if self.sweeps[at].tasks.is_empty() {
                let sweep = self.sweeps.remove(at);
                self.sweep_over(target, sweep.purpose, effects);
            } else {
                at += 1;
            }
        }
    }

    fn abort_task(
        &mut self,
        target: &mut Target,
        request: &TaskManagementRequest,
        effects: &mut Vec<Effect>,
    ) {
        let tag = request.initiator_task_tag;
        let Some(task) = self.tasks.find(request.referenced_task_tag) else {
            //= RFC 7143 §11.6.1
            //# A task that has not been received yet is marked as received; one that is not known does not exist.
            let response = if self.cancel_parked(request) {
                Response::Complete
            } else {
                Response::TaskDoesNotExist
            };
            self.answer(tag, response, effects);
            return;
        };
        let task = task.tag;
        self.tasks.at(task).aborted = true;
        if self.tasks.at(task).state == State::Executing {
            effects.push(Effect::Abort { task });
            self.sweep(target, Purpose::Answer(tag), alloc::vec![task], effects);
        } else {
            self.end(target, task, effects);
            self.answer(tag, Response::Complete, effects);
        }
    }

    /// A parked command is replaced by a request that does nothing, so that its CmdSN is used up.
    fn cancel_parked(&mut self, request: &TaskManagementRequest) -> bool {
        let nothing = NopOut {
            immediate: false,
            lun: [0; 8],
            initiator_task_tag: RESERVED_TAG,
            target_transfer_tag: RESERVED_TAG,
            cmd_sn: request.ref_cmd_sn,
            exp_stat_sn: 0,
        };
        match self.parked.get_mut(&request.ref_cmd_sn) {
            Some(header) if pdu::initiator_task_tag(header) == request.referenced_task_tag => {
                *header = nothing.encode();
                true
            }
            _ => false,
        }
    }

    fn begin_affair(
        &mut self,
        target: &mut Target,
        (function, tag): (Function, u32),
        effects: &mut Vec<Effect>,
    ) {
        let key = self.admitted.expect("a normal session").key;
        let kind = match function {
            Function::ClearTaskSet => AffairKind::ClearTaskSet,
            _ => AffairKind::Reset,
        };
        let affair = target.begin_affair(key, kind, effects);
        self.functions.push(Running {
            affair,
            initiator_task_tag: tag,
            function,
        });
        let tasks = self.abort_all(target, effects);
        match function {
            Function::LogicalUnitReset => target.unit.reset(Reset::Unit),
            Function::TargetWarmReset => target.unit.reset(Reset::TargetWarm),
            Function::TargetColdReset => target.unit.reset(Reset::TargetCold),
            _ => {}
        }
        self.sweep(target, Purpose::Affair(affair), tasks, effects);
    }

    fn sweep(
        &mut self,
        target: &mut Target,
        purpose: Purpose,
        tasks: Vec<TaskTag>,
        effects: &mut Vec<Effect>,
    ) {
        if tasks.is_empty() {
            self.sweep_over(target, purpose, effects);
        } else if !matches!(purpose, Purpose::Silence) {
            self.sweeps.push(Sweep { purpose, tasks });
        }
    }

    fn sweep_over(&mut self, target: &mut Target, purpose: Purpose, effects: &mut Vec<Effect>) {
        match purpose {
            Purpose::Answer(tag) => self.answer(tag, Response::Complete, effects),
            Purpose::Affair(affair) => {
                let Some(admitted) = self.admitted else {
                    return;
                };
                if target.affair_done(affair, admitted.key, effects) {
                    self.affair_over(target, affair, effects);
                }
            }
            Purpose::Silence => {}
        }
    }

    fn affair_over(&mut self, target: &mut Target, affair: AffairId, effects: &mut Vec<Effect>) {
        let Some(at) = self
            .functions
            .iter()
            .position(|running| running.affair == affair)
        else {
            return;
        };
        let running = self.functions.swap_remove(at);
        self.answer(running.initiator_task_tag, Response::Complete, effects);
        if running.function == Function::TargetColdReset {
            //= RFC 7143 §11.5.1
            //# For the TARGET COLD RESET function, the target then MUST terminate all of its connections to all initiators.
            let key = self.admitted.expect("a normal session").key;
            target.post_to_others(key, Notice::ColdReset, effects);
            self.close(CloseReason::Reset, effects);
        }
    }

    fn answer(&mut self, initiator_task_tag: u32, response: Response, effects: &mut Vec<Effect>) {
        let header = TaskManagementResponse {
            response: response as u8,
            initiator_task_tag,
            numbers: self.take_status_numbers(),
        }
        .encode();
        self.send(header, SendData::None, effects);
    }
}
