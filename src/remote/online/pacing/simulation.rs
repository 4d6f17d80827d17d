//! Pacing on a simulated clock against services that refuse, fail and slow down in their own ways, compared with a
//! client that knows them.
//!
//! In: a service and a number of requests. Out: how long it takes, as a multiple of the least time, and how many
//! requests it takes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::queue::{Next, Queue, Tries};
use super::Pacing;
use crate::remote::retry::RetryPolicy;

/// What a service does with one request.
enum Act {
    Answer(Duration),
    /// With what it says about when to come again.
    Refuse(Duration, Option<Duration>),
    /// As an overloaded service does.
    Fail(Duration),
}

type Service = Box<dyn FnMut(Duration, usize, &mut Rng) -> Act + Send>;

/// What came of it.
#[derive(Debug)]
struct Ran {
    seconds: f64,
    sent: u32,
    /// Requests that were given up.
    failed: u32,
}

struct World {
    service: Service,
    rng: Rng,
    out: usize,
    sent: u32,
    began: Instant,
}

enum Came {
    Back(u64, Tries, Duration),
    Done,
    Failed,
}

/// One attempt, as `request.rs` makes it.
async fn attempt(world: Arc<Mutex<World>>, pacing: Arc<Pacing>, number: u64, mut tries: Tries) -> Came {
    let patience = RetryPolicy { attempts: 4, ..RetryPolicy::default() };
    let turn = pacing.turn().await;
    if !turn.moment().await {
        turn.unsent();
        return Came::Back(number, tries, Duration::ZERO);
    }
    let began = Instant::now();
    let act = {
        let mut world = world.lock().unwrap();
        let World { service, rng, out, sent, began } = &mut *world;
        *sent += 1;
        let act = service(began.elapsed(), *out, rng);
        *out += usize::from(!matches!(act, Act::Refuse(..)));
        act
    };
    let leave = || world.lock().unwrap().out -= 1;
    match act {
        Act::Answer(latency) => {
            tokio::time::sleep(latency).await;
            leave();
            turn.answered(began.elapsed());
            Came::Done
        }
        Act::Refuse(latency, asked) => {
            tokio::time::sleep(latency).await;
            turn.refused(began.elapsed(), asked);
            let wait = tries.refused(asked);
            Came::Back(number, tries, wait)
        }
        Act::Fail(latency) => {
            tokio::time::sleep(latency).await;
            leave();
            turn.overloaded();
            match tries.failed(None, &patience) {
                Some(wait) => Came::Back(number, tries, wait),
                None => Came::Failed,
            }
        }
    }
}

/// Sends `requests` to the service, at most `concurrency` at a time.
async fn run(service: Service, requests: u64, concurrency: usize) -> Ran {
    fastrand::seed(7);
    let began = Instant::now();
    let world = World { service, rng: Rng::with_seed(7), out: 0, sent: 0, began };
    let (world, pacing) = (Arc::new(Mutex::new(world)), Arc::new(Pacing::new(concurrency)));
    let (mut queue, mut tasks, mut failed) = (Queue::new(1..=requests), JoinSet::new(), 0);
    loop {
        let next = if tasks.len() < concurrency * 2 { queue.next(Instant::now()) } else { Next::Nothing };
        let wake = match next {
            Next::Request(number, tries) => {
                tasks.spawn(attempt(world.clone(), pacing.clone(), number, tries));
                continue;
            }
            Next::At(at) => at,
            Next::Nothing if tasks.is_empty() => break,
            Next::Nothing => Instant::now() + Duration::from_hours(24),
        };
        tokio::select! {
            biased;
            Some(came) = tasks.join_next() => match came.unwrap() {
                Came::Back(number, tries, wait) => queue.defer(number, tries, Instant::now() + wait),
                Came::Done => {}
                Came::Failed => failed += 1,
            },
            () = tokio::time::sleep_until(wake) => {}
        }
    }
    let sent = world.lock().unwrap().sent;
    Ran { seconds: began.elapsed().as_secs_f64(), sent, failed }
}

const QUICK: Duration = Duration::from_millis(5);
const SECOND: Option<Duration> = Some(Duration::from_secs(1));

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Lets `per_second` in, and as many as `burst` at once when it has waited.
fn bucket(per_second: f64, burst: f64) -> impl FnMut(Duration) -> bool + Send {
    let (mut saved, mut at) = (burst, Duration::ZERO);
    move |now| {
        saved = (saved + now.saturating_sub(at).as_secs_f64() * per_second).min(burst);
        at = now;
        let takes = saved >= 1.0;
        saved -= f64::from(u8::from(takes));
        takes
    }
}

/// A hard limit.
fn limited(per_second: f64, burst: f64, latency: Duration, asked: Option<Duration>) -> Service {
    let mut takes = bucket(per_second, burst);
    Box::new(move |now, _, _| if takes(now) { Act::Answer(latency) } else { Act::Refuse(QUICK, asked) })
}

/// Answers everything.
fn plain(latency: Duration) -> Service {
    Box::new(move |_, _, _| Act::Answer(latency))
}

/// Refuses a share, whatever is sent.
fn random(share: f64, latency: Duration, refusal: Duration, asked: Option<Duration>) -> Service {
    Box::new(move |_, _, rng| if rng.f64() < share { Act::Refuse(refusal, asked) } else { Act::Answer(latency) })
}

/// Takes so many at a time.
fn crowded(most: usize, latency: Duration, asked: Option<Duration>) -> Service {
    Box::new(
        move |_, out, rng| {
            if out < most { Act::Answer(latency.mul_f64(0.7 + 0.6 * rng.f64())) } else { Act::Refuse(QUICK, asked) }
        },
    )
}

/// Works on so many at a time; the others wait.
fn queueing(workers: usize, latency: Duration) -> Service {
    let mut free = vec![Duration::ZERO; workers];
    Box::new(move |now, _, _| {
        let first = free.iter_mut().min().unwrap();
        *first = (*first).max(now) + latency;
        Act::Answer(first.saturating_sub(now))
    })
}

/// Lets so many in from one full minute to the next.
fn quota(per_minute: u32, latency: Duration, says_when: bool) -> Service {
    let (mut minute, mut used) = (0, 0);
    Box::new(move |now, _, _| {
        if now.as_secs() / 60 != minute {
            (minute, used) = (now.as_secs() / 60, 0);
        }
        if used < per_minute {
            used += 1;
            return Act::Answer(latency);
        }
        let left = Duration::from_secs((minute + 1) * 60).saturating_sub(now);
        Act::Refuse(QUICK, says_when.then_some(left))
    })
}

/// Refuses everything for `dark` of each `period`.
fn dark(from: Duration, dark: Duration, period: Duration, latency: Duration, asked: Option<Duration>) -> Service {
    Box::new(move |now, _, _| {
        let at = Duration::from_millis(u64::try_from(now.as_millis() % period.as_millis()).unwrap());
        if (from..from + dark).contains(&at) { Act::Refuse(QUICK, asked) } else { Act::Answer(latency) }
    })
}

/// Fails at a share, whatever is sent.
fn failing(share: f64, latency: Duration) -> Service {
    Box::new(move |_, _, rng| if rng.f64() < share { Act::Fail(latency) } else { Act::Answer(latency) })
}

/// Insists that it did not take longer, nor more requests, than so many times what was needed.
#[track_caller]
#[expect(clippy::print_stdout, reason = "what was measured; the harness keeps it to itself unless it is asked")]
fn assert_within(what: &str, ran: &Ran, (ideal, requests): (f64, u64), (time, sent): (f64, f64)) {
    let (took, needed) = (ran.seconds / ideal, f64::from(ran.sent) / count(requests));
    println!("{what}: {took:.3} times the ideal {ideal:.2} s, {needed:.3} requests sent for each");
    assert!(took <= time && needed <= sent, "{what}: {took:.3} of {time} times the time, {needed:.3} of {sent} sent");
    assert_eq!(ran.failed, 0, "{what}");
}

#[expect(clippy::cast_precision_loss, reason = "thousands")]
fn count(requests: u64) -> f64 {
    requests as f64
}

#[tokio::test(start_paused = true)]
async fn a_hard_limit_is_used_to_the_full() {
    for (per_second, burst, requests, most) in [
        (200.0, 200.0, 10_000, (1.1, 1.15)),
        (200.0, 20.0, 10_000, (1.1, 1.15)),
        (200.0, 1.0, 10_000, (1.25, 1.15)),
        (20.0, 100.0, 2_000, (1.1, 1.2)),
        (20.0, 1.0, 2_000, (1.3, 1.2)),
        // What it costs to find out that so few are let in weighs more here.
        (2.0, 60.0, 500, (1.1, 1.45)),
        (2.0, 1.0, 500, (1.6, 1.45)),
        (1000.0, 10.0, 20_000, (1.3, 1.15)),
    ] {
        for asked in [SECOND, None] {
            let ran = run(limited(per_second, burst, ms(50), asked), requests, 64).await;
            let ideal = (count(requests) - burst) / per_second;
            assert_within(&format!("{per_second}/s, burst {burst}, {asked:?}"), &ran, (ideal, requests), most);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_whatever_is_sent_cost_their_share_and_no_more() {
    for (concurrency, requests) in [(1, 200), (8, 1_500), (64, 1_500), (64, 20_000), (512, 30_000)] {
        let alone = run(plain(ms(100)), requests, concurrency).await.seconds;
        for (share, asked) in [0.005, 0.02, 0.05, 0.2].into_iter().flat_map(|share| [(share, SECOND), (share, None)]) {
            for refusal in [QUICK, ms(100)] {
                let ran = run(random(share, ms(100), refusal, asked), requests, concurrency).await;
                // The last requests are refused, too, some of them again and again.
                let again = (count(requests).ln() / (1.0 / share).ln()).ceil();
                let waits = if asked.is_some() { again * 1.1 } else { again.exp2() };
                let what = format!("{share} refused after {refusal:?}, {asked:?}, {concurrency} at a time");
                let ideal = (alone / (1.0 - share) + waits, requests);
                // With thousands a second it takes some seconds to learn what is refused anyway.
                let time = if concurrency == 512 { 2.5 } else { 1.2 };
                assert_within(&what, &ran, ideal, (time, 1.08 / (1.0 - share)));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_percent_of_refusals_cost_less_than_half_the_run_time() {
    let alone = run(plain(ms(100)), 1_500, 64).await.seconds;
    let ran = run(random(0.02, ms(100), QUICK, SECOND), 1_500, 64).await;
    assert_within("2 % refused", &ran, (alone, 1_500), (1.5, 1.03));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_takes_so_many_at_a_time_gets_them() {
    for (workers, latency) in [1, 4, 20, 100].into_iter().flat_map(|workers| [(workers, ms(100)), (workers, ms(2000))])
    {
        for concurrency in [8, 64, 512] {
            let at_a_time = f64::from(u32::try_from(workers.min(concurrency)).unwrap());
            let ideal = (2_000.0 / at_a_time * latency.as_secs_f64(), 2_000);
            let what = format!("{workers} workers, {latency:?}, {concurrency} at a time");
            let ran = run(queueing(workers, latency), 2_000, concurrency).await;
            assert_within(&what, &ran, ideal, (1.2, 1.0));
            let ran = run(crowded(workers, latency, SECOND), 2_000, concurrency).await;
            assert_within(&format!("{what}, no queue"), &ran, ideal, (if workers == 100 { 2.2 } else { 1.55 }, 1.25));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_refuses_everything_for_a_time_is_left_alone_and_then_used() {
    let alone = run(plain(ms(100)), 20_000, 64).await.seconds;
    for asked in [SECOND, None] {
        let often = run(dark(ms(2000), ms(3000), ms(10_000), ms(100), asked), 20_000, 64).await;
        assert_within("3 of 10 seconds dark", &often, (alone / 0.7, 20_000), (1.9, 1.1));
        let at_first = run(dark(ms(0), ms(3000), ms(1_000_000), ms(100), asked), 20_000, 64).await;
        assert_within("3 seconds dark", &at_first, (alone + 3.0, 20_000), (1.5, 1.02));
        let long = run(dark(ms(2000), ms(300_000), ms(1_000_000), ms(100), asked), 20_000, 64).await;
        assert_within("5 minutes dark", &long, (alone + 300.0, 20_000), (1.35, 1.02));
    }
    for says_when in [true, false] {
        let ran = run(quota(600, ms(100), says_when), 3_000, 64).await;
        assert_within("600 a minute", &ran, (241.0, 3_000), (1.35, 1.2));
    }
}

#[tokio::test(start_paused = true)]
async fn an_hour_that_is_asked_of_some_is_waited_by_those_alone() {
    let hour = Some(Duration::from_hours(1));
    let service: Service =
        Box::new(
            move |now, _, rng| {
                if now.as_secs() < 600 && rng.f64() < 0.02 { Act::Refuse(QUICK, hour) } else { Act::Answer(ms(100)) }
            },
        );
    let ran = run(service, 20_000, 64).await;
    assert_within("2 % wait an hour", &ran, (3600.0, 20_000), (1.15, 1.03));
}

#[tokio::test(start_paused = true)]
async fn failures_whatever_is_sent_and_answers_of_all_lengths_do_not_slow_it_down() {
    let alone = run(plain(ms(100)), 20_000, 64).await.seconds;
    for (share, most) in [(0.005, 1.2), (0.02, 1.2), (0.05, 1.3), (0.2, 1.5)] {
        let mut ran = run(failing(share, ms(100)), 20_000, 64).await;
        // Four times in a row.
        assert!(f64::from(ran.failed) <= 20_000.0 * share.powi(4) * 2.0, "{ran:?}");
        ran.failed = 0;
        assert_within(&format!("{share} fail"), &ran, (alone / (1.0 - share), 20_000), (most, 1.05 / (1.0 - share)));
    }
    for (share, concurrency) in [(0.0, 8), (0.0, 64), (0.02, 8), (0.02, 64)] {
        let service: Service = Box::new(move |_, _, rng| {
            if rng.f64() < share {
                return Act::Refuse(QUICK, SECOND);
            }
            Act::Answer(ms(if rng.f64() < 0.1 { 3000 } else { 50 }))
        });
        let ran = run(service, 5_000, concurrency).await;
        let ideal = 5_000.0 * (0.9 * 0.05 + 0.1 * 3.0) / f64::from(u32::try_from(concurrency).unwrap());
        assert_within("a tenth takes three seconds", &ran, (ideal, 5_000), (1.25, 1.04));
    }
}
