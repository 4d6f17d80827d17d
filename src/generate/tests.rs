use std::collections::HashSet;

use serde_json::Value;

use super::*;

fn generated(options: &GenerateOptions) -> Vec<u8> {
    let mut bytes = Vec::new();
    let report = generate(options, &mut bytes).expect("a vector takes all");
    assert_eq!(report.bytes, bytes.len() as u64);
    assert_eq!(report.requests, line_sizes(&bytes).len() as u64);
    bytes
}

/// In ascending order, line terminators included.
fn line_sizes(bytes: &[u8]) -> Vec<usize> {
    let mut sizes: Vec<usize> = bytes.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::len).collect();
    sizes.sort_unstable();
    sizes
}

fn requests(requests: u64, seed: u64) -> GenerateOptions {
    GenerateOptions { amount: Amount::Requests(requests), seed, ..GenerateOptions::default() }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_gives_others() {
    assert_eq!(generated(&requests(300, 7)), generated(&requests(300, 7)));
    assert_ne!(generated(&requests(300, 7)), generated(&requests(300, 8)));
}

#[test]
fn a_smaller_set_is_a_prefix_of_a_larger_one() {
    let larger = generated(&requests(2_000, 1));
    let smaller = generated(&requests(700, 1));
    assert!(larger.starts_with(&smaller));
}

#[test]
fn every_line_is_a_request_with_a_unique_id_and_models_alternate() {
    let options = requests(5_000, 3);
    let bytes = generated(&options);
    let mut ids = HashSet::new();
    for (seq, line) in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
        let request: Value = serde_json::from_slice(line).expect("valid JSON");
        let id = request["custom_id"].as_str().expect("an id");
        assert!(id.len() <= 64 && ids.insert(id.to_owned()), "{id}");
        let body = &request["body"];
        assert_eq!(body["model"], options.models[seq % options.models.len()].as_str());
        assert!(body["max_tokens"].as_u64().is_some_and(|tokens| tokens > 0));
        let messages = body["messages"].as_array().expect("messages");
        assert_eq!(messages.last().expect("a message")["role"], "user");
        assert!(messages.iter().all(|message| message["content"].as_str().is_some_and(|text| !text.is_empty())));
    }
    assert_eq!(ids.len(), 5_000);
}

#[test]
fn most_lines_are_short_and_a_few_are_very_long() {
    let bytes = generated(&requests(40_000, 0));
    let sizes = line_sizes(&bytes);
    let (median, longest) = (sizes[20_000], sizes[39_999]);
    assert!((760..=840).contains(&median), "median {median}");
    let mean = bytes.len() / 40_000;
    assert!((1_200..=1_400).contains(&mean), "mean {mean}");
    assert!((80_000..=101_000).contains(&longest), "longest {longest}");
}

#[test]
fn sizes_follow_the_median() {
    let options = GenerateOptions { median_bytes: 20_000, ..requests(1_000, 5) };
    let bytes = generated(&options);
    let sizes = line_sizes(&bytes);
    assert!((18_000..=22_000).contains(&sizes[500]), "median {}", sizes[500]);
}

#[test]
fn an_amount_of_bytes_ends_with_the_line_that_reaches_it() {
    let all = generated(&requests(50, 9));
    let third_end = all.split_inclusive(|&byte| byte == b'\n').take(3).map(<[u8]>::len).sum::<usize>();
    for (wanted, lines) in [(0, 0), (1, 1), (third_end - 1, 3), (third_end, 3), (third_end + 1, 4)] {
        let amount = Amount::Bytes(wanted as u64);
        let bytes = generated(&GenerateOptions { amount, ..requests(0, 9) });
        assert!(all.starts_with(&bytes));
        assert_eq!(line_sizes(&bytes).len(), lines, "{wanted} bytes");
    }
}

#[test]
fn sets_contain_what_breaks_careless_readers() {
    let text = String::from_utf8(generated(&requests(5_000, 2))).expect("UTF-8");
    let raw = ["\u{2028}", "\u{2029}", "\u{85}", "\u{200d}", "é", "λ", "ж", "م", "ש", "ह", "的", "の", "펌"];
    let escaped = ["\\n", "\\\"", "\\\\", "\\t", "\\u001b", "\\u00e9", "\\u2028", "\\ud83d\\udc69"];
    let parameters = ["\"temperature\"", "\"stop\"", "\"tools\"", "\"response_format\"", "\"assistant\"", "\"system\""];
    for wanted in raw.iter().chain(&escaped).chain(&parameters) {
        assert!(text.contains(wanted), "{wanted:?}");
    }
}

#[test]
fn both_spellings_mean_the_text() {
    let Texts { languages, insertions, .. } = Texts::read().unwrap();
    for text in languages.iter().flat_map(|language| &language.mains).chain(&insertions.oddities) {
        for ascii in [false, true] {
            let escaped = escape(text, ascii);
            assert!(!ascii || escaped.is_ascii());
            assert_eq!(serde_json::from_str::<String>(&format!("\"{escaped}\"")).expect("a string"), *text);
        }
    }
}

#[test]
fn invalid_options_are_rejected() {
    let no_model = GenerateOptions { models: Vec::new(), ..GenerateOptions::default() };
    let no_size = GenerateOptions { median_bytes: 0, ..GenerateOptions::default() };
    let too_long = GenerateOptions { median_bytes: MAX_MEDIAN_BYTES + 1, ..GenerateOptions::default() };
    for options in [no_model, no_size, too_long] {
        let error = generate(&options, &mut Vec::new()).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn the_longest_line_of_the_largest_median_fits_the_limit_of_ten_megabytes() {
    let (_, _, longest) = SIZES[SIZES.len() - 1];
    assert!(MAX_MEDIAN_BYTES * longest / 100 < 9_000_000);
    assert_eq!(SIZES.iter().map(|(share, _, _)| share).sum::<usize>(), 1_000);
}
