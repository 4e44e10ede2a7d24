//! The reading task of a connection.

use super::connection::Conn;
use super::handover::Handover;
use super::receive::{Direct, Receiver};
use super::service::Inner;
use crate::limits::{QUEUED_BYTES_MAX, SCRATCH_BYTES};
use crate::messages::ToShard;
use crate::runtime::socket::Reader;
use crate::runtime::task;
use std::io;
use std::rc::Rc;

/// Reads until the connection ends or leaves for another shard.
pub(super) async fn read(
    service: Rc<Inner>,
    conn: Rc<Conn>,
    mut reader: Reader,
    mut unread: Vec<u8>,
) {
    let mut receiver = Receiver::default();
    loop {
        if !unread.is_empty() {
            let used = receiver.feed(&conn, &unread);
            unread.drain(..used);
        }
        if let Some(elsewhere) = conn.elsewhere() {
            conn.output.flushed().await;
            hand_over(&service, &conn, &reader, unread, elsewhere);
            return;
        }
        if conn.is_closing() {
            break;
        }
        wait_for_room(&conn).await;
        let received = match receiver.direct(&conn) {
            Some(place) => read_direct(&service, &conn, &mut reader, &mut receiver, place).await,
            None => read_scratch(&service, &conn, &mut reader, &mut receiver, &mut unread).await,
        };
        if !matches!(received, Ok(1..)) {
            break;
        }
        task::yield_if_needed().await;
    }
    // What was queued before the end is still sent; the writer then ends the socket.
    conn.output.end();
    conn.output.flushed().await;
    conn.on_socket_gone();
}

/// Back-pressure: a host that does not take its answers is not read from.
async fn wait_for_room(conn: &Conn) {
    while conn.output.queued() > QUEUED_BYTES_MAX && !conn.is_closing() {
        conn.output.drained.rung().await;
    }
}

/// One `recv` brings many small PDUs.
async fn read_scratch(
    service: &Rc<Inner>,
    conn: &Rc<Conn>,
    reader: &mut Reader,
    receiver: &mut Receiver,
    unread: &mut Vec<u8>,
) -> io::Result<usize> {
    let received: io::Result<usize> = reader
        .read_with(|receive| receive(&mut service.scratch.borrow_mut()))
        .await;
    let count = received?;
    // No other task ran since the bytes came: the scratch buffer is still ours.
    let scratch = service.scratch.borrow();
    let used = receiver.feed(conn, &scratch[..count]);
    unread.extend_from_slice(&scratch[used..count]);
    Ok(count)
}

/// Bulk data goes straight where it belongs; when its task was aborted meanwhile, nowhere.
async fn read_direct(
    service: &Rc<Inner>,
    conn: &Rc<Conn>,
    reader: &mut Reader,
    receiver: &mut Receiver,
    place: Direct,
) -> io::Result<usize> {
    let count: io::Result<usize> = reader
        .read_with(|receive| {
            let received = conn.with_buffer(place.task, |buffer| {
                receive(&mut buffer[place.start..place.start + place.bytes])
            });
            received.unwrap_or_else(|| {
                receive(&mut service.scratch.borrow_mut()[..place.bytes.min(SCRATCH_BYTES)])
            })
        })
        .await;
    let count = count?;
    receiver.received_direct(conn, place, count);
    Ok(count)
}

fn hand_over(
    service: &Rc<Inner>,
    conn: &Rc<Conn>,
    reader: &Reader,
    unread: Vec<u8>,
    elsewhere: super::connection::Elsewhere,
) {
    let machine = conn.take_machine();
    if let (Ok(fd), Some(machine)) = (reader.duplicate(), machine) {
        let handover = Handover {
            fd,
            machine,
            peer: conn.peer,
            remote: conn.remote.clone(),
            unread,
            target_name: elsewhere.target_name,
        };
        // A shard that takes no messages loses the connection; its host logs in again.
        let message = ToShard::Connection(Box::new(handover));
        let _ = service.peers.borrow_mut()[elsewhere.shard].send(message);
    }
    service.leave(conn);
}
