//! When a copy that does not follow is tried again.

use super::{Follower, State};
use crate::engine::Member;
use crate::id::{NodeId, StoreId};
use crate::limits::{ATTACH_RETRY, DIVERGED_RETRY_MAX};
use crate::peer::DetachReason;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

const DIVERGED: State = State::Refused(DetachReason::Diverged);

fn follower() -> Follower {
    let member = Member {
        replica: StoreId([2; 16]),
        node: NodeId([2; 16]),
        address: String::new(),
        in_sync: false,
    };
    Follower::new(Duration::ZERO, member)
}

/// Tries it whenever it is due, and finds that its history is another; gives the waits.
fn waits(follower: &mut Follower, tries: usize) -> Vec<Duration> {
    let mut now = Duration::from_secs(1);
    let mut waits = Vec::new();
    for _ in 0..tries {
        follower.stops(now, State::Attaching);
        follower.stops(now, DIVERGED);
        waits.push(follower.retry_at - now);
        now = follower.retry_at;
    }
    waits
}

/// Each try costs an answer of the copy and a line in its log: a copy that stays as it is for a night
/// must not be asked a million times.
#[test]
fn a_copy_with_another_history_is_tried_ever_more_seldom() {
    let waits = waits(&mut follower(), 12);
    assert_eq!(waits[0], ATTACH_RETRY);
    assert_eq!(waits[1], ATTACH_RETRY * 2);
    assert!(waits.is_sorted(), "{waits:?}");
    assert_eq!(waits[11], DIVERGED_RETRY_MAX);
}

#[test]
fn a_copy_that_followed_begins_anew() {
    let mut follower = follower();
    waits(&mut follower, 12);
    follower.state = State::Following;
    follower.stops(Duration::from_secs(100), State::Down);
    assert_eq!(waits(&mut follower, 1), [ATTACH_RETRY]);
}

#[test]
fn other_refusals_are_tried_again_soon_and_say_why() {
    let mut follower = follower();
    let now = Duration::from_secs(1);
    for _ in 0..12 {
        follower.stops(now, State::Refused(DetachReason::NotAssigned));
        assert_eq!(follower.retry_at - now, ATTACH_RETRY);
        assert_eq!(follower.refusal(), Some(DetachReason::NotAssigned));
        follower.stops(now, State::Attaching);
        assert_eq!(follower.refusal(), None);
    }
    waits(&mut follower, 1);
    follower.stops(now, State::Attaching);
    assert_eq!(follower.refusal(), Some(DetachReason::Diverged));
}
