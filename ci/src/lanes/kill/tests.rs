//! The stream of commands repeats for a seed and stays inside the volume.

use super::workload::{Commands, Mix};

#[test]
fn one_seed_gives_one_stream_inside_the_volume() {
    let stream = |seed| {
        let mut commands = Commands::new(Mix::Everything, seed, 16_384);
        (0..2_000)
            .map(|_| commands.next_command())
            .collect::<Vec<_>>()
    };
    assert_eq!(stream(5), stream(5));
    assert_ne!(stream(5), stream(6));
    for planned in stream(5) {
        assert!(planned.sectors.count > 0);
        assert!(planned.sectors.first + u64::from(planned.sectors.count) <= 16_384 * 8);
    }
}
