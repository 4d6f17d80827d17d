//! What a process sets for its own allocator, by starting once more: see `src/cli/allocator.rs`.

use std::time::Instant;

use crate::program::{PATIENCE, Place};

/// The variable, as it stands in a process's environment.
const VARIABLE: &str = "MALLOC_MMAP_THRESHOLD_=";

#[test]
#[cfg(target_env = "gnu")]
fn a_process_that_moves_data_keeps_its_id_its_name_and_a_threshold_of_the_users() {
    for (given, wanted) in [(None, "262144"), (Some("1000000"), "1000000")] {
        for command in ["run -o out - --provider local", "serve --listen 127.0.0.1:0 --directory served"] {
            let place = Place::new();
            let program = place.program(command).env("BATCHLINE_DEBUGGABLE", "1").silent_input();
            let running = match given {
                Some(given) => program.env("MALLOC_MMAP_THRESHOLD_", given),
                None => program,
            };
            let running = running.start();
            let read = |name: &str| std::fs::read(format!("/proc/{}/{name}", running.id())).unwrap();
            let begun = Instant::now();
            let set = loop {
                let environment = String::from_utf8_lossy(&read("environ")).into_owned();
                let mut set = environment.split('\0').filter_map(|variable| variable.strip_prefix(VARIABLE));
                if let Some(first) = set.next() {
                    assert_eq!(set.next(), None, "it is set twice");
                    break first.to_owned();
                }
                assert!(begun.elapsed() < PATIENCE, "{command} sets no threshold");
                std::thread::yield_now();
            };
            assert_eq!((&*set, &*read("comm")), (wanted, b"batchline\n".as_slice()), "{command}");
        }
    }
}
