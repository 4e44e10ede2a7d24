//! Bounds of the coordinator, with unit and reason.

use core::time::Duration;

/// A node whose agent was not heard for so long is silent: four beats of 500 ms.
pub const NODE_SILENT: Duration = Duration::from_secs(2);

/// An in-sync secondary that did not hear its primary for so long believes that it is gone.
///
/// Below the lease, so that most of it has run out when the fences are sent; well above the 600 ms
/// after which the primary would have asked for a set without the secondary.
pub const PRIMARY_SILENT: Duration = Duration::from_millis(1500);

/// Fences are answered within this, or the election goes on without the copy.
pub const FENCE_ANSWERS: Duration = Duration::from_secs(1);

/// An unanswered fence is sent again after this: one lost message does not cost an election.
pub const FENCE_RETRY: Duration = Duration::from_millis(250);

/// A volume without an eligible copy asks all of them again after this.
pub const CLOSED_RETRY: Duration = Duration::from_secs(1);

/// A new primary shows itself within this after its assignment was registered, or another reign
/// begins. Covers the assignment's way, the new reign's record and the next report.
pub const REIGN_GRACE: Duration = Duration::from_secs(3);

/// Copies of one volume at most: three, and one that replaces another.
pub const REPLICAS_MAX: usize = 4;

/// Effects of one step at most: a fence for each copy, a commit, answers and notes.
pub const STEP_EFFECTS_MAX: usize = 2 * REPLICAS_MAX + 8;

const _: () = assert!(FENCE_RETRY.as_millis() * 2 < FENCE_ANSWERS.as_millis());
const _: () = assert!(PRIMARY_SILENT.as_millis() < NODE_SILENT.as_millis());
