//! Another copy in the eyes of the primary: how far it is, whether it is alive, how fast it is.

use super::filling::Filling;
use super::streams::Streams;
use crate::engine::{Member, StreamId};
use crate::limits::{
    ATTACH_RETRY, DIVERGED_RETRY_MAX, DOWN_GRACE, PEER_SILENCE, SLOW_FACTOR, SLOW_LATENCY_MIN,
    SLOW_TIME,
};
use crate::lsn::Lsn;
use crate::peer::{Attached, DetachReason};
use core::time::Duration;

/// One other copy.
#[derive(Debug)]
pub struct Follower {
    /// Which, and where.
    pub member: Member,
    /// The stream to it.
    pub stream: Option<StreamId>,
    /// How far it is.
    pub state: State,
    /// What it has durable; counts only while it follows.
    pub durable: Lsn,
    /// The commit point that it was told.
    pub told: Lsn,
    /// The next record to send.
    pub next: Lsn,
    /// Grants count from answers behind this one on.
    pub granted_before: u64,
    /// When it followed last, or the reign began.
    pub since: Duration,
    /// It followed in this reign.
    pub followed: bool,
    /// Commits wait for it already, so that it catches up and can be proposed.
    pub joining: bool,
    /// Nothing is tried with it before.
    pub retry_at: Duration,
    /// How long it was left alone last because its history is another; zero: it was not.
    diverged_wait: Duration,
    /// It is not proposed before: it was too slow.
    pub not_before: Duration,
    /// What it is sent to lack nothing any more.
    pub filling: Option<Filling>,
    /// A record under way to it, and when it was sent.
    sample: Option<(Lsn, Duration)>,
    /// How long a record takes to become durable there, smoothed.
    pub latency: Duration,
    /// When `latency` was measured last.
    sampled_at: Duration,
    slow_since: Option<Duration>,
}

/// How far a copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No stream.
    Down,
    /// Asked what it has.
    Attaching,
    /// It told; the reign has not begun yet.
    Attached(Attached),
    /// Told to follow; records are on their way behind that.
    Adopting,
    /// Follows.
    Following,
    /// It does not follow, for this reason.
    Refused(DetachReason),
}

impl Follower {
    /// A copy of which nothing is known.
    pub fn new(now: Duration, member: Member) -> Self {
        Follower {
            member,
            stream: None,
            state: State::Down,
            durable: Lsn(0),
            told: Lsn(0),
            next: Lsn(0),
            granted_before: 0,
            since: now,
            followed: false,
            joining: false,
            retry_at: Duration::ZERO,
            diverged_wait: Duration::ZERO,
            not_before: Duration::ZERO,
            filling: None,
            sample: None,
            latency: Duration::ZERO,
            sampled_at: now,
            slow_since: None,
        }
    }

    /// It does not follow any more.
    pub fn stops(&mut self, now: Duration, state: State) {
        let mut wait = ATTACH_RETRY;
        if self.state == State::Following {
            self.since = now;
            self.diverged_wait = Duration::ZERO; // Its history was the primary's.
        }
        if state == State::Refused(DetachReason::Diverged) {
            wait = (self.diverged_wait * 2).clamp(ATTACH_RETRY, DIVERGED_RETRY_MAX);
            self.diverged_wait = wait;
        }
        self.state = state;
        self.joining = false;
        self.filling = None;
        self.sample = None;
        self.slow_since = None;
        self.retry_at = now + wait;
    }

    /// Why it does not follow; `None`: it does, or is about to, or cannot be reached.
    pub fn refusal(&self) -> Option<DetachReason> {
        match self.state {
            State::Refused(reason) => Some(reason),
            // It is asked again for ever; in between it is as it was.
            State::Attaching if !self.diverged_wait.is_zero() => Some(DetachReason::Diverged),
            _ => None,
        }
    }

    /// What it has durable for a count of copies.
    pub fn counted(&self) -> Lsn {
        match self.state {
            State::Following => self.durable,
            _ => Lsn(0),
        }
    }

    /// Whether records are sent to it.
    pub fn is_fed(&self) -> bool {
        matches!(self.state, State::Adopting | State::Following)
    }

    /// Whether it follows and lacks nothing but records under way.
    pub fn is_whole(&self) -> bool {
        self.state == State::Following && self.filling.is_none()
    }

    /// Whether its lease holds at `now`.
    pub fn grants(&self, now: Duration, streams: &Streams) -> bool {
        let until = self
            .stream
            .filter(|_| self.state == State::Following)
            .and_then(|stream| streams.lease_until(stream, self.granted_before));
        until.is_some_and(|until| now < until)
    }

    /// Whether it is to be taken for lost.
    pub fn is_lost(&self, now: Duration, streams: &Streams) -> bool {
        let stream = self.stream.and_then(|id| streams.get(id));
        match (&self.state, stream) {
            (State::Following, Some(stream)) => now > stream.heard + PEER_SILENCE,
            (_, None) if self.followed => now > self.since + DOWN_GRACE,
            _ => now > self.since + PEER_SILENCE,
        }
    }

    /// A record was sent to it.
    pub fn sent(&mut self, now: Duration, lsn: Lsn) {
        self.next = lsn.next();
        if self.sample.is_none() && self.state == State::Following {
            self.sample = Some((lsn, now));
        }
    }

    /// It has everything up to `durable`. False: that is not possible, or nothing new.
    pub fn acknowledges(&mut self, now: Duration, durable: Lsn) -> bool {
        if durable >= self.next || durable <= self.durable {
            return false;
        }
        self.durable = durable;
        if let Some((_, sent)) = self.sample.take_if(|(lsn, _)| *lsn <= durable) {
            self.latency = (self.latency * 7 + now.saturating_sub(sent)) / 8;
            self.sampled_at = now;
        }
        true
    }

    /// That it was slow so far does not count: a copy that was silent and comes back has a new start.
    pub fn forgive(&mut self) {
        self.slow_since = None;
    }

    /// Whether it was slow for long, compared with `others` (the middle latency of the other copies).
    pub fn is_slow(&mut self, now: Duration, others: Duration) -> bool {
        if self.sample.is_none() && now > self.sampled_at + SLOW_TIME / 3 {
            self.latency = Duration::ZERO; // Nothing was asked of it for long: it may be fast by now.
        }
        let waiting = self
            .sample
            .map_or(Duration::ZERO, |(_, sent)| now.saturating_sub(sent));
        let latency = self.latency.max(waiting);
        if latency <= SLOW_LATENCY_MIN.max(others * SLOW_FACTOR) {
            self.slow_since = None;
            return false;
        }
        let since = *self.slow_since.get_or_insert(now);
        now >= since + SLOW_TIME
    }
}

#[cfg(test)]
mod tests;
