//! What must hold for any bytes: the properties that the fuzz targets throw libFuzzer at, and that `cargo test` tries
//! on mutated files.
//!
//! In: bytes. Out: nothing, or a panic that says what does not hold. Each function takes what would be read from a disk
//! or a network.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use batchline::dialect::ReplyNames;
use batchline::dialect::reply_reader::ReplyReader;
use batchline::input::check::{self, LineLimits};
use batchline::input::envelope::Envelope;
use batchline::input::request_index::{IndexWriter, RequestIndex};
use batchline::json::marks::{Marks, Width};
use batchline::ledger::Ledger;
use batchline::ledger::intents;
use batchline::model::custom_id::IdHasher;
use batchline::model::defect::DefectKind;
use batchline::model::incident::Incident;
use batchline::model::reply::ReplyRole;
use batchline::model::shard::{Cut, Shard};
use batchline::results::ResultsError;
use batchline::results::id_table::IdTable;
use batchline::results::index::{self, IndexOptions, ReplyFile};
use batchline::results::reply_file::Strays;
use batchline::results::reply_index::ReplyIndex;
use batchline::results::side_files::SideFiles;
use batchline::storage::lines::{BLOCK_BYTES, Block, Extent, Lines};
use batchline::storage::local_file::LocalFile;
use serde::Deserialize;
use serde::de::IgnoredAny;

const LIMITS: LineLimits = LineLimits {
    line_bytes: 100_000,
    custom_id_characters: 64,
    envelope: Envelope::MINIMAL,
    assign_ids: false,
    inputs: None,
};

const IDS: IdHasher = IdHasher { key: 7 };

/// Requests that reply files may answer: `id-0`, `id-1`, …
const REQUESTS: usize = 16;

/// A place for files that need not survive anything.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// Blocks give the lines of the whole file, whatever the lengths of lines. The first byte says how long a line may be;
/// every other byte stands for many of its kind, so that small inputs reach beyond a block.
pub(crate) fn framing(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let block_bytes = usize::try_from(BLOCK_BYTES).unwrap();
    let (limit, most) = (1 + usize::from(*first) * 4096, block_bytes * 3);
    let mut content = Vec::new();
    for (number, byte) in rest.iter().enumerate() {
        let times = if *byte == b'\n' { 1 } else { usize::from(*byte) * if number % 7 == 0 { 999 } else { 3 } };
        content.extend(std::iter::repeat_n(*byte, times));
        if content.len() > most {
            break;
        }
    }
    let file = LocalFile::scratch(scratch().path()).unwrap();
    file.write_all_at(&content, 0).unwrap();
    let extent = Extent { file: &file, start: 0, end: content.len() as u64 };
    let (mut block, mut at) = (Block::default(), 0);
    for number in 0..extent.blocks() {
        block.read(&extent, number).unwrap();
        while let Some(found) = block.next_lines(&extent, limit).unwrap() {
            let end = memchr::memchr(b'\n', &content[at..]).map_or(content.len(), |newline| at + newline + 1);
            match found {
                Lines::Whole { offset, lines } => {
                    assert!(!lines.is_empty() && at + lines.len() >= end);
                    assert_eq!((offset, lines), (at as u64, &content[at..at + lines.len()]));
                    at += lines.len();
                    assert!(lines.ends_with(b"\n") || at == content.len());
                    assert!(lines.len() <= limit + 1 || lines.len() <= 2 * block_bytes, "more is held than has to be");
                }
                Lines::TooLong { offset } => {
                    assert!(offset == at as u64 && end - at > limit, "{offset} {at} {end}");
                    at = end;
                }
            }
        }
    }
    assert_eq!(at, content.len());
}

/// A request as somebody else reads it.
#[derive(Deserialize)]
struct Model {
    custom_id: String,
    body: ModelBody,
}

#[derive(Deserialize)]
struct ModelBody {
    model: String,
}

/// The fast check, the judge and `serde_json` agree about every line.
pub(crate) fn checking(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(fields) = check::check(line, &LineLimits { assign_ids: true, ..LIMITS }) {
            let body: ModelBody = serde_json::from_slice(line).expect("a line that is a body is one");
            assert_eq!((body.model, check::custom_id(line)), (fields.model.into_owned(), None));
        }
        let judged = check::diagnose(line, &LIMITS);
        let fast = check::request(line, &LIMITS);
        for width in Width::all() {
            assert_eq!(check::request_by(line, &LIMITS, &mut Marks::of_width(width)), fast, "{width:?}");
        }
        if let Some(fast) = fast {
            let judged = judged.as_ref().expect("what the fast check takes, the judge takes");
            assert_eq!(judged, &fast);
        }
        match judged {
            Ok(judged) => {
                let custom_id = judged.custom_id.expect("the id of a request");
                assert!(!custom_id.is_empty() && custom_id.chars().count() <= LIMITS.custom_id_characters);
                let model: Model = serde_json::from_slice(line).expect("what the judge takes, serde_json takes");
                assert_eq!((&*model.custom_id, &*model.body.model), (&*custom_id, &*judged.model));
                assert_eq!(check::custom_id(line).map(|(custom_id, _)| custom_id), Some(custom_id.into_owned()));
                let body = check::body(line).expect("a request has a body");
                assert!(body.starts_with(b"{") && serde_json::from_slice::<ModelBody>(body).is_ok());
            }
            Err(defect) => {
                assert!((1..=line.len() + 1).contains(&defect.column), "{defect:?} in {} bytes", line.len());
                let is_json = serde_json::from_slice::<IgnoredAny>(line).is_ok();
                match defect.kind {
                    DefectKind::InvalidJson(_) => assert!(!is_json, "{defect:?}"),
                    DefectKind::NotUtf8 => assert!(std::str::from_utf8(line).is_err()),
                    DefectKind::LineTooLong(_) | DefectKind::TooDeep => {}
                    // Half a surrogate pair is no JSON to some.
                    DefectKind::LoneSurrogate => assert!(memchr::memmem::find(line, b"\\u").is_some()),
                    _ => assert!(is_json, "{defect:?}"),
                }
            }
        }
    }
}

/// A reply as somebody else reads it.
#[derive(Deserialize)]
struct Named {
    custom_id: String,
}

/// Longest line that is cut at every byte; a longer one at this many.
const CUTS: usize = 256;

/// No line that names its request is lost, none is given to another, and none that was cut is taken for a reply.
pub(crate) fn reading(data: &[u8]) {
    let mut reader = ReplyReader::new(IDS, &ReplyNames::COMMON);
    for line in data.split(|byte| *byte == b'\n') {
        for role in [ReplyRole::Output, ReplyRole::Error] {
            let reply = reader.read(line, role);
            for width in Width::all() {
                let again = ReplyReader::of_width(IDS, &ReplyNames::COMMON, width).read(line, role);
                assert_eq!(again, reply, "{width:?}");
            }
            if let Ok(named) = serde_json::from_slice::<Named>(line) {
                assert_eq!(reply.as_ref().map(|reply| reply.id_hash), Some(IDS.hash(&named.custom_id)));
            }
            let end = line.trim_ascii_end().len();
            for cut in (0..end).step_by(end.div_ceil(CUTS).max(1)).filter(|_| reply.is_some()) {
                assert_eq!(reader.read(&line[..cut], role), None, "{}", line[..cut].escape_ascii());
            }
        }
    }
}

/// Every line of two reply files, divided by a line of dashes, is accounted for, and every slot leads to the reply of
/// its request.
pub(crate) fn indexing(data: &[u8]) {
    let directory = scratch();
    let at = memchr::memmem::find(data, b"\n--\n").unwrap_or(data.len());
    let mut files = Vec::new();
    for (number, content) in [&data[..at], data.get(at + 4..).unwrap_or_default()].into_iter().enumerate() {
        let path = directory.path().join(number.to_string());
        std::fs::write(&path, content).unwrap();
        let (number, role) = (u32::try_from(number).unwrap(), [ReplyRole::Output, ReplyRole::Error][number]);
        files.push(ReplyFile { number, path, role });
    }
    let hashes: Vec<u128> = (0..REQUESTS).map(|n| IDS.hash(&format!("id-{n}"))).collect();
    let mut slots = vec![None; REQUESTS];
    let mut aside = SideFiles::new(&directory.path().join("aside"));
    let table = IdTable::new(hashes.iter().copied());
    let options = IndexOptions { ids: IDS, threads: 1, strays: Strays::SetAside };
    let each_id = |tell: &mut dyn FnMut(u64, &str)| -> Result<(), ResultsError> {
        (0..REQUESTS as u64).for_each(|n| tell(n, &format!("id-{n}")));
        Ok(())
    };
    let indexed = index::index(&files, &table, options, each_id, &mut slots, &mut aside).unwrap();
    let kept = indexed.outputs + indexed.errors;
    assert_eq!(kept + indexed.duplicates + indexed.conflicts + indexed.unknown + indexed.unreadable, indexed.replies);
    assert_eq!(kept, slots.iter().flatten().count() as u64);
    assert_eq!(indexed.errors, indexed.labels.values().sum::<u64>());
    let mut near = 0;
    for (number, (slot, hash)) in slots.iter().zip(hashes).enumerate() {
        let Some(slot) = slot else { continue };
        let path = &files[slot.file as usize].path;
        if index::id_at(path, *slot, IDS) != Some(hash) {
            assert!(index::is_near(path, *slot, &format!("id-{number}")).unwrap(), "{slot:?}");
            near += 1;
        }
    }
    assert_eq!(near, indexed.recognised);
    for (file, checksum) in files.iter().zip(indexed.checksums) {
        assert_eq!(index::file_checksum(&file.path).unwrap(), checksum);
    }
}

/// Files of records that hold anything are read, or refused with words.
pub(crate) fn records(data: &[u8]) {
    let directory = scratch();
    let [any, path, replies] = ["any", "requests", "replies"].map(|name| directory.path().join(name));
    std::fs::write(&any, data).unwrap();
    // Without a header it is refused, and with a sound one it is read.
    assert!(RequestIndex::open(&any).is_err() && ReplyIndex::open(&any).is_err());
    drop(IndexWriter::create(&path).unwrap().finish().unwrap());
    OpenOptions::new().append(true).open(&path).unwrap().write_all(data).unwrap();
    let requests = RequestIndex::open(&path).unwrap();
    let mut read = Vec::new();
    let all = requests.read(0, u64::MAX, &mut read).is_ok();
    let each: Vec<bool> = (0..requests.len()).map(|seq| requests.record(seq).is_ok()).collect();
    assert_eq!(all, each.iter().all(|sound| *sound), "records that are read together and one by one");
    assert!(requests.record(requests.len()).is_err());

    let slots = data.len() as u64 / 16;
    drop(ReplyIndex::open_or_create(&replies, 0).unwrap());
    OpenOptions::new().append(true).open(&replies).unwrap().write_all(data).unwrap();
    let replies = ReplyIndex::open_or_create(&replies, slots).unwrap();
    let damaged = replies.damaged().unwrap();
    assert_eq!(replies.read(0, slots).is_err(), !damaged.is_empty());
    replies.clear(&damaged).unwrap();
    let read = replies.read(0, slots).unwrap();
    let seqs: Vec<u64> = (0..slots).collect();
    replies.write_each(&seqs, &read).unwrap();
    assert_eq!(replies.read_each(&seqs).unwrap(), read, "slots that are written back");
    assert!(damaged.iter().all(|seq| read[usize::try_from(*seq).unwrap()].is_none()));

    let (read, damaged) = intents::read(&any).unwrap();
    assert!(read.len() + damaged <= data.len());
}

/// A Ledger, made with a little of everything, in which bytes were changed: it is read, or refused with words, and it
/// never knows fewer submissions than were recorded. The bytes come in fives: a place, little-endian, and what stands
/// there instead.
pub(crate) fn ledger(data: &[u8]) {
    let directory = scratch();
    let path = directory.path().join("ledger.sqlite");
    make_ledger(&path);
    let mut bytes = std::fs::read(&path).unwrap();
    for change in data.as_chunks::<5>().0.iter().take(64) {
        let at = u32::from_le_bytes([change[0], change[1], change[2], change[3]]) as usize % bytes.len();
        bytes[at] = change[4];
    }
    std::fs::write(&path, bytes).unwrap();
    let Ok(ledger) = Ledger::open(&path) else { return };
    assert!(ledger.forgotten().is_ok_and(|forgotten| forgotten.is_empty()));
    let _ = (ledger.requests(), ledger.totals(), ledger.surplus(), ledger.resent(), ledger.incidents());
    let _ = (ledger.remote_files(), ledger.reply_checksums(), ledger.errors(0), ledger.outcomes(0), ledger.damage());
    if let Ok(shards) = ledger.shards() {
        for known in shards {
            let _ = (known.state.next(), known.state.batch_id(), known.open_from(3), known.wants_another_round(3));
        }
    }
}

fn make_ledger(path: &Path) {
    let shard = |number| Shard {
        number,
        model: "m".to_owned(),
        first: u64::from(number),
        last: u64::from(number) + 9,
        requests: 5,
        bytes: 700,
        checksum: 9,
        cut: Cut::End,
        round: 1,
        seq_range: None,
    };
    drop(File::create(path).unwrap());
    let meta = [("requests", "10".to_owned()), ("id_key", "0".to_owned())];
    let mut ledger = Ledger::create(path, &meta, &[shard(0), shard(1)]).unwrap();
    for (number, file) in [(0, "file-a"), (1, "file-b")] {
        ledger.uploaded(number, file, false).unwrap();
        let last = ledger.intend(number, file, false, vec!["b-0".to_owned()]).unwrap();
        ledger.accepted(number, last.id, (&format!("b-{number}"), "IN_PROGRESS"), false).unwrap();
    }
    ledger.incident(&Incident::SubmittedAgain { shard: 0 }).unwrap();
    let surplus = Incident::SurplusBatch { shard: 1, batch_id: "b-9".to_owned(), is_ours: true };
    ledger.found_surplus(1, "b-9", true, &surplus).unwrap();
}
