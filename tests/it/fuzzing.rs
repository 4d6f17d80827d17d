//! The properties of the fuzz targets on files of this repository, whole and mutated by a fixed seed, so that neither
//! rots: `data/fuzz` holds what fuzzing has found.
//!
//! `BATCHLINE_TEST_MUTANTS=100000` for more.

use std::path::{Path, PathBuf};

use fastrand::Rng;

use crate::program::{report, wanted};

#[path = "../fuzz/properties.rs"]
mod properties;

/// Mutants of each property in `cargo test`; those that write files take longer.
const MUTANTS: usize = 6_000;

/// Pieces that matter to readers of lines and of JSON.
const WORDS: [&[u8]; 24] = [
    b"\n",
    b"\r\n",
    b"\n--\n",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"1e999",
    b"123456789012345678901234567890",
    b"\\ud83d",
    b"\\u0000",
    b"\"custom_id\"",
    b"\"custom\\u005fid\":\"id-1\"",
    b"\"body\":{\"model\":\"m\"}",
    b"\"error\":{\"code\":\"x\"}",
    b"\"id-3\"",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
];

/// Files to begin with: all below a directory of `data/`.
fn seeds(directories: &[&str]) -> Vec<Vec<u8>> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let below = |directory: &&str| {
        crate::program::names_in(&data.join(directory))
            .into_iter()
            .map(|name| data.join(directory).join(name))
            .collect()
    };
    let mut paths: Vec<PathBuf> =
        directories.iter().flat_map(|directory| -> Vec<PathBuf> { below(directory) }).collect();
    paths.retain(|path| path.is_file());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// One of the seeds with some changes: bytes, cuts, repeats, words, pieces of another.
fn mutant(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut text = seeds[rng.usize(..seeds.len())].clone();
    text.truncate(20_000);
    for _ in 0..1 << rng.u32(..4) {
        let (from, to) = (rng.usize(..=text.len()), rng.usize(..=text.len()));
        let (from, to) = (from.min(to), from.max(to));
        match rng.u8(..7) {
            0 if from < text.len() => text[from] ^= 1 << rng.u8(..8),
            1 if from < text.len() => text[from] = rng.u8(..),
            2 => drop(text.drain(from..to.min(from + 30))),
            3 => drop(text.splice(from..from, text[from..to.min(from + 200)].to_vec())),
            4 | 5 => drop(text.splice(from..from, WORDS[rng.usize(..WORDS.len())].iter().copied())),
            _ => {
                let other = &seeds[rng.usize(..seeds.len())];
                let at = rng.usize(..=other.len());
                drop(text.splice(from..to.min(from + 300), other[at..other.len().min(at + 300)].iter().copied()));
            }
        }
    }
    text
}

/// Tries a property on all seeds and on mutants of them; says which one broke it.
fn try_on(name: &str, property: fn(&[u8]), directories: &[&str], share: usize) {
    let found = format!("fuzz/{name}");
    let seeds = seeds(&[directories, &[&found]].concat());
    assert!(!seeds.is_empty());
    let mutants = wanted("BATCHLINE_TEST_MUTANTS", MUTANTS) / share;
    let mut rng = Rng::with_seed(11);
    let mut tried = 0;
    for text in seeds.iter().cloned().chain((0..mutants).map(|_| mutant(&mut rng, &seeds))) {
        let kept = text.clone();
        let holds = std::panic::catch_unwind(move || property(&text)).is_ok();
        assert!(holds, "{name} breaks on input {tried}: {}", kept.escape_ascii());
        tried += 1;
    }
    report(&format!("{name}: {tried} inputs, 0 violations"));
}

#[test]
fn lines_are_framed_whatever_they_hold() {
    try_on("framing", properties::framing, &["valid", "replies"], 40);
}

#[test]
fn the_checks_and_serde_json_agree_about_every_line() {
    try_on("checking", properties::checking, &["valid", "defects", "."], 1);
}

#[test]
fn no_reply_that_names_its_request_is_lost() {
    try_on("reading", properties::reading, &["replies", "valid"], 1);
}

#[test]
fn every_reply_is_accounted_for() {
    try_on("indexing", properties::indexing, &["fuzz/indexing"], 4);
}

#[test]
fn records_are_read_or_refused() {
    try_on("records", properties::records, &["fuzz/records"], 4);
}

#[test]
fn a_ledger_is_read_or_refused() {
    try_on("ledger", properties::ledger, &["fuzz/ledger"], 40);
}
