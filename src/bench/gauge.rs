//! What a piece of work takes: time, processor time and memory.
//!
//! In: the beginning and the end of a stage. Out: a [`Measured`]. Peak memory is that of the whole process while the
//! stage ran, which only Linux tells.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use schemars::JsonSchema;
use serde::Serialize;

use crate::storage::local_file::LocalFile;

/// What a stage took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Measured {
    /// Its name.
    pub stage: &'static str,
    /// Bytes that went through it.
    pub bytes: u64,
    /// Requests that went through it; 0 for a floor, which knows no requests.
    pub requests: u64,
    /// Time that passed, in seconds.
    pub seconds: f64,
    /// Processor time of this process on all cores, user and system, in seconds. The service has a process of its own,
    /// which does not count; but what Linux does for the receiver while it sends over loopback counts as the sender's.
    pub cpu_seconds: f64,
    /// Most memory that the process had, in bytes, where the system tells.
    pub peak_bytes: Option<u64>,
    /// The floor that it is compared with.
    pub floor: Option<&'static str>,
}

/// A stage under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gauge {
    begun: Instant,
    cpu: Duration,
}

impl Gauge {
    /// Begins a stage.
    pub(super) fn start() -> Self {
        forget_peak();
        Self { begun: Instant::now(), cpu: cpu() }
    }

    /// Ends it.
    pub(super) fn stop(
        self,
        stage: &'static str,
        floor: Option<&'static str>,
        (bytes, requests): (u64, u64),
    ) -> Measured {
        Measured {
            stage,
            bytes,
            requests,
            seconds: self.begun.elapsed().as_secs_f64(),
            cpu_seconds: cpu().saturating_sub(self.cpu).as_secs_f64(),
            peak_bytes: peak(),
            floor,
        }
    }
}

fn cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or(Duration::ZERO)
}

/// Makes Linux take the peak anew. Where that cannot be, the peak is that since the start of the process.
fn forget_peak() {
    if let Ok(mut file) = LocalFile::append(Path::new("/proc/self/clear_refs")) {
        let _ = file.write_all(b"5");
    }
}

fn peak() -> Option<u64> {
    let status = String::from_utf8(LocalFile::read_whole(Path::new("/proc/self/status")).ok()?).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time_and_memory() {
        let gauge = Gauge::start();
        let memory = vec![1_u8; 64 << 20];
        let sum: u64 = memory.iter().map(|byte| u64::from(*byte)).sum();
        let measured = gauge.stop("test", None, (sum, 0));
        assert_eq!(measured.bytes, 64 << 20);
        assert!(measured.seconds > 0.0 && measured.cpu_seconds > 0.0);
        assert!(measured.peak_bytes.is_none_or(|peak| peak > 64 << 20));
    }
}
