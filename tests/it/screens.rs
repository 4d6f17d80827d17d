//! What people and scripts see: help, plans, runs, shard files, records in JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::program::{Ended, Place, names_in, wait_until};
use crate::requests::{assert_same, generated, lines, replies, request};
use crate::service::{Books, Service};

const LOCAL: &str = "--provider local --poll-interval 50ms";

/// The prompts of this repository, laid out for the program.
fn place_with_prompts() -> Place {
    let place = Place::new();
    place.write("prompts.jsonl", include_bytes!("../../data/prompts.jsonl"));
    place
}

/// Records, one a line; each says which schema it has and what it is.
#[track_caller]
fn records(text: &[u8]) -> Vec<Value> {
    let records: Vec<Value> = lines(text).into_iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    for record in &records {
        assert_eq!(record["schema"], 2, "{record}");
        assert!(record["kind"].is_string(), "{record}");
    }
    records
}

fn kinds(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["kind"].as_str().unwrap()).collect()
}

#[test]
fn help_names_every_exit_code_and_every_command_explains_itself() {
    let place = Place::new();
    let help = place.run("--help").with_code(0).text();
    for code in [
        "0 every",
        "1 internal",
        "2 usage",
        "3 config",
        "4 the input",
        "5 the provider",
        "6 finished",
        "7 a sub",
        "8 local",
        "9 another",
        "130/143",
    ] {
        assert!(help.contains(code), "{code} is not in {help}");
    }
    let listed = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let names = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: BTreeSet<&str> =
        names.map(|line| line.split_whitespace().next().unwrap()).filter(|name| *name != "help").collect();
    for name in ["run", "check", "plan", "split", "merge", "status", "ls", "cancel", "serve", "generate"] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    for name in names {
        let help = place.run(&format!("{name} --help")).with_code(0).text();
        assert!(help.contains(&format!("Usage: batchline {name}")), "{help}");
    }
}

#[test]
fn a_plan_shows_each_shard_and_what_ended_it() {
    let place = place_with_prompts();
    let plan = place.run("plan prompts.jsonl --shard-requests 15").with_code(0);
    assert_eq!(
        plan.text(),
        "\
shard  requests         bytes       ~tokens  cut by    model
    0        15         6,931         1,732  requests  meta-llama/Llama-3.3-70B-Instruct-Turbo
    1        15         5,827         1,456  requests  openai/gpt-oss-20b
    2        15         6,665         1,666  requests  Qwen/Qwen2.5-7B-Instruct-Turbo
    3         5         1,483           370  end       meta-llama/Llama-3.3-70B-Instruct-Turbo
    4         5         1,285           321  end       openai/gpt-oss-20b
    5         5         8,642         2,160  end       Qwen/Qwen2.5-7B-Instruct-Turbo
6 shards, 60 requests, 30.8 kB, about 7,708 tokens (estimated: 4 bytes each)
limits: 15 requests and 100.0 MB a shard, one model a shard
"
    );
    assert_eq!(place.names(), ["prompts.jsonl"], "a plan leaves nothing behind");
}

#[test]
fn a_run_does_what_the_plan_said() {
    let place = place_with_prompts();
    let planned = records(&place.run("plan prompts.jsonl --json --shard-bytes 8kB").with_code(0).stdout);
    let (totals, planned) = planned.split_last().unwrap();
    assert_eq!((&totals["kind"], &totals["requests"], &totals["bytes"]), (&json!("plan"), &json!(60), &json!(30833)));
    assert!(planned.iter().any(|shard| shard["cut"] == "bytes"), "{planned:?}");
    place.run(&format!("run prompts.jsonl {LOCAL} --shard-bytes 8kB -o out.jsonl")).with_code(0);
    let status = &records(&place.run("status --json").with_code(0).stdout)[0];
    let done = status["shards"].as_array().unwrap();
    let essence = |shard: &Value| ["number", "model", "requests", "bytes"].map(|field| shard[field].clone());
    assert_eq!(done.iter().map(essence).collect::<Vec<_>>(), planned.iter().map(essence).collect::<Vec<_>>());
    assert!(done.iter().all(|shard| shard["bytes"].as_u64().unwrap() <= 8000));
}

#[test]
fn the_files_of_a_split_hold_each_models_lines_in_their_order() {
    let place = Place::new();
    let requests = generated(100);
    place.write("in.jsonl", &requests);
    let printed = place.run("split in.jsonl -d shards --shard-requests 7").with_code(0).text();
    let names = names_in(&place.path("shards"));
    assert_eq!(names.len(), 15);
    assert_eq!(printed, format!("shards/{}\n", names.join("\nshards/")));
    let model = |line: &[u8]| serde_json::from_slice::<Value>(line).unwrap()["body"]["model"].to_string();
    let mut wanted: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for line in lines(&requests) {
        wanted.entry(model(line)).or_default().push(line.to_vec());
    }
    let mut given: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for name in names {
        let shard = place.read(&format!("shards/{name}"));
        assert!(shard.ends_with(b"\n") && lines(&shard).len() <= 7);
        let models: BTreeSet<String> = lines(&shard).into_iter().map(model).collect();
        assert_eq!(models.len(), 1, "one model a shard");
        given
            .entry(models.into_iter().next().unwrap())
            .or_default()
            .extend(lines(&shard).into_iter().map(<[u8]>::to_vec));
    }
    assert!(given == wanted);
}

#[test]
fn generated_requests_are_valid_and_the_same_for_the_same_seed() {
    let place = Place::new();
    let checked = place.shell(r#""$BATCHLINE" generate -n 500 | "$BATCHLINE" check"#).run().with_code(0);
    assert!(checked.text().starts_with("500 valid requests, 0 defects"), "{}", checked.text());
    let generate = |arguments: &str| place.run(&format!("generate {arguments}")).with_code(0).stdout;
    let five = generate("-n 5 --seed 1");
    assert_same(&generate("-n 5 --seed 1"), &five);
    assert!(generate("-n 9 --seed 1").starts_with(&five), "a smaller set is the beginning of a larger one");
    assert_ne!(generate("-n 5 --seed 2"), five);
    let sized = generate("--bytes 50kB --model a --model b");
    let last = lines(&sized).pop().unwrap().len() + 1;
    assert!(sized.len() >= 50_000 && sized.len() - last < 50_000, "the line that reaches the size is the last");
    place.run("generate -n 5 --seed 1 -o five.jsonl").with_code(0);
    assert_same(&place.read("five.jsonl"), &five);
}

#[test]
fn the_records_of_a_run_add_up() {
    let place = Place::new();
    let requests = generated(90);
    // An error and a line to skip among them.
    let failing =
        request("x", "openai/gpt-oss-20b").replace(r#""messages""#, r#""stop":["1","2","3","4","5"],"messages""#);
    place.write("in.jsonl", [&requests[..], failing.as_bytes(), b"\n[]\n"].concat());
    let run = place.run(&format!("run in.jsonl {LOCAL} --skip-invalid --shard-requests 10 --json")).with_code(6);
    let records = records(run.stderr.as_bytes());
    let kinds = kinds(&records);
    assert_eq!((kinds[0], kinds[1], kinds[kinds.len() - 1]), ("defect", "started", "summary"), "{kinds:?}");
    let (summary, number) = (records.last().unwrap(), |field: &str| records.last().unwrap()[field].as_u64().unwrap());
    for (field, wanted) in [("lines", 92), ("outputs", 90), ("errors", 1), ("missing", 0), ("invalid", 1), ("held", 0)]
    {
        assert_eq!(number(field), wanted, "{field} in {summary}");
    }
    assert_eq!(number("batches"), Books::inside(&place.run_directory()).calls("create_batch") as u64);
    assert_eq!(number("bytes"), run.stdout.len() as u64);
    let usage = |line: &[u8], field| {
        serde_json::from_slice::<Value>(line).unwrap()["response"]["body"]["usage"][field].as_u64()
    };
    let sum = |field| lines(&run.stdout).into_iter().filter_map(|line| usage(line, field)).sum::<u64>();
    assert!(sum("prompt_tokens") > 0);
    assert_eq!(number("prompt_tokens"), sum("prompt_tokens"));
    assert_eq!(number("completion_tokens"), sum("completion_tokens"));
}

#[test]
fn the_time_of_a_run_is_all_of_it() {
    let (place, service) = (Place::new(), Service::start_with("--batch-time 1s"));
    place.write("in.jsonl", generated(3));
    let begun = Instant::now();
    let run = place.run(&format!("run in.jsonl {} -o out.jsonl --json", service.arguments())).with_code(0);
    let took = records(run.stderr.as_bytes()).last().unwrap()["seconds"].as_f64().unwrap();
    assert!((1.0..begun.elapsed().as_secs_f64()).contains(&took), "{took}");
}

#[test]
fn a_failure_is_a_record_too() {
    let place = place_with_prompts();
    for (command, exit) in [
        ("run prompts.jsonl --json", 3),
        ("run nowhere.jsonl --provider local --json", 2),
        ("check nowhere.jsonl --json", 2),
        ("plan prompts.jsonl --provider nobody --json", 2),
        ("status nowhere --json", 2),
    ] {
        let ended = place.run(command).with_code(exit);
        let records = records(ended.stderr.as_bytes());
        assert_eq!(kinds(&records), ["error"], "{command}");
        assert_eq!(records[0]["exit"], exit, "{command}");
        assert!(ended.stdout.is_empty());
    }
}

#[test]
fn a_quiet_run_says_nothing_and_a_plain_one_a_few_lines() {
    let place = place_with_prompts();
    let quiet = place.run(&format!("run prompts.jsonl {LOCAL} --quiet -o out.jsonl")).with_code(0);
    assert_eq!((quiet.text().as_str(), quiet.stderr.as_str()), ("", ""));
    let plain = place.run(&format!("run prompts.jsonl {LOCAL} -o out.jsonl")).with_code(0);
    assert_eq!(plain.text(), "");
    assert!((2..=6).contains(&plain.stderr.lines().count()), "{}", plain.stderr);
    assert!(!plain.stderr.contains('\u{1b}'), "no escape sequences where there is no terminal");
}

/// A screen with what is different each time replaced: run directories, ports, dates, ids of batches and processes.
fn masked(ended: &Ended, service: &Service, pid: u32) -> String {
    let words = ended.text().replace(service.base_url(), "URL").replace(&format!("process {pid}"), "process PID");
    let mut masked = String::new();
    let is_time = |line: &&str| line.starts_with("times ");
    let times = words.lines().find(is_time).map(|line| (line, line.replace(|c: char| c.is_ascii_digit(), "N")));
    let words = times.map_or(words.clone(), |(line, masked)| words.replace(line, &masked));
    for word in words.split_inclusive([' ', '\n']) {
        let (bare, end) = word.split_at(word.trim_end().len());
        masked.push_str(match bare.len() {
            // To the second.
            20 if bare.ends_with('Z') && bare.matches(':').count() == 2 => "DATE",
            36 if bare.matches('-').count() == 4 => "ID",
            _ if bare.contains("/.batchline/") => "DIRECTORY",
            _ => bare,
        });
        masked.push_str(end);
    }
    masked
}

#[test]
fn status_and_ls_show_a_run_in_progress() {
    let service = Service::start_with("--batch-time 10m");
    let place = place_with_prompts();
    let running = place.program(&format!("run prompts.jsonl {} -o out.jsonl", service.arguments())).start();
    let state = || records(&place.run("status --json").stdout);
    wait_until(|| service.books().calls("create_batch") == 3);
    wait_until(|| state().first().is_some_and(|status| status["shards_by_state"] == json!({"submitted": 3})));
    let status = place.run("status").with_code(0);
    assert_eq!(
        masked(&status, &service, running.id()),
        "\
run DIRECTORY
input    prompts.jsonl
service  local URL
started  DATE
state    0 of 3 shards done, in use by process PID
times    check N.N s
         3 submitted
shard 0: 20 requests, 8.4 kB, submitted, batch ID (validating)
shard 1: 20 requests, 7.1 kB, submitted, batch ID (validating)
shard 2: 20 requests, 15.3 kB, submitted, batch ID (validating)
"
    );
    let listed = place.run("ls").with_code(0);
    let wanted = "DIRECTORY  DATE  60 requests, 0 of 3 shards done, in use by process PID  prompts.jsonl\n";
    assert_eq!(masked(&listed, &service, running.id()), wanted);
    let listed = records(&place.run("ls --json").with_code(0).stdout);
    assert_eq!(kinds(&listed), ["run"]);
    assert_eq!(listed[0]["owner"], json!(running.id().to_string()));
    running.signal(Signal::INT);
    running.end().with_code(130);
    assert_eq!(state()[0]["owner"], Value::Null);
}

#[test]
fn one_run_that_cannot_be_read_hides_no_other() {
    let place = Place::new();
    for name in ["a", "b", "c"] {
        place.write("in.jsonl", crate::requests::request(name, "m"));
        place.run("run in.jsonl --provider local --poll-interval 50ms --yes").with_code(0);
    }
    let runs = place.runs();
    std::fs::write(runs[1].join("ledger.sqlite"), "no database at all").unwrap();
    let name = |run: &std::path::Path| run.display().to_string();
    let listed = place.run("ls").with_code(8).saying(&name(&runs[1]));
    assert_eq!(listed.text().lines().count(), 2, "{}", listed.text());
    assert!(listed.text().contains(&name(&runs[0])) && listed.text().contains(&name(&runs[2])));
    let listed = place.run("ls --json").with_code(8);
    assert_eq!(kinds(&records(&listed.stdout)), ["run", "run"]);
    let told = records(listed.stderr.as_bytes());
    assert!(kinds(&told) == ["error"] && told[0]["message"].as_str().unwrap().contains(&name(&runs[1])), "{told:?}");
    place.run("clean --yes").with_code(8).saying(&name(&runs[1]));
    assert_eq!(place.runs(), [runs[1].clone()], "it is left for somebody to look at");
}

#[test]
fn the_table_of_providers_in_the_readme_is_the_programs_own() {
    let table = Place::new().run("providers --markdown").with_code(0).text();
    assert!(table.lines().count() > 10, "{table}");
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    // To mend it: batchline providers --markdown.
    assert!(readme.contains(&format!("\n\n{table}\n")), "the README has another table than this:\n{table}");
}

#[test]
fn a_cancelled_run_ends_with_what_the_service_had_done() {
    let service = Service::start_with("--batch-time 4s");
    let place = place_with_prompts();
    let command = format!("run prompts.jsonl {} --rounds 1", service.arguments());
    let running = place.program(&command).start();
    wait_until(|| service.books().calls("create_batch") == 3);
    running.signal(Signal::INT);
    running.end().with_code(130);
    // It asks the service that the run talks to, which nobody names again.
    let cancelled = records(&place.run("cancel --json").with_code(0).stdout);
    assert_eq!(kinds(&cancelled), ["cancelled"; 3]);
    assert_eq!(service.books().calls("cancel_batch"), 3);

    let ended = place.run(&command).with_code(6).saying("3 of them not completed");
    let answered = replies(&place.read("prompts.jsonl"));
    let (given, answered) = (lines(&ended.stdout), lines(&answered));
    assert_eq!(given.len(), answered.len());
    let is_missing = |line: &[u8]| serde_json::from_slice::<Value>(line).unwrap()["error"]["code"] == "missing";
    let (missing, outputs): (Vec<usize>, Vec<usize>) = (0..given.len()).partition(|at| is_missing(given[*at]));
    assert!(!missing.is_empty() && outputs.iter().all(|at| given[*at] == answered[*at]));
    assert_eq!(service.books().billed().len(), outputs.len());
    place.run("cancel").with_code(0).saying("no batch of this run is in progress");
}

#[test]
fn a_cancel_without_active_batches_says_so() {
    let service = Service::start_with("--batch-time 10m");
    let place = place_with_prompts();
    let running = place.program(&format!("run prompts.jsonl {}", service.arguments())).start();
    wait_until(|| service.books().calls("create_batch") == 3);
    running.signal(Signal::INT);
    running.end().with_code(130);
    let address = service.base_url().to_owned();
    drop(service);
    let ended = place.run("cancel --json").with_code(5);
    let error = &records(ended.stderr.as_bytes())[0];
    assert!(error["message"].as_str().unwrap().contains(&address), "{error}");
}

#[test]
fn what_a_run_keeps_is_its_owners_alone() {
    let place = place_with_prompts();
    place.run(&format!("run prompts.jsonl {LOCAL} -o out.jsonl")).with_code(0);
    let mut unseen = vec![place.path(".batchline")];
    while let Some(path) = unseen.pop() {
        let metadata = path.metadata().unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(mode, if metadata.is_dir() { 0o700 } else { 0o600 }, "{}: {mode:o}", path.display());
        unseen.extend(names_in(&path).iter().map(|name| path.join(name)));
    }
    assert_same(&place.read("out.jsonl"), &replies(&place.read("prompts.jsonl")));
}
