//! The simulated service as a process sees it: [`Api`] on a clock that is only turned on.
//!
//! In: calls. Out: answers, late, wrong or none, as the [`World`] decides; and the death of the process at any point of
//! a call, before its effect or after it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use batchline::api::{
    Batch, BatchStatus, BatchTag, CreateBatch, Downloaded, ErrorKind, Listing, Payload, Progress, RemoteError,
    RemoteFile, Submission, publish_bytes,
};
use batchline::{Api, CancellationToken};

use super::faults::Fault;
use super::rows;
use super::world::{GivenList, LATE_CREATE_MAX, Says, StoredFile, World};

/// The id of a file that was never written.
const ABSENT_FILE: &str = "reply-absent";

/// What a process talks to. The world outlives it.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) world: Arc<Mutex<World>>,
    /// The point of a call at which the process dies, counted from its beginning.
    pub(super) dies_at: u64,
    /// The side of a create, before its effect or after it, at which the process dies.
    pub(super) dies_at_create: u64,
    pub(super) death: CancellationToken,
}

/// A create that is on its way: what the service does with it does not depend on whether somebody still waits.
struct OnItsWay {
    service: Service,
    file: usize,
    tag: Option<BatchTag>,
    arrived: bool,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let mut world = self.service.lock();
        if !self.arrived && world.happens(Fault::CreateOutlives) {
            let delay = world.faults.seconds(0, 5);
            world.accept(self.file, self.tag.take(), delay);
        }
    }
}

impl Service {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world, at the present time.
    fn world(&self) -> MutexGuard<'_, World> {
        let mut world = self.lock();
        world.now();
        world.catch_up();
        world
    }

    /// Time passes; the process may die here.
    async fn pass(&self, most: Duration) {
        let wait = {
            let mut world = self.world();
            world.calls += 1;
            if world.calls == self.dies_at {
                self.death.cancel();
            }
            most.mul_f64(world.faults.rng.f64())
        };
        // Never at once: so two calls end in an order that does not depend on threads.
        tokio::time::sleep(wait + Duration::from_millis(1)).await;
    }

    /// A place beside a create's effect; the process may die here.
    async fn beside_create(&self) {
        let dies = {
            let mut world = self.world();
            world.creates += 1;
            world.creates == self.dies_at_create
        };
        if dies {
            self.death.cancel();
            std::future::pending::<()>().await;
        }
    }

    async fn way(&self) {
        self.pass(Duration::from_millis(300)).await;
    }

    fn batch_object(world: &mut World, number: usize, look: bool) -> Batch {
        let now = world.now();
        let stored = &world.batches[number];
        let (file, created, shown) = (stored.file, stored.created, stored.files_shown <= now);
        let (frozen, lacks_room) = (now < stored.frozen, stored.lacks_room);
        let (mut tag, mut input_file_id) = (stored.tag.clone(), Some(format!("file-{file}")));
        let absent = stored.names_absent_file.then(|| ABSENT_FILE.to_owned());
        let (mut status, mut error, mut files, mut counts) = (BatchStatus::InProgress, None, [None, None], None);
        if let Some(left) = &stored.left {
            status = left.status.clone();
            error.clone_from(&left.error);
            counts = left.counts;
            if shown {
                files = left.files;
            }
        }
        if look && world.happens(Fault::LookUnknownStatus) {
            status = BatchStatus::Other("AGGREGATING".to_owned());
        }
        let regresses = status.is_terminal() && world.happens(if look { Fault::LookRegress } else { Fault::ListStale });
        if regresses || !look && frozen {
            status = BatchStatus::InProgress;
        }
        if !look && tag.is_some() && world.happens(Fault::ListAnonymous) {
            input_file_id = None;
        } else if !look && world.happens(Fault::ListUnmarked) {
            tag = None;
        }
        let is_over = status.is_terminal();
        let queue_full = lacks_room && status == BatchStatus::Failed;
        let file_id = |number: Option<usize>| number.map(|number| format!("reply-{number}"));
        let [output_file_id, mut error_file_id] = if is_over { files.map(file_id) } else { [None, None] };
        if output_file_id.is_some() {
            error_file_id = error_file_id.or(absent);
        }
        Batch {
            id: format!("batch-{number}"),
            input_file_id,
            status,
            progress: None,
            counts: counts.filter(|_| is_over),
            output_file_id,
            error_file_id,
            error,
            queue_full,
            tag,
            endpoint: None,
            model: None,
            created_at: Some(world.time_of_day(created)),
            completed_at: None,
            deadline: None,
        }
    }

    fn accepted(world: &mut World, batch: usize) -> Submission {
        world.answered(batch);
        Submission::Accepted(Self::batch_object(world, batch, false))
    }
}

/// The number in an id.
fn number(id: &str) -> usize {
    id.rsplit('-').next().and_then(|number| number.parse().ok()).expect("an id that the simulation gave out")
}

fn failed(kind: ErrorKind, what: &str) -> RemoteError {
    RemoteError::new(kind, what)
}

impl Api for Service {
    async fn ready(&self) {
        let patience = if self.world().faults.rng.u8(..20) == 0 { 30 } else { 0 };
        self.pass(Duration::from_secs(patience)).await;
    }

    async fn upload(&self, payload: Arc<dyn Payload>, progress: Progress) -> Result<RemoteFile, RemoteError> {
        self.way().await;
        let mut content = Vec::new();
        let read = payload.open().and_then(|mut body| body.read_to_end(&mut content));
        read.map_err(|error| failed(ErrorKind::InputChanged, "PUT file").with_source(error))?;
        progress.tell(content.len() as u64);
        let (_, shard) = payload
            .name()
            .trim_end_matches(".jsonl")
            .rsplit_once('-')
            .map_or((0, 0), |(_, shard)| (0, shard.parse::<u32>().expect("the name ends in the shard's number")));
        let (file, reused) = {
            let mut world = self.world();
            if world.happens(Fault::UploadError) {
                return Err(failed(ErrorKind::Storage, "PUT file"));
            }
            let known = world.files.iter().position(|file| *file.content == content);
            let known = known.filter(|_| world.happens(Fault::UploadReused)).or_else(|| foreign(&mut world, &content));
            let file = known.unwrap_or_else(|| {
                let content = Arc::new(content);
                world.files.push(StoredFile { content, shards: [].into() });
                world.files.len() - 1
            });
            world.files[file].shards.insert(shard);
            world.note(format!("uploaded shard {shard} as file {file}, reused: {}", known.is_some()));
            (file, known.is_some())
        };
        self.way().await;
        Ok(RemoteFile { id: format!("file-{file}"), bytes: None, reused })
    }

    async fn create(&self, request: &CreateBatch, _: Arc<dyn Payload>) -> Submission {
        let (file, tag) = (number(&request.input_file_id), request.tag.clone());
        self.world().create_begins();
        let mut on_its_way = OnItsWay { service: self.clone(), file, tag, arrived: false };
        self.way().await;
        self.beside_create().await;
        on_its_way.arrived = true;
        let (answer, wait) = {
            let mut world = self.world();
            let (file, tag) = (on_its_way.file, on_its_way.tag.take());
            let what = "POST batches";
            if world.happens(Fault::CreateTurnedAway) {
                (Submission::Refused(failed(ErrorKind::RateLimited, what).with_status(429)), 0)
            } else if world.happens(Fault::CreateNoRoom) {
                (Submission::Refused(failed(ErrorKind::Refused, what).with_status(400).with_queue_full(true)), 0)
            } else if world.happens(Fault::CreateRefusedAccepted) {
                world.accept(file, tag, Duration::ZERO);
                world.accepted.last_mut().expect("it was accepted").refused = true;
                (Submission::Refused(failed(ErrorKind::RateLimited, what).with_status(429)), 0)
            } else if world.happens(Fault::CreateUnreachable) {
                (Submission::Refused(failed(ErrorKind::Unreachable, what)), 0)
            } else if world.happens(Fault::FileNotVisible) {
                (Submission::Refused(failed(ErrorKind::Refused, what).with_status(400)), 0)
            } else if world.happens(Fault::CreateNotSent) {
                (Submission::Unknown(failed(ErrorKind::Interrupted, what)), 60)
            } else if world.happens(Fault::CreateLate) {
                let delay = world.faults.seconds(1, LATE_CREATE_MAX.as_secs());
                world.accept(file, tag, delay);
                (Submission::Unknown(failed(ErrorKind::Unavailable, what).with_status(504)), 60)
            } else {
                let batch = world.accept(file, tag, Duration::ZERO);
                // One that the process has been told of.
                let (life, mut told) = (world.life, world.accepted.iter().filter(|accepted| accepted.answered));
                let other = told.find(|accepted| accepted.file != file && accepted.life == life);
                let other = other.map(|accepted| format!("batch-{}", accepted.batch));
                if let Some(id) = other.filter(|_| world.happens(Fault::CreateMixedUp)) {
                    let batch = Self::batch_object(&mut world, batch, false);
                    (Submission::Accepted(Batch { id, ..batch }), 0)
                } else if world.happens(Fault::CreateLost) {
                    (Submission::Unknown(failed(ErrorKind::Interrupted, what)), 60)
                } else {
                    let wait = if world.happens(Fault::CreateSlow) { 120 } else { 0 };
                    (Self::accepted(&mut world, batch), wait)
                }
            }
        };
        self.beside_create().await;
        self.pass(Duration::from_secs(wait)).await;
        answer
    }

    async fn batch(&self, id: &str) -> Result<Batch, RemoteError> {
        self.way().await;
        let batch = {
            let mut world = self.world();
            if world.happens(Fault::LookError) {
                return Err(failed(ErrorKind::Unavailable, "GET batch").with_status(503));
            }
            let vanished = world.batches[number(id)].vanished;
            if world.now() < vanished || world.happens(Fault::LookNotFound) {
                return Err(failed(ErrorKind::Refused, "GET batch").with_status(404));
            }
            Self::batch_object(&mut world, number(id), true)
        };
        self.way().await;
        Ok(batch)
    }

    async fn batches(&self) -> Result<Listing, RemoteError> {
        self.way().await;
        let (shown, listed, unnamed) = {
            let mut world = self.world();
            if world.happens(Fault::ListError) {
                return Err(failed(ErrorKind::Unavailable, "GET batches").with_status(502));
            }
            let now = world.now();
            let mut shown = Vec::new();
            let empty = world.happens(Fault::ListEmpty);
            for batch in 0..world.batches.len() {
                let (created, listed) = (world.batches[batch].created, world.batches[batch].listed);
                if empty || created > now || listed > now || world.happens(Fault::ListOmits) {
                    continue;
                }
                shown.push(batch);
                if world.happens(Fault::ListDuplicates) {
                    shown.push(batch);
                }
            }
            world.faults.rng.shuffle(&mut shown);
            let mut listed: Vec<Batch> =
                shown.iter().map(|batch| Self::batch_object(&mut world, *batch, false)).collect();
            let mut unnamed = Vec::new();
            listed.retain(|batch| {
                let named = !world.happens(Fault::ListUnnamed);
                unnamed.extend(batch.input_file_id.clone().filter(|_| !named));
                named
            });
            let named = |shown: &usize| listed.iter().any(|batch| number(&batch.id) == *shown);
            shown.retain(named);
            listed.extend(stranger(&mut world));
            (shown, listed, unnamed)
        };
        self.way().await;
        let mut world = self.world();
        let listing = GivenList { at: world.now(), life: world.life, batches: shown.into_iter().collect() };
        world.listings.push(listing);
        Ok(Listing { batches: listed, unnamed, odd: 0 })
    }

    async fn cancel(&self, id: &str) -> Result<Batch, RemoteError> {
        self.way().await;
        let batch = {
            let mut world = self.world();
            if world.happens(Fault::CancelError) {
                return Err(failed(ErrorKind::Unavailable, "POST cancel").with_status(500));
            }
            world.cancel(number(id));
            world.note(format!("cancel {id}"));
            Self::batch_object(&mut world, number(id), false)
        };
        self.way().await;
        Ok(batch)
    }

    async fn download(&self, file_id: &str, target: &Path, _: Progress) -> Result<Downloaded, RemoteError> {
        self.way().await;
        let bytes = {
            let mut world = self.world();
            if file_id == ABSENT_FILE {
                return Err(failed(ErrorKind::Refused, "GET file").with_status(404));
            }
            if world.happens(Fault::DownloadError) {
                return Err(failed(ErrorKind::Interrupted, "GET file"));
            }
            let lines = world.replies[number(file_id)].lines.len();
            let mut of_next = 0;
            let given = match world.trouble_of(number(file_id)) {
                None => lines,
                Some(Fault::DownloadCutInside) => {
                    let given = world.faults.rng.usize(..lines);
                    let next = world.replies[number(file_id)].lines[given].bytes.len();
                    of_next = world.faults.rng.usize(1..next);
                    given
                }
                Some(Fault::DownloadCut) => world.faults.rng.usize(..lines),
                Some(Fault::DownloadGone) => {
                    return Err(failed(ErrorKind::Refused, "GET file").with_status(404));
                }
                Some(Fault::DownloadShort) => return Err(failed(ErrorKind::Interrupted, "GET file")),
                Some(Fault::DownloadGarbled) => return Err(failed(ErrorKind::Garbled, "GET file")),
                Some(Fault::DownloadJunk) => {
                    let junk = b"{\"error\":{\"message\":\"try again\"}}";
                    publish_bytes(target, junk)?;
                    world.note(format!("downloaded {file_id}: junk"));
                    return Ok(Downloaded { bytes: junk.len() as u64, announced: true });
                }
                Some(_) => 0,
            };
            let stored = &mut world.replies[number(file_id)];
            let mut bytes = rows::bytes_of(&stored.lines[..given]);
            bytes.extend(stored.lines.get(given).into_iter().flat_map(|line| &line.bytes[..of_next]));
            let published = publish_bytes(target, &bytes);
            // It may be there although the last sync has failed.
            if std::fs::read(target).is_ok_and(|there| there == bytes) {
                stored.given = stored.given.max(Some(given));
            }
            published?;
            world.note(format!("downloaded {file_id}: {given} of {lines} lines"));
            bytes.len() as u64
        };
        self.way().await;
        Ok(Downloaded { bytes, announced: false })
    }

    async fn file_bytes(&self, file_id: &str) -> Result<Option<u64>, RemoteError> {
        self.way().await;
        if file_id == ABSENT_FILE {
            return Ok(None);
        }
        let mut world = self.world();
        if world.happens(Fault::SizeError) {
            return Err(failed(ErrorKind::Unavailable, "GET file").with_status(503));
        }
        let stored = &world.replies[number(file_id)];
        let bytes = rows::bytes_of(&stored.lines).len() as u64;
        Ok(match stored.says {
            Says::Truth => Some(bytes),
            Says::Nothing => None,
            // Never, by chance, exactly what a cut leaves: two lies that agree with each other cannot be told from the
            // truth.
            Says::TooLittle => {
                let is_cut = |lines: usize| rows::bytes_of(&stored.lines[..lines]).len() as u64 == bytes / 2;
                Some(bytes / 2 + u64::from((0..stored.lines.len()).any(is_cut)))
            }
        })
    }

    async fn delete_file(&self, _: &str) -> Result<(), RemoteError> {
        Ok(())
    }
}

/// A batch that another run has marked for its shard of the same number as one of ours. Whoever takes it for ours
/// fails.
fn stranger(world: &mut World) -> Option<Batch> {
    let number = world.batches.len().checked_sub(1)?;
    let tag = world.batches[number].tag.clone().filter(|_| world.happens(Fault::ListStranger))?;
    let tag = Some(BatchTag { run: "another".to_owned(), ..tag });
    Some(Batch {
        id: "batch-4000000".to_owned(),
        input_file_id: None,
        tag,
        ..Service::batch_object(world, number, false)
    })
}

/// Another run has uploaded the same content before, and has batches at work on it.
fn foreign(world: &mut World, content: &[u8]) -> Option<usize> {
    let unknown = world.files.iter().all(|file| *file.content != content);
    if !unknown || !world.happens(Fault::UploadForeign) {
        return None;
    }
    world.files.push(StoredFile { content: Arc::new(content.to_vec()), shards: [].into() });
    let file = world.files.len() - 1;
    for _ in 0..world.faults.rng.u8(..3) {
        let batch = world.create(file, None, true, Duration::ZERO);
        let age = world.faults.seconds(600, 100_000);
        world.batches[batch].created = World::BEGINNING - age;
    }
    Some(file)
}
