//! Persistent reservations: the conflict table, each service action, and what is kept on disk.

use super::conflict::Access;
use super::kind::{OutAction, ReservationType};
use super::parameters::{Destination, Parameters};
use super::{Consequences, Refusal, Reservations, parameters, transport_id};
use crate::scsi::attention::Attention;
use crate::scsi::cdb::ReservationReport;
use crate::scsi::limits::{ISCSI_NAME_BYTES_MAX, REGISTRANTS_MAX};
use crate::scsi::nexus::{InitiatorPort, Nexus, NexusId, TARGET_PORT, TargetPort};
use crate::scsi::sense::AdditionalSense;
use crate::scsi::unit::Keeping;
use holdfast_core::limits::ATTRIBUTES_BYTES_MAX;
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

fn nexus(name: &str) -> Nexus {
    Nexus {
        initiator: InitiatorPort {
            name: format!("iqn.2026-11.test:{name}"),
            isid: [0x40, 0, 0, 1, 2, 3],
        },
        target: TARGET_PORT,
    }
}

fn keys(key: u64, action_key: u64) -> Parameters {
    Parameters {
        key,
        action_key,
        persistent: false,
        ports: Vec::new(),
        destination: None,
    }
}

/// Key of a host in these tests.
fn key_of(name: &str) -> u64 {
    name.bytes()
        .fold(1_u64, |key, byte| key.wrapping_mul(251) ^ u64::from(byte))
}

fn register(unit: &mut Reservations, name: &str) {
    let given = keys(0, key_of(name));
    let done = unit.out(&nexus(name), OutAction::RegisterAndIgnore, None, &given);
    assert!(done.is_ok());
}

fn act(
    unit: &mut Reservations,
    name: &str,
    action: OutAction,
    kind: ReservationType,
    action_key: u64,
) -> Result<Consequences, Refusal> {
    let given = keys(key_of(name), action_key);
    unit.out(&nexus(name), action, Some(kind), &given)
}

/// A unit where `holder` reserved and `registrant` is registered.
fn reserved(kind: ReservationType) -> Reservations {
    let mut unit = Reservations::default();
    register(&mut unit, "holder");
    register(&mut unit, "registrant");
    act(&mut unit, "holder", OutAction::Reserve, kind, 0).expect("free");
    unit
}

fn registered(unit: &Reservations) -> Vec<u64> {
    unit.registrants.iter().map(|r| r.key).collect()
}

fn kind_of(unit: &Reservations) -> Option<ReservationType> {
    unit.reservation
        .as_ref()
        .map(|reservation| reservation.kind)
}

use ReservationType as T;

#[test]
fn each_type_stops_exactly_what_the_table_says() {
    // Type; then who may do what: registrant reads, registrant writes, stranger reads, stranger writes.
    let rows = [
        (T::WriteExclusive, [true, false, true, false]),
        (T::ExclusiveAccess, [false, false, false, false]),
        (T::WriteExclusiveRegistrantsOnly, [true, true, true, false]),
        (
            T::ExclusiveAccessRegistrantsOnly,
            [true, true, false, false],
        ),
        (T::WriteExclusiveAllRegistrants, [true, true, true, false]),
        (T::ExclusiveAccessAllRegistrants, [true, true, false, false]),
    ];
    assert_eq!(rows.map(|row| row.0), ReservationType::ALL);
    for (kind, allowed) in rows {
        let unit = reserved(kind);
        let may = |name: &str, access| !unit.conflicts(NexusId(9), &nexus(name), access);
        for access in [Access::Read, Access::Write] {
            assert!(may("holder", access), "{kind:?}");
        }
        let found = [
            may("registrant", Access::Read),
            may("registrant", Access::Write),
            may("stranger", Access::Read),
            may("stranger", Access::Write),
        ];
        assert_eq!(found, allowed, "{kind:?}");
        for name in ["holder", "registrant", "stranger"] {
            for access in [Access::Any, Access::Ready, Access::Persistent] {
                assert!(may(name, access), "{kind:?} {name} {access:?}");
            }
            // CRH is zero.
            for access in [Access::Reserve, Access::Release] {
                assert!(!may(name, access), "{kind:?} {name} {access:?}");
            }
        }
    }
}

#[test]
fn registrations_alone_stop_nobody() {
    let mut unit = Reservations::default();
    register(&mut unit, "holder");
    for access in [Access::Any, Access::Ready, Access::Read, Access::Write] {
        assert!(!unit.conflicts(NexusId(9), &nexus("stranger"), access));
    }
}

#[test]
fn reserve_of_spc2_stops_the_others_and_persistent_commands() {
    let mut unit = Reservations::default();
    unit.reserve(NexusId(1));
    let stops =
        |unit: &Reservations, id, access| unit.conflicts(NexusId(id), &nexus("any"), access);
    let rows = [
        (Access::Any, false, false),
        (Access::Ready, false, true),
        (Access::Read, false, true),
        (Access::Write, false, true),
        (Access::Persistent, true, true),
        (Access::Reserve, false, true),
        (Access::Release, false, false),
    ];
    for (access, holder, other) in rows {
        assert_eq!(stops(&unit, 1, access), holder, "{access:?}");
        assert_eq!(stops(&unit, 2, access), other, "{access:?}");
    }
    unit.release(NexusId(2));
    assert!(stops(&unit, 2, Access::Write));
    unit.release(NexusId(1));
    assert!(!stops(&unit, 2, Access::Write));
}

#[test]
fn registering_needs_the_key_that_is_registered() {
    let mut unit = Reservations::default();
    let mut register = |key, action_key| {
        unit.out(
            &nexus("a"),
            OutAction::Register,
            None,
            &keys(key, action_key),
        )
        .map(|_| ())
    };
    assert_eq!(register(1, 5), Err(Refusal::Conflict)); // None is registered.
    assert_eq!(register(0, 0), Ok(()));
    assert_eq!(register(0, 5), Ok(()));
    assert_eq!(register(0, 6), Err(Refusal::Conflict));
    assert_eq!(register(5, 6), Ok(()));
    assert_eq!(register(6, 0), Ok(()));
    assert_eq!(register(6, 0), Err(Refusal::Conflict));
    assert_eq!(registered(&unit), []);
    // Refusals do not count.
    assert_eq!(unit.generation, 4);
}

#[test]
fn every_action_but_registering_needs_a_registration_and_its_key() {
    for action in OutAction::ALL {
        if matches!(
            action,
            OutAction::Register | OutAction::RegisterAndIgnore | OutAction::RegisterAndMove
        ) {
            continue;
        }
        let mut unit = reserved(T::WriteExclusive);
        let kind = Some(T::WriteExclusive);
        let by_stranger = unit.out(&nexus("stranger"), action, kind, &keys(0, 0));
        assert_eq!(by_stranger, Err(Refusal::Conflict), "{action:?}");
        let wrong_key = unit.out(&nexus("holder"), action, kind, &keys(1, 0));
        assert_eq!(wrong_key, Err(Refusal::Conflict), "{action:?}");
        assert_eq!(registered(&unit).len(), 2);
    }
}

#[test]
fn only_the_holder_reserves_again_and_only_the_same() {
    for kind in ReservationType::ALL {
        let all = matches!(
            kind,
            T::WriteExclusiveAllRegistrants | T::ExclusiveAccessAllRegistrants
        );
        for again in ReservationType::ALL {
            let mut unit = reserved(kind);
            let holder = act(&mut unit, "holder", OutAction::Reserve, again, 0);
            assert_eq!(holder.is_ok(), again == kind);
            let other = act(&mut unit, "registrant", OutAction::Reserve, again, 0);
            assert_eq!(other.is_ok(), all && again == kind);
            assert_eq!(kind_of(&unit), Some(kind));
        }
    }
}

#[test]
fn release_tells_the_registrants_unless_the_type_was_exclusive_to_one() {
    for kind in ReservationType::ALL {
        let mut unit = reserved(kind);
        let wrong = ReservationType::ALL
            .into_iter()
            .find(|other| *other != kind);
        let refused = act(
            &mut unit,
            "holder",
            OutAction::Release,
            wrong.expect("six"),
            0,
        );
        match refused {
            Err(Refusal::Check(sense)) => assert_eq!(sense.code, AdditionalSense::INVALID_RELEASE),
            other => panic!("{other:?}"),
        }
        let one = matches!(kind, T::WriteExclusive | T::ExclusiveAccess);
        let released = act(&mut unit, "holder", OutAction::Release, kind, 0).expect("held");
        let told = vec![(nexus("registrant"), Attention::ReservationsReleased)];
        assert_eq!(released.told, if one { vec![] } else { told });
        assert_eq!(kind_of(&unit), None);
        assert_eq!(registered(&unit).len(), 2);
    }
}

#[test]
fn a_reservation_leaves_with_its_last_holder() {
    for kind in ReservationType::ALL {
        let all = matches!(
            kind,
            T::WriteExclusiveAllRegistrants | T::ExclusiveAccessAllRegistrants
        );
        let mut unit = reserved(kind);
        let leave = |unit: &mut Reservations, name: &str| {
            unit.out(
                &nexus(name),
                OutAction::Register,
                None,
                &keys(key_of(name), 0),
            )
            .expect("registered")
        };
        let told = leave(&mut unit, "holder").told;
        assert_eq!(kind_of(&unit), all.then_some(kind));
        let registrants_only = matches!(
            kind,
            T::WriteExclusiveRegistrantsOnly | T::ExclusiveAccessRegistrantsOnly
        );
        assert_eq!(told.len(), usize::from(registrants_only));
        leave(&mut unit, "registrant");
        assert_eq!(kind_of(&unit), None);
    }
}

#[test]
fn clear_removes_everything_and_tells_the_others() {
    let mut unit = reserved(T::WriteExclusive);
    let done = act(
        &mut unit,
        "registrant",
        OutAction::Clear,
        T::WriteExclusive,
        0,
    );
    let told = done.expect("registered").told;
    assert_eq!(told, [(nexus("holder"), Attention::ReservationsPreempted)]);
    assert_eq!((registered(&unit), kind_of(&unit)), (vec![], None));
}

#[test]
fn preempting_the_holder_takes_the_reservation() {
    for action in [OutAction::Preempt, OutAction::PreemptAndAbort] {
        let mut unit = reserved(T::WriteExclusiveRegistrantsOnly);
        register(&mut unit, "third");
        let done = act(
            &mut unit,
            "registrant",
            action,
            T::ExclusiveAccess,
            key_of("holder"),
        );
        let done = done.expect("registered");
        assert_eq!(
            done.told,
            [
                (nexus("holder"), Attention::RegistrationsPreempted),
                (nexus("third"), Attention::ReservationsReleased),
            ]
        );
        let aborts = action == OutAction::PreemptAndAbort;
        assert_eq!(
            done.aborted,
            if aborts {
                vec![nexus("holder")]
            } else {
                vec![]
            }
        );
        assert_eq!(kind_of(&unit), Some(T::ExclusiveAccess));
        assert!(unit.holds(&nexus("registrant")));
        assert_eq!(registered(&unit), [key_of("registrant"), key_of("third")]);
    }
}

#[test]
fn preempting_a_registrant_removes_only_its_registration() {
    let mut unit = reserved(T::ExclusiveAccess);
    let done = act(
        &mut unit,
        "holder",
        OutAction::PreemptAndAbort,
        T::ExclusiveAccess,
        key_of("registrant"),
    )
    .expect("registered");
    assert_eq!(done.aborted, [nexus("registrant")]);
    assert!(unit.holds(&nexus("holder")));
    let unknown = act(
        &mut unit,
        "holder",
        OutAction::Preempt,
        T::ExclusiveAccess,
        77,
    );
    assert_eq!(unknown, Err(Refusal::Conflict));
    let zero = act(
        &mut unit,
        "holder",
        OutAction::Preempt,
        T::ExclusiveAccess,
        0,
    );
    assert!(matches!(zero, Err(Refusal::Check(sense)) if sense.field.is_some()));
}

#[test]
fn a_key_of_zero_preempts_all_registrants() {
    let mut unit = reserved(T::WriteExclusiveAllRegistrants);
    register(&mut unit, "third");
    let done = act(
        &mut unit,
        "third",
        OutAction::PreemptAndAbort,
        T::WriteExclusive,
        0,
    );
    assert_eq!(done.expect("all").aborted.len(), 2);
    assert_eq!(registered(&unit), [key_of("third")]);
    assert_eq!(kind_of(&unit), Some(T::WriteExclusive));
}

#[test]
fn who_preempts_its_own_key_keeps_the_reservation_it_takes() {
    let mut unit = reserved(T::WriteExclusive);
    let own = key_of("holder");
    act(
        &mut unit,
        "holder",
        OutAction::Preempt,
        T::ExclusiveAccess,
        own,
    )
    .expect("held");
    assert_eq!(kind_of(&unit), Some(T::ExclusiveAccess));
    assert_eq!(registered(&unit).len(), 2);
}

#[test]
fn moving_makes_another_nexus_the_holder() {
    let to = |name: &str, key, target, unregister| Parameters {
        destination: Some(Destination {
            initiator: nexus(name).initiator,
            target,
            unregister,
        }),
        ..keys(key_of("holder"), key)
    };
    let run = |unit: &mut Reservations, name: &str, given: &Parameters| {
        unit.out(&nexus(name), OutAction::RegisterAndMove, None, given)
            .map(|_| ())
    };
    let refused = |result| matches!(result, Err(Refusal::Check(_)));
    let mut unit = reserved(T::WriteExclusive);
    assert!(refused(run(
        &mut unit,
        "holder",
        &to("heir", 0, TARGET_PORT, false)
    )));
    assert!(refused(run(
        &mut unit,
        "holder",
        &to("heir", 5, TargetPort(2), false)
    )));
    assert!(refused(run(
        &mut unit,
        "holder",
        &to("holder", 5, TARGET_PORT, false)
    )));
    let by_other = run(&mut unit, "registrant", &to("heir", 5, TARGET_PORT, false));
    assert_eq!(by_other, Err(Refusal::Conflict));
    assert_eq!(
        run(&mut unit, "holder", &to("heir", 5, TARGET_PORT, true)),
        Ok(())
    );
    assert!(unit.holds(&nexus("heir")));
    assert_eq!(registered(&unit), [key_of("registrant"), 5]);
    // Nobody moves what all hold, or what is not there.
    let mut all = reserved(T::WriteExclusiveAllRegistrants);
    let moved = run(&mut all, "holder", &to("heir", 5, TARGET_PORT, false));
    assert_eq!(moved, Err(Refusal::Conflict));
    let mut none = Reservations::default();
    register(&mut none, "holder");
    assert!(refused(run(
        &mut none,
        "holder",
        &to("heir", 5, TARGET_PORT, false)
    )));
}

#[test]
fn further_ports_are_registered_all_or_none() {
    let mut unit = Reservations::default();
    let with_ports = |names: &[&str]| Parameters {
        ports: names.iter().map(|name| nexus(name).initiator).collect(),
        ..keys(0, 5)
    };
    let given = with_ports(&["b", "c", "b", "a"]);
    let done = unit.out(&nexus("a"), OutAction::Register, None, &given);
    assert!(done.is_ok());
    assert_eq!(registered(&unit), [5, 5, 5]);
    let again = unit.out(
        &nexus("d"),
        OutAction::Register,
        None,
        &with_ports(&["e", "c"]),
    );
    assert!(matches!(again, Err(Refusal::Check(_))));
    assert_eq!(registered(&unit).len(), 3);
}

#[test]
fn registrants_are_bounded() {
    let mut unit = Reservations::default();
    for index in 0..REGISTRANTS_MAX {
        register(&mut unit, &format!("h{index}"));
    }
    let one_more = unit.out(&nexus("late"), OutAction::Register, None, &keys(0, 5));
    match one_more {
        Err(Refusal::Check(sense)) => {
            assert_eq!(
                sense.code,
                AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES
            );
        }
        other => panic!("{other:?}"),
    }
    // Who is registered may still change its key.
    register(&mut unit, "h0");
}

#[test]
fn reports_have_the_layout_of_the_standard() {
    let unit = reserved(T::ExclusiveAccessRegistrantsOnly);
    let keys = unit.report(ReservationReport::Keys);
    assert_eq!(keys[..8], [0, 0, 0, 2, 0, 0, 0, 16]);
    assert_eq!(keys[8..16], key_of("holder").to_be_bytes());
    let held = unit.report(ReservationReport::Reservation);
    assert_eq!(held[..8], [0, 0, 0, 2, 0, 0, 0, 16]);
    assert_eq!(held[8..16], key_of("holder").to_be_bytes());
    assert_eq!(held[16..24], [0, 0, 0, 0, 0, 6, 0, 0]);
    let all = reserved(T::WriteExclusiveAllRegistrants);
    assert_eq!(all.report(ReservationReport::Reservation)[8..16], [0; 8]);
    let capabilities = unit.report(ReservationReport::Capabilities);
    assert_eq!(capabilities, [0, 8, 0x0D, 0x80, 0xEA, 0x01, 0, 0]);
    let status = unit.report(ReservationReport::FullStatus);
    assert_eq!(status[8 + 12..8 + 14], [1, 6]);
    assert_eq!(status[8 + 18..8 + 20], [0, 1]);
    let id_bytes = usize::from(status[8 + 23]);
    let second = 8 + 24 + id_bytes;
    assert_eq!(status[second + 12..second + 14], [0, 0]);
    let (port, rest) = transport_id::decode(&status[8 + 24..]).expect("an identifier");
    assert_eq!(port, nexus("holder").initiator);
    assert!(!rest.is_empty());
}

#[test]
fn transport_identifiers_come_back_as_they_went() {
    for bytes in [1, 5, 20, ISCSI_NAME_BYTES_MAX] {
        let port = InitiatorPort {
            name: "i".repeat(bytes),
            isid: [0x80, 1, 2, 3, 4, 255],
        };
        let id = transport_id::encode(&port);
        assert!(id.len() >= 24 && id.len().is_multiple_of(4));
        let empty: &[u8] = &[];
        assert_eq!(transport_id::decode(&id), Some((port, empty)));
        for end in 0..id.len() {
            assert_eq!(transport_id::decode(&id[..end]), None);
        }
    }
    let name_only = transport_id::encode(&nexus("a").initiator);
    let mut name_only = name_only;
    name_only[0] = 0x05;
    assert_eq!(transport_id::decode(&name_only), None);
}

/// A basic parameter list.
fn basic(flags: u8) -> Vec<u8> {
    let mut list = vec![0; 24];
    list[7] = 1;
    list[15] = 2;
    list[20] = flags;
    list
}

#[test]
fn parameter_lists_have_exact_lengths() {
    let short = AdditionalSense::PARAMETER_LIST_LENGTH_ERROR;
    for action in OutAction::ALL {
        let code = |list: &[u8]| parameters::decode(action, list).map_err(|sense| sense.code);
        for end in 0..24 {
            assert_eq!(code(&basic(0)[..end]), Err(short), "{action:?}");
        }
        if action != OutAction::RegisterAndMove {
            let read = code(&basic(0)).expect("exact");
            assert_eq!((read.key, read.action_key), (1, 2));
            let mut long = basic(0);
            long.push(0);
            assert_eq!(code(&long), Err(short), "{action:?}");
        }
    }
    let persistent = parameters::decode(OutAction::Register, &basic(0x01)).expect("exact");
    assert!(persistent.persistent);
    let ignored = parameters::decode(OutAction::Reserve, &basic(0x01)).expect("exact");
    assert!(!ignored.persistent);
    let refused = parameters::decode(OutAction::RegisterAndIgnore, &basic(0x08));
    assert!(refused.is_err());
    let mut ports = basic(0x08);
    let id = transport_id::encode(&nexus("b").initiator);
    ports.extend(u32::try_from(id.len() * 2).expect("small").to_be_bytes());
    ports.extend(&id);
    ports.extend(&id);
    let read = parameters::decode(OutAction::Register, &ports).expect("two ports");
    assert_eq!(read.ports.len(), 2);
    assert!(parameters::decode(OutAction::Register, &ports[..ports.len() - 1]).is_err());
}

#[test]
fn what_persists_is_what_was_kept() {
    for kind in ReservationType::ALL {
        let mut unit = reserved(kind);
        assert!(unit.encode(Keeping::Wanted).is_empty()); // APTPL is zero.
        let given = Parameters {
            persistent: true,
            ..keys(0, 99)
        };
        let done = unit.out(&nexus("third"), OutAction::RegisterAndIgnore, None, &given);
        assert!(done.expect("room").save);
        let blob = unit.encode(Keeping::Wanted);
        let kept = Reservations::decode(&blob).expect("just written");
        assert_eq!(kept.registrants, unit.registrants);
        assert_eq!(kept.reservation, unit.reservation);
        assert!(kept.persistent);
        assert_eq!(kept.generation, 0);
        for end in 1..blob.len() {
            assert!(Reservations::decode(&blob[..end]).is_err(), "cut at {end}");
        }
        // Taking APTPL back must reach the disk too.
        let done = unit.out(
            &nexus("third"),
            OutAction::RegisterAndIgnore,
            None,
            &keys(0, 99),
        );
        assert!(done.expect("registered").save);
        assert!(unit.encode(Keeping::Wanted).is_empty());
    }
}

#[test]
fn what_another_node_takes_over_is_everything() {
    for kind in ReservationType::ALL {
        let unit = reserved(kind);
        let blob = unit.encode(Keeping::All);
        let kept = Reservations::decode(&blob).expect("just written");
        assert_eq!(kept.registrants, unit.registrants);
        assert_eq!(kept.reservation, unit.reservation);
        assert!(!kept.persistent); // No host asked for that.
        assert!(kept.encode(Keeping::Wanted).is_empty());
        assert_eq!(kept.encode(Keeping::All), blob);
    }
}

#[test]
fn a_full_set_of_registrants_fits_the_attributes() {
    let mut unit = Reservations::default();
    for index in 0..REGISTRANTS_MAX {
        let mut host = nexus("");
        let tail = format!("{index}");
        let fill = ISCSI_NAME_BYTES_MAX - tail.len();
        host.initiator.name = "n".repeat(fill) + &tail;
        let given = Parameters {
            persistent: true,
            ..keys(0, 7)
        };
        let done = unit.out(&host, OutAction::RegisterAndIgnore, None, &given);
        assert!(done.is_ok());
    }
    let blob = unit.encode(Keeping::Wanted);
    assert!(blob.len() <= ATTRIBUTES_BYTES_MAX);
    assert!(Reservations::decode(&blob).is_ok());
}

#[test]
fn damaged_attributes_are_refused_or_sound() {
    let mut unit = reserved(T::WriteExclusive);
    unit.persistent = true;
    let blob = unit.encode(Keeping::Wanted);
    for at in 0..blob.len() {
        for bit in 0..8 {
            let mut damaged = blob.clone();
            damaged[at] ^= 1 << bit;
            // No panic; what is accepted passes its own invariants.
            if let Ok(kept) = Reservations::decode(&damaged) {
                kept.check();
            }
        }
    }
    let foreign = String::from("HFPX");
    assert!(Reservations::decode(foreign.as_bytes()).is_err());
}
