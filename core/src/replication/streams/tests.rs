//! Leases count from the sending, and only answers behind an adoption count.

use super::*;

const STORE: StoreId = StoreId([1; 16]);
const STREAM: StreamId = StreamId(7);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn streams() -> Streams {
    let mut streams = Streams::default();
    streams.up(ms(0), STREAM, STORE, Opened::Here);
    streams
}

#[test]
fn a_lease_counts_from_the_sending_of_its_heartbeat() {
    let mut streams = streams();
    assert_eq!(streams.heartbeat(ms(100), STREAM), Some(1));
    assert_eq!(streams.heartbeat(ms(300), STREAM), Some(2));
    assert_eq!(streams.lease_until(STREAM, 0), None);
    streams.on_grant(STREAM, 1, ms(999), Planted::default());
    assert_eq!(streams.lease_until(STREAM, 0), Some(ms(100) + LEASE));
    assert_eq!(streams.lease_until(STREAM, 1), None);
    streams.on_grant(STREAM, 2, ms(999), Planted::default());
    assert_eq!(streams.lease_until(STREAM, 1), Some(ms(300) + LEASE));
}

#[test]
fn an_answer_twice_late_or_never_asked_for_grants_nothing() {
    let mut streams = streams();
    streams.heartbeat(ms(100), STREAM);
    streams.heartbeat(ms(200), STREAM);
    streams.on_grant(STREAM, 9, ms(999), Planted::default());
    assert_eq!(streams.lease_until(STREAM, 0), None);
    streams.heartbeat(ms(400), STREAM);
    streams.on_grant(STREAM, 3, ms(999), Planted::default());
    streams.on_grant(STREAM, 1, ms(999), Planted::default());
    streams.on_grant(STREAM, 3, ms(999), Planted::default());
    assert_eq!(streams.lease_until(STREAM, 0), Some(ms(400) + LEASE));
}

#[test]
fn unanswered_heartbeats_are_bounded() {
    let mut streams = streams();
    for at in 0..HEARTBEATS_UNANSWERED_MAX as u64 + 1 {
        streams.heartbeat(ms(at), STREAM);
    }
    streams.on_grant(STREAM, 1, ms(999), Planted::default());
    assert_eq!(streams.lease_until(STREAM, 0), None);
    streams.on_grant(STREAM, 2, ms(999), Planted::default());
    assert_eq!(streams.lease_until(STREAM, 0), Some(ms(1) + LEASE));
}

#[test]
fn a_newer_stream_is_not_forgotten_with_the_older() {
    let mut streams = streams();
    streams.up(ms(5), StreamId(8), STORE, Opened::Here);
    streams.down(STREAM);
    assert_eq!(streams.to(STORE), Some(StreamId(8)));
    streams.down(StreamId(8));
    assert_eq!(streams.to(STORE), None);
}
