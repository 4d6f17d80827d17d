//! Numbered pieces of work on several threads, with their results consumed in order.
//!
//! In: a count and a function from a number to a result. Out: the results, one after the other, on the calling thread.
//!
//! Invariants:
//! - `fold` receives result 0, then 1, then 2, in whatever order the threads finish.
//! - At most `WINDOW_PER_THREAD` pieces per thread are begun and not yet folded: memory does not grow with the count,
//!   and a slow `fold` exerts backpressure on the threads.
//! - The first error, of a piece or of `fold`, stops the work and is returned. A panic stops it, too, and resumes in
//!   the caller.
//! - Threads are kept for the next call. If they ended with each call, memory that they have freed would remain in
//!   orphaned pools of the allocator, and memory would grow with the number of calls.
//! - If no threads can be started, the work is done on the calling thread.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError, mpsc};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// Pieces begun and not yet folded, per thread. Two keep a thread busy while its last result waits for its turn; more
/// let the threads run ahead of a piece that takes longer than the others.
const WINDOW_PER_THREAD: usize = 3;

/// Idle thread pools: as many as there ever were concurrent calls.
static IDLE: Mutex<Vec<ThreadPool>> = Mutex::new(Vec::new());

/// Threads of the process, lent to one call at a time.
#[derive(Debug)]
pub(crate) struct Threads(Option<ThreadPool>);

impl Threads {
    /// Borrows `count` threads; starts them if none are idle.
    pub(crate) fn borrow(count: usize) -> Result<Self, ThreadPoolBuildError> {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = idle.iter().position(|pool| pool.current_num_threads() == count) {
            return Ok(Self(Some(idle.swap_remove(found))));
        }
        drop(idle);
        Ok(Self(Some(ThreadPoolBuilder::new().num_threads(count).build()?)))
    }
}

impl Deref for Threads {
    type Target = ThreadPool;

    fn deref(&self) -> &ThreadPool {
        self.0.as_ref().expect("they are given back when this is dropped")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).extend(self.0.take());
    }
}

/// Runs pieces `0..count` on `threads` threads and folds the results in order on this one.
///
/// `worker` creates the state of a thread, such as its buffers. Even a `count` of one or less, or a single thread, runs
/// concurrently with the fold, so that reading and folding overlap.
///
/// # Panics
/// When a worker panics: the panic resumes in the caller.
pub fn in_order<W, T, E>(
    threads: usize,
    count: u64,
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, u64) -> Result<T, E> + Sync,
    mut fold: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E>
where
    T: Send,
    E: Send,
{
    let Ok(pool) = Threads::borrow(threads.max(1)) else {
        let mut state = worker();
        return (0..count).try_for_each(|number| fold(work(&mut state, number)?));
    };
    let threads = threads.clamp(1, usize::try_from(count).unwrap_or(usize::MAX).max(1));
    let (permits, taken) = mpsc::sync_channel(threads * WINDOW_PER_THREAD);
    for _ in 0..threads * WINDOW_PER_THREAD {
        permits.send(()).expect("the receiver is in this function");
    }
    // A permit and the next number are taken together, so the lowest numbers always hold permits and the fold,
    // which waits for the lowest, always gets it.
    let next = Mutex::new((taken, 0_u64));
    let (products, received) = mpsc::channel();
    pool.in_place_scope(|scope| {
        for _ in 0..threads {
            let products = products.clone();
            let (next, worker, work) = (&next, &worker, &work);
            scope.spawn(move |_| {
                let mut state = worker();
                while let Some(number) = take_number(next, count) {
                    // A panic is passed in order, like a result: otherwise the fold would wait for that number
                    // forever.
                    let product = catch_unwind(AssertUnwindSafe(|| work(&mut state, number)));
                    let panicked = product.is_err();
                    if products.send((number, product)).is_err() || panicked {
                        return;
                    }
                }
            });
        }
        drop(products);
        let mut waiting = BTreeMap::new();
        let mut due = 0_u64;
        // On an early return, dropping `received` and `permits` stops the threads.
        let (received, permits) = (received, permits);
        while let Ok((number, product)) = received.recv() {
            waiting.insert(number, product);
            while let Some(product) = waiting.remove(&due) {
                fold(product.unwrap_or_else(|panic| resume_unwind(panic))?)?;
                due += 1;
                // The workers may already have ended; then the permit is not needed.
                let _ = permits.try_send(());
            }
        }
        Ok(())
    })
}

fn take_number(next: &Mutex<(mpsc::Receiver<()>, u64)>, count: u64) -> Option<u64> {
    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
    if next.1 >= count {
        return None;
    }
    next.0.recv().ok()?;
    next.1 += 1;
    Some(next.1 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_arrive_in_order_although_threads_finish_out_of_order() {
        let mut seen = Vec::new();
        in_order(
            4,
            200,
            || (),
            |(), number| {
                std::thread::sleep(std::time::Duration::from_micros(number * 7919 % 300));
                Ok::<_, ()>(number)
            },
            |number| {
                seen.push(number);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_error_stops_the_work() {
        let begun = std::sync::atomic::AtomicU64::new(0);
        let result = in_order(
            2,
            1_000_000,
            || (),
            |(), number| {
                begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if number == 10 { Err("ten") } else { Ok(()) }
            },
            Ok,
        );
        assert_eq!(result, Err("ten"));
        assert!(begun.into_inner() < 100);
    }

    #[test]
    fn threads_of_an_earlier_call_work_for_the_next() {
        // A number that no other test uses, so that none takes them in between.
        const THREADS: usize = 5;
        let names = || {
            let barrier = std::sync::Barrier::new(THREADS);
            let mut ids = Vec::new();
            let work = |(): &mut (), _| {
                barrier.wait();
                Ok::<_, ()>(std::thread::current().id())
            };
            in_order(
                THREADS,
                THREADS as u64,
                || (),
                work,
                |id| {
                    ids.push(id);
                    Ok(())
                },
            )
            .unwrap();
            ids.into_iter().collect::<std::collections::HashSet<_>>()
        };
        let first = names();
        assert_eq!((first.len(), names()), (THREADS, first));
    }

    #[test]
    fn a_panic_of_a_worker_resumes_in_the_caller() {
        let (ended, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let work = |(): &mut (), number: u64| {
                assert_ne!(number, 10, "ten");
                Ok::<_, ()>(())
            };
            let panicked = catch_unwind(|| in_order(3, 1_000_000, || (), work, Ok)).is_err();
            ended.send(panicked)
        });
        // Without a bound this test would never end.
        assert_eq!(heard.recv_timeout(std::time::Duration::from_secs(20)), Ok(true));
    }
}
