//! The members of a reply that matter, wherever its service puts them, by the [names](ReplyNames) of its dialect.
//!
//! In: a line, walked over (`walk.rs`) or as a [`Tree`]. Out: its [`Parts`].
//!
//! ```text
//! {"custom_id", "response": {"status_code", "body": {"usage", "error"}, "error"}, "error"}     OpenAI, Together
//! {"custom_id", "response": {"usage", …}}                                                      Nebius: the answer alone
//! {"custom_id", "result": {"type", "message": {"usage", …}, "error"}}                          Anthropic
//! ```
//!
//! `errors` stands for `error` everywhere. What always holds: all ways to read a line find the same in it.

use crate::json::scanner::Walk;
use crate::json::tree::{Members, Raw, Tree};
use crate::model::reply::Usage;

/// What a dialect calls the members of a reply that differ from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyNames {
    /// What names the request.
    pub id: &'static str,
    /// What holds the answer, with a status around it or without.
    pub response: &'static str,
    /// What holds the tokens, in the answer.
    pub usage: &'static str,
    /// The tokens of the prompt; the first that is there counts.
    pub prompt: [&'static str; 2],
    /// The tokens of the completion; the first that is there counts.
    pub completion: [&'static str; 2],
}

impl ReplyNames {
    /// Those of nearly all services. Chat completions count tokens of a prompt and of a completion, messages and responses those of input
    /// and output.
    pub const COMMON: Self = Self {
        id: "custom_id",
        response: "response",
        usage: "usage",
        prompt: ["prompt_tokens", "input_tokens"],
        completion: ["completion_tokens", "output_tokens"],
    };
}

/// The members of a reply. What says nothing (see [`Tree::says_something`]) is among them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<T> {
    pub(crate) custom_id: Option<T>,
    pub(crate) response: Option<Response<T>>,
    pub(crate) result: Option<RowResult<T>>,
    /// `error` and `errors`.
    errors: [Option<T>; 2],
}

/// What a service makes of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Response<T> {
    whole: T,
    pub(crate) status: Option<T>,
    body: Option<Body<T>>,
    errors: [Option<T>; 2],
    usage: Option<Usage>,
    /// Whether it is an answer if it has no body: it says more than its status.
    answers: bool,
}

#[derive(Debug, Clone, Copy)]
struct Body<T> {
    whole: T,
    errors: [Option<T>; 2],
    usage: Option<Usage>,
}

/// What Anthropic's rows have in the place of a response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowResult<T> {
    pub(crate) kind: Option<T>,
    /// The message; or the result itself, if it is one that does not say of what type it is.
    answer: Option<T>,
    error: Option<T>,
    usage: Option<Usage>,
}

impl<'l, T: Tree<'l>> Parts<T> {
    /// Of a line that is an object.
    pub(crate) fn of(line: T, names: &ReplyNames) -> Option<Self> {
        let wanted = [names.id, names.response, "result", "error", "errors"];
        let [custom_id, response, result, error, errors] = line.members(wanted)?.found;
        let response = response.filter(|response| !response.is_null()).map(|response| Response::of(response, names));
        let result = result.map(|result| RowResult::of(result, names));
        Some(Self { custom_id, response, result, errors: [error, errors] })
    }

    /// The first member for errors that says something.
    pub(crate) fn error(&self) -> Option<T> {
        let result = self.result.and_then(|result| result.error);
        let response = self.response.map_or([None; 2], |response| response.errors);
        let body = self.response.and_then(|response| response.body).map_or([None; 2], |body| body.errors);
        let [error, errors] = self.errors;
        let all = [error, errors, result].into_iter().chain(response).chain(body);
        all.flatten().find(|error| error.says_something())
    }

    /// Whether there is something that may be the answer.
    pub(crate) fn answers(&self) -> bool {
        match (self.response, self.result) {
            (Some(Response { body: Some(body), .. }), _) => !body.whole.is_null(),
            (Some(response), _) => response.answers,
            (None, Some(result)) => result.answer.is_some(),
            (None, None) => false,
        }
    }

    /// Whether there is anything in the place of an answer.
    pub(crate) fn responds(&self) -> bool {
        self.response.is_some() || self.body().is_some()
    }

    /// What may be the answer, or stands in its place; `null` only if that says so itself.
    pub(crate) fn body(&self) -> Option<T> {
        let Some(response) = self.response else { return self.result?.answer };
        match response.body {
            Some(body) => Some(body.whole),
            // Nothing but a status is no body.
            None => (response.answers || response.status.is_none() || response.errors.iter().any(Option::is_some))
                .then_some(response.whole),
        }
    }

    /// Tokens as the service counted them.
    pub(crate) fn usage(&self) -> Usage {
        let response = self.response.map(|response| response.body.map_or(response.usage, |body| body.usage));
        response.unwrap_or_else(|| self.result?.usage).unwrap_or_default()
    }
}

impl<'l, T: Tree<'l>> Response<T> {
    fn of(response: T, names: &ReplyNames) -> Self {
        let wanted = ["status_code", "request_id", "body", names.usage, "error", "errors"];
        let Some(Members { found, others }) = response.members(wanted) else { return Self::of_other(response) };
        let [status, _, body, usage, error, errors] = found;
        Self {
            whole: response,
            status,
            body: body.map(|body| Body::of(body, names)),
            errors: [error, errors],
            usage: usage.map(|usage| usage_of(usage, names)),
            answers: others || usage.is_some(),
        }
    }

    /// Of what is no object.
    fn of_other(response: T) -> Self {
        let answers = response.says_something();
        Self { whole: response, status: None, body: None, errors: [None; 2], usage: None, answers }
    }
}

impl<'l, T: Tree<'l>> Body<T> {
    fn of(body: T, names: &ReplyNames) -> Self {
        let [usage, error, errors] =
            body.members([names.usage, "error", "errors"]).map_or([None; 3], |members| members.found);
        Self { whole: body, errors: [error, errors], usage: usage.map(|usage| usage_of(usage, names)) }
    }
}

impl<'l, T: Tree<'l>> RowResult<T> {
    fn of(result: T, names: &ReplyNames) -> Self {
        let Some(Members { found, others }) = result.members(["type", "message", "error"]) else {
            let answer = Some(result).filter(|result| result.says_something());
            return Self { kind: None, answer, error: None, usage: None };
        };
        let [kind, message, error] = found;
        let answer = if kind.is_some() {
            message.filter(|message| !message.is_null())
        } else {
            (others || message.is_some()).then_some(result)
        };
        let usage =
            answer.and_then(|answer| answer.members([names.usage])?.found[0]).map(|usage| usage_of(usage, names));
        Self { kind, answer, error, usage }
    }
}

fn usage_of<'l, T: Tree<'l>>(usage: T, names: &ReplyNames) -> Usage {
    let ([prompt, input], [completion, output]) = (names.prompt, names.completion);
    let counts = usage.members([prompt, completion, input, output]).map_or([None; 4], |members| members.found);
    let [prompt, completion, input, output] = counts.map(|count| count.map(Tree::count));
    Usage { prompt: prompt.or(input).unwrap_or(0), completion: completion.or(output).unwrap_or(0) }
}

/// The parts of a line that can be walked over, which most can.
pub(crate) fn walked<'l>(line: &'l [u8], names: &ReplyNames) -> Option<Parts<Raw<'l>>> {
    let mut walk = Walk::new(line)?;
    let mut parts = Parts { custom_id: None, response: None, result: None, errors: [None; 2] };
    let mut responded = false;
    walk.members(|walk, key| {
        match key {
            _ if key == names.id => keep_first(&mut parts.custom_id, raw(walk)?),
            _ if key == names.response && !responded => {
                responded = true;
                parts.response = if walk.at_object() {
                    Some(walked_response(walk, names)?)
                } else {
                    Some(raw(walk)?).filter(|response| !response.is_null()).map(Response::of_other)
                };
            }
            "error" => keep_first(&mut parts.errors[0], raw(walk)?),
            "errors" => keep_first(&mut parts.errors[1], raw(walk)?),
            "result" => {
                let result = raw(walk)?;
                parts.result.get_or_insert_with(|| RowResult::of(result, names));
            }
            _ => walk.value()?,
        }
        Some(())
    })?;
    walk.end()?;
    Some(parts)
}

fn walked_response<'l>(walk: &mut Walk<'l>, names: &ReplyNames) -> Option<Response<Raw<'l>>> {
    let (mut status, mut body, mut errors, mut usage, mut others) = (None, None, [None; 2], None, false);
    let whole = walk.raw(|walk| {
        walk.members(|walk, key| {
            match key {
                "status_code" => keep_first(&mut status, raw(walk)?),
                "body" if body.is_none() => body = Some(walked_body(walk, names)?),
                "body" | "request_id" => walk.value()?,
                _ if key == names.usage => keep_first(&mut usage, walked_usage(walk, names)?),
                "error" => keep_first(&mut errors[0], raw(walk)?),
                "errors" => keep_first(&mut errors[1], raw(walk)?),
                _ => {
                    others = true;
                    walk.value()?;
                }
            }
            Some(())
        })
    })?;
    let answers = others || usage.is_some();
    Some(Response { whole: Raw(whole.as_bytes()), status, body, errors, usage, answers })
}

fn walked_body<'l>(walk: &mut Walk<'l>, names: &ReplyNames) -> Option<Body<Raw<'l>>> {
    let (mut errors, mut usage) = ([None; 2], None);
    if !walk.at_object() {
        return Some(Body { whole: raw(walk)?, errors, usage });
    }
    let whole = walk.raw(|walk| {
        walk.members(|walk, key| {
            match key {
                _ if key == names.usage => keep_first(&mut usage, walked_usage(walk, names)?),
                "error" => keep_first(&mut errors[0], raw(walk)?),
                "errors" => keep_first(&mut errors[1], raw(walk)?),
                _ => walk.value()?,
            }
            Some(())
        })
    })?;
    Some(Body { whole: Raw(whole.as_bytes()), errors, usage })
}

fn walked_usage(walk: &mut Walk<'_>, names: &ReplyNames) -> Option<Usage> {
    if !walk.at_object() {
        walk.value()?;
        return Some(Usage::default());
    }
    let ([prompt, input], [completion, output]) = (names.prompt, names.completion);
    let (known, mut counts) = ([prompt, completion, input, output], [None; 4]);
    walk.members(|walk, key| {
        let Some(place) = known.iter().position(|known| *known == key) else { return walk.value() };
        keep_first(&mut counts[place], walk.raw_value()?.parse().unwrap_or(0));
        Some(())
    })?;
    let [prompt, completion, input, output] = counts;
    Some(Usage { prompt: prompt.or(input).unwrap_or(0), completion: completion.or(output).unwrap_or(0) })
}

fn raw<'l>(walk: &mut Walk<'l>) -> Option<Raw<'l>> {
    Some(Raw(walk.raw_value()?.as_bytes()))
}

fn keep_first<T>(kept: &mut Option<T>, value: T) {
    kept.get_or_insert(value);
}
