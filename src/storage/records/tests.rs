use super::*;
use crate::storage::durable;

/// One byte of its content says something, and not every value is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Other(u8);

impl Record for Other {
    const KIND: &'static str = "others";
    const BYTES: usize = 16;

    fn write(self, content: &mut [u8]) {
        content[3] = self.0;
    }

    fn read(content: &[u8]) -> Result<Self, String> {
        if content[3] < 200 { Ok(Self(content[3])) } else { Err("it is too large".to_owned()) }
    }
}

fn written(path: &Path, numbers: impl IntoIterator<Item = u128>) {
    let mut writer = RecordWriter::new(LocalFile::create_new(path).unwrap()).unwrap();
    numbers.into_iter().for_each(|number| writer.push(number).unwrap());
    writer.finish().unwrap().sync().unwrap();
}

#[test]
fn records_are_read_as_they_were_written_front_to_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records");
    written(&path, 0..100_000);
    let file = RecordFile::<u128>::open(&path).unwrap();
    assert_eq!(file.count().unwrap(), 100_000);
    let mut read = vec![7];
    file.read_present(99_000, 1000, &mut read).unwrap();
    assert!(read.into_iter().eq(99_000..100_000));
    assert_eq!(file.read_each(&[0, 5, 99_999]).unwrap(), [Some(0), Some(5), Some(99_999)]);
    assert!(file.read(99_999, 2).is_err(), "there are fewer");
}

#[test]
fn what_is_not_there_is_none_and_no_record_of_zeros() {
    let directory = tempfile::tempdir().unwrap();
    let file = RecordFile::<u128>::scratch(directory.path(), 10).unwrap();
    file.write(3, [Some(0), None, Some(1)]).unwrap();
    assert_eq!(file.read(2, 5).unwrap(), [None, Some(0), None, Some(1), None]);
    assert!(file.read_present(3, 2, &mut Vec::new()).is_err());
    file.clear(&BTreeSet::from([3])).unwrap();
    assert_eq!(file.read(3, 1).unwrap(), [None]);
    file.write(12, [Some(5)]).unwrap();
    assert_eq!((file.count().unwrap(), file.read(11, 2).unwrap()), (13, vec![None, Some(5)]));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it has no name");
}

#[test]
fn a_bit_that_the_disk_has_changed_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records");
    let file = RecordFile::<u128>::open_or_create(&path, 3).unwrap();
    file.write_each(&[0, 1], &[Some(1 << 77), Some(0)]).unwrap();
    let sound = std::fs::read(&path).unwrap();
    for bit in 0..8 * sound.len() {
        let mut changed = sound.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        file.file.write_all_at(&changed, 0).unwrap();
        let Some(at) = (bit / 8).checked_sub(HEADER_BYTES) else {
            assert!(RecordFile::<u128>::open(&path).is_err(), "bit {bit} of the header");
            assert!(RecordFile::<u128>::open_or_create(&path, 3).is_err(), "bit {bit} of the header");
            continue;
        };
        assert!(file.read(0, 3).is_err(), "bit {bit}");
        let number = (at / width::<u128>()) as u64;
        let others: Vec<u64> = (0..3).filter(|other| *other != number).collect();
        assert_eq!(file.read_each(&others).unwrap().len(), 2, "its neighbours are sound");
        assert_eq!(file.damaged().unwrap(), BTreeSet::from([number]));
        file.clear(&BTreeSet::from([number])).unwrap();
        assert_eq!(file.read(number, 1).unwrap(), [None]);
    }
}

#[test]
fn files_of_another_kind_are_refused_with_words() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records");
    written(&path, 0..9);
    let of = |path: &Path| RecordFile::<Other>::open(path).unwrap_err().source.to_string();
    assert_eq!(of(&path), "it holds u128 of version 1, and not others of version 1");
    for content in [&b""[..], b"BLRECO", &[0; 200], &[7; 200]] {
        durable::publish_bytes(&path, content).unwrap();
        assert!(of(&path).contains("another version of the program"), "{content:?}");
    }
}

#[test]
fn a_header_that_never_came_to_the_disk_is_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records");
    for content in [&b""[..], &[0; 64], &[0; 1000]] {
        durable::publish_bytes(&path, content).unwrap();
        let file = RecordFile::<u128>::open_or_create(&path, 20).unwrap();
        assert_eq!(file.read(0, 20).unwrap(), [None; 20]);
        file.write(19, [Some(8)]).unwrap();
        let file = RecordFile::<u128>::open_or_create(&path, 20).unwrap();
        assert_eq!(file.read(19, 1).unwrap(), [Some(8)]);
    }
}

#[test]
fn a_content_that_is_no_record_is_an_error_although_its_check_fits() {
    let directory = tempfile::tempdir().unwrap();
    let file = RecordFile::<Other>::scratch(directory.path(), 2).unwrap();
    file.write(0, [Some(Other(199)), Some(Other(200))]).unwrap();
    assert_eq!(file.read(0, 1).unwrap(), [Some(Other(199))]);
    assert_eq!(file.read(1, 1).unwrap_err().source.to_string(), "a record is damaged: it is too large");
}

#[test]
fn writers_that_interleave_do_not_disturb_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records");
    let file = RecordFile::open_or_create(&path, 300_000).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let file = &file;
            scope.spawn(move || {
                let numbers: Vec<u64> = (0..300_000).filter(|number| number % 4 == writer).collect();
                let records: Vec<_> = numbers.iter().map(|&number| Some(u128::from(number * writer))).collect();
                file.write_each(&numbers, &records).unwrap();
                assert_eq!(file.read_each(&numbers).unwrap(), records);
            });
        }
    });
    let file = RecordFile::<u128>::open_or_create(&path, 300_000).unwrap();
    for (number, found) in (100_u64..).zip(file.read(100, 1000).unwrap()) {
        let writer = number % 4;
        assert_eq!(found, (writer < 3).then(|| u128::from(number * writer)));
    }
}
