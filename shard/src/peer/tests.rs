//! Streams over loopback: order, bounds, and ends of every kind.

use super::accept::accept;
use super::hub::{Hub, Identity};
use super::inbox::Incoming;
use super::stream::{Dialer, Owner, Stream, answer};
use crate::runtime::buffer::ReadBytes;
use crate::runtime::local::Bell;
use crate::runtime::socket::{listen, local_address};
use crate::runtime::task;
use crate::runtime::testing::run;
use crate::volume::rope::{Rope, Source};
use holdfast_core::block::{Block, BlockRange};
use holdfast_core::checksum::block_checksums;
use holdfast_core::engine::Opened;
use holdfast_core::id::{ClusterId, NodeId, StoreId, VolumeId};
use holdfast_core::lsn::{Epoch, Lsn};
use holdfast_core::peer::{Body, Message, Refusal};
use holdfast_core::store::append::AppendBody;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

/// A store that only listens.
struct Ear {
    store: StoreId,
    ups: Cell<usize>,
    downs: Cell<usize>,
    heard: RefCell<Vec<(Message, Vec<u8>)>>,
    stream: RefCell<Option<Rc<Stream>>>,
    changed: Bell,
}

impl Ear {
    fn new(store: u8) -> Rc<Self> {
        Rc::new(Ear {
            store: StoreId([store; 16]),
            ups: Cell::new(0),
            downs: Cell::new(0),
            heard: RefCell::default(),
            stream: RefCell::default(),
            changed: Bell::default(),
        })
    }

    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            self.changed.rung().await;
        }
    }

    fn stream(&self) -> Rc<Stream> {
        Rc::clone(self.stream.borrow().as_ref().expect("a stream is up"))
    }
}

impl Owner for Ear {
    fn store(&self) -> StoreId {
        self.store
    }

    fn on_up(self: &Rc<Self>, stream: &Rc<Stream>) {
        self.ups.set(self.ups.get() + 1);
        *self.stream.borrow_mut() = Some(Rc::clone(stream));
        self.changed.ring();
    }

    fn on_message(self: &Rc<Self>, _: &Rc<Stream>, incoming: Incoming) {
        let bytes = incoming.payload.map_or(Vec::new(), |p| p.buffer.to_vec());
        self.heard.borrow_mut().push((incoming.message, bytes));
        self.changed.ring();
    }

    fn on_down(self: &Rc<Self>, _: &Rc<Stream>) {
        self.downs.set(self.downs.get() + 1);
        self.changed.ring();
    }
}

/// A process with one store.
struct Side {
    hub: Rc<Hub>,
    ear: Rc<Ear>,
}

impl Side {
    fn new(store: u8, cluster: u8, queued_max: usize) -> Side {
        let hub = Hub::new(None, queued_max);
        hub.set_identity(Identity {
            cluster: ClusterId([cluster; 16]),
            node: NodeId([store; 16]),
        });
        let ticking = Rc::clone(&hub);
        task::spawn(async move {
            loop {
                task::sleep(crate::shard::TICK).await;
                ticking.tick();
            }
        });
        let ear = Ear::new(store);
        Side { hub, ear }
    }

    fn listen(&self) -> SocketAddr {
        let fd = listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = local_address(&fd).expect("bound");
        let (hub, ear) = (Rc::clone(&self.hub), Rc::clone(&self.ear));
        let route = Rc::new(move |accepted: super::stream::Accepted| {
            let here = accepted.hello.to_store == ear.store;
            answer(&hub, here.then_some(&ear).ok_or(Refusal::Store), accepted);
        });
        task::spawn(accept(Rc::clone(&self.hub), fd, route));
        address
    }
}

const ROOM: usize = 32 << 20;

fn record(lsn: u64, blocks: &[u8]) -> (Message, Rope) {
    let bytes: Vec<u8> = blocks.iter().flat_map(|&byte| [byte; 4096]).collect();
    let message = Message::Volume {
        volume: VolumeId([9; 16]),
        epoch: Epoch(1),
        body: Body::Record {
            lsn: Lsn(lsn),
            epoch: Epoch(1),
            committed: Lsn(0),
            body: AppendBody::Write {
                range: BlockRange {
                    first: Block(0),
                    count: u32::try_from(blocks.len()).expect("few"),
                },
                checksums: block_checksums(&bytes),
            },
        },
    };
    let mut rope = Rope::default();
    let length = bytes.len();
    rope.push(Source::Read(ReadBytes::Memory(bytes.into())), 0, length);
    (message, rope)
}

#[test]
fn messages_arrive_in_order_and_whole_whatever_their_size() {
    run(|| async {
        let (near, far) = (Side::new(1, 7, ROOM), Side::new(2, 7, ROOM));
        let address = far.listen();
        let _dialer = Dialer::start(&near.hub, &near.ear, far.ear.store, address);
        near.ear.until(|ear| ear.ups.get() == 1).await;
        far.ear.until(|ear| ear.ups.get() == 1).await;
        assert_eq!(near.ear.stream().opened, Opened::Here);
        assert_eq!(far.ear.stream().opened, Opened::There);
        assert_eq!(far.ear.stream().remote, near.ear.store);
        let mut sent = Vec::new();
        for lsn in 0..500_u64 {
            let byte = u8::try_from(lsn % 250).expect("small");
            let (message, rope) = record(lsn, &vec![byte; 1 + usize::from(byte) % 16]);
            let stream = near.ear.stream();
            if lsn % 7 == 0 {
                // What is read later keeps its place.
                let place = stream.send_awaiting(&message);
                let filled = rope.clone();
                task::spawn(async move {
                    futures_lite::future::yield_now().await;
                    stream.fill(&place, filled);
                });
            } else {
                stream.send(&message, rope.pieces());
            }
            let mut bytes = vec![0; rope.len()];
            rope.copy_to(&mut bytes);
            sent.push((message, bytes));
            near.ear
                .stream()
                .send(&Message::Heartbeat { seq: lsn }, &[]);
            sent.push((Message::Heartbeat { seq: lsn }, Vec::new()));
        }
        far.ear.until(|ear| ear.heard.borrow().len() == 1000).await;
        assert!(*far.ear.heard.borrow() == sent);
        far.ear
            .stream()
            .send(&Message::HeartbeatAck { seq: 3 }, &[]);
        near.ear.until(|ear| !ear.heard.borrow().is_empty()).await;
    });
}

#[test]
fn a_stream_that_was_cut_is_opened_again() {
    run(|| async {
        let (near, far) = (Side::new(1, 7, ROOM), Side::new(2, 7, ROOM));
        let address = far.listen();
        let dialer = Dialer::start(&near.hub, &near.ear, far.ear.store, address);
        for round in 1..=3 {
            far.ear.until(|ear| ear.ups.get() == round).await;
            near.ear.until(|ear| ear.ups.get() == round).await;
            // Half of a message is under way when the far side ends it.
            let (message, _) = record(1, &[1; 16]);
            near.ear.stream().send_awaiting(&message);
            far.ear.stream().cut();
            near.ear.until(|ear| ear.downs.get() == round).await;
            far.ear.until(|ear| ear.downs.get() == round).await;
        }
        assert!(far.ear.heard.borrow().is_empty());
        dialer.close();
        far.ear.until(|ear| ear.ups.get() == ear.downs.get()).await;
    });
}

#[test]
fn strangers_and_wrong_stores_are_refused() {
    run(|| async {
        let far = Side::new(2, 7, ROOM);
        let address = far.listen();
        let stranger = Side::new(1, 8, ROOM);
        let lost = Side::new(3, 7, ROOM);
        let _other = Dialer::start(&stranger.hub, &stranger.ear, far.ear.store, address);
        let _gone = Dialer::start(&lost.hub, &lost.ear, StoreId([9; 16]), address);
        let friend = Side::new(4, 7, ROOM);
        let _friend = Dialer::start(&friend.hub, &friend.ear, far.ear.store, address);
        friend.ear.until(|ear| ear.ups.get() == 1).await;
        far.ear.until(|ear| ear.ups.get() == 1).await;
        assert_eq!(far.ear.stream().remote, friend.ear.store);
        assert_eq!((stranger.ear.ups.get(), lost.ear.ups.get()), (0, 0));
    });
}

#[test]
fn a_peer_that_takes_nothing_loses_its_stream_and_costs_bounded_memory() {
    run(|| async {
        let near = Side::new(1, 7, 8 << 20);
        let far = Side::new(2, 7, ROOM);
        let address = far.listen();
        let _dialer = Dialer::start(&near.hub, &near.ear, far.ear.store, address);
        near.ear.until(|ear| ear.ups.get() == 1).await;
        far.ear.until(|ear| ear.ups.get() == 1).await;
        // It has no memory left for payloads, so it stops reading.
        let hold = far.hub.arrived.take(1 << 30);
        let stream = near.ear.stream();
        let mut most = 0;
        for lsn in 0.. {
            let (message, rope) = record(lsn, &[5; 16]);
            stream.send(&message, rope.pieces());
            most = most.max(stream.queued());
            futures_lite::future::yield_now().await;
            if near.ear.downs.get() == 1 {
                break;
            }
        }
        assert!(most <= 8 << 20);
        assert!(most > 4 << 20);
        drop(hold);
        near.ear.until(|ear| ear.ups.get() == 2).await;
    });
}

#[test]
fn a_damaged_payload_ends_the_stream() {
    run(|| async {
        let (near, far) = (Side::new(1, 7, ROOM), Side::new(2, 7, ROOM));
        let address = far.listen();
        let _dialer = Dialer::start(&near.hub, &near.ear, far.ear.store, address);
        near.ear.until(|ear| ear.ups.get() == 1).await;
        let (message, _) = record(1, &[1]);
        let (_, other) = record(1, &[2]);
        near.ear.stream().send(&message, other.pieces());
        far.ear.until(|ear| ear.downs.get() == 1).await;
        assert!(far.ear.heard.borrow().is_empty());
        near.ear.until(|ear| ear.ups.get() == 2).await;
    });
}
